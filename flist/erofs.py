"""Our writer of EROFS metadata images: inodes, directories, xattrs, chunk indexes into device 1. Pure (FLIST-META).

The source of every layout is the kernel's `fs/erofs/erofs_fs.h`. Only what Linux 6.1 reads is used: blocks of 4 KiB,
64-byte inodes, inline directories, symbolic links and xattrs, chunk indexes, one device slot, superblock checksum.

    0      1024 zero bytes (boot sector)
    1024   superblock, 128 bytes
    1152   device slot, 128 bytes
    1280   inodes in walk order, each followed by its xattrs and by its inline data or chunk indexes; the root is first
    ...    from the next block on: blocks of directories and long symbolic links that are not inline
"""

from __future__ import annotations

import stat
import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from flist.bundles import BLOCK, chunk_bits
from flist.errors import TreeUnsupported
from flist.manifest import META_MAX
from flist.tree import Entry, Inode, Tree

__all__ = ["HOLE", "NAME_MAX", "SYMLINK_MAX", "meta_image"]

HOLE = 0xFFFF_FFFF
"""Block address of a chunk of zeros."""
NAME_MAX = 255
SYMLINK_MAX = 4095
XATTR_VALUE_MAX = 65_535
XATTR_ICOUNT_MAX = 65_535

_SUPER_AT = 1024
_SUPER = struct.Struct("<IIIBBHQQIIII16s16sIHHHBBIQB23x")
_MAGIC = 0xE0F5E1E2
_COMPAT = 0x1 | 0x2  # SB_CHKSUM, MTIME
_INCOMPAT = 0x4 | 0x8  # CHUNKED_FILE, DEVICE_TABLE
_DEVICE_AT = 1152
_DEVICE = struct.Struct("<64sII56x")
_INODES_AT = 1280
_SLOT = 32
_INODE = struct.Struct("<HHHHQIIIIQII16x")
_EXTENDED = 1
_FLAT_PLAIN, _FLAT_INLINE, _CHUNK_BASED = 0, 2, 4
_CHUNK_INDEXES = 0x20
_CHUNK = struct.Struct("<HHI")
_XATTR_HEADER = struct.Struct("<IB7x")
_XATTR_ENTRY = struct.Struct("<BBH")
_DIRENT = struct.Struct("<QHBx")
_NO_BLOCK = 0xFFFF_FFFF

_FILE_TYPES = {
    stat.S_IFREG: 1,
    stat.S_IFDIR: 2,
    stat.S_IFCHR: 3,
    stat.S_IFBLK: 4,
    stat.S_IFIFO: 5,
    stat.S_IFSOCK: 6,
    stat.S_IFLNK: 7,
}
_XATTR_WHOLE = {b"system.posix_acl_access": 2, b"system.posix_acl_default": 3}
_XATTR_PREFIXES = ((b"user.", 1), (b"trusted.", 4), (b"security.", 6))


@dataclass(slots=True)
class _Placed:
    """Where an inode and its data lie."""

    at: int
    xattrs: bytes
    size: int
    layout: int
    inline: int = 0
    blocks: int = 0
    block_address: int = _NO_BLOCK
    directory: list[list[Entry]] = field(default_factory=list)

    @property
    def nid(self) -> int:
        return self.at // _SLOT


