"""Errors of the base: documents, files, frames, HTTP, keys, the command line. Exit statuses 2 and 10-19."""

from __future__ import annotations

import contextlib
import errno
import os
import resource
import shlex
from collections.abc import Iterator
from pathlib import Path

from native.errors import ZosError

__all__ = [
    "AddressInUse",
    "DescriptorsExhausted",
    "DiskFull",
    "DocumentInvalid",
    "FileNotRegular",
    "FileTooLarge",
    "Forbidden",
    "FrameInvalid",
    "InstanceInvalid",
    "Internal",
    "KeyExists",
    "KeyInvalid",
    "KeyNotTrusted",
    "PeerGone",
    "RemoteError",
    "RequestTimeout",
    "ServerBusy",
    "Unreachable",
    "UsageError",
    "disk_full_at",
    "is_disk_full",
    "is_out_of_descriptors",
    "telling_disk_full",
    "zos_error_in",
]


class UsageError(ZosError):
    """The command line cannot be understood; exit status 2 as every tool has it."""

    code, http_status, exit_status = "cli.usage", 400, 2


class DocumentInvalid(ZosError):
    """Bytes that are not the document that was expected; the message says where."""

    code, http_status, exit_status = "document.invalid", 400, 10


class FileTooLarge(ZosError):
    """A file is longer than anything that we would have written there."""

    code, http_status, exit_status = "file.too-large", 413, 10


class FileNotRegular(ZosError):
    """A pipe, a device or a directory where a file is read whole."""

    code, http_status, exit_status = "file.not-regular", 400, 10


class DiskFull(ZosError):
    """There is no room on the disk for what must be kept; nothing was changed."""

    code, http_status, exit_status, retryable = "disk.full", 507, 10, True


def is_disk_full(error: OSError) -> bool:
    """Whether there is no room on the disk, or no more of it for this user."""
    return error.errno in (errno.ENOSPC, errno.EDQUOT)


def is_out_of_descriptors(error: OSError) -> bool:
    """Whether this process, or the system, has no descriptor left."""
    return error.errno in (errno.EMFILE, errno.ENFILE)


def disk_full_at(path: str | Path, error: OSError) -> DiskFull:
    """What a user is told when there is no room for the file at `path`."""
    return DiskFull(
        f"{path} cannot be written: the disk is full ({error.strerror})",
        hint=f"make room (df {shlex.quote(str(Path(path).parent))} says of what disk) and ask again; "
        "nothing was changed",
        path=str(path),
    )


@contextlib.contextmanager
def telling_disk_full(path: str | Path) -> Iterator[None]:
    """Where there is no room for what the block writes at `path`, `DiskFull` says so; every other error is as it is.

    Raises:
        DiskFull: there is no room.
    """
    try:
        yield
    except OSError as error:
        if is_disk_full(error):
            raise disk_full_at(path, error) from error
        raise


class DescriptorsExhausted(ZosError):
    """A process of the node, or this one, has as many files open as it may; what runs goes on.

    `process` in the context says which, `limit` how many that is.
    """

    code, http_status, exit_status, retryable = "base.no-descriptors", 503, 13, True

    @staticmethod
    def here(step: str, *, process: str | None = None) -> DescriptorsExhausted:
        """Of this process; `process` is what it is called, or None for its number."""
        who = process or f"this process ({os.getpid()})"
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return DescriptorsExhausted(
            f"{who} has no descriptor left to {step}: its limit (RLIMIT_NOFILE) is {limit}",
            hint="end containers or clients of the node, or start it with a higher limit: "
            "ulimit -n, or LimitNOFILE= of its unit",
            process=who,
            limit=limit,
        )


class FrameInvalid(ZosError):
    """A peer broke a rule of docs/spec/frame.md, or was about to be sent such a frame."""

    code, http_status, exit_status = "frame.invalid", 502, 12


class PeerGone(ZosError):
    """The other process closed the connection, or nobody listens.

    `sent` says whether the request had left when it happened: if not, the peer cannot have acted on it.
    """

    code, http_status, exit_status, retryable = "frame.peer-gone", 503, 13, True

    def __init__(self, message: str, *, hint: str | None = None, sent: bool = False) -> None:
        super().__init__(message, hint=hint, sent=sent)
        self.sent = sent


class RequestTimeout(ZosError):
    """No answer before the deadline; what the peer did is not known."""

    code, http_status, exit_status, retryable = "base.timeout", 504, 14, True


class RemoteError(ZosError):
    """The answer of a native program was an error (FRAME-4).

    Attributes:
        remote_code: the peer's own code, such as `spawn.not-found`.
        step: name of the step that failed, or None.
        errno: errno of that step, or None.
    """

    code, http_status, exit_status = "frame.remote-error", 502, 15

    def __init__(
        self,
        message: str,
        *,
        remote_code: str,
        step: str | None = None,
        errno: int | None = None,
        hint: str | None = None,
    ) -> None:
        super().__init__(message, hint=hint, remote_code=remote_code, step=step, errno=errno)
        self.remote_code = remote_code
        self.step = step
        self.errno = errno


class Unreachable(ZosError):
    """An HTTP server cannot be reached, or broke off in the middle of an answer.

    `absent`: nobody listens there, so there is nobody to wait for.
    """

    code, http_status, exit_status, retryable = "http.unreachable", 503, 16, True

    def __init__(self, message: str, *, hint: str | None = None, absent: bool = False) -> None:
        super().__init__(message, hint=hint)
        self.absent = absent


class AddressInUse(ZosError):
    """Another process listens there already."""

    code, http_status, exit_status = "http.address-in-use", 409, 11


class Forbidden(ZosError):
    """The caller is known and may not do this."""

    code, http_status, exit_status = "http.forbidden", 403, 16


class ServerBusy(ZosError):
    """More connections, or more work, than the server takes."""

    code, http_status, exit_status, retryable = "http.busy", 503, 16, True


class Internal(ZosError):
    """A fault of ours; the server's log has the story."""

    code, http_status, exit_status = "base.internal", 500, 1


class KeyInvalid(ZosError):
    """A key or a list of trusted keys that cannot be used."""

    code, http_status, exit_status = "key.invalid", 400, 17


class KeyExists(ZosError):
    """There is an own key already, and it would be lost."""

    code, http_status, exit_status = "key.exists", 409, 17


class KeyNotTrusted(ZosError):
    """A key, or a publisher, that is not in the list of the trusted."""

    code, http_status, exit_status = "key.not-trusted", 404, 17


class InstanceInvalid(ZosError):
    """A name that cannot be the name of an instance."""

    code, http_status, exit_status = "instance.invalid-name", 400, 18


def zos_error_in(error: BaseException) -> ZosError | None:
    """`error` itself, or the first of our errors in a group that holds nothing but errors that explain each other.

    What the system says when a disk or a limit is full is one of ours: `DiskFull`, `DescriptorsExhausted`.
    """
    if isinstance(error, ZosError):
        return error
    if isinstance(error, OSError) and is_disk_full(error):
        if error.filename is None:
            return DiskFull(f"the disk is full: {error.strerror}", hint="df says which one; make room and ask again")
        return disk_full_at(os.fsdecode(error.filename), error)
    if isinstance(error, OSError) and is_out_of_descriptors(error):
        return DescriptorsExhausted.here(f"open {error.filename}" if error.filename else "go on")
    if isinstance(error, BaseExceptionGroup):
        found = (zos_error_in(part) for part in error.exceptions)
        return next((part for part in found if part is not None), None)
    return None
