"""mount(2) in mount namespaces of a test's own, of which nothing is left when the test's work there is done."""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from tests.threads import in_own_thread

__all__ = ["MS_BIND", "MS_RDONLY", "dead_file_system", "in_own_mount_namespace", "mount"]

MS_RDONLY = 0x1
MS_BIND = 0x1000
MS_REC_PRIVATE = 0x44000
CLONE_NEWNS = 0x20000
MNT_DETACH = 2
GIVE_UP_S = 60.0

T = TypeVar("T")


def in_own_mount_namespace(work: Callable[[], T]) -> T:
    """What `work` gives or raises, in a thread that has its own mounts, root and working directory."""

    def run() -> T:
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.unshare(CLONE_NEWNS) or libc.mount(None, b"/", None, MS_REC_PRIVATE, None):
            raise OSError(ctypes.get_errno(), "unshare")
        return work()

    return in_own_thread(run)


def mount(kind: str, at: Path, *, source: Path | None = None, flags: int = 0, options: str = "") -> None:
    """mount(2) by path: it follows links, as any engine does that asks for nothing else."""
    libc = ctypes.CDLL(None, use_errno=True)
    what = os.fsencode(source) if source else b"none"
    if libc.mount(what, os.fsencode(at), kind.encode(), flags, options.encode()):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), str(at))


@contextmanager
def dead_file_system(at: Path) -> Iterator[Callable[[], None]]:
    """Every call on `at` hangs until what is given is called; at the latest after `GIVE_UP_S`, and then the test fails.

    It is a real one, of FUSE, mounted by nobody who would answer; its end is that of the descriptor.
    """
    at.mkdir()
    descriptors = [os.open("/dev/fuse", os.O_RDWR | os.O_CLOEXEC)]
    mount("fuse", at, options=f"fd={descriptors[0]},rootmode=40000,user_id=0,group_id=0")

    def abort() -> None:
        while descriptors:
            os.close(descriptors.pop())

    timer = threading.Timer(GIVE_UP_S, abort)
    timer.start()
    try:
        yield abort
        assert not timer.finished.is_set(), "the file system was given up by the watch: somebody waited for it"
    finally:
        timer.cancel()
        abort()
        ctypes.CDLL(None).umount2(os.fsencode(at), MNT_DETACH)
