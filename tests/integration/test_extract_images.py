"""Trees from images: what went in comes out, and nothing hostile gets out (EXTRACT-1..4)."""

from __future__ import annotations

import asyncio
import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from flist.build import build
from flist.erofs import meta_image
from flist.errors import LocatorInvalid, MetaInvalid
from flist.extract import ExtractFailed, extract, extract_image
from flist.manifest import SignedManifest, encode_manifest
from flist.reader import UnitInvalid
from flist.sign import Unsigned, sign_manifest
from flist.store import DirectoryStore, ObjectMissing
from flist.tree import Inode, Tree
from flist.verify import verify
from flist.walk import open_tree, walk
from tests.images import nasty_tree, pattern
from tests.mounts import MS_RDONLY, in_own_mount_namespace, mount
from zos_core.base.keyring import Keyring
from zos_core.base.programs import Source


def inodes_of(root: Path) -> list[Inode]:
    """Everything that an image keeps of a tree, in one order."""
    descriptor = open_tree(root)
    try:
        return list(walk(descriptor).tree.inodes)
    finally:
        os.close(descriptor)


def contents_of(root: Path) -> dict[str, bytes]:
    # os.walk, since Path.rglob of Python 3.11.2 follows links, and one of them leads to a name that is too long.
    paths = (Path(directory, name) for directory, _, names in os.walk(root) for name in names)
    return {str(path.relative_to(root)): path.read_bytes() for path in paths if stat.S_ISREG(path.lstat().st_mode)}


async def made(tmp_path: Path, tree: Path) -> tuple[DirectoryStore, SignedManifest]:
    store = DirectoryStore(tmp_path / "store")
    result = await build(tree, store, name="jane/tree", revision=1)
    return store, result.signed


def small_tree(root: Path) -> None:
    root.mkdir()
    (root / "a").write_bytes(pattern(70_000, 1))
    (root / "b").write_bytes(pattern(10, 2))
    (root / "folder").mkdir()
    (root / "folder" / "c").write_bytes(pattern(5000, 3))
    os.link(root / "b", root / "folder" / "d")
    (root / "folder" / "e").symlink_to("/etc/passwd")


@pytest.mark.root
async def test_everything_comes_back(tmp_path: Path) -> None:
    nasty_tree(tmp_path / "tree")
    store, image = await made(tmp_path, tmp_path / "tree")
    sources = [Source(kind="dir", path=str(tmp_path / "store"))]
    result = await extract_image(image, sources, tmp_path / "out")
    assert inodes_of(tmp_path / "out") == inodes_of(tmp_path / "tree")
    assert contents_of(tmp_path / "out") == contents_of(tmp_path / "tree")
    assert (result.owners_kept, result.devices_skipped, result.xattrs_skipped) == (True, 0, 0)
    checked = await verify(store, image, trusted=None)
    assert checked.inodes == result.inodes


async def test_as_a_user_what_cannot_be_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "tree").mkdir()
    (tmp_path / "tree" / "setuid").write_bytes(b"x")
    (tmp_path / "tree" / "setuid").chmod(0o4755)
    store, image = await made(tmp_path, tmp_path / "tree")
    monkeypatch.setattr(os, "geteuid", lambda: 4242)
    result = await extract(store, image, tmp_path / "out")
    assert not result.owners_kept
    assert stat.S_IMODE((tmp_path / "out" / "setuid").stat().st_mode) == 0o755


async def test_an_empty_directory_is_taken_and_a_full_one_is_not(tmp_path: Path) -> None:
    small_tree(tmp_path / "tree")
    store, image = await made(tmp_path, tmp_path / "tree")
    out = tmp_path / "out"
    out.mkdir(mode=0o750)
    (out / "mine").write_bytes(b"mine")
    with pytest.raises(ExtractFailed, match="not empty"):
        await extract(store, image, out)
    assert contents_of(out) == {"mine": b"mine"}
    (out / "mine").unlink()
    await extract(store, image, out)
    assert inodes_of(out) == inodes_of(tmp_path / "tree")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises((ExtractFailed, FileExistsError)):
        await extract(store, image, tmp_path / "link")


@pytest.mark.root
async def test_a_directory_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    small_tree(tmp_path / "tree")
    store, image = await made(tmp_path, tmp_path / "tree")
    out = tmp_path / "out"
    out.mkdir()

    def into_it() -> None:
        mount("tmpfs", out, flags=MS_RDONLY)
        with pytest.raises(ExtractFailed, match=f"{out}: Read-only file system"):
            asyncio.run(extract(store, image, out))

    await asyncio.to_thread(in_own_mount_namespace, into_it)


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


async def test_wrong_bytes_are_refused_and_nothing_is_left(tmp_path: Path) -> None:
    small_tree(tmp_path / "tree")
    store, image = await made(tmp_path, tmp_path / "tree")
    (pack,) = (tmp_path / "store" / "pack").iterdir()
    (locator,) = (tmp_path / "store" / "locator").iterdir()
    (meta,) = (tmp_path / "store" / "meta").iterdir()
    whole = {path: path.read_bytes() for path in (pack, locator, meta)}
    cases: list[tuple[Path, bytes | None, tuple[type[Exception], ...]]] = [
        (pack, whole[pack][:-1], (UnitInvalid,)),
        (pack, bytes(len(whole[pack])), (UnitInvalid,)),
        (pack, b"", (UnitInvalid,)),
        (pack, None, (ObjectMissing,)),
        (locator, whole[locator][:-1], (LocatorInvalid,)),
        (locator, whole[locator][:-4] + b"\xff\xff\xff\xff", (LocatorInvalid,)),
        (locator, None, (ObjectMissing,)),
        (meta, whole[meta][:-1], (MetaInvalid,)),
        (meta, zstandard.compress(b"something else"), (MetaInvalid,)),
        (meta, b"no zstd", (MetaInvalid,)),
    ]
    for path, data, expected in cases:
        if data is None:
            path.unlink()
        else:
            path.write_bytes(data)
        with pytest.raises(expected):
            await extract(store, image, tmp_path / "out")
        with pytest.raises(expected):
            await verify(store, image, trusted=None)
        assert not (tmp_path / "out").exists()
        path.write_bytes(whole[path])
    await extract(store, image, tmp_path / "out")


