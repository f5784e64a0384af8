"""A directory tree as a list of inodes, in the one order that an image knows (FLIST-TREE-1). Pure."""

from __future__ import annotations

import stat
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Entry", "Inode", "Tree"]

Entry = tuple[bytes, int]
"""Name and inode number of one directory entry."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Inode:
    """One inode; its number is its place in `Tree.inodes`.

    Attributes:
        path: the first path that leads here, relative to the root, raw bytes; empty for the root.
        mode: type and permissions, as st_mode.
        mtime_ns: nanoseconds since the epoch, negative before it.
        xattrs: full name and value, ascending by name.
        size: of a regular file.
        target: of a symbolic link.
        device: major and minor of a device node.
        entries: of a directory, ascending by name.
    """

    path: bytes
    mode: int
    uid: int
    gid: int
    mtime_ns: int
    xattrs: tuple[tuple[bytes, bytes], ...] = ()
    size: int = 0
    target: bytes = b""
    device: tuple[int, int] = (0, 0)
    entries: tuple[Entry, ...] = ()

    @property
    def kind(self) -> int:
        """The type alone, an S_IF constant."""
        return stat.S_IFMT(self.mode)


@dataclass(frozen=True, slots=True)
class Tree:
    """Inodes in walk order: a directory, its entries that are no directories by name, then its directories by name.

    A file with several names stands where its first name is.
    """

    inodes: Sequence[Inode]

    def directories(self) -> Iterator[Inode]:
        """All directories in preorder."""
        return (inode for inode in self.inodes if stat.S_ISDIR(inode.mode))

    def link_counts(self) -> list[int]:
        """st_nlink of every inode: entries that name it; a directory has two and one for each directory in it."""
        counts = [0] * len(self.inodes)
        for number, inode in enumerate(self.inodes):
            if not stat.S_ISDIR(inode.mode):
                continue
            counts[number] += 2
            for _, child in inode.entries:
                counts[number if stat.S_ISDIR(self.inodes[child].mode) else child] += 1
        return counts
