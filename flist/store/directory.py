"""A store in a directory: one file for each object, at its path."""

from __future__ import annotations

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self, TypeVar

from flist.store.errors import ObjectInvalid, ObjectMissing, StoreUnavailable
from flist.store.paths import check_path, size_max
from flist.store.protocol import SLOWEST_BYTES_S
from zos_core.base.atomic_file import Owner, make_directories, replacing, write_atomic
from zos_core.base.errors import UsageError
from zos_core.base.threads import in_thread, in_thread_apart

__all__ = ["DirectoryStore", "OpenObject"]

SCRATCH = "tmp"
COPY_BYTES = 1 << 20
ANSWER_TIMEOUT_S = 30.0

T = TypeVar("T")


class OpenObject:
    """An object that is open for reading; `size` and `changed_ns` are of the file. Close it."""

    def __init__(self, file: BinaryIO) -> None:
        status = os.fstat(file.fileno())
        self.size = status.st_size
        self.changed_ns = status.st_mtime_ns
        self._file = file

    def read(self, start: int, length: int) -> bytes:
        """At most `length` bytes from `start` on; fewer only at the end."""
        return os.pread(self._file.fileno(), length, start)

    def close(self) -> None:
        """Close the file."""
        self._file.close()


class DirectoryStore:
    """Objects in `root`, which need not exist before something is put.

    An object is a file of its own that replaces the older one whole, so readers (a hub, a node) need no lock.
    """

    def __init__(self, root: Path, *, owner: Owner | None = None) -> None:
        """`owner`: uid and gid of what is made here; with sudo, those of the caller."""
        self._root = root
        self._owner = owner

    @property
    def name(self) -> str:
        """The directory."""
        return str(self._root)

    @property
    def addresses(self) -> list[str]:
        """The directory, absolute."""
        return [str(self._root.absolute())]

    @property
    def scratch(self) -> Path | None:
        """`tmp` in the directory: the same file system, so that a finished pack is renamed."""
        make_directories(self._root / SCRATCH, owner=self._owner)
        return self._root / SCRATCH

    async def has(self, path: str) -> bool:
        """Whether the object is there."""
        check_path(path)
        return await self._read(path, (self._root / path).is_file, timeout_s=ANSWER_TIMEOUT_S)

    async def get(self, path: str, *, limit: int | None = None) -> bytes:
        """The whole object; errors as of `Store.get`."""
        most = size_max(path) if limit is None else limit

        def read() -> bytes:
            found = self.open(path)
            try:
                if found.size > most:
                    raise ObjectInvalid(f"{path} in {self._root} is longer than {most} bytes", path=path)
                return _whole(found, path)
            finally:
                found.close()

        return await self._read(path, read, timeout_s=ANSWER_TIMEOUT_S + most / SLOWEST_BYTES_S)

    def open(self, path: str) -> OpenObject:
        """The object, open; blocks for as long as open(2) does.

        Raises:
            ObjectMissing: it is not there.
            OSError: it cannot be opened.
        """
        check_path(path)
        try:
            file = open(self._root / path, "rb", opener=_open_object)  # noqa: SIM115 (OpenObject owns it)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise ObjectMissing(f"{path} is not in {self._root}", path=path) from error
        return OpenObject(file)

    async def put(self, path: str, data: bytes) -> None:
        """Write an object, over one that is there."""
        check_path(path)

        def write() -> None:
            write_atomic(self._place(path), data, owner=self._owner)

        await self._run(path, write)

    async def put_file(self, path: str, source: Path) -> None:
        """Move a finished file to its place, by rename(2) where it lies on the same file system."""
        check_path(path)

        def move() -> None:
            target = self._place(path)
            if source.stat().st_dev == target.parent.stat().st_dev:
                source.chmod(0o644)
                if self._owner is not None:
                    os.chown(source, *self._owner)
                os.replace(source, target)
                return
            with open(source, "rb") as old, replacing(target, owner=self._owner) as new:
                shutil.copyfileobj(old, new, COPY_BYTES)
            source.unlink()

        await self._run(path, move)

    async def __aenter__(self) -> Self:
        """Begin to use the store.

        Raises:
            UsageError: something else is there.
            StoreUnavailable: nobody can tell.
        """

        def check() -> bool:
            try:
                return stat.S_ISDIR(self._root.stat().st_mode)
            except FileNotFoundError:
                return True

        if not await self._read("", check, timeout_s=ANSWER_TIMEOUT_S):
            raise UsageError(f"{self._root} is no directory", hint="a store is a directory, or a hub's http:// URL")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return

    def _place(self, path: str) -> Path:
        target = self._root / path
        make_directories(target.parent, owner=self._owner)
        return target

    async def _run(self, path: str, work: Callable[[], T]) -> T:
        try:
            return await in_thread(work)
        except OSError as error:
            raise self._unavailable(path, error) from error

    async def _read(self, path: str, work: Callable[[], T], *, timeout_s: float) -> T:
        """The same for work that only reads: a file system that does not answer holds up nobody else (STORE-4)."""
        try:
            async with asyncio.timeout(timeout_s):
                return await in_thread_apart(work)
        except TimeoutError as error:
            where = self._root / path
            raise StoreUnavailable(f"{where}: its file system does not answer", path=path) from error
        except OSError as error:
            raise self._unavailable(path, error) from error

    def _unavailable(self, path: str, error: OSError) -> StoreUnavailable:
        where = self._root / path
        return StoreUnavailable(f"{where}: {error.strerror or error}", path=path, errno=error.errno)


def _open_object(path: str, flags: int) -> int:
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise FileNotFoundError(path)
    return descriptor


def _whole(found: OpenObject, path: str) -> bytes:
    data = bytearray()
    while len(data) < found.size:
        piece = found.read(len(data), found.size - len(data))
        if not piece:
            raise ObjectInvalid(f"{path} ends before {found.size} while it is read", path=path)
        data += piece
    return bytes(data)
