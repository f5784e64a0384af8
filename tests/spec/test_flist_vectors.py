"""The golden bytes of docs/spec/flist-v1.md, made by `tests/vectors/flist/make.py`, against our writers and readers."""

from __future__ import annotations

import json
import runpy
import stat
from pathlib import Path

import pytest
from blake3 import blake3

from flist.bundles import plan
from flist.erofs import HOLE, meta_image
from flist.index import Page, PageList, build_index
from flist.locator import Entry, Locator
from flist.manifest import (
    IndexRef,
    Manifest,
    ObjectRef,
    Signature,
    SignedManifest,
    decode_manifest,
    encode_manifest,
)
from flist.tree import Inode, Tree

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "flist"


def golden(name: str) -> bytes:
    return (VECTORS / name).read_bytes()


UNITS = [(blake3(i.to_bytes(4, "little")).digest(), (i * 104_729) % 262_144 + 1) for i in range(300)]
LENGTHS = [length for _, length in UNITS]


def test_vectors_are_what_the_independent_script_makes() -> None:
    for name, data in runpy.run_path(str(VECTORS / "make.py"))["files"]().items():
        assert golden(name) == data, name


def test_vector_units() -> None:
    vector = json.loads(golden("units.json"))
    files = [(bytes.fromhex(name), size) for name, size in vector["files"]]
    made = [[[files[p.file][0].hex(), p.offset, p.length] for p in unit.parts] for unit in plan(files)]
    assert made == vector["units"]


def test_vector_index() -> None:
    page_list, pages = build_index(UNITS)
    assert page_list.encode() == golden("page-list.bin")
    assert [page.encode() for page in pages] == [golden("page-0.bin"), golden("page-1.bin")]
    root = blake3(golden("page-list.bin")).digest()
    assert page_list.root == root
    assert PageList.decode(golden("page-list.bin"), root) == page_list
    for number, page in enumerate(pages):
        assert Page.decode(golden(f"page-{number}.bin"), page_list.pages[number]) == page


def test_vector_locator() -> None:
    offsets = [0, 0]
    entries = []
    for i, length in enumerate(LENGTHS):
        raw = i % 5 == 0 or length == 1
        stored = length if raw else length - 1
        entries.append(Entry(i % 2, offsets[i % 2], stored, raw))
        offsets[i % 2] += stored
    locator = Locator((blake3(b"pack 0").digest(), blake3(b"pack 1").digest()), tuple(entries))
    assert locator.encode() == golden("locator.bin")
    assert Locator.decode(golden("locator.bin"), LENGTHS) == locator


def test_vector_manifest() -> None:
    meta, page_list = golden("meta.erofs"), golden("page-list.bin")
    manifest = Manifest(
        name="zos/golden",
        architecture="x86_64",
        revision=7,
        expires_s=4_000_000_000,
        prev=blake3(b"prev").digest(),
        meta=ObjectRef(blake3=blake3(meta).digest(), size=len(meta)),
        index=IndexRef(
            root=blake3(page_list).digest(), pages=2, units=300, blocks=int.from_bytes(page_list[20:24], "little")
        ),
        oci=ObjectRef(blake3=blake3(b"{}").digest(), size=2),
    )
    assert encode_manifest(manifest) == golden("manifest.bin")
    assert decode_manifest(golden("manifest.bin")) == manifest
    signed = SignedManifest(
        golden("manifest.bin"),
        (Signature(bytes([1]) * 32, bytes([0xA1]) * 64), Signature(bytes([2]) * 32, bytes([0xA2]) * 64)),
    )
    assert signed.encode() == golden("golden.flist")
    assert SignedManifest.parse(golden("golden.flist")) == signed
    assert signed.digest == blake3(golden("manifest.bin")).digest()


def test_vector_metadata_image() -> None:
    def inode(path: bytes, mode: int, **fields: object) -> Inode:
        defaults: dict[str, object] = {"uid": 0, "gid": 0, "mtime_ns": 0}
        return Inode(path=path, mode=mode, **{**defaults, **fields})  # type: ignore[arg-type]

    tree = Tree(
        [
            inode(
                b"",
                stat.S_IFDIR | 0o755,
                mtime_ns=1_000_000_005,
                xattrs=((b"user.k", b"v"),),
                entries=((b"dev", 1), (b"file", 2), (b"large", 3), (b"link", 4), (b"sub", 5)),
            ),
            inode(b"dev", stat.S_IFCHR | 0o666, device=(1, 3)),
            inode(b"file", stat.S_IFREG | 0o644, size=10),
            inode(b"large", stat.S_IFREG | 0o600, size=262_145),
            inode(b"link", stat.S_IFLNK | 0o777, target=b"file"),
            inode(b"sub", stat.S_IFDIR | 0o700, uid=1000, gid=4294967290, mtime_ns=-1, entries=((b"link", 2),)),
        ]
    )
    tag = blake3(b"tag").hexdigest().encode()
    assert meta_image(tree, {2: [3], 3: [4, HOLE]}, blob_blocks=68, tag=tag) == golden("meta.erofs")


@pytest.mark.parametrize("name", ["manifest.bin", "golden.flist"])
def test_vector_every_flipped_bit_of_the_header_is_refused(name: str) -> None:
    from flist.errors import ManifestInvalid

    data = golden(name)
    for bit in range(14 * 8):
        bad = bytearray(data)
        bad[bit // 8] ^= 1 << bit % 8
        with pytest.raises(ManifestInvalid):
            decode_manifest(bytes(bad)) if name == "manifest.bin" else SignedManifest.parse(bytes(bad))
