"""Files of the control group file system, version 2, read and written as the kernel wants it."""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from zos_core.host import layout
from zos_core.host.errors import CgroupFailed, CgroupUnavailable
from zos_core.host.layout import CgroupMount

__all__ = [
    "directory_of",
    "failing",
    "find_mount",
    "keyed",
    "make",
    "move",
    "number",
    "pids",
    "read",
    "words",
    "write",
    "write_if_there",
]


def find_mount() -> CgroupMount:
    """Where version 2 is mounted.

    Raises:
        CgroupUnavailable: nowhere.
    """
    mount = layout.find_mount(read(Path("/proc/self/mountinfo")))
    if mount is None:
        raise CgroupUnavailable(
            "no cgroup2 is mounted",
            hint="mount -t cgroup2 cgroup2 /sys/fs/cgroup (or boot with systemd.unified_cgroup_hierarchy=1)",
        )
    return mount


def directory_of(mount: CgroupMount, process: int | str) -> Path | None:
    """Directory of the group of a process; None when it is not visible, or the process is gone."""
    try:
        own = layout.own_cgroup(read(Path(f"/proc/{process}/cgroup")))
    except OSError:
        return None
    return None if own is None else layout.own_directory(mount, own)


def make(path: Path) -> None:
    """Make a group, unless it is there."""
    try:
        path.mkdir()
    except FileExistsError:
        if not path.is_dir():
            raise


def move(processes: Collection[int], into: Path) -> None:
    """Put processes into a group; one that has ended meanwhile is no error."""
    there = pids(into)
    for pid in sorted(processes):
        if pid in there:
            continue
        try:
            write(into / "cgroup.procs", str(pid))
        except ProcessLookupError:  # it ended
            continue


@contextmanager
def failing(path: Path, what: str) -> Iterator[None]:
    """Turn what the kernel says about a group into our error."""
    try:
        yield
    except OSError as error:
        hint = "control groups need root, or a delegated scope" if error.errno in (errno.EACCES, errno.EPERM) else None
        raise CgroupFailed(
            f"cannot {what} control group {path}: {error.strerror}",
            hint=hint,
            path=str(error.filename or path),
            errno=error.errno or 0,
        ) from error


def read(path: Path) -> str:
    """The text of a file."""
    return path.read_bytes().decode("utf-8", "surrogateescape")


def words(path: Path) -> list[str]:
    """The words in a file."""
    return read(path).split()


def pids(path: Path) -> set[int]:
    """Processes of a group, without those below it."""
    # 0 is a process of another pid namespace: nothing that we could move.
    return {int(word) for word in words(path / "cgroup.procs")}


def write(path: Path, text: str) -> None:
    """One write(2) to a file that must be there: the kernel takes each as one command."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)


def write_if_there(path: Path, text: str) -> None:
    """As `write`, of a file that not every kernel has."""
    try:
        write(path, text)
    except FileNotFoundError:  # a kernel without swap accounting, for one
        return


def number(path: Path) -> int | None:
    """The number in a file, or None where the kernel has none."""
    try:
        return int(read(path))
    except FileNotFoundError:
        return None


def keyed(path: Path, key: str) -> int | None:
    """The number behind a key in a file of lines `KEY NUMBER`; None where there is no such key, or file."""
    try:
        lines = read(path).splitlines()
    except FileNotFoundError:
        return None
    return next((int(line.split()[1]) for line in lines if line.startswith(f"{key} ")), None)
