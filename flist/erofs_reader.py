"""Reading a metadata image of ours (FLIST-META), from whoever it comes: every offset is checked (EXTRACT-2).

Written from the kernel's `fs/erofs/erofs_fs.h` and not from `flist/erofs.py`, so that each is the other's test. Only
what version 1 of the format allows is read; anything else is refused, not skipped. Pure.
"""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field

from flist.errors import MetaInvalid
from flist.tree import Inode, Tree

__all__ = ["HOLE", "Chunks", "MetaImage", "read_meta"]

BLOCK = 4096
HOLE = 0xFFFF_FFFF
DEPTH_MAX = 256
PATH_MAX = 4095
NAME_MAX = 255
SYMLINK_MAX = 4095

_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_MAGIC = 0xE0F5E1E2
_INCOMPAT = 0x4 | 0x8
_DEVICE = struct.Struct("<64sII56x")
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_XATTR_HEADER = 12
_XATTR_ENTRY = struct.Struct("<BBH")
_XATTR_NAMES = {
    1: b"user.",
    2: b"system.posix_acl_access",
    3: b"system.posix_acl_default",
    4: b"trusted.",
    6: b"security.",
}
_XATTR_WHOLE = (2, 3)
_DIRENT = struct.Struct("<QHBx")
_CHUNK = struct.Struct("<HHI")
_FLAT_PLAIN, _FLAT_INLINE, _CHUNK_BASED = 0, 2, 4
_KINDS = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}


@dataclass(frozen=True, slots=True)
class Chunks:
    """Where the data of a regular file lies: `blocks[i]` is the first block of chunk i on the blob, or HOLE."""

    size: int
    blocks: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class MetaImage:
    """The tree in walk order, and the chunks of each regular file that is not empty, by inode number."""

    tree: Tree
    chunks: dict[int, Chunks]
    blob_blocks: int


def read_meta(image: bytes, *, paths_bytes_max: int | None = None) -> MetaImage:
    """Read a whole metadata image.

    Args:
        image: its bytes.
        paths_bytes_max: of the paths of all inodes together, each of which is in memory whole; None for any.

    Raises:
        MetaInvalid: it is no image of version 1, or its paths are longer; the message says what is wrong.
    """
    return _Reader(image, paths_bytes_max).read()


@dataclass(slots=True)
class _Raw:
    """An inode as it stands in the image."""

    nid: int
    mode: int
    layout: int
    size: int
    union: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...]
    data_at: int


