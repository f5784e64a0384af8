"""The root of every error that zos raises.

One class for one thing that can go wrong, with a stable `code`. The API and the command line map by
attribute (`http_status`, `exit_status`); nobody matches message text.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

__all__ = ["BlobTooLarge", "FileChanged", "FileUnreadable", "InputInvalid", "ZosError"]

ContextValue = str | int | float | bool | None | list[str]


class ZosError(Exception):
    """Base of all errors of zos.

    Attributes:
        code: stable and unique, `area.what-happened`.
        http_status: status of an HTTP answer that carries the error.
        exit_status: exit status of a command that ends with it; never 77, 125-127 or 128 and up.
        retryable: whether the same request may succeed later without a change.
        hint: what the reader can do about it, one sentence, or None.
        context: typed facts (digest, path, address) for machines.
    """

    code: ClassVar[str] = "zos.error"
    http_status: ClassVar[int] = 500
    exit_status: ClassVar[int] = 1
    retryable: ClassVar[bool] = False

    def __init__(self, message: str, *, hint: str | None = None, **context: ContextValue) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.context: Mapping[str, ContextValue] = context

    def __str__(self) -> str:
        return self.message


class FileChanged(ZosError):
    """A file of the tree is not what the walk saw: gone, replaced, of another size or time of modification."""

    code, http_status, exit_status, retryable = "pack.file-changed", 409, 26, True


class FileUnreadable(ZosError):
    """A file of the tree cannot be opened or read; the message holds the system's reason."""

    code, http_status, exit_status = "pack.file-unreadable", 422, 27


class BlobTooLarge(ZosError):
    """All the units together would exceed 2^32 - 2 blocks of 4 KiB."""

    code, http_status, exit_status = "pack.blob-too-large", 422, 28


class InputInvalid(ZosError, ValueError):
    """An argument with which a kernel cannot be called: wrong length, out of range, not contiguous, closed."""

    code, http_status, exit_status = "native.input-invalid", 400, 96
