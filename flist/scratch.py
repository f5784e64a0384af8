"""Private directories for objects under way: of a living build they are locked, of a dead one removed."""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["scratch_directory"]


@contextmanager
def scratch_directory(parent: Path | None) -> Iterator[Path]:
    """A private directory for packs under way, removed at the end; those of builds that were killed go too.

    A living build holds a lock on its directory, so that no other build takes it for a dead one's.
    """
    if parent is not None:
        parent.mkdir(parents=True, exist_ok=True)
        for left in parent.glob("build-*"):
            _remove_if_dead(left)
    made, fd = _locked_directory(parent)
    try:
        yield made
    finally:
        os.close(fd)
        shutil.rmtree(made, ignore_errors=True)


def _locked_directory(parent: Path | None) -> tuple[Path, int]:
    """A new directory and the descriptor that holds its lock; another build may have removed one before the lock."""
    while True:
        made = Path(tempfile.mkdtemp(prefix="build-", dir=parent))
        try:
            fd = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            continue
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(fd).st_nlink:
                return made, fd
        except BlockingIOError:
            pass
        os.close(fd)


def _remove_if_dead(left: Path) -> None:
    try:
        fd = os.open(left, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return
    else:
        shutil.rmtree(left, ignore_errors=True)
    finally:
        os.close(fd)
