"""What tests of images share: a nasty tree, a store in a folder, the assembled blob, and a mount of it."""

from __future__ import annotations

import ctypes
import os
import socket
import stat
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import zstandard
from blake3 import blake3

from flist.index import Page, PageList
from flist.locator import Locator
from flist.manifest import SignedManifest
from zos_core.base.errors import DocumentInvalid

SIZES = (0, 1, 4095, 4096, 4097, 16383, 16384, 65535, 65536, 65537, 262143, 262144, 262145, 786432)
MS_RDONLY, MNT_DETACH = 1, 2


class FolderStore:
    """The smallest store that a build can write to."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.puts: list[str] = []

    @property
    def scratch(self) -> Path | None:
        return self.folder / "tmp"

    async def has(self, path: str) -> bool:
        return (self.folder / path).exists()

    async def get(self, path: str) -> bytes:
        try:
            return (self.folder / path).read_bytes()
        except OSError as error:
            raise DocumentInvalid(str(error)) from error

    async def put(self, path: str, data: bytes) -> None:
        self.puts.append(path)
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / path).write_bytes(data)

    async def put_file(self, path: str, source: Path) -> None:
        self.puts.append(path)
        (self.folder / path).parent.mkdir(parents=True, exist_ok=True)
        os.rename(source, self.folder / path)

    def objects(self) -> dict[str, bytes]:
        return {
            str(path.relative_to(self.folder)): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()
        }


def pattern(size: int, seed: int = 0) -> bytes:
    """Bytes without a period of a block, half compressible."""
    half = blake3(b"%d" % seed).digest(length=(size + 1) // 2)
    return (half + half[: size - len(half)])[:size]


def set_mtime(path: Path | bytes, mtime_ns: int) -> None:
    os.utime(path, ns=(mtime_ns, mtime_ns), follow_symlinks=False)


def nasty_tree(root: Path) -> None:
    """Everything that an image must keep, and every size at which the rule of units turns. Needs root."""
    root.mkdir()
    sizes = root / "sizes"
    sizes.mkdir()
    for number, size in enumerate(SIZES):
        (sizes / f"file-{size:07}").write_bytes(pattern(size, number))
    same = root / "same"
    same.mkdir()
    for name in ("a", "b", "c"):
        (same / name).write_bytes(pattern(300_000, 99))
    holes = root / "holes"
    holes.mkdir()
    (holes / "whole").write_bytes(bytes(600_000))
    (holes / "inside").write_bytes(pattern(262_144, 7) + bytes(262_144) + pattern(262_144, 8))
    (holes / "tail").write_bytes(pattern(262_144, 9) + bytes(100_000))
    (holes / "small").write_bytes(bytes(5000))
    with open(holes / "sparse", "wb") as stream:
        stream.seek(5_000_000)
        stream.write(b"end")
    links = root / "links"
    links.mkdir()
    (links / "one").write_bytes(b"linked")
    os.link(links / "one", links / "two")
    (links / "deeper").mkdir()
    os.link(links / "one", links / "deeper" / "three")
    os.link(sizes / "file-0786432", links / "large")
    os.symlink("x" * 300, links / "long")
    os.symlink("y" * 4095, links / "longest")
    os.symlink("nowhere", links / "dangling")
    os.symlink("/etc/passwd", links / "absolute")
    os.symlink("target", links / "twice")
    os.link(links / "twice", links / "twice-again", follow_symlinks=False)
    special = root / "special"
    special.mkdir()
    os.mkfifo(special / "fifo", 0o640)
    os.mknod(special / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(special / "block", stat.S_IFBLK | 0o660, os.makedev(260, 70000))
    os.mknod(special / "whiteout", stat.S_IFCHR, os.makedev(0, 0))
    here = os.open(special, os.O_RDONLY | os.O_DIRECTORY)
    try:
        with socket.socket(socket.AF_UNIX) as listener:
            listener.bind(f"/proc/self/fd/{here}/socket")
    finally:
        os.close(here)
    names = os.fsencode(root / "names")
    os.mkdir(names)
    for raw in (b"\xff\xfe", b"new\nline", b"-dash", b" space", b"!bang", b"...", b"..a", b"n" * 255, "ü中".encode()):
        with open(os.path.join(names, raw), "wb") as stream:
            stream.write(raw)
    os.mkdir(os.path.join(names, b"\xff-folder"))
    large = root / "large-folder"
    large.mkdir()
    for number in range(5000):
        (large / f"entry-{number:05}").write_bytes(b"%d" % number if number % 7 else b"")
    (root / "empty").mkdir()
    deep = root
    for level in range(40):
        deep = deep / f"level-{level}"
        deep.mkdir()
    (deep / "bottom").write_bytes(b"bottom")
    times = root / "times"
    times.mkdir()
    for number, mtime_ns in enumerate(
        (-1, -1_500_000_000, 0, 1, 999_999_999, 2**31 * 10**9 + 7, 4_102_444_800 * 10**9 + 5)
    ):
        (times / f"{number}").write_bytes(b"t")
        set_mtime(times / f"{number}", mtime_ns)
    owners = root / "owners"
    owners.mkdir()
    (owners / "far").write_bytes(b"o")
    os.chown(owners / "far", 4294967290, 4294967289)
    (owners / "setuid").write_bytes(b"o")
    os.chown(owners / "setuid", 7, 8)
    (owners / "setuid").chmod(0o6755)
    (owners / "nothing").write_bytes(b"o")
    (owners / "nothing").chmod(0)
    (owners / "sticky").mkdir()
    (owners / "sticky").chmod(0o1777)
    xattrs = root / "xattrs"
    xattrs.mkdir()
    capability = struct.pack("<IIIII", 0x02000001, 1 << 10, 0, 0, 0)
    acl = struct.pack("<I", 2) + b"".join(
        struct.pack("<HHI", tag, bits, who)
        for tag, bits, who in (
            (1, 6, 0xFFFFFFFF),
            (2, 4, 1000),
            (4, 4, 0xFFFFFFFF),
            (16, 4, 0xFFFFFFFF),
            (32, 0, 0xFFFFFFFF),
        )
    )
    for name in ("file", "large", "folder", "many"):
        path = xattrs / name
        if name == "folder":
            path.mkdir()
            os.setxattr(path, "system.posix_acl_default", acl)
        else:
            path.write_bytes(pattern(300_000 if name == "large" else 10, 5))
        os.setxattr(path, "user.empty", b"")
        os.setxattr(path, "user.text", b"value")
        os.setxattr(path, "trusted.binary", bytes(range(256)))
        os.setxattr(path, "system.posix_acl_access", acl)
    os.setxattr(xattrs / "file", "security.capability", capability)
    for number in range(10):
        os.setxattr(xattrs / "many", f"user.{'k' * 80}{number}", b"v" * 100)
    os.symlink("file", xattrs / "link")
    os.setxattr(xattrs / "link", "trusted.of-link", b"1", follow_symlinks=False)
    os.setxattr(special / "fifo", "trusted.of-fifo", b"1")
    set_mtime(special / "fifo", 12_345_678_901_234_567)
    set_mtime(links / "long", 1_234_567_890_987_654_321)
    set_mtime(root, 1_000_000_000_000_000_001)


def unpack_image(store: Path, digest: bytes, into: Path) -> SignedManifest:
    """Assemble `meta.erofs` and `blob` of an image from a store's packs, checking every hash on the way."""
    into.mkdir(exist_ok=True)
    signed = SignedManifest.parse((store / "manifest" / digest.hex()).read_bytes())
    assert signed.digest == digest
    manifest = signed.manifest
    meta = zstandard.ZstdDecompressor().decompress((store / "meta" / manifest.meta.blake3.hex()).read_bytes())
    assert (blake3(meta).digest(), len(meta)) == (manifest.meta.blake3, manifest.meta.size)
    (into / "meta.erofs").write_bytes(meta)
    pages = PageList.decode((store / "index" / manifest.index.root.hex()).read_bytes(), manifest.index.root)
    assert (len(pages.pages), pages.units, pages.blocks) == (
        manifest.index.pages,
        manifest.index.units,
        manifest.index.blocks,
    )
    units = [
        unit
        for ref in pages.pages
        for unit in Page.decode((store / "index" / ref.hash.hex()).read_bytes(), ref).units()
    ]
    locator = Locator.decode(
        (store / "locator" / manifest.index.root.hex()).read_bytes(), [unit.length for unit in units]
    )
    packs = [(store / "pack" / pack.hex()).read_bytes() for pack in locator.packs]
    assert [blake3(pack).digest() for pack in packs] == list(locator.packs)
    with open(into / "blob", "wb") as blob:
        for unit, entry in zip(units, locator.entries, strict=True):
            stored = packs[entry.pack][entry.offset : entry.offset + entry.stored]
            plain = (
                stored if entry.raw else zstandard.ZstdDecompressor().decompress(stored, max_output_size=unit.length)
            )
            assert (blake3(plain).digest(), len(plain)) == (unit.hash, unit.length)
            blob.seek(unit.block * 4096)
            blob.write(plain)
        blob.truncate(manifest.index.blocks * 4096)
    return signed


@contextmanager
def mounted(image: Path, at: Path) -> Iterator[Path]:
    """Mount `meta.erofs` with `blob` as device 1, by mount(2) itself."""
    at.mkdir(exist_ok=True)
    libc = ctypes.CDLL(None, use_errno=True)
    options = f"device={image / 'blob'}".encode()
    if libc.mount(os.fsencode(image / "meta.erofs"), os.fsencode(at), b"erofs", MS_RDONLY, options):
        raise OSError(ctypes.get_errno(), "mount of an EROFS image failed")
    try:
        yield at
    finally:
        libc.umount2(os.fsencode(at), MNT_DETACH)