@dataclass(slots=True)
class _Reader:
    image: bytes
    paths_bytes_max: int | None = None
    paths_bytes: int = 0
    blob_blocks: int = 0
    claimed: int = 0
    numbers: dict[int, int] = field(default_factory=dict)
    inodes: list[Inode | None] = field(default_factory=list)
    chunks: dict[int, Chunks] = field(default_factory=dict)

    def read(self) -> MetaImage:
        root_nid = self.superblock()
        root = self.inode(root_nid)
        if not stat.S_ISDIR(root.mode):
            raise MetaInvalid("the root is no directory")
        self.directory(root, b"", parent_nid=root_nid, depth=0)
        return MetaImage(Tree([each for each in self.inodes if each is not None]), self.chunks, self.blob_blocks)

    def superblock(self) -> int:
        """Check the superblock and the device slot; the nid of the root."""
        if len(self.image) < BLOCK or len(self.image) % BLOCK:
            raise MetaInvalid("a metadata image is whole blocks", size=len(self.image))
        fields = _SUPER.unpack_from(self.image, 1024)
        magic, block_bits, slots, root_nid, blocks, meta_at = (fields[i] for i in (0, 3, 4, 5, 9, 10))
        incompat, devices, slot_at, directory_bits = (fields[i] for i in (14, 16, 17, 18))
        if magic != _MAGIC or block_bits != 12 or slots or meta_at or directory_bits:
            raise MetaInvalid("this is no metadata image of version 1")
        if incompat != _INCOMPAT or devices != 1 or blocks * BLOCK != len(self.image):
            raise MetaInvalid("the superblock has other features or another size than version 1 has")
        device_at = slot_at * _DEVICE.size
        if not 1024 + _SUPER.size <= device_at <= BLOCK - _DEVICE.size:
            raise MetaInvalid("the device slot lies elsewhere than in the first block")
        _, self.blob_blocks, _ = _DEVICE.unpack_from(self.image, device_at)
        return int(root_nid)

    def claim(self, at: int, length: int) -> int:
        """Check that bytes lie inside. All claims together are no more than there is: overlaps gain nobody anything."""
        self.claimed += length
        if at < 0 or at + length > len(self.image) or self.claimed > len(self.image):
            raise MetaInvalid("the metadata image points outside of itself, or twice at the same bytes", offset=at)
        return at

    def inode(self, nid: int) -> _Raw:
        at = self.claim(nid * 32, _INODE.size)
        format_, icount, mode, _, size, union, _, uid, gid, seconds, nanoseconds, _ = _INODE.unpack_from(self.image, at)
        layout = format_ >> 1
        if not format_ & 1 or layout not in (_FLAT_PLAIN, _FLAT_INLINE, _CHUNK_BASED):
            raise MetaInvalid("an inode has a format that version 1 does not have", nid=nid)
        if stat.S_IFMT(mode) not in _KINDS or nanoseconds >= 1_000_000_000:
            raise MetaInvalid("an inode has no type, or an impossible time", nid=nid)
        xattr_size = _XATTR_HEADER + 4 * (icount - 1) if icount else 0
        xattr_at = self.claim(at + _INODE.size, xattr_size)
        if seconds >= 1 << 63:
            seconds -= 1 << 64
        return _Raw(
            nid=nid,
            mode=mode,
            layout=layout,
            size=size,
            union=union,
            uid=uid,
            gid=gid,
            mtime_ns=seconds * 1_000_000_000 + nanoseconds,
            xattrs=self.xattrs(xattr_at, xattr_size) if icount else (),
            data_at=xattr_at + xattr_size,
        )

    def xattrs(self, at: int, size: int) -> tuple[tuple[bytes, bytes], ...]:
        if self.image[at + 4]:
            raise MetaInvalid("shared extended attributes are not of version 1")
        found: dict[bytes, bytes] = {}
        end = at + size
        at += _XATTR_HEADER
        while at < end:
            if at + _XATTR_ENTRY.size > end:
                raise MetaInvalid("extended attributes are cut off")
            name_length, index, value_length = _XATTR_ENTRY.unpack_from(self.image, at)
            name_at = at + _XATTR_ENTRY.size
            value_at = name_at + name_length
            at = -(-(value_at + value_length) // 4) * 4
            if index not in _XATTR_NAMES or (index in _XATTR_WHOLE) != (name_length == 0) or at > end:
                raise MetaInvalid("an extended attribute has no name, or is cut off")
            name = _XATTR_NAMES[index] + self.image[name_at:value_at]
            if b"\0" in name or name in found:
                raise MetaInvalid("an extended attribute is there twice, or its name has a NUL")
            found[name] = self.image[value_at : value_at + value_length]
        return tuple(sorted(found.items()))

    def data(self, raw: _Raw, most: int) -> bytes:
        """The bytes of a directory or a symbolic link."""
        if not 0 < raw.size <= most or raw.layout == _CHUNK_BASED:
            raise MetaInvalid("a directory or a link has an impossible size or layout", nid=raw.nid)
        inline = raw.size % BLOCK if raw.layout == _FLAT_INLINE else 0
        whole = raw.size - inline
        start = self.claim(raw.union * BLOCK, whole) if whole else 0
        tail = self.claim(raw.data_at, inline)
        return self.image[start : start + whole] + self.image[tail : tail + inline]

    def take(self, raw: _Raw, path: bytes) -> int:
        """Give an inode its number, in walk order."""
        self.paths_bytes += len(path)
        if self.paths_bytes_max is not None and self.paths_bytes > self.paths_bytes_max:
            raise MetaInvalid(f"the paths have more than {self.paths_bytes_max} bytes together")
        number = len(self.inodes)
        self.numbers[raw.nid] = number
        self.inodes.append(None)
        return number

    def directory(self, raw: _Raw, path: bytes, *, parent_nid: int, depth: int) -> int:
        if depth > DEPTH_MAX or len(path) > PATH_MAX:
            raise MetaInvalid("directories lie too deep", path=path[:80].decode(errors="replace"))
        number = self.take(raw, path)
        entries: list[tuple[bytes, int]] = []
        folders: list[tuple[bytes, _Raw]] = []
        dots = {b".": raw.nid, b"..": parent_nid}
        for name, nid, kind in self.listing(raw):
            if name in dots:
                if dots.pop(name) != nid:
                    raise MetaInvalid("'.' or '..' of a directory leads elsewhere", nid=raw.nid)
                continue
            below = path + b"/" + name if path else name
            if nid in self.numbers:
                child = self.numbers[nid]
                known = self.inodes[child]
                if known is None or stat.S_ISDIR(known.mode) or kind != _KINDS[known.kind]:
                    raise MetaInvalid("a directory has two names", path=below.decode(errors="replace"))
                entries.append((name, child))
                continue
            inode = self.inode(nid)
            if kind != _KINDS[stat.S_IFMT(inode.mode)]:
                raise MetaInvalid("an entry has another type than its inode", path=below.decode(errors="replace"))
            if stat.S_ISDIR(inode.mode):
                folders.append((name, inode))
            else:
                entries.append((name, self.other(inode, below)))
        if dots:
            raise MetaInvalid("a directory lacks '.' or '..'", nid=raw.nid)
        for name, folder in folders:
            if folder.nid in self.numbers:
                raise MetaInvalid("a directory has two names", nid=folder.nid)
            below = path + b"/" + name if path else name
            entries.append((name, self.directory(folder, below, parent_nid=raw.nid, depth=depth + 1)))
        self.inodes[number] = _made(raw, path, entries=tuple(sorted(entries)))
        return number

    def listing(self, raw: _Raw) -> list[tuple[bytes, int, int]]:
        """Name, nid and type of every entry; the names ascend, so none is there twice."""
        data = self.data(raw, len(self.image))
        found: list[tuple[bytes, int, int]] = []
        for start in range(0, len(data), BLOCK):
            block = data[start : start + BLOCK]
            if len(block) < _DIRENT.size:
                raise MetaInvalid("a directory is cut off", nid=raw.nid)
            first = _DIRENT.unpack_from(block)[1]
            if first % _DIRENT.size or not _DIRENT.size <= first <= len(block):
                raise MetaInvalid("a directory has an impossible number of entries", nid=raw.nid)
            heads = list(_DIRENT.iter_unpack(block[:first]))
            ends = [head[1] for head in heads[1:]] + [len(block)]
            for (nid, name_at, kind), end in zip(heads, ends, strict=True):
                if not first <= name_at < end <= len(block):
                    raise MetaInvalid("a name in a directory lies elsewhere", nid=raw.nid)
                name = block[name_at:end]
                if end == len(block):  # the last name of a block may be followed by zeros
                    name = name.rstrip(b"\0")
                if not 1 <= len(name) <= NAME_MAX or b"/" in name or b"\0" in name:
                    raise MetaInvalid("a directory has an impossible name", nid=raw.nid)
                if found and found[-1][0] >= name:
                    raise MetaInvalid("the names in a directory do not ascend", nid=raw.nid)
                found.append((name, nid, kind))
        return found

    def other(self, raw: _Raw, path: bytes) -> int:
        """Take what is no directory."""
        if len(path) > PATH_MAX:
            raise MetaInvalid("a path is too long", path=path[:80].decode(errors="replace"))
        number = self.take(raw, path)
        kind = stat.S_IFMT(raw.mode)
        target = b""
        device = (0, 0)
        if kind == stat.S_IFLNK:
            target = self.data(raw, SYMLINK_MAX)
            if b"\0" in target:
                raise MetaInvalid("the target of a symbolic link has a NUL", nid=raw.nid)
        elif kind in (stat.S_IFCHR, stat.S_IFBLK):
            device = (raw.union >> 8 & 0xFFF, raw.union & 0xFF | raw.union >> 12 & ~0xFF)
        elif kind == stat.S_IFREG and raw.size:
            self.chunks[number] = self.chunk_map(raw)
        self.inodes[number] = _made(raw, path, target=target, device=device)
        return number

    def chunk_map(self, raw: _Raw) -> Chunks:
        bits = (raw.union & 0x1F) + 12
        if raw.layout != _CHUNK_BASED or raw.union & ~0x1F != 0x20 or bits > 31:
            raise MetaInvalid("a file has a layout that version 1 does not have", nid=raw.nid)
        count = -(-raw.size >> bits)
        at = self.claim(-(-raw.data_at // _CHUNK.size) * _CHUNK.size, count * _CHUNK.size)
        blocks: list[int] = []
        for _, device, block in _CHUNK.iter_unpack(self.image[at : at + count * _CHUNK.size]):
            if block != HOLE:
                held = -(-min(1 << bits, raw.size - (len(blocks) << bits)) // BLOCK)
                if device != 1 or block + held > self.blob_blocks:
                    raise MetaInvalid("a file lies outside of the blob", nid=raw.nid)
            blocks.append(block)
        return Chunks(1 << bits, tuple(blocks))


def _made(
    raw: _Raw,
    path: bytes,
    *,
    target: bytes = b"",
    device: tuple[int, int] = (0, 0),
    entries: tuple[tuple[bytes, int], ...] = (),
) -> Inode:
    return Inode(
        path=path,
        mode=raw.mode,
        uid=raw.uid,
        gid=raw.gid,
        mtime_ns=raw.mtime_ns,
        xattrs=raw.xattrs,
        size=raw.size if stat.S_ISREG(raw.mode) else 0,
        target=target,
        device=device,
        entries=entries,
    )