def meta_image(tree: Tree, chunks: Mapping[int, Sequence[int]], *, blob_blocks: int, tag: bytes) -> bytes:
    """The EROFS image of a tree whose data lies on device 1.

    Args:
        tree: inodes in walk order.
        chunks: for every regular file that is not empty, by inode number: the first block of each chunk, or HOLE.
        blob_blocks: size of device 1 in blocks.
        tag: of the device slot, at most 64 bytes: the index root in hexadecimal.

    Raises:
        TreeUnsupported: something does not fit: a name, link target, xattr or device number.
    """
    links = tree.link_counts()
    placed, inodes_end = _place(tree)
    end = -(-inodes_end // BLOCK) * BLOCK
    for each in placed:
        if each.blocks:
            each.block_address = end // BLOCK
            end += each.blocks * BLOCK
    if end > META_MAX:
        raise TreeUnsupported("the tree has too many inodes for one image", bytes=end)
    image = bytearray(end)
    for number, (inode, where) in enumerate(zip(tree.inodes, placed, strict=True)):
        _write_inode(image, inode, where, number + 1, links[number], chunks.get(number, ()))
        if where.directory:
            _write_directory(image, tree, placed, where)
    _DEVICE.pack_into(image, _DEVICE_AT, tag, blob_blocks, 0)
    _write_super(image, placed[0].nid, len(tree.inodes))
    return bytes(image)


# --- placing ------------------------------------------------------------------------------------------------------


def _place(tree: Tree) -> tuple[list[_Placed], int]:
    """Give every inode its address, in order; the second value is the end of the last one."""
    placed = []
    parents = {child: number for number, inode in enumerate(tree.inodes) for _, child in inode.entries}
    at = _INODES_AT
    for number, inode in enumerate(tree.inodes):
        xattrs = _encode_xattrs(inode)
        where = _Placed(at=at, xattrs=xattrs, size=0, layout=_FLAT_PLAIN)
        head = _INODE.size + len(xattrs)
        if inode.kind == stat.S_IFREG:
            where.size = inode.size
            if inode.size:
                where.layout = _CHUNK_BASED
                end = -(-(at + head) // _CHUNK.size) * _CHUNK.size
                end += _CHUNK.size * -(-inode.size >> chunk_bits(inode.size))
            else:
                end = at + head
        else:
            if inode.kind == stat.S_IFDIR:
                where.directory = _split_directory(inode, number, parents.get(number, number))
                where.size = BLOCK * (len(where.directory) - 1) + _used(where.directory[-1])
            elif inode.kind == stat.S_IFLNK:
                if not 1 <= len(inode.target) <= SYMLINK_MAX:
                    raise _unsupported(inode, "a symbolic link has a target of 1 to 4095 bytes")
                where.size = len(inode.target)
            tail = where.size % BLOCK
            where.blocks = -(-where.size // BLOCK)
            if tail and head + tail <= BLOCK:
                # Inode, xattrs and inline data share one block: fast symbolic links of Linux 6.1 ask for it.
                where.layout, where.inline, where.blocks = _FLAT_INLINE, tail, where.size // BLOCK
                if at % BLOCK + head + tail > BLOCK:
                    at = where.at = -(-at // BLOCK) * BLOCK
            end = at + head + where.inline
        placed.append(where)
        at = -(-end // _SLOT) * _SLOT
    return placed, at


def _split_directory(inode: Inode, number: int, parent: int) -> list[list[Entry]]:
    """The entries, `.` and `..` among them, in the order of their bytes and cut into blocks."""
    for name, _ in inode.entries:
        if not 1 <= len(name) <= NAME_MAX or b"/" in name or b"\0" in name or name in (b".", b".."):
            raise _unsupported(inode, f"a name in it cannot be kept: {name.decode(errors='replace')!r}")
    blocks: list[list[Entry]] = [[]]
    filled = 0
    for entry in sorted([*inode.entries, (b".", number), (b"..", parent)]):
        size = _DIRENT.size + len(entry[0])
        if filled + size > BLOCK:
            blocks.append([])
            filled = 0
        blocks[-1].append(entry)
        filled += size
    return blocks


def _used(block: Sequence[Entry]) -> int:
    return sum(_DIRENT.size + len(name) for name, _ in block)


def _encode_xattrs(inode: Inode) -> bytes:
    """The inline xattrs with their header, or nothing."""
    if not inode.xattrs:
        return b""
    encoded = bytearray(_XATTR_HEADER.pack(0, 0))
    for name, value in inode.xattrs:
        index, suffix = _xattr_index(inode, name)
        if len(suffix) > NAME_MAX or len(value) > XATTR_VALUE_MAX:
            raise _unsupported(inode, f"the extended attribute {name.decode(errors='replace')!r} is too large")
        encoded += _XATTR_ENTRY.pack(len(suffix), index, len(value)) + suffix + value
        encoded += bytes(-len(encoded) % 4)
    if _icount(encoded) > XATTR_ICOUNT_MAX:
        raise _unsupported(inode, "its extended attributes are too large together")
    return bytes(encoded)


def _xattr_index(inode: Inode, name: bytes) -> tuple[int, bytes]:
    if name in _XATTR_WHOLE:
        return _XATTR_WHOLE[name], b""
    for prefix, index in _XATTR_PREFIXES:
        if name.startswith(prefix) and len(name) > len(prefix):
            return index, name[len(prefix) :]
    raise _unsupported(inode, f"EROFS cannot keep the extended attribute {name.decode(errors='replace')!r}")


def _icount(xattrs: bytes | bytearray) -> int:
    return 1 + (len(xattrs) - _XATTR_HEADER.size) // 4 if xattrs else 0


def _unsupported(inode: Inode, what: str) -> TreeUnsupported:
    path = "/" + inode.path.decode(errors="replace")
    return TreeUnsupported(f"{path}: {what}", hint="remove it from the tree, or leave it out of the image", path=path)


# --- writing ------------------------------------------------------------------------------------------------------


def _write_inode(image: bytearray, inode: Inode, where: _Placed, ino: int, links: int, chunks: Sequence[int]) -> None:
    data_at = where.at + _INODE.size + len(where.xattrs)
    union = where.block_address
    if inode.kind in (stat.S_IFCHR, stat.S_IFBLK):
        union = _encode_device(inode)
    elif inode.kind in (stat.S_IFIFO, stat.S_IFSOCK):
        union = 0
    elif where.layout == _CHUNK_BASED:
        bits = chunk_bits(inode.size)
        if len(chunks) != -(-inode.size >> bits):
            raise ValueError(f"{inode.path!r} has {len(chunks)} chunks")
        union = bits - (BLOCK.bit_length() - 1) | _CHUNK_INDEXES
        data_at = -(-data_at // _CHUNK.size) * _CHUNK.size
        for position, block in enumerate(chunks):
            device = 0 if block == HOLE else 1
            _CHUNK.pack_into(image, data_at + position * _CHUNK.size, 0, device, block)
    elif inode.kind == stat.S_IFLNK:
        if where.inline:
            image[data_at : data_at + where.inline] = inode.target
        else:
            start = where.block_address * BLOCK
            image[start : start + where.size] = inode.target
    seconds, nanoseconds = divmod(inode.mtime_ns, 1_000_000_000)
    if not -(2**63) <= seconds < 2**63 or not (0 <= inode.uid < 2**32 and 0 <= inode.gid < 2**32):
        raise _unsupported(inode, "its owner or time of modification is out of range")
    _INODE.pack_into(
        image,
        where.at,
        where.layout << 1 | _EXTENDED,
        _icount(where.xattrs),
        inode.mode,
        0,
        where.size,
        union,
        ino,
        inode.uid,
        inode.gid,
        seconds & 0xFFFF_FFFF_FFFF_FFFF,
        nanoseconds,
        links,
    )
    image[where.at + _INODE.size : where.at + _INODE.size + len(where.xattrs)] = where.xattrs


def _encode_device(inode: Inode) -> int:
    """The kernel's new_encode_dev: 12 bits of major, 20 of minor."""
    major, minor = inode.device
    if not (0 <= major < 1 << 12 and 0 <= minor < 1 << 20):
        raise _unsupported(inode, "its device number is out of range")
    return minor & 0xFF | major << 8 | (minor & ~0xFF) << 12


def _write_directory(image: bytearray, tree: Tree, placed: Sequence[_Placed], where: _Placed) -> None:
    for position, block in enumerate(where.directory):
        last = position == len(where.directory) - 1
        if last and where.inline:
            at = where.at + _INODE.size + len(where.xattrs)
        else:
            at = (where.block_address + position) * BLOCK
        name_at = _DIRENT.size * len(block)
        for index, (name, child) in enumerate(block):
            kind = _FILE_TYPES[tree.inodes[child].kind]
            _DIRENT.pack_into(image, at + index * _DIRENT.size, placed[child].nid, name_at, kind)
            image[at + name_at : at + name_at + len(name)] = name
            name_at += len(name)


def _write_super(image: bytearray, root_nid: int, inodes: int) -> None:
    """The superblock: its UUID is a digest of everything else, its checksum covers the rest of the first block."""

    def write(uuid: bytes, checksum: int) -> None:
        values = (_MAGIC, checksum, _COMPAT, BLOCK.bit_length() - 1, 0, root_nid, inodes, 0, 0, len(image) // BLOCK)
        places = (0, 0, uuid, b"", _INCOMPAT, 0, 1, _DEVICE_AT // _DEVICE.size, 0, 0, 0, 0, 0)
        _SUPER.pack_into(image, _SUPER_AT, *values, *places)

    write(bytes(16), 0)
    uuid = bytearray(blake3(image).digest(16))
    uuid[6] = uuid[6] & 0x0F | 0x80  # RFC 9562: version 8, made by a rule of our own
    uuid[8] = uuid[8] & 0x3F | 0x80
    write(bytes(uuid), 0)
    write(bytes(uuid), _crc32c(memoryview(image)[_SUPER_AT:BLOCK]))


def _crc32c_table() -> tuple[int, ...]:
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F6_3B78 if value & 1 else 0)
        table.append(value)
    return tuple(table)


_CRC32C = _crc32c_table()


def _crc32c(data: memoryview) -> int:
    """CRC32C as the kernel's crc32c(~0, ...): no final inversion."""
    value = 0xFFFF_FFFF
    for byte in data:
        value = value >> 8 ^ _CRC32C[(value ^ byte) & 0xFF]
    return value