async def test_a_frame_that_says_too_much_allocates_nothing(tmp_path: Path) -> None:
    small_tree(tmp_path / "tree")
    store, image = await made(tmp_path, tmp_path / "tree")
    (meta,) = (tmp_path / "store" / "meta").iterdir()
    # A zstd frame header that claims 2^62 bytes (RFC 8878, section 3.1.1.1), then nothing.
    meta.write_bytes(bytes.fromhex("28b52ffd") + b"\xe0" + (1 << 62).to_bytes(8, "little") + bytes(3))
    with pytest.raises(MetaInvalid):
        await verify(store, image, trusted=None)


def hostile(store: DirectoryStore, image: SignedManifest, meta: bytes) -> SignedManifest:
    """The image with another metadata image, as a hostile publisher would sign it."""
    digest = blake3(meta).digest()
    target = Path(store.name) / "meta" / digest.hex()
    target.write_bytes(zstandard.compress(meta))
    ref = image.manifest.meta
    manifest = type(image.manifest)(
        name=image.manifest.name,
        architecture=image.manifest.architecture,
        revision=2,
        meta=type(ref)(blake3=digest, size=len(meta)),
        index=image.manifest.index,
    )
    return SignedManifest(encode_manifest(manifest))


def inode(mode: int, **fields: object) -> Inode:
    return Inode(path=b"", mode=mode, uid=0, gid=0, mtime_ns=0, **fields)  # type: ignore[arg-type]


FOLDER = stat.S_IFDIR | 0o755
LINK = inode(stat.S_IFLNK | 0o777, target=b"/tmp/outside")


async def test_hostile_metadata_is_refused(tmp_path: Path) -> None:
    small_tree(tmp_path / "tree")
    store, image = await made(tmp_path, tmp_path / "tree")
    blocks = image.manifest.index.blocks
    file = inode(stat.S_IFREG | 0o644, size=3)
    good = Tree([inode(FOLDER, entries=((b"aa", 1), (b"bb", 2))), file, inode(FOLDER, entries=((b"cc", 3),)), LINK])
    plain = meta_image(good, {1: [0]}, blob_blocks=blocks, tag=b"")
    await extract(store, hostile(store, image, plain), tmp_path / "good")
    cases = {
        "dots as a name": plain.replace(b"bbaa", b"..aa").replace(b"aabb", b"aa.."),
        "slash in a name": plain.replace(b"aabb", b"aa/b"),
        "NUL in a name": plain.replace(b"aabb", b"aa\0b"),
        "the same name twice": plain.replace(b"aabb", b"aaaa"),
        "another blob": meta_image(good, {1: [0]}, blob_blocks=blocks + 1, tag=b""),
        "behind the blob": meta_image(good, {1: [blocks]}, blob_blocks=blocks, tag=b""),
    }
    for what, meta in cases.items():
        assert meta != plain, what
        with pytest.raises(MetaInvalid):
            await extract(store, hostile(store, image, meta), tmp_path / "out")
        assert not (tmp_path / "out").exists()


async def test_a_link_never_leads_outside(tmp_path: Path) -> None:
    """A directory whose name sorts after a link of a like name, hard links to links, links as targets of data."""
    small_tree(tmp_path / "tree")
    store, image = await made(tmp_path, tmp_path / "tree")
    outside = tmp_path / "outside"
    outside.mkdir()
    link = replace(LINK, target=os.fsencode(outside))
    tree = Tree(
        [
            inode(FOLDER, entries=((b"again", 1), (b"link", 1), (b"link-", 2))),
            link,
            inode(FOLDER, entries=((b"file", 3), (b"up", 4))),
            inode(stat.S_IFREG | 0o4777, size=10),
            inode(stat.S_IFLNK | 0o777, target=b"../../../.."),
        ]
    )
    meta = meta_image(tree, {3: [0]}, blob_blocks=image.manifest.index.blocks, tag=b"")
    before = outside.stat()
    await extract(store, hostile(store, image, meta), tmp_path / "out")
    assert os.listdir(outside) == []
    assert (outside.stat().st_mode, outside.stat().st_mtime_ns) == (before.st_mode, before.st_mtime_ns)
    assert os.readlink(tmp_path / "out" / "again") == str(outside)
    assert (tmp_path / "out" / "link-" / "file").read_bytes() == pattern(10, 2)  # block 0 of the blob


async def test_signatures_are_part_of_verifying(tmp_path: Path) -> None:
    small_tree(tmp_path / "tree")
    store, image = await made(tmp_path, tmp_path / "tree")
    keyring = Keyring(tmp_path / "keys", publisher="jane")
    with pytest.raises(Unsigned):
        await verify(store, image, trusted=keyring.trusted)
    signed = sign_manifest(image, keyring.own_key())
    assert (await verify(store, signed, trusted=keyring.trusted)).signed_by == keyring.own_key().id
