"""The command line as a person uses it, with settings and a store of its own; hubs in processes of their own."""

from __future__ import annotations

import io
import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from zos_core.base.verbs import Entry, run

ENTRIES = [
    Entry("flist", "flist.cli:FLIST"),
    Entry("hub", "flist.cli:HUB"),
    Entry("key", "zos_core.base.cli:KEY"),
    Entry("trust", "zos_core.base.cli:TRUST"),
]
COMMAND = f"""
import sys
from zos_core.base.verbs import Entry, main
sys.exit(main(sys.argv[1:], {ENTRIES}))
"""
ROOT = Path(__file__).resolve().parents[1]


class Zos:
    """The command line with settings and store of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.environ = {
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(ROOT),
            "XDG_CONFIG_HOME": str(home / "config"),
            "XDG_DATA_HOME": str(home / "data"),
            **{name: os.environ[name] for name in ("ZOS_NATIVE",) if name in os.environ},
        }

    @property
    def store(self) -> Path:
        return self.home / "data" / "zos" / "store"

    def shell(self, *argv: str | Path, streams: str) -> subprocess.CompletedProcess[str]:
        """The command with its streams as the shell makes them, as in `<&- 2>/dev/full`."""
        return subprocess.run(
            ["sh", "-c", f'"$@" {streams}', "sh", sys.executable, "-c", COMMAND, *map(str, argv)],
            env=self.environ,
            capture_output=True,
            text=True,
            cwd=self.home,
            timeout=120,
        )

    def start(self, *argv: str | Path) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", COMMAND, *map(str, argv)],
            env=self.environ,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self.home,
        )

    def run(self, *argv: str | Path) -> tuple[int, str, str]:
        """In this very process, which costs no imports; `start` makes a real one."""
        out, err = io.StringIO(), io.StringIO()
        with pytest.MonkeyPatch.context() as patch, redirect_stdout(out), redirect_stderr(err):
            patch.chdir(self.home)
            for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER"):  # or its keys and settings were those of who called sudo
                patch.delenv(name, raising=False)
            for name, value in self.environ.items():
                patch.setenv(name, value)
            status = run(list(map(str, argv)), ENTRIES)
        return status, out.getvalue(), err.getvalue()

    def json(self, *argv: str | Path, status: int = 0) -> dict[str, Any]:
        found, out, err = self.run(*argv, "--json")
        assert (found, err) == (status, ""), (out, err)
        result: dict[str, Any] = json.loads(out)
        return result

    @contextmanager
    def hub(self, *argv: str | Path) -> Iterator[str]:
        process = self.start("hub", "serve", "--listen", "127.0.0.1:0", "--json", *argv)
        assert process.stdout is not None
        try:
            ready, _, _ = select.select([process.stdout], [], [], 30)
            assert ready, "the hub did not say that it is ready"
            yield json.loads(process.stdout.readline())["url"]
        finally:
            process.send_signal(signal.SIGTERM)
            _, err = process.communicate(timeout=30)
        assert (process.returncode, err) == (0, "")
