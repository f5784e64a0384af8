"""Twin of `native/crates/pack`: the same arguments, results and errors, one unit after another.

The packs may differ in bytes from those of Rust if the two zstd libraries differ; digests, addresses and lengths
of plain bytes, which are all that an image's identity is made of, may not.
"""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Iterator
from typing import BinaryIO

import zstandard
from blake3 import blake3

from native.errors import BlobTooLarge, FileChanged, FileUnreadable

__all__ = ["Packer"]

BLOCK = 4096
UNIT_MAX = 262_144
PACK_MAX = 1 << 30
HOLE = KNOWN_PACK = 0xFFFFFFFF
RAW = 1 << 31
_FILE = struct.Struct("<QqII")
_PART = struct.Struct("<IIQ")
_UNIT = struct.Struct("<II")
_EMITTED = struct.Struct("<32sIIII")


class _File:
    """What the walk saw of one file."""

    def __init__(self, path: bytes, size: int, mtime_s: int, mtime_ns: int) -> None:
        self.path, self.size, self.mtime_s, self.mtime_ns = path, size, mtime_s, mtime_ns

    @property
    def name(self) -> str:
        """The path for people."""
        return self.path.decode(errors="replace")

    def changed(self, what: str) -> FileChanged:
        """The error for a file that differs."""
        return FileChanged(f"{self.name}: {what}", path=self.name)

    def unreadable(self, error: OSError) -> FileUnreadable:
        """The error for a file that cannot be read."""
        return FileUnreadable(f"{self.name}: {error.strerror} (os error {error.errno})", path=self.name)


