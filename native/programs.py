"""Where the native programs of this installation are.

`zos-init` (static: init, hold, spawn) and `zos-io` (block, refuse, log, forward) ship inside the wheel in `native/bin`.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

from native.errors import ZosError

__all__ = ["ProgramMissing", "program"]


class ProgramMissing(ZosError):
    """A native program is not where the wheel puts it."""

    code, http_status, exit_status = "native.program-missing", 500, 90


def program(name: Literal["zos-init", "zos-io"]) -> Path:
    """Return the absolute path of a native program.

    Raises:
        ProgramMissing: it is absent or not executable, as in a source tree that was not built.
    """
    path = Path(__file__).resolve().parent / "bin" / name
    if not os.access(path, os.X_OK):
        raise ProgramMissing(
            f"the program {name} is not at {path}", hint="build it: make setup (or pip install .)", path=str(path)
        )
    return path
