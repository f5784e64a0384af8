"""An independent reader of EROFS metadata images that is as strict as Linux 6.1: a test's oracle, not a product."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass, field

BLOCK = 4096
PREFIXES = {1: b"user.", 2: b"system.posix_acl_access", 3: b"system.posix_acl_default", 4: b"trusted.", 6: b"security."}
KINDS = {
    1: stat.S_IFREG,
    2: stat.S_IFDIR,
    3: stat.S_IFCHR,
    4: stat.S_IFBLK,
    5: stat.S_IFIFO,
    6: stat.S_IFSOCK,
    7: stat.S_IFLNK,
}


@dataclass
class Node:
    nid: int
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    links: int
    size: int
    device: tuple[int, int] = (0, 0)
    target: bytes = b""
    xattrs: dict[bytes, bytes] = field(default_factory=dict)
    chunk_bits: int = 0
    chunks: list[tuple[int, int]] = field(default_factory=list)
    children: dict[bytes, Node] = field(default_factory=dict)


@dataclass
class Image:
    root: Node
    inodes: int
    device_tag: bytes
    device_blocks: int


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ (0x82F63B78 if value & 1 else 0)
    return value


def read_image(data: bytes) -> Image:
    magic, checksum, compat, bits, slots, root, inos = struct.unpack_from("<IIIBBHQ", data, 1024)
    assert (magic, compat, bits, slots) == (0xE0F5E1E2, 3, 12, 0)
    zeroed = data[1024:1028] + bytes(4) + data[1032:BLOCK]
    assert crc32c(zeroed) == checksum
    blocks, meta, shared = struct.unpack_from("<III", data, 1024 + 36)
    assert (blocks * BLOCK, meta, shared) == (len(data), 0, 0)
    incompat, _, devices, slot = struct.unpack_from("<IHHH", data, 1024 + 80)
    assert (incompat, devices, slot) == (0xC, 1, 9)
    reader = _Reader(data)
    tree = reader.node(root, root)
    tag, device_blocks, mapped = struct.unpack_from("<64sII", data, slot * 128)
    assert mapped == 0
    assert len(reader.nodes) == inos
    return Image(tree, inos, tag, device_blocks)


class _Reader:
    def __init__(self, data: bytes) -> None:
        self.data = data
        self.nodes: dict[int, Node] = {}

    def node(self, nid: int, parent: int) -> Node:
        if nid in self.nodes:
            assert not stat.S_ISDIR(self.nodes[nid].mode), "a directory has two names"
            return self.nodes[nid]
        at = nid * 32
        form, icount, mode, zero, size, union, _, uid, gid, seconds, nanoseconds, links = struct.unpack_from(
            "<HHHHQIIIIqII", self.data, at
        )
        layout = form >> 1
        assert (form & 1, form >> 4, zero) == (1, 0, 0)
        assert nanoseconds < 1_000_000_000
        node = Node(nid, mode, uid, gid, seconds * 1_000_000_000 + nanoseconds, links, size)
        self.nodes[nid] = node
        behind = at + 64
        if icount:
            length = 12 + 4 * (icount - 1)
            node.xattrs = self.xattrs(behind, length)
            behind += length
        kind = stat.S_IFMT(mode)
        if kind in (stat.S_IFCHR, stat.S_IFBLK):
            node.device = (union >> 8 & 0xFFF, union & 0xFF | union >> 12 & 0xFFF00)
            assert size == 0
        elif kind == stat.S_IFREG and layout == 4:
            assert union & ~0x3F == 0
            assert union & 0x20
            node.chunk_bits = 12 + (union & 0x1F)
            start = -(-behind // 8) * 8
            for number in range(-(-size >> node.chunk_bits)):
                advise, device, block = struct.unpack_from("<HHI", self.data, start + 8 * number)
                assert advise == 0
                node.chunks.append((device, block))
        elif kind == stat.S_IFREG:
            assert (layout, size) == (0, 0)
        elif kind == stat.S_IFLNK:
            # erofs_fill_symlink: an inline target must end in the block in which the inode ends.
            if layout == 2 and size < BLOCK:
                assert (at + 64) % BLOCK + (behind - at - 64) + size <= BLOCK
            node.target = self.flat(layout, union, behind, size)
        elif kind == stat.S_IFDIR:
            self.directory(node, self.flat(layout, union, behind, size), parent)
        else:
            assert (layout, size, union) == (0, 0, 0)
        return node

    def flat(self, layout: int, block: int, behind: int, size: int) -> bytes:
        assert layout in (0, 2)
        whole = size // BLOCK * BLOCK if layout == 2 else size
        tail = size - whole
        if tail:
            assert behind % BLOCK + tail <= BLOCK, "inline data cross block boundary"
        start = block * BLOCK if whole else 0
        assert start + whole <= len(self.data)
        return self.data[start : start + whole] + self.data[behind : behind + tail]

    def xattrs(self, at: int, length: int) -> dict[bytes, bytes]:
        _, shared = struct.unpack_from("<IB", self.data, at)
        assert shared == 0
        found: dict[bytes, bytes] = {}
        end, at = at + length, at + 12
        while at < end:
            name_length, index, value_length = struct.unpack_from("<BBH", self.data, at)
            name = self.data[at + 4 : at + 4 + name_length]
            value = self.data[at + 4 + name_length : at + 4 + name_length + value_length]
            assert PREFIXES[index] + name not in found
            found[PREFIXES[index] + name] = value
            at = -(-(at + 4 + name_length + value_length) // 4) * 4
        assert at == end
        return found

    def directory(self, node: Node, content: bytes, parent: int) -> None:
        names: list[tuple[bytes, int, int]] = []
        for start in range(0, len(content), BLOCK):
            block = content[start : start + BLOCK]
            count = struct.unpack_from("<H", block, 8)[0] // 12
            entries = [struct.unpack_from("<QHBB", block, 12 * number) for number in range(count)]
            assert entries
            assert entries[0][1] == 12 * count
            for number, (nid, offset, kind, reserved) in enumerate(entries):
                assert reserved == 0
                end = entries[number + 1][1] if number + 1 < count else len(block)
                name = block[offset:end]
                if number + 1 == count:
                    name = name.split(b"\0")[0]
                assert 1 <= len(name) <= 255
                names.append((name, nid, kind))
        assert [name for name, _, _ in names] == sorted({name for name, _, _ in names}), "binary search needs order"
        for name, nid, kind in names:
            if name == b".":
                assert nid == node.nid
            elif name == b"..":
                assert nid == parent
            else:
                child = self.node(nid, node.nid)
                assert KINDS[kind] == stat.S_IFMT(child.mode)
                node.children[name] = child
        assert {b".", b".."} <= {name for name, _, _ in names}
