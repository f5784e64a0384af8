"""Any tree that the model can say comes back from the image as it was (FLIST-META), read by an independent reader."""

from __future__ import annotations

import stat
from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st

from flist.bundles import chunk_bits
from flist.erofs import HOLE, meta_image
from flist.tree import Inode, Tree
from tests.erofs_reader import Node, read_image

u32 = st.integers(0, 2**32 - 1)
names = st.one_of(
    st.binary(min_size=1, max_size=12),
    st.integers(1, 255).map(lambda length: b"L" * length),
    st.binary(min_size=200, max_size=255),
).filter(lambda name: b"/" not in name and b"\0" not in name and name not in (b".", b".."))
values = st.one_of(st.binary(max_size=40), st.integers(0, 65_535).map(lambda length: b"\xa5" * length))
xattr_names = st.one_of(
    st.sampled_from([b"system.posix_acl_access", b"system.posix_acl_default", b"security.capability", b"user.a"]),
    st.binary(min_size=1, max_size=255).filter(lambda name: b"\0" not in name).map(lambda name: b"user." + name),
    st.binary(min_size=1, max_size=9).filter(lambda name: b"\0" not in name).map(lambda name: b"trusted." + name),
)
xattrs = st.one_of(
    st.just(()), st.dictionaries(xattr_names, values, max_size=3).map(lambda found: tuple(sorted(found.items())))
)
common = {
    "uid": u32,
    "gid": u32,
    "mtime_ns": st.integers(-(2**62) * 10**9, 2**62 * 10**9),
    "xattrs": xattrs,
}


def leaf(kind: int, **fields: st.SearchStrategy[object]) -> st.SearchStrategy[Inode]:
    mode = st.integers(0, 0o7777).map(lambda bits: kind | bits)
    return st.builds(Inode, path=st.just(b""), mode=mode, **common, **fields)


leaves = st.one_of(
    leaf(stat.S_IFREG, size=st.one_of(st.integers(0, 70_000), st.integers(0, 2_000_000))),
    leaf(
        stat.S_IFLNK,
        target=st.one_of(st.binary(min_size=1, max_size=60), st.integers(1, 4095).map(lambda length: b"t" * length)),
    ),
    leaf(stat.S_IFCHR, device=st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1))),
    leaf(stat.S_IFBLK, device=st.tuples(st.integers(0, 4095), st.integers(0, 2**20 - 1))),
    leaf(stat.S_IFIFO),
    leaf(stat.S_IFSOCK),
)


@st.composite
def trees(draw: st.DrawFn) -> Tree:
    """A tree of at most a few dozen inodes in walk order, hard links among them."""
    inodes: list[Inode] = []
    linkable: list[int] = []

    def folder(depth: int) -> int:
        number = len(inodes)
        shape = draw(leaf(stat.S_IFDIR))
        inodes.append(shape)
        found = draw(st.sets(names, max_size=8 if depth < 3 else 2))
        if draw(st.booleans()) and depth == 0:
            found |= {b"%0200d" % each for each in range(draw(st.integers(0, 60)))}
        folders = {name for name in found if depth < 4 and draw(st.integers(0, 5)) == 0}
        entries = []
        for name in sorted(found - folders):
            if linkable and draw(st.integers(0, 4)) == 0:
                entries.append((name, draw(st.sampled_from(linkable))))
                continue
            linkable.append(len(inodes))
            entries.append((name, len(inodes)))
            inodes.append(draw(leaves))
        entries += [(name, folder(depth + 1)) for name in sorted(folders)]
        inodes[number] = Inode(
            path=b"",
            mode=shape.mode,
            uid=shape.uid,
            gid=shape.gid,
            mtime_ns=shape.mtime_ns,
            xattrs=shape.xattrs,
            entries=tuple(sorted(entries)),
        )
        return number

    folder(0)
    return Tree(inodes)


def chunks_of(tree: Tree) -> dict[int, Sequence[int]]:
    """Made-up addresses; every seventh chunk of a large file is a hole."""
    chunks: dict[int, Sequence[int]] = {}
    block = 0
    for number, inode in enumerate(tree.inodes):
        if stat.S_ISREG(inode.mode) and inode.size:
            count = -(-inode.size >> chunk_bits(inode.size))
            chunks[number] = [HOLE if (block + each) % 7 == 6 and count > 1 else block + each for each in range(count)]
            block += count
    return chunks


@settings(max_examples=150)
@given(trees())
def test_a_tree_comes_back_from_its_image(tree: Tree) -> None:
    chunks = chunks_of(tree)
    data = meta_image(tree, chunks, blob_blocks=77, tag=b"f" * 64)
    assert data == meta_image(tree, chunks, blob_blocks=77, tag=b"f" * 64)
    image = read_image(data)
    assert (image.inodes, image.device_blocks, image.device_tag) == (len(tree.inodes), 77, b"f" * 64)
    assert image.root.nid in (40, 128)  # 128: moved to the second block by large attributes
    links = tree.link_counts()
    seen: dict[int, int] = {}

    def compare(number: int, node: Node) -> None:
        inode = tree.inodes[number]
        if seen.setdefault(number, node.nid) != node.nid:
            raise AssertionError("one inode became two")
        assert (node.mode, node.uid, node.gid, node.mtime_ns) == (inode.mode, inode.uid, inode.gid, inode.mtime_ns)
        assert node.links == links[number]
        assert node.xattrs == dict(inode.xattrs)
        assert (node.target, node.device) == (inode.target, inode.device)
        if stat.S_ISREG(inode.mode):
            assert node.size == inode.size
            expected = [(0 if block == HOLE else 1, block) for block in chunks.get(number, ())]
            assert node.chunks == expected
            if expected:
                assert node.chunk_bits == chunk_bits(inode.size)
        assert node.children.keys() == {name for name, _ in inode.entries}
        for name, child in inode.entries:
            compare(child, node.children[name])

    compare(0, image.root)
    assert len(set(seen.values())) == len(tree.inodes)
