"""Makes the golden bytes beside this file from docs/spec/flist-v1.md alone: it imports nothing of flist.

Every field is written by hand in the order of the page, so that a mistake of the writer cannot repeat itself here.
Run `python tests/vectors/flist/make.py` to write, `--check` to compare; the frozen files change only with a version.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from blake3 import blake3

HERE = Path(__file__).resolve().parent
BLOCK = 4096


def le(value: int, size: int) -> bytes:
    return value.to_bytes(size, "little", signed=value < 0)


def b3(data: bytes) -> bytes:
    return blake3(data).digest()


# --- units: the rule in words, over names and sizes ----------------------------------------------------------------

NAMES = [(b"n%03d.txt" % i, (i * 7919 + 13) % 30_000) for i in range(60)] + [
    (b"limit-65535", 65_535),
    (b"limit-65536", 65_536),
    (b"limit-262144", 262_144),
    (b"limit-262145", 262_145),
    (b"\xff raw", 20_000),
    (b"empty", 0),
    (b"one", 1),
]


def units() -> list[list[list[int | str]]]:
    """Each unit as a list of [name in hex, offset, length]."""
    small = sorted((n, s) for n, s in NAMES if 1 <= s <= 65_535)
    large = sorted((n, s) for n, s in NAMES if s >= 65_536)
    made: list[list[list[int | str]]] = []
    current: list[list[int | str]] = []
    size = 0
    for name, length in small:
        blocks = (length + 4095) // 4096 * 4096
        if size > 0 and size + blocks > 65_536:
            made.append(current)
            current, size = [], 0
        current.append([name.hex(), 0, length])
        size += blocks
        if size >= 16_384 and b3(name)[0] & 3 == 0:
            made.append(current)
            current, size = [], 0
    if current:
        made.append(current)
    for name, length in large:
        at = 0
        while at < length:
            made.append([[name.hex(), at, min(262_144, length - at)]])
            at += 262_144
    return made


# --- index and locator of 300 units --------------------------------------------------------------------------------

UNITS = [(b3(le(i, 4)), (i * 104_729) % 262_144 + 1) for i in range(300)]


def index() -> tuple[bytes, list[bytes]]:
    pages, refs, block = [], [], 0
    for start in (0, 256):
        part = UNITS[start : start + 256]
        page = le(0x31495A46, 4) + le(len(part), 4) + le(block, 4) + le(0, 4)
        page += b"".join(le(n, 4) for _, n in part) + b"".join(h for h, _ in part)
        refs.append(b3(page) + le(block, 4))
        pages.append(page)
        block += sum((n + 4095) // 4096 for _, n in part)
    head = b"ZOSPLIST" + le(1, 2) + le(0, 2) + le(2, 4) + le(300, 4) + le(block, 4)
    return head + b"".join(refs), pages


def locator() -> bytes:
    data = b"ZOSLOCAT" + le(1, 2) + le(0, 2) + le(2, 4) + le(300, 4) + le(0, 4) + b3(b"pack 0") + b3(b"pack 1")
    offsets = [0, 0]
    for i, (_, length) in enumerate(UNITS):
        pack, raw = i % 2, i % 5 == 0
        stored = length if raw or length == 1 else length - 1
        flag = 1 << 31 if raw or length == 1 else 0
        data += le(pack, 4) + le(offsets[pack], 4) + le(stored | flag, 4)
        offsets[pack] += stored
    return data


# --- manifest ------------------------------------------------------------------------------------------------------


def text(value: str) -> bytes:
    raw = value.encode()
    return (bytes([0xA0 | len(raw)]) if len(raw) < 32 else b"\xd9" + bytes([len(raw)])) + raw


def number(value: int) -> bytes:
    for limit, head, size in (
        (1 << 8, b"\xcc", 1),
        (1 << 16, b"\xcd", 2),
        (1 << 32, b"\xce", 4),
        (1 << 64, b"\xcf", 8),
    ):
        if value < 128:
            return bytes([value])
        if value < limit:
            return head + value.to_bytes(size, "big")
    raise ValueError(value)


def digest(value: bytes) -> bytes:
    return b"\xc4\x20" + value


def ref(hash_: bytes, size: int) -> bytes:
    return b"\x82" + text("blake3") + digest(hash_) + text("size") + number(size)


def manifest(page_list: bytes, meta: bytes) -> bytes:
    blocks = int.from_bytes(page_list[20:24], "little")
    body = b"\x89"
    body += text("name") + text("zos/golden")
    body += text("architecture") + text("x86_64")
    body += text("revision") + number(7)
    body += text("expires_s") + number(4_000_000_000)
    body += text("prev") + digest(b3(b"prev"))
    body += text("meta") + ref(b3(meta), len(meta))
    body += text("index") + b"\x84"
    body += text("root") + digest(b3(page_list)) + text("pages") + number(2)
    body += text("units") + number(300) + text("blocks") + number(blocks)
    body += text("trace") + b"\xc0"
    body += text("oci") + ref(b3(b"{}"), 2)
    return b"ZOSFLIST" + le(1, 2) + le(len(body), 4) + body


def flist_file(manifest_bytes: bytes) -> bytes:
    return manifest_bytes + b"\x02" + bytes([1]) * 32 + bytes([0xA1]) * 64 + bytes([2]) * 32 + bytes([0xA2]) * 64


# --- a tiny metadata image -----------------------------------------------------------------------------------------
# /            mode 755, mtime 1 s 5 ns, user.k=v
# /dev         character device 1:3
# /file        10 bytes in block 3, also named /sub/link
# /large       262,145 bytes: block 4, then a hole
# /link        -> file
# /sub         mode 700, uid 1000, gid 4294967290, mtime -1 ns


def inode(
    layout: int,
    icount: int,
    mode: int,
    size: int,
    union: int,
    ino: int,
    uid: int,
    gid: int,
    mtime: tuple[int, int],
    n: int,
) -> bytes:
    data = le(layout << 1 | 1, 2) + le(icount, 2) + le(mode, 2) + le(0, 2) + le(size, 8) + le(union, 4) + le(ino, 4)
    return data + le(uid, 4) + le(gid, 4) + le(mtime[0], 8) + le(mtime[1], 4) + le(n, 4) + bytes(16)


def directory(entries: list[tuple[bytes, int, int]]) -> bytes:
    heads, names = b"", b""
    for name, nid, kind in entries:
        heads += le(nid, 8) + le(12 * len(entries) + len(names), 2) + bytes([kind, 0])
        names += name
    return heads + names


def crc32c(data: bytes) -> int:
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = (value >> 1) ^ 0x82F63B78 if value & 1 else value >> 1
    return value


def meta_image() -> bytes:
    tag = b3(b"tag").hex().encode()
    # Root: 64, xattrs 20, 7 entries of 12, names 22: 190, so that the next multiple of 32 is 192 further.
    root_at = 1280
    dev_at = root_at + 192
    file_at = dev_at + 64
    large_at = file_at + 96  # 64 + 8 of one chunk index
    link_at = large_at + 96  # 64 + 16 of two chunk indexes
    sub_at = link_at + 96  # 64 + 4 of the target
    none = 0xFFFFFFFF
    xattr = le(0, 4) + bytes([0]) + bytes(7) + bytes([1, 1]) + le(1, 2) + b"k" + b"v" + bytes(2)
    nid = {name: at // 32 for name, at in (("root", root_at), ("dev", dev_at), ("file", file_at))}
    nid |= {name: at // 32 for name, at in (("large", large_at), ("link", link_at), ("sub", sub_at))}
    root_entries = directory(
        [
            (b".", nid["root"], 2),
            (b"..", nid["root"], 2),
            (b"dev", nid["dev"], 3),
            (b"file", nid["file"], 1),
            (b"large", nid["large"], 1),
            (b"link", nid["link"], 7),
            (b"sub", nid["sub"], 2),
        ]
    )
    sub_entries = directory([(b".", nid["sub"], 2), (b"..", nid["root"], 2), (b"link", nid["file"], 1)])
    image = bytearray(BLOCK)

    def put(at: int, data: bytes) -> None:
        image[at : at + len(data)] = data

    zero = (0, 0)
    put(root_at, inode(2, 3, 0o40755, len(root_entries), none, 1, 0, 0, (1, 5), 3) + xattr + root_entries)
    put(dev_at, inode(0, 0, 0o20666, 0, 0x103, 2, 0, 0, zero, 1))
    put(file_at, inode(4, 0, 0o100644, 10, 0x20, 3, 0, 0, zero, 2) + le(0, 2) + le(1, 2) + le(3, 4))
    large_chunks = le(0, 2) + le(1, 2) + le(4, 4) + le(0, 2) + le(0, 2) + le(none, 4)
    put(large_at, inode(4, 0, 0o100600, 262_145, 0x26, 4, 0, 0, zero, 1) + large_chunks)
    put(link_at, inode(2, 0, 0o120777, 4, none, 5, 0, 0, zero, 1) + b"file")
    sub = inode(2, 0, 0o40700, len(sub_entries), none, 6, 1000, 4294967290, (-1, 999_999_999), 2)
    put(sub_at, sub + sub_entries)
    put(1152, tag + le(68, 4) + le(0, 4))

    def superblock(checksum: int, uuid: bytes) -> bytes:
        data = le(0xE0F5E1E2, 4) + le(checksum, 4) + le(3, 4) + bytes([12, 0]) + le(nid["root"], 2) + le(6, 8)
        data += le(0, 8) + le(0, 4) + le(1, 4) + le(0, 4) + le(0, 4) + uuid + bytes(16) + le(12, 4)
        data += le(0, 2) + le(1, 2) + le(9, 2) + bytes([0, 0]) + le(0, 4) + le(0, 8) + bytes([0]) + bytes(23)
        assert len(data) == 128
        return data

    put(1024, superblock(0, bytes(16)))
    uuid = bytearray(b3(bytes(image))[:16])
    uuid[6] = 0x80 | uuid[6] & 15
    uuid[8] = 0x80 | uuid[8] & 63
    put(1024, superblock(0, bytes(uuid)))
    put(1024, superblock(crc32c(bytes(image[1024:4096])), bytes(uuid)))
    return bytes(image)


def files() -> dict[str, bytes]:
    page_list, pages = index()
    meta = meta_image()
    manifest_bytes = manifest(page_list, meta)
    names = [[name.hex(), size] for name, size in NAMES]
    plan = {"files": names, "units": units()}
    return {
        "units.json": json.dumps(plan, indent=None, separators=(",", ":")).encode() + b"\n",
        "page-list.bin": page_list,
        "page-0.bin": pages[0],
        "page-1.bin": pages[1],
        "locator.bin": locator(),
        "meta.erofs": meta,
        "manifest.bin": manifest_bytes,
        "golden.flist": flist_file(manifest_bytes),
    }


def main() -> int:
    wrong = 0
    for name, data in files().items():
        path = HERE / name
        if "--check" in sys.argv:
            wrong += not path.exists() or path.read_bytes() != data
        else:
            path.write_bytes(data)
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
