"""What the supervisor and the tools ask the kernel by themselves, in one place and typed.

Every failure of the kernel is an `OSError` with the right `errno`, the call's name and the path. A kernel that lacks a
call altogether gives `KernelUnsupported`, so that a caller can go the other way on purpose.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Literal

from native.errors import ZosError
from native.ffi._kernel import ffi, lib

__all__ = [
    "ExitStatus",
    "KernelUnsupported",
    "NAMESPACES",
    "attach_mount",
    "is_tmpfs",
    "pidfd_exit",
    "try_namespaces",
    "try_pidfd_exit",
    "try_pre_access",
    "unmount",
]

# clone(2): the bits of include/uapi/linux/sched.h.
NAMESPACES: Mapping[str, int] = MappingProxyType(
    {
        "cgroup": 0x02000000,
        "ipc": 0x08000000,
        "mount": 0x00020000,
        "net": 0x40000000,
        "pid": 0x20000000,
        "user": 0x10000000,
        "uts": 0x04000000,
    }
)
_STEPS = {"nothing": 0, "proc": 1, "seccomp": 2}


class KernelUnsupported(ZosError):
    """The running kernel does not know the call. Not a failure of what was asked: there is another way to do it."""

    code, http_status, exit_status, retryable = "kernel.unsupported", 501, 95, False


@dataclass(frozen=True, slots=True, kw_only=True)
class ExitStatus:
    """How a process ended: by `exit(code)`, or by a signal. Exactly one of the two is set."""

    code: int | None
    signal: int | None


def _check(result: int, call: str, path: str | None = None) -> int:
    """Return the result, or raise the negative errno in it as the `OSError` subclass that it is."""
    if result >= 0:
        return result
    text = f"{call}: {os.strerror(-result)}"
    raise OSError(-result, text, path) if path is not None else OSError(-result, text)


def pidfd_exit(pidfd: int) -> ExitStatus | None:
    """Say how the process behind a pidfd ended, or None while nobody has reaped it. No parent relation is needed.

    Raises:
        KernelUnsupported: below Linux 6.15 (PIDFD_INFO_EXIT); hold's record of exits is the other way.
        OSError: not a pidfd (EBADF), or one of a thread.
    """
    status = ffi.new("int *")
    result = int(lib.zos_pidfd_exit(pidfd, status))
    # ENOTTY and EINVAL: no such request (below 6.13). ESRCH: reaped, and a kernel (6.13, 6.14) that forgot the status.
    if result in (-errno.ENOTTY, -errno.EINVAL, -errno.ESRCH):
        raise KernelUnsupported("the kernel does not say how a process ended that is not our child (Linux 6.15 does)")
    if not _check(result, "PIDFD_GET_INFO"):
        return None
    wait_status = int(status[0])
    if os.WIFSIGNALED(wait_status):
        return ExitStatus(code=None, signal=os.WTERMSIG(wait_status))
    return ExitStatus(code=os.WEXITSTATUS(wait_status), signal=None)


def attach_mount(mount_fd: int, path: str | Path) -> None:
    """Attach a detached mount to a directory: open_tree(2), move_mount(2).

    From Linux 6.15 on it is a copy that is attached; below, the descriptor refers to the attached mount afterwards and
    keeps it busy until it is closed.

    Raises:
        OSError: ENOENT for the path; EINVAL when the mount is attached already, or one of both is no directory;
            EPERM without CAP_SYS_ADMIN.
    """
    _check(int(lib.zos_attach_mount(mount_fd, os.fsencode(path))), "move_mount", str(path))


def unmount(path: str | Path, *, lazy: bool = False) -> None:
    """Unmount what is on top at `path` (umount2(2)), without following a symbolic link at its end.

    `lazy` takes it out of the tree at once, and for good when its last user is gone.

    Raises:
        OSError: EINVAL when nothing is mounted there, EBUSY when it is in use, EPERM without CAP_SYS_ADMIN.
    """
    _check(int(lib.zos_unmount(os.fsencode(path), int(lazy))), "umount2", str(path))


def is_tmpfs(path: str | Path) -> bool:
    """Whether `path` lies in memory only (tmpfs or ramfs): no place for state, and the providers do not work there."""
    return bool(_check(int(lib.zos_in_memory(os.fsencode(path))), "statfs", str(path)))


def try_namespaces(kinds: Iterable[str], *, step: Literal["nothing", "proc", "seccomp"] = "nothing") -> None:
    """Make a process in new namespaces of these kinds (`NAMESPACES`), which does one step and ends.

    Args:
        kinds: names of namespaces; none is a plain process.
        step: "proc" mounts proc(5) on /proc of its own mount and pid namespaces; "seccomp" loads a filter that allows
            everything.

    Raises:
        OSError: what the kernel answered: EPERM without the rights, ENOSYS where clone3(2) is filtered, ENOSPC where
            sysctl user.max_*_namespaces allows no more, EINVAL for a kind that was not compiled in.
    """
    flags = 0
    for kind in kinds:
        flags |= NAMESPACES[kind]
    _check(int(lib.zos_try_clone(flags, _STEPS[step])), "clone3" if step == "nothing" else step)


def try_pidfd_exit() -> None:
    """Reap a process of our own and ask its pidfd how it ended.

    Raises:
        KernelUnsupported: below Linux 6.15, as `pidfd_exit`.
        OSError: no process or no pidfd could be made.
    """
    result = int(lib.zos_try_pidfd_exit())
    if result in (0, -errno.ENOTTY, -errno.EINVAL, -errno.ESRCH):
        raise KernelUnsupported("the kernel does not say how a process ended that is not our child (Linux 6.15 does)")
    _check(result, "PIDFD_GET_INFO")


def try_pre_access(path: str | Path) -> None:
    """Open a fanotify group that is asked before a file below `path` is read; nobody is asked.

    Raises:
        OSError: EINVAL below Linux 6.14, EPERM without CAP_SYS_ADMIN, EOPNOTSUPP where the file system has none.
    """
    _check(int(lib.zos_try_pre_access(os.fsencode(path))), "fanotify_mark", str(path))
