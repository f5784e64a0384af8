"""Files that are either the old bytes or the new ones, whatever is killed at whatever moment.

write(2) to a temporary name beside the target, fsync(2), rename(2), fsync of the directory.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import stat
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import BinaryIO

from zos_core.base.errors import FileNotRegular, FileTooLarge, UsageError, disk_full_at, is_disk_full

__all__ = [
    "TEMPORARY_PREFIX",
    "locked_directory",
    "make_directories",
    "named_output",
    "nearest_existing",
    "read_limited",
    "replacing",
    "sync_directory",
    "write_atomic",
]

TEMPORARY_PREFIX = ".tmp-"
"""Names that begin so are unfinished: whoever lists a directory skips them, whoever cleans up may delete old ones."""

Owner = tuple[int, int]
"""uid and gid that a new file gets: with sudo, those of the user who called."""


@contextlib.contextmanager
def replacing(
    path: Path, *, mode: int = 0o644, owner: Owner | None = None, exclusive: bool = False, durable: bool = True
) -> Iterator[BinaryIO]:
    """A file to write; it takes the place of `path` when the block ends, and vanishes when the block raises.

    Args:
        path: the target; its directory exists.
        mode: permission bits, set whatever the umask says.
        owner: uid and gid, or None to keep the process's.
        exclusive: raise FileExistsError (at the end) instead of replacing a file that is there.
        durable: fsync file and directory; without it a power cut may leave an empty file.

    Raises:
        DiskFull: there is no room; what was there before is there still.
        OSError: as open(2), write(2), rename(2).
    """
    temporary = path.with_name(f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}")
    try:
        descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        told = _told(path, error)
        if told is error:
            raise
        raise told from error
    try:
        with open(descriptor, "wb") as file:
            yield file
            file.flush()
            os.fchmod(descriptor, mode)
            if owner is not None:
                os.fchown(descriptor, *owner)
            if durable:
                os.fsync(descriptor)
        if exclusive:
            os.link(temporary, path, follow_symlinks=False)
            os.unlink(temporary)
        else:
            os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        told = _told(path, error)
        if told is error:
            raise
        raise told from error
    if durable:
        sync_directory(path.parent)


def _told(path: Path, error: BaseException) -> BaseException:
    """The error with the name of the file that was to be written, not that of the temporary one."""
    if not isinstance(error, OSError):
        return error
    if is_disk_full(error):
        return disk_full_at(path, error)
    if error.filename is not None and Path(os.fsdecode(error.filename)).name.startswith(TEMPORARY_PREFIX):
        error.filename, error.filename2 = str(path), None
    return error


def write_atomic(
    path: Path,
    data: bytes | bytearray | memoryview,
    mode: int = 0o644,
    *,
    owner: Owner | None = None,
    exclusive: bool = False,
    durable: bool = True,
) -> None:
    """`data` as the whole contents of `path`; arguments as of `replacing`."""
    with replacing(path, mode=mode, owner=owner, exclusive=exclusive, durable=durable) as file:
        file.write(data)


def named_output(path: Path) -> Path:
    """The file that a user names to be written: where its links lead.

    Raises:
        UsageError: something is there that a new file must not take the place of, such as a device; or no directory.
    """
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        target = path.resolve()
        if not target.parent.is_dir():
            raise UsageError(f"{target.parent} is no directory", hint="make it, or name another file") from None
        return target
    if not stat.S_ISREG(mode):
        kind = "a directory" if stat.S_ISDIR(mode) else "no regular file"
        raise UsageError(f"{path} is {kind}", hint="name a file to be written")
    return path.resolve()


def read_limited(path: Path, limit: int, *, pipe: bool = False) -> bytes:
    """All bytes of a file; with `pipe` also what somebody writes to a pipe, as in `<(gpg -d key.gpg)`.

    Raises:
        FileNotRegular: it is something else, of which nobody knows whether it ever has an end.
        FileTooLarge: more than `limit` bytes.
        OSError: as open(2) and read(2).
    """
    # Opening a pipe that nobody writes to would wait.
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        mode = os.fstat(descriptor).st_mode
        begun = b""
        if pipe and stat.S_ISFIFO(mode):
            begun = _begin_pipe(path, descriptor, limit + 1)
        elif not stat.S_ISREG(mode):
            raise FileNotRegular(
                f"{path} is no regular file", hint="name a file: it may be read more than once", path=str(path)
            )
        with open(descriptor, "rb", closefd=False) as file:
            data = begun + file.read(limit + 1 - len(begun))
    finally:
        os.close(descriptor)
    if len(data) > limit:
        raise FileTooLarge(f"{path} is longer than {limit} bytes", path=str(path), limit=limit)
    return data


def _begin_pipe(path: Path, descriptor: int, most: int) -> bytes:
    """The first bytes of a pipe, if they are there; from here on reading it waits for its writer.

    Raises:
        FileNotRegular: it has none, and nobody knows whether one will ever come.
    """
    try:
        begun = os.read(descriptor, most)
    except BlockingIOError:
        begun = None
    if begun == b"":
        raise FileNotRegular(
            f"nothing came by the pipe {path}, and nobody writes to it", hint="did its writer fail?", path=str(path)
        )
    os.set_blocking(descriptor, True)
    return begun or b""


def nearest_existing(path: Path) -> Path:
    """`path`, or the nearest of its parents that is there."""
    while not path.exists():
        path = path.parent
    return path


def make_directories(path: Path, *, mode: int = 0o755, owner: Owner | None = None) -> None:
    """`path` and its missing parents; the new ones belong to `owner`."""
    there = nearest_existing(path)
    missing = takewhile(lambda each: each != there, (path, *path.parents))
    for directory in reversed([*missing]):
        try:
            directory.mkdir(mode=mode)
        except FileExistsError:
            continue
        except OSError as error:
            raise _told(directory, error) from error
        if owner is not None:
            os.chown(directory, *owner, follow_symlinks=False)


@contextlib.contextmanager
def locked_directory(path: Path, *, owner: Owner | None = None) -> Iterator[None]:
    """One writer of the files in `path` at a time, by flock(2); a directory that is missing is made, 0700."""
    make_directories(path, mode=0o700, owner=owner)
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """fsync(2) of a directory: what was renamed or linked in it is durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
