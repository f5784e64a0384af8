"""Compares two directory trees: content and all metadata that an image keeps."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

Described = dict[bytes, dict[str, Any]]


def describe(root: Path | str, *, ignore: frozenset[str] = frozenset()) -> Described:
    """Every path below `root` (the root is b""), with what must be equal.

    type and mode, uid, gid, mtime_ns, size (not of directories), target, device, xattrs, SHA-256 of the content, and
    `links`: all names of the same inode, which is more than their number.
    """
    found: Described = {}
    names: dict[tuple[int, int], list[bytes]] = {}
    root_bytes = os.fsencode(root)
    for path, status in _walk(root_bytes, b""):
        where = os.path.join(root_bytes, path) if path else root_bytes
        facts: dict[str, Any] = {
            "mode": oct(status.st_mode),
            "uid": status.st_uid,
            "gid": status.st_gid,
            "mtime_ns": status.st_mtime_ns,
            "xattrs": _xattrs(where),
        }
        if not stat.S_ISDIR(status.st_mode):
            facts["size"] = status.st_size
            names.setdefault((status.st_dev, status.st_ino), []).append(path)
        if stat.S_ISLNK(status.st_mode):
            facts["target"] = os.readlink(where)
        elif stat.S_ISREG(status.st_mode):
            facts["content"] = _digest(where)
        elif stat.S_ISCHR(status.st_mode) or stat.S_ISBLK(status.st_mode):
            facts["device"] = (os.major(status.st_rdev), os.minor(status.st_rdev))
        found[path] = {key: value for key, value in facts.items() if key not in ignore}
    if "links" not in ignore:
        for paths in names.values():
            for path in paths:
                found[path]["links"] = sorted(paths)
    return found


def differences(one: Described, two: Described, limit: int = 20) -> list[str]:
    """What differs, in words; empty if nothing does."""
    told: list[str] = []
    for path in sorted(one.keys() | two.keys()):
        if path not in one or path not in two:
            told.append(f"{path!r}: only in the {'first' if path in one else 'second'}")
        elif one[path] != two[path]:
            keys = [key for key in one[path].keys() | two[path].keys() if one[path].get(key) != two[path].get(key)]
            told += [f"{path!r}: {key}: {one[path].get(key)!r} != {two[path].get(key)!r}" for key in sorted(keys)]
        if len(told) >= limit:
            return [*told[:limit], "..."]
    return told


def assert_same(source: Path | str, copy: Path | str, *, ignore: frozenset[str] = frozenset()) -> int:
    """Fail unless both trees are the same; the number of paths."""
    one, two = describe(source, ignore=ignore), describe(copy, ignore=ignore)
    assert differences(one, two) == []
    return len(one)


def _walk(root: bytes, path: bytes) -> Iterator[tuple[bytes, os.stat_result]]:
    where = os.path.join(root, path) if path else root
    status = os.lstat(where)
    yield path, status
    if stat.S_ISDIR(status.st_mode):
        for name in sorted(os.listdir(where)):
            yield from _walk(root, os.path.join(path, name) if path else name)


def _xattrs(path: bytes) -> dict[str, bytes]:
    try:
        return {
            name: os.getxattr(path, name, follow_symlinks=False) for name in os.listxattr(path, follow_symlinks=False)
        }
    except OSError as error:
        if error.errno == errno.ENOTSUP:
            return {}
        raise


def _digest(path: bytes) -> str:
    with open(path, "rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
