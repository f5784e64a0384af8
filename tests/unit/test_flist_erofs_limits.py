"""What does not fit into an EROFS image is a typed error with its path (FLIST-TREE-4); layouts at their limits."""

from __future__ import annotations

import stat
from typing import Any

import pytest

from flist.bundles import chunk_bits, plan
from flist.erofs import HOLE, meta_image
from flist.errors import TreeUnsupported
from flist.tree import Inode, Tree
from tests.erofs_reader import read_image


def inode(mode: int, **fields: Any) -> Inode:
    return Inode(**{"path": b"it", "mode": mode, "uid": 0, "gid": 0, "mtime_ns": 0, **fields})


def tree_of(*children: Inode, names: tuple[bytes, ...] = ()) -> Tree:
    named = names or tuple(b"%04d" % number for number in range(len(children)))
    entries = tuple((name, number) for number, name in enumerate(named, 1))
    return Tree([inode(stat.S_IFDIR | 0o755, path=b"", entries=entries), *children])


def image(tree: Tree, **chunks: Any) -> bytes:
    return meta_image(tree, chunks.get("chunks", {}), blob_blocks=0, tag=b"t")


@pytest.mark.parametrize(
    ("child", "what"),
    [
        (inode(stat.S_IFLNK, target=b""), "symbolic link"),
        (inode(stat.S_IFLNK, target=b"x" * 4096), "symbolic link"),
        (inode(stat.S_IFCHR, device=(4096, 0)), "device number"),
        (inode(stat.S_IFBLK, device=(0, 1 << 20)), "device number"),
        (inode(stat.S_IFREG, xattrs=((b"system.nfs4_acl", b""),)), "system.nfs4_acl"),
        (inode(stat.S_IFREG, xattrs=((b"btrfs.compression", b"zstd"),)), "btrfs.compression"),
        (inode(stat.S_IFREG, xattrs=((b"user.", b""),)), "user."),
        (inode(stat.S_IFREG, xattrs=((b"user." + b"n" * 256, b""),)), "too large"),
        (inode(stat.S_IFREG, xattrs=((b"user.n", bytes(65_536)),)), "too large"),
        (inode(stat.S_IFREG, xattrs=tuple((b"user.%d" % n, bytes(65_535)) for n in range(4))), "together"),
        (inode(stat.S_IFREG, uid=2**32), "out of range"),
        (inode(stat.S_IFREG, mtime_ns=2**63 * 10**9), "out of range"),
    ],
)
def test_what_does_not_fit_is_refused(child: Inode, what: str) -> None:
    with pytest.raises(TreeUnsupported, match="/it: ") as caught:
        image(tree_of(child))
    assert what in str(caught.value)
    assert caught.value.context["path"] == "/it"
    assert caught.value.hint


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b", b"n" * 256])
def test_names_that_no_directory_has_are_refused(name: bytes) -> None:
    with pytest.raises(TreeUnsupported, match="a name in it"):
        image(tree_of(inode(stat.S_IFIFO), names=(name,)))


@pytest.mark.parametrize("length", [1, 300, 4031, 4032, 4033, 4094, 4095])
def test_symbolic_links_of_every_layout(length: int) -> None:
    child = inode(stat.S_IFLNK | 0o777, target=b"x" * length)
    root = read_image(image(tree_of(inode(stat.S_IFIFO), child))).root
    assert root.children[b"0001"].target == child.target


@pytest.mark.parametrize("count", [0, 1, 100, 170, 171, 172, 200, 340, 2000])
def test_directories_of_every_layout(count: int) -> None:
    names = (
        tuple(b"%0227d" % number for number in range(count))
        if count <= 40
        else tuple(b"%012d" % n for n in range(count))
    )
    root = read_image(image(tree_of(*[inode(stat.S_IFIFO)] * count, names=names))).root
    assert tuple(root.children) == names


@pytest.mark.parametrize("used", range(4020, 4100, 4))
def test_a_directory_whose_entries_end_at_a_block(used: int) -> None:
    """i_size at and around whole blocks, where inline data turns into blocks."""
    left = used - (12 + 1) - (12 + 2)
    names: list[bytes] = []
    while left >= 15:
        length = min(255, left - 12)
        names.append(b"%03d" % len(names) + b"n" * (length - 3))
        left -= 12 + length
    root = read_image(image(tree_of(*[inode(stat.S_IFIFO)] * len(names), names=tuple(names)))).root
    assert tuple(root.children) == tuple(names)


def test_xattrs_may_cross_blocks() -> None:
    attributes = tuple((b"user.%02d" % number, bytes([number]) * (number * 97)) for number in range(60))
    large = ((b"trusted.big", b"\x5a" * 65_535), (b"user.k", b"v"))
    children = (
        inode(stat.S_IFREG, xattrs=attributes, size=5),
        inode(stat.S_IFLNK, xattrs=large, target=b"x" * 100),
        inode(stat.S_IFDIR, xattrs=attributes),
    )
    root = read_image(meta_image(tree_of(*children), {1: [9]}, blob_blocks=10, tag=b"t")).root
    assert [node.xattrs for node in root.children.values()] == [dict(child.xattrs) for child in children]


def test_holes_name_no_device() -> None:
    size = 262_144 * 3
    root = read_image(
        meta_image(tree_of(inode(stat.S_IFREG, size=size)), {1: [5, HOLE, 70]}, blob_blocks=134, tag=b"t")
    ).root
    assert root.children[b"0000"].chunks == [(1, 5), (0, HOLE), (1, 70)]
    with pytest.raises(ValueError, match="chunks"):
        meta_image(tree_of(inode(stat.S_IFREG, size=size)), {1: [5, HOLE]}, blob_blocks=134, tag=b"t")


def test_link_counts_are_those_of_the_tree() -> None:
    root = inode(stat.S_IFDIR, path=b"", entries=((b"a", 1), (b"b", 1), (b"d", 2)))
    tree = Tree([root, inode(stat.S_IFREG), inode(stat.S_IFDIR, entries=((b"c", 1),))])
    assert tree.link_counts() == [3, 3, 2]


@pytest.mark.parametrize(
    ("size", "bits"),
    [(1, 12), (4096, 12), (4097, 13), (8192, 13), (8193, 14), (32_769, 16), (65_535, 16), (65_536, 18), (10**9, 18)],
)
def test_chunk_bits(size: int, bits: int) -> None:
    assert chunk_bits(size) == bits


@pytest.mark.parametrize(
    ("size", "pieces"),
    [(0, []), (1, [1]), (65_535, [65_535]), (65_536, [65_536]), (262_144, [262_144]), (262_145, [262_144, 1])],
)
def test_units_at_their_limits(size: int, pieces: list[int]) -> None:
    units = plan([(b"file", size)])
    assert [unit.length for unit in units] == pieces
    assert all(unit.piece == (size >= 65_536) for unit in units)


def test_a_bundle_closes_before_it_grows_too_large() -> None:
    names = [b"a", b"b", b"c"]
    assert [len(unit.parts) for unit in plan([(name, 40_000) for name in names])] == [1, 1, 1]
    two = plan([(b"a", 12_000), (b"b", 53_248)])
    assert [unit.length for unit in two] == [12_288 + 53_248]
    assert len(plan([(b"a", 12_000), (b"b", 53_249)])) == 2
