"""Our reader of metadata images against our writer, each written from the kernel's header; and against damage."""

from __future__ import annotations

import stat
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flist.bundles import chunk_bits
from flist.erofs import meta_image
from flist.erofs_reader import read_meta
from flist.errors import MetaInvalid
from flist.tree import Inode, Tree
from tests.property.test_flist_erofs_images import chunks_of, trees

BLOB_BLOCKS = 5000
LARGE = [HealthCheck.filter_too_much, HealthCheck.data_too_large, HealthCheck.too_slow]  # whole trees are


def possible(tree: Tree) -> Tree:
    """Without NUL in the targets of links: no kernel gives such a target to a writer, so the reader refuses it."""
    return Tree([replace(inode, target=inode.target.replace(b"\0", b"0")) for inode in tree.inodes])


def with_paths(tree: Tree) -> list[Inode]:
    """The inodes with the first path that leads to each, which the strategy leaves out."""
    paths = {0: b""}
    for number, inode in enumerate(tree.inodes):
        for name, child in inode.entries:
            paths.setdefault(child, paths[number] + b"/" + name if number else name)
    return [replace(inode, path=paths[number]) for number, inode in enumerate(tree.inodes)]


@settings(max_examples=50, suppress_health_check=LARGE)
@given(trees().map(possible))
def test_what_was_written_is_read(tree: Tree) -> None:
    chunks = chunks_of(tree)
    image = meta_image(tree, chunks, blob_blocks=BLOB_BLOCKS, tag=b"f" * 64)
    found = read_meta(image)
    paths_bytes = sum(len(inode.path) for inode in found.tree.inodes)
    assert read_meta(image, paths_bytes_max=paths_bytes) == found
    with pytest.raises(MetaInvalid, match="paths"):
        read_meta(image, paths_bytes_max=paths_bytes - 1)
    assert list(found.tree.inodes) == with_paths(tree)
    assert found.blob_blocks == BLOB_BLOCKS
    assert {number: each.blocks for number, each in found.chunks.items()} == {
        number: tuple(blocks) for number, blocks in chunks.items()
    }
    for number, each in found.chunks.items():
        assert each.size == 1 << chunk_bits(tree.inodes[number].size)


@settings(max_examples=50, suppress_health_check=LARGE)
@given(trees(), st.data())
def test_a_damaged_image_is_read_safely_or_refused(tree: Tree, data: st.DataObject) -> None:
    image = bytearray(meta_image(tree, chunks_of(tree), blob_blocks=BLOB_BLOCKS, tag=b"f" * 64))
    for _ in range(data.draw(st.integers(1, 8))):
        at = data.draw(st.integers(1024, len(image) - 1))
        image[at] = data.draw(st.integers(0, 255))
    try:
        found = read_meta(bytes(image))
    except MetaInvalid:
        return
    for inode in found.tree.inodes:
        names = [name for name, _ in inode.entries]
        assert names == sorted(set(names))
        assert not any(name in (b"", b".", b"..") or b"/" in name or b"\0" in name for name in names)
        assert stat.S_IFMT(inode.mode)
    for number, chunks in found.chunks.items():
        assert len(chunks.blocks) == -(-found.tree.inodes[number].size // chunks.size)


@given(st.binary(max_size=200), st.integers(0, 3))
def test_any_bytes_are_refused(data: bytes, blocks: int) -> None:
    for image in (data, data.ljust(4096 * blocks, b"\0")):
        try:
            read_meta(image)
        except MetaInvalid:
            continue
        raise AssertionError("that was no image")
