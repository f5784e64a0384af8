"""The plan of a whole tree: order of directories, and whose data a hard link is (FLIST-UNIT-1)."""

from __future__ import annotations

import stat
from typing import Any

from flist.packing import plan_tree
from flist.tree import Inode, Tree


def inode(mode: int, **fields: Any) -> Inode:
    return Inode(**{"path": b"", "mode": mode, "uid": 0, "gid": 0, "mtime_ns": 0, **fields})


def test_directories_follow_each_other_in_preorder_and_links_count_once() -> None:
    tree = Tree(
        [
            inode(stat.S_IFDIR, entries=((b"a", 3), (b"b", 1), (b"b2", 1), (b"c", 2), (b"z", 6))),
            inode(stat.S_IFREG, size=100),
            inode(stat.S_IFREG, size=70_000),
            inode(stat.S_IFDIR, entries=((b"d", 4), (b"link", 1), (b"s", 5))),
            inode(stat.S_IFREG, size=200),
            inode(stat.S_IFLNK, target=b"x"),
            inode(stat.S_IFDIR, entries=((b"e", 7),)),
            inode(stat.S_IFREG, size=300),
        ]
    )
    told = [[(part.file, part.length) for part in unit.parts] for unit in plan_tree(tree)]
    assert told == [[(1, 100)], [(2, 70_000)], [(4, 200)], [(7, 300)]]
