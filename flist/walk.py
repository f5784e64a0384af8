"""One walk over a tree: every inode with all its metadata, no symbolic link followed, nothing left out silently."""

from __future__ import annotations

import errno
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from flist.errors import TreeUnreadable, TreeUnsupported
from flist.tree import Entry, Inode, Tree
from native.errors import FileChanged

__all__ = ["DEPTH_MAX", "INODES_MAX", "PATH_MAX", "Walked", "walk"]

DEPTH_MAX = 256
"""Directories inside each other: each costs a descriptor while it is walked."""
PATH_MAX = 4095
"""Bytes of a path: what the kernel takes in one call."""
INODES_MAX = 1 << 26
"""Inodes of a tree; keeps the metadata image below META_MAX."""


@dataclass(frozen=True, slots=True)
class Walked:
    """A tree, and the directories in it that were not entered because another file system is mounted there."""

    tree: Tree
    mount_points: tuple[bytes, ...]


def walk(root_fd: int, *, cross_mounts: bool = False) -> Walked:
    """Walk the tree below an open directory.

    Args:
        root_fd: an open directory; stays open.
        cross_mounts: enter other file systems. If not, a directory on another device is kept as an empty directory
            and named in `mount_points`, as `tar --one-file-system` does (FLIST-TREE-5).

    Raises:
        TreeUnreadable: something cannot be read.
        TreeUnsupported: too deep, too many inodes, or a path that is too long.
        FileChanged: something went away or was replaced during the walk.
    """
    walker = _Walker(device=None if cross_mounts else os.fstat(root_fd).st_dev)
    walker.directory(root_fd, b"", 0)
    return Walked(Tree(walker.finished()), tuple(walker.mount_points))


@dataclass(slots=True)
class _Walker:
    device: int | None
    inodes: list[Inode | None] = field(default_factory=list)
    links: dict[tuple[int, int], int] = field(default_factory=dict)
    mount_points: list[bytes] = field(default_factory=list)

    def finished(self) -> list[Inode]:
        return [inode for inode in self.inodes if inode is not None]

    def number(self) -> int:
        if len(self.inodes) >= INODES_MAX:
            raise TreeUnsupported("the tree has too many inodes for one image", inodes_max=INODES_MAX)
        self.inodes.append(None)
        return len(self.inodes) - 1

    def directory(self, fd: int, path: bytes, depth: int) -> int:
        """Take a directory and all that is in it; its number."""
        number = self.number()
        try:
            status = os.fstat(fd)
            names = sorted(map(os.fsencode, os.listdir(fd)))
            xattrs = _xattrs(fd)
        except OSError as error:
            raise _error(path, error) from error
        entries: list[Entry] = []
        folders: list[bytes] = []
        for name in names:
            below = path + b"/" + name if path else name
            if len(below) > PATH_MAX:
                raise TreeUnsupported(f"a path is longer than {PATH_MAX} bytes", path=_text(below[:80]) + "...")
            try:
                found = os.stat(name, dir_fd=fd, follow_symlinks=False)
            except OSError as error:
                raise _error(below, error) from error
            if stat.S_ISDIR(found.st_mode):
                folders.append(name)
            else:
                entries.append((name, self.other(fd, name, below, found)))
        for name in folders:
            entries.append((name, self.folder(fd, name, path + b"/" + name if path else name, depth + 1)))
        self.inodes[number] = _inode(path, status, xattrs=xattrs, entries=tuple(sorted(entries)))
        return number

    def folder(self, parent_fd: int, name: bytes, path: bytes, depth: int) -> int:
        """Open and take a directory."""
        if depth > DEPTH_MAX:
            raise TreeUnsupported(f"directories lie more than {DEPTH_MAX} deep", path=_text(path[:80]) + "...")
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            fd = os.open(name, flags, dir_fd=parent_fd)
        except OSError as error:
            raise _error(path, error) from error
        try:
            if self.device is not None and os.fstat(fd).st_dev != self.device:
                self.mount_points.append(path)
                number = self.number()
                self.inodes[number] = _inode(path, os.fstat(fd), xattrs=_xattrs(fd))
                return number
            return self.directory(fd, path, depth)
        except OSError as error:
            raise _error(path, error) from error
        finally:
            os.close(fd)

    def other(self, parent_fd: int, name: bytes, path: bytes, status: os.stat_result) -> int:
        """Take what is not a directory; a further name of a known inode has its number."""
        identity = (status.st_dev, status.st_ino)
        if status.st_nlink > 1 and identity in self.links:
            return self.links[identity]
        try:
            target = os.readlink(name, dir_fd=parent_fd) if stat.S_ISLNK(status.st_mode) else b""
            # Only a path reaches the xattrs of links and devices; through the descriptor it cannot be redirected.
            xattrs = _xattrs(b"/proc/self/fd/%d/%s" % (parent_fd, name))
        except OSError as error:
            raise _error(path, error) from error
        number = self.number()
        self.inodes[number] = _inode(path, status, xattrs=xattrs, target=target)
        if status.st_nlink > 1:
            self.links[identity] = number
        return number


def _inode(
    path: bytes,
    status: os.stat_result,
    *,
    xattrs: tuple[tuple[bytes, bytes], ...],
    target: bytes = b"",
    entries: tuple[Entry, ...] = (),
) -> Inode:
    is_device = stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode)
    return Inode(
        path=path,
        mode=status.st_mode,
        uid=status.st_uid,
        gid=status.st_gid,
        mtime_ns=status.st_mtime_ns,
        xattrs=xattrs,
        size=status.st_size if stat.S_ISREG(status.st_mode) else 0,
        target=target,
        device=(os.major(status.st_rdev), os.minor(status.st_rdev)) if is_device else (0, 0),
        entries=entries,
    )


def _xattrs(where: int | bytes) -> tuple[tuple[bytes, bytes], ...]:
    """All extended attributes that the caller may see; none where the file system knows none."""
    follow = isinstance(where, int)
    try:
        names = os.listxattr(where, follow_symlinks=follow)
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return ()
        raise
    if not names:
        return ()
    return tuple(sorted((os.fsencode(name), os.getxattr(where, name, follow_symlinks=follow)) for name in names))


def _error(path: bytes, error: OSError) -> TreeUnreadable | FileChanged:
    shown = "/" + _text(path)
    if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.ENODATA, errno.ESTALE):
        return FileChanged(f"{shown}: it was there a moment ago", path=shown)
    hint = "only root can read a whole root file system" if error.errno in (errno.EACCES, errno.EPERM) else None
    return TreeUnreadable(f"{shown}: {error.strerror}", hint=hint, path=shown)


def _text(path: bytes) -> str:
    return path.decode(errors="replace")


def open_tree(tree: Path) -> int:
    """Open the root of a tree; the path itself may be a symbolic link.

    Raises:
        TreeUnreadable: it is not a directory, or cannot be opened.
    """
    try:
        return os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as error:
        raise TreeUnreadable(f"{tree}: {error.strerror}", path=str(tree)) from error
