"""Which side of each kernel is used: the compiled one, or its plain-Python twin. The one reader of `ZOS_NATIVE`
and `ZOS_ERASURE_PATH`."""

from __future__ import annotations

import os
from typing import Final

__all__ = ["ERASURE_PATH", "REFERENCE"]


def _chosen(value: str | None) -> bool:
    """True for the twins. A misspelt value is an error: a test that meant the twin must not pass on the other side."""
    match value:
        case None | "" | "rust" | "native":
            return False
        case "reference":
            return True
        case _:
            raise ImportError(
                f"ZOS_NATIVE={value!r}: say 'native' (compiled, the default; 'rust' means the same) or 'reference'"
            )


REFERENCE: Final = _chosen(os.environ.get("ZOS_NATIVE"))

ERASURE_PATH: Final = os.environ.get("ZOS_ERASURE_PATH")
"""The instructions that the erasure code is to use (`native.erasure.PATHS`); None for the fastest."""