class Packer:
    """Packs units into files below one directory. After an error it is of no more use."""

    _open: tuple[BinaryIO, bytes, blake3] | None = None

    def __init__(self, directory: bytes, *, level: int, threads: int, known: bytes, pack_max: int) -> None:
        """Pack into `directory`, which exists and is private to this packer.

        Args:
            directory: its path.
            level: of zstd.
            threads: 1 to 64; the result does not depend on it.
            known: digests (32 bytes each) of units that get an address, but need not be written.
            pack_max: a new pack begins when this many bytes would be exceeded; 256 KiB to 1 GiB.

        Raises:
            ValueError: an argument is out of its limits.
        """
        if len(known) % 32:
            raise ValueError("known is not a list of digests")
        if not 1 <= threads <= 64:
            raise ValueError("threads must be 1 to 64")
        if not UNIT_MAX <= pack_max <= PACK_MAX:
            raise ValueError("pack_max must be 256 KiB to 1 GiB")
        if not -(1 << 17) <= level <= zstandard.MAX_COMPRESSION_LEVEL:
            raise ValueError("zstd has no such level")
        self._directory = directory
        self._compressor = zstandard.ZstdCompressor(level=level)
        self._known = {known[at : at + 32] for at in range(0, len(known), 32)}
        self._pack_max = pack_max
        self._addresses: dict[bytes, int] = {}
        self._blocks = 0
        self._packs: list[bytes] = []
        self._emitted: list[bytes] = []
        self._size = 0
        self._usable = True

    def add(self, root: bytes, paths: bytes, files: bytes, parts: bytes, units: bytes) -> bytes:
        """Pack `units` of the tree at the path `root`; the answer is the first block of each (u32), or HOLE.

        Raises:
            FileChanged: a file is not what `files` says.
            FileUnreadable: a file cannot be opened or read.
            BlobTooLarge: more than 2^32 - 2 blocks.
            OSError: a pack cannot be written.
            ValueError: the arrays contradict each other or the limits.
        """
        plan = list(_parse(paths, files, parts, units))
        for unit, _ in plan:
            _check(unit)
        self._take()
        try:
            root_fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise _File(root, 0, 0, 0).unreadable(error) from None
        try:
            addresses = [self._pack(_read(root_fd, unit), piece) for unit, piece in plan]
        except BaseException:
            self._abandon()
            raise
        finally:
            os.close(root_fd)
        self._usable = True
        return struct.pack(f"<{len(addresses)}I", *addresses)

    def finish(self) -> tuple[bytes, bytes, int]:
        """Digests of the packs (each is now the file DIRECTORY/HEX), EMITTED of every unit, blocks of the blob."""
        self._take()
        self._close()
        return b"".join(self._packs), b"".join(self._emitted), self._blocks

    def _take(self) -> None:
        if not self._usable:
            raise ValueError("the packer is finished, or an error ended it")
        self._usable = False

    def _pack(self, plain: bytes, piece: bool) -> int:
        if piece and not plain.strip(b"\0"):
            return HOLE
        digest = blake3(plain).digest()
        if digest in self._addresses:
            return self._addresses[digest]
        if digest in self._known:
            return self._emit(digest, len(plain), KNOWN_PACK, 0, 0)
        stored = self._compressor.compress(plain)
        raw = 0
        if len(stored) >= len(plain):
            stored, raw = plain, RAW
        if self._open is not None and self._size + len(stored) > self._pack_max:
            self._close()
        if self._open is None:
            path = os.path.join(self._directory, b"pack.%d" % len(self._packs))
            self._open, self._size = (open(path, "xb"), path, blake3()), 0  # noqa: SIM115 (closed by _close)
        stream, _, hasher = self._open
        stream.write(stored)
        hasher.update(stored)
        offset, self._size = self._size, self._size + len(stored)
        return self._emit(digest, len(plain), len(self._packs), offset, len(stored) | raw)

    def _emit(self, digest: bytes, length: int, pack: int, offset: int, stored: int) -> int:
        address = self._blocks
        if address + -(-length // BLOCK) >= HOLE:
            raise BlobTooLarge("the blob would exceed 16 TiB")
        self._blocks += -(-length // BLOCK)
        self._addresses[digest] = address
        self._emitted.append(_EMITTED.pack(digest, length, pack, offset, stored))
        return address

    def __del__(self) -> None:
        """A packer that is dropped before its end, as Rust's is."""
        self._abandon()

    def _abandon(self) -> None:
        """Close what is open; the pack under way is worth nothing."""
        if self._open is not None:
            self._open[0].close()

    def _close(self) -> None:
        if self._open is None:
            return
        (stream, path, hasher), self._open = self._open, None
        with stream:
            stream.flush()
            os.fsync(stream.fileno())
        os.rename(path, os.path.join(self._directory, hasher.hexdigest().encode()))
        self._packs.append(hasher.digest())


_Unit = list[tuple[_File, int, int]]  # file, length, offset


def _parse(paths: bytes, files: bytes, parts: bytes, units: bytes) -> Iterator[tuple[_Unit, bool]]:
    for data, record, what in ((files, _FILE, "files"), (parts, _PART, "parts"), (units, _UNIT, "units")):
        if len(data) % record.size:
            raise ValueError(f"{what} is not a list of records")
    parsed: list[_File] = []
    at = 0
    for size, mtime_s, mtime_ns, length in _FILE.iter_unpack(files):
        if at + length > len(paths):
            raise ValueError("paths is too short")
        parsed.append(_File(paths[at : at + length], size, mtime_s, mtime_ns))
        at += length
    if at != len(paths):
        raise ValueError("paths is too long")
    rest = list(_PART.iter_unpack(parts))
    taken = 0
    for count, piece in _UNIT.iter_unpack(units):
        own = rest[taken : taken + count]
        if len(own) < count:
            raise ValueError("parts is too short")
        taken += count
        if any(file >= len(parsed) for file, _, _ in own):
            raise ValueError("a part names a file that is not there")
        yield [(parsed[file], length, offset) for file, length, offset in own], piece == 1
    if taken != len(rest):
        raise ValueError("parts is too long")


def _check(unit: _Unit) -> None:
    if not unit:
        raise ValueError("a unit has at least one part")
    if sum(-(-length // BLOCK) * BLOCK for _, length, _ in unit[:-1]) + unit[-1][1] > UNIT_MAX:
        raise ValueError("a unit has at most 262,144 bytes")
    if any(length == 0 or offset + length > file.size for file, length, offset in unit):
        raise ValueError("a part is empty or ends behind its file")


def _read(root_fd: int, unit: _Unit) -> bytes:
    plain = bytearray()
    for file, length, offset in unit:
        plain += bytes(-len(plain) % BLOCK)
        plain += _read_part(root_fd, file, length, offset)
    return bytes(plain)


def _read_part(root_fd: int, file: _File, length: int, offset: int) -> bytes:
    try:
        opened = _open_beneath(root_fd, file.path)
    except (FileNotFoundError, NotADirectoryError):
        raise file.changed("it was there a moment ago") from None
    except OSError as error:
        # A symbolic link (ELOOP) or a socket (ENXIO) in its place.
        if error.errno in (40, 6):
            raise file.changed("it was there a moment ago") from None
        raise file.unreadable(error) from None
    try:
        _compare(opened, file)
        data = b""
        while len(data) < length:
            more = os.pread(opened, length - len(data), offset + len(data))
            if not more:
                raise file.changed("it ends before the size it had")
            data += more
        _compare(opened, file)
    except OSError as error:
        raise file.unreadable(error) from None
    finally:
        os.close(opened)
    return data


def _open_beneath(root_fd: int, path: bytes) -> int:
    """Open a file step by step without following a symbolic link."""
    *folders, name = path.split(b"/")
    at = os.dup(root_fd)
    try:
        for folder in folders:
            flags = os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
            deeper = os.open(folder, flags, dir_fd=at)
            os.close(at)
            at = deeper
        return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=at)
    finally:
        os.close(at)


def _compare(opened: int, file: _File) -> None:
    now = os.fstat(opened)
    if not stat.S_ISREG(now.st_mode):
        raise file.changed("it is not a regular file any more")
    if now.st_size != file.size:
        raise file.changed("its size changed")
    if divmod(now.st_mtime_ns, 1_000_000_000) != (file.mtime_s, file.mtime_ns):
        raise file.changed("its time of modification changed")
