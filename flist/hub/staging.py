"""Uploads under way: what a key has sent and not yet committed, where no reader looks (PUB-3..5, PUB-8).

    <hub>/staged/<key, hex>/part/<kind>-<hash>     what has come of an object, from its first byte on
    <hub>/staged/<key, hex>/<kind>/<hash>          whole, and its hash was right

Each key has a place of its own, so that nobody can spoil or finish another's upload. Calls block; calls for one object
of one key come one after another.
"""

from __future__ import annotations

import contextlib
import errno
import os
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import zstandard
from blake3 import blake3

from flist.hub.errors import ImageTooLarge, ObjectWrong, StoreUnwritable, UploadConflict, UploadLimit
from flist.store import ObjectInvalid
from flist.store.paths import check_path, size_max
from zos_core.base.atomic_file import make_directories, sync_directory
from zos_core.base.errors import DiskFull, is_disk_full, is_out_of_descriptors

__all__ = ["HUB_META_MAX", "IDLE_S", "STAGED_BYTES_MAX", "UPLOAD_KINDS", "Staging", "disk_full", "too_large", "writing"]

STAGED_BYTES_MAX = 64 << 30
"""Of all keys together; one key may have a quarter."""
STAGED_OBJECTS_MAX = 262_144
"""Of one key: the most packs and pages that an image can have, and a few."""
KEY_SHARE = 4
IDLE_S = 24 * 3600
"""An upload that nobody goes on with for so long is thrown away."""
UPLOAD_KINDS = frozenset({"index", "meta", "pack", "locator"})
"""Named by their content; a locator under the hash of its bytes until it is committed."""
HASH_BYTES_AT_ONCE = 1 << 20
WINDOW_MAX = 1 << 27

HUB_META_MAX = 64 << 20
"""Plain bytes of an image's metadata that a hub takes: some 500,000 inodes. It is read whole for whoever publishes, in
five to twenty times as much memory; compressed it may be next to nothing."""

_PARTS = "part"


class Staging:
    """Unfinished publications in `root`."""

    def __init__(self, root: Path, *, bytes_max: int = STAGED_BYTES_MAX) -> None:
        """Counts what is there. `bytes_max`: of all keys together."""
        self._root = root
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._bytes: Counter[str] = Counter()
        self._objects: Counter[str] = Counter()
        self._count()

    def place(self, public: bytes) -> Path:
        """The directory of a key, laid out as a store."""
        return self._root / public.hex()

    def offset(self, public: bytes, path: str) -> int | None:
        """Bytes of an object that have come, or None when it is whole; the object is kept from the collector."""
        _check_kind(path)
        for file, whole in ((self.place(public) / path, True), (self._part(public, path), False)):
            with contextlib.suppress(FileNotFoundError):
                os.utime(file)
                return None if whole else file.stat().st_size
        return 0

    def append(self, public: bytes, path: str, *, offset: int, size: int, data: bytes) -> int:
        """Take bytes of an object of `size` bytes in all; when they are the last, verify it. Returns what has come.

        Raises:
            ObjectInvalid: no object that can be uploaded, or too long a one.
            UploadConflict: they do not follow what has come.
            UploadLimit: too much is unpublished.
            ObjectWrong: the object is whole, and another one; it is gone.
            ImageTooLarge: it is metadata, and unpacks to more than a hub takes; it is gone.
            DiskFull: no room; what had come before is kept.
            StoreUnwritable: any other reason not to write.
        """
        _check_kind(path)
        if not 1 <= len(data) <= size - offset or size > size_max(path):
            raise ObjectInvalid(f"{path} cannot have {size} bytes, of which {len(data)} come at {offset}", path=path)
        have = self.offset(public, path)
        if have is None:
            return size
        if have != offset:
            raise UploadConflict(f"{have} bytes of {path} have come, not {offset}", path=path, offset=have)
        self._admit(public, len(data), objects=int(not have))
        part = self._part(public, path)
        try:
            with writing(path):
                _into(part.parent, lambda: _append(part, data, have))
        except BaseException:
            self._leave(public.hex(), len(data), objects=int(not have))
            raise
        if have + len(data) == size:
            self._finish(public, path, part)
        return have + len(data)

    def moved(self, public: bytes, size: int) -> None:
        """An object of `size` bytes has left for the store."""
        self._leave(public.hex(), size, objects=1)

    def idle(self, *, now_s: float) -> list[Path]:
        """Files that nobody went on with for `IDLE_S`; directories without any go."""
        found = []
        for file in self._files():
            with contextlib.suppress(FileNotFoundError):
                if file.stat().st_mtime + IDLE_S <= now_s:
                    found.append(file)
        for directory, _, _ in os.walk(self._root, topdown=False):
            self._remove_empty(Path(directory))
        return found

    def discard(self, files: Sequence[Path], *, now_s: float, keep: bytes | None = None) -> int:
        """Throw away those of the files that are idle still; the number of objects. Of the key `keep` nothing goes.

        Raises:
            OSError: some could not be removed; all were tried.
        """
        gone, failure = 0, None
        for file in files:
            key = file.relative_to(self._root).parts[0]
            if keep is not None and key == keep.hex():
                continue
            try:
                found = file.stat()
                if found.st_mtime + IDLE_S > now_s:
                    continue
                file.unlink()
            except FileNotFoundError:
                continue
            except OSError as error:
                failure = error
                continue
            self._leave(key, found.st_size, objects=1)
            self._remove_empty(file.parent)
            self._remove_empty(file.parent.parent)
            gone += 1
        if failure is not None:
            raise failure
        return gone

    def _remove_empty(self, directory: Path) -> None:
        if directory != self._root:
            with contextlib.suppress(OSError):  # it is not empty
                directory.rmdir()

    def _finish(self, public: bytes, path: str, part: Path) -> None:
        try:
            if not _is(path, part):
                raise ObjectWrong(
                    f"{path} arrived with another hash", hint="is the store it comes from whole?", path=path
                )
        except (ObjectWrong, ImageTooLarge):
            self.moved(public, part.stat().st_size)
            part.unlink()
            raise
        target = self.place(public) / path
        with writing(path):
            _sync(part)
            _into(target.parent, lambda: os.replace(part, target))
            sync_directory(target.parent)

    def _admit(self, public: bytes, length: int, *, objects: int) -> None:
        key = public.hex()
        with self._lock:
            total, own = self._bytes.total() + length, self._bytes[key] + length
            if total > self._bytes_max or own * KEY_SHARE > self._bytes_max:
                raise UploadLimit(
                    f"{own - length} bytes of this key, {total - length} of all, are not published yet",
                    hint=f"publish them, or wait: what is idle for {IDLE_S // 3600} h is thrown away",
                )
            if self._objects[key] + objects > STAGED_OBJECTS_MAX:
                raise UploadLimit(f"{self._objects[key]} objects of this key are not published yet")
            self._bytes[key] += length
            self._objects[key] += objects

    def _leave(self, key: str, length: int, *, objects: int) -> None:
        with self._lock:
            self._bytes[key] -= length
            self._objects[key] -= objects
            if not self._objects[key]:
                del self._bytes[key], self._objects[key]

    def _part(self, public: bytes, path: str) -> Path:
        return self.place(public) / _PARTS / path.replace("/", "-")

    def _files(self) -> Iterator[Path]:
        for directory, _, names in os.walk(self._root):
            yield from (Path(directory, name) for name in names)

    def _count(self) -> None:
        with self._lock:
            self._bytes.clear()
            self._objects.clear()
            for file in self._files():
                key = file.relative_to(self._root).parts[0]
                with contextlib.suppress(FileNotFoundError):
                    self._bytes[key] += file.stat().st_size
                    self._objects[key] += 1


@contextlib.contextmanager
def writing(what: str) -> Iterator[None]:
    """What keeps the hub from writing, as what it is.

    Raises:
        DiskFull: there is no room.
        StoreUnwritable: any other OSError but that no descriptor is left, which passes as it is: it is not the store's.
    """
    try:
        yield
    except OSError as error:
        if is_out_of_descriptors(error):
            raise
        if is_disk_full(error) or error.errno == errno.EFBIG:
            raise disk_full(what, str(error.strerror)) from error
        where = error.filename or "its store"
        raise StoreUnwritable(
            f"the hub cannot write {what}: {error.strerror or error}",
            hint=f"its operator finds out why it cannot write {where}",
            what=what,
        ) from error


def disk_full(what: str, why: str) -> DiskFull:
    """That the hub has no room for `what`."""
    return DiskFull(f"the hub has no room for {what}: {why}", hint="its operator has to make room", what=what)


def too_large(what: str) -> ImageTooLarge:
    """That `what`, metadata of an image, is more than a hub takes."""
    limit_mib = HUB_META_MAX >> 20
    return ImageTooLarge(
        f"{what} has more than {limit_mib} MiB",
        hint=f"a hub takes images with at most {limit_mib} MiB of metadata, some 500,000 files: make several of it",
        limit=HUB_META_MAX,
    )


def _check_kind(path: str) -> None:
    if check_path(path) not in UPLOAD_KINDS:
        raise ObjectInvalid(f"{path} cannot be uploaded", path=path)


def _append(part: Path, data: bytes, have: int) -> None:
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        view = memoryview(data)
        at = have
        while view:
            written = os.pwrite(descriptor, view, at)
            view, at = view[written:], at + written
    except OSError:
        with contextlib.suppress(OSError):  # the first error says more
            os.ftruncate(descriptor, have)
        raise
    finally:
        os.close(descriptor)


def _into(directory: Path, work: Callable[[], None]) -> None:
    """Do what puts something into a directory; the collector may take an empty one away before it does."""
    for again in (True, False):
        try:
            make_directories(directory, mode=0o700)
            work()
        except FileNotFoundError:
            if again:
                continue
            raise
        return


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is(path: str, file: Path) -> bool:
    """Whether a file is the object that `path` names: by its bytes, metadata by its plain bytes (FLIST-STORE-1).

    Raises:
        ImageTooLarge: it is metadata that unpacks to more than a hub takes.
    """
    kind, _, name = path.partition("/")
    hasher = blake3()
    with open(file, "rb") as stream:
        if kind != "meta":
            while data := stream.read(HASH_BYTES_AT_ONCE):
                hasher.update(data)
            return hasher.hexdigest() == name
        try:
            reader = zstandard.ZstdDecompressor(max_window_size=WINDOW_MAX).stream_reader(stream)
            plain_bytes = 0
            while data := reader.read(HASH_BYTES_AT_ONCE):
                plain_bytes += len(data)
                if plain_bytes > HUB_META_MAX:
                    raise too_large(path)
                hasher.update(data)
        except zstandard.ZstdError:
            return False
    return hasher.hexdigest() == name
