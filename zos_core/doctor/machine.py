"""What can be tried without a process tree: namespaces, proc, seccomp, exits, fanotify, the state's file system.

Each is done once, by the calls that the node makes itself, in a process that ends at once or on a descriptor that is
closed; so nothing is left.
"""

from __future__ import annotations

import errno
import os
import shlex
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

from native.errors import ZosError
from native.kernel import NAMESPACES, is_tmpfs, try_namespaces, try_pidfd_exit, try_pre_access
from zos_core.doctor.report import Finding, not_tried

__all__ = ["machine_findings", "privileged"]

# Each container has all of these; user namespaces come later.
WANTED = ("mount", "pid", "ipc", "uts", "net", "cgroup")
SYSCTL_NAMES = {"mount": "mnt"}
MARKS = {"/run/.containerenv": "podman", "/.dockerenv": "docker"}
NAMESPACES_MAX = 15_000
# What sudo and systemd give a command, on Debian.
PATH_OF_ROOT = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def _zos() -> str:
    """How root calls this zos: root's PATH leads to no virtual environment."""
    beside = Path(sys.executable).with_name("zos")
    return "zos" if shutil.which("zos", path=PATH_OF_ROOT) or not beside.exists() else shlex.quote(str(beside))


def privileged() -> str:
    """How to come by the rights that root of the machine itself has."""
    for mark, tool in MARKS.items():
        if os.path.exists(mark):
            return f"{tool} run --privileged --device /dev/fuse ..."
    if os.path.isdir("/run/systemd/system"):
        return f"systemd-run --pipe --wait {_zos()} doctor"
    return "docker run --privileged --device /dev/fuse ..."


def machine_findings(state_root: Path) -> list[Finding]:
    """Everything that needs no process tree; `state_root` is where the node would keep its state.

    Without root the same is tried, in a user namespace where that is what gives the right.
    """
    findings = [_root(), _user_namespaces()]
    findings += [_namespaces(), _proc(), _seccomp()] if os.geteuid() == 0 else _without_root()
    findings += [_pidfd_exit(), _fanotify(state_root), _state(state_root)]
    return findings


def _root() -> Finding:
    uid = os.geteuid()
    # Nothing is tried: it is said first, because it explains the rest.
    return Finding(
        name="root",
        works=uid == 0,
        tried="geteuid(2)",
        found=f"uid {uid}",
        means="mounts, namespaces and limits are root's; without it nothing of a container can be made yet",
        command=None if uid == 0 else _as_root(),
    )


def _as_root() -> str:
    return f"sudo {_zos()} doctor" if shutil.which("sudo") else f"su -c {shlex.quote(f'{_zos()} doctor')}"


def _finding(
    name: str, tried: str, means: str, attempt: Callable[[], object], command: Callable[[OSError], str | None] | None
) -> Finding:
    try:
        attempt()
    except OSError as error:
        help_ = None if command is None else command(error)
        return Finding(name=name, works=False, tried=tried, found=_words(error), means=means, command=help_)
    except ZosError as error:
        return Finding(name=name, works=False, tried=tried, found=error.message, means=means)
    return Finding(name=name, works=True, tried=tried, found="works", means=means)


def _words(error: OSError) -> str:
    return f"{errno.errorcode.get(error.errno or 0, 'error')} ({error.strerror or error})"


def _namespaces() -> Finding:
    failed: list[tuple[str, OSError]] = []
    for kind in WANTED:
        try:
            try_namespaces([kind])
        except OSError as error:
            failed.append((kind, error))
    if not failed:
        try:
            try_namespaces(WANTED)
        except OSError as error:
            failed.append(("all at once", error))
    found = "; ".join(f"{kind}: {_words(error)}" for kind, error in failed) or "all of them, also at once"
    return Finding(
        name="namespaces",
        works=not failed,
        tried=f"clone3(2) with new {', '.join(WANTED)} namespaces",
        found=found,
        means="each container has all of them",
        command=_for_namespaces(*failed[0]) if failed else None,
    )


def _for_namespaces(kind: str, error: OSError) -> str:
    if error.errno == errno.ENOSPC and kind in NAMESPACES:
        return f"sysctl -w user.max_{SYSCTL_NAMES.get(kind, kind)}_namespaces={NAMESPACES_MAX}"
    return privileged()


def _proc() -> Finding:
    return _finding(
        "proc",
        "a new proc(5), mounted in new mount and pid namespaces",
        "each container sees its own processes and no others",
        lambda: try_namespaces(["mount", "pid"], step="proc"),
        lambda error: privileged(),
    )


def _seccomp() -> Finding:
    return _finding(
        "seccomp",
        "seccomp(2) with a filter that allows everything",
        "system calls that no container needs are refused to it",
        lambda: try_namespaces([], step="seccomp"),
        None,
    )


def _user_namespaces() -> Finding:
    return _finding(
        "user-namespaces",
        "clone3(2) with a new user namespace",
        "not needed yet: containers without root come with them",
        lambda: try_namespaces(["user"]),
        lambda error: _for_namespaces("user", error),
    )


def _without_root() -> list[Finding]:
    """Whether the kernel has it, where a user namespace gives the right to try."""
    namespaces = _finding(
        "namespaces",
        f"clone3(2) with new user, {', '.join(WANTED)} namespaces",
        "each container has all of them",
        lambda: try_namespaces(["user", *WANTED]),
        lambda error: _for_namespaces("user", error),
    )
    return [
        namespaces,
        not_tried("proc", "each container sees its own processes and no others", "needs root"),
        _seccomp(),
    ]


def _pidfd_exit() -> Finding:
    return _finding(
        "pidfd-exit",
        "PIDFD_GET_INFO of a process that was reaped",
        "how a container ended is known even from a time when hold was dead; otherwise that is reported as unknown",
        try_pidfd_exit,
        None,
    )


def _fanotify(state_root: Path) -> Finding:
    means = "not needed yet: a later zos fills images by it, without FUSE"
    existing = _existing(state_root)
    if os.geteuid() != 0:
        return not_tried("fanotify", means, "needs root")
    return _finding(
        "fanotify", f"fanotify_mark(2) with FAN_PRE_ACCESS on {existing}", means, lambda: try_pre_access(existing), None
    )


def _existing(path: Path) -> Path:
    while not path.exists():
        path = path.parent
    return path


def _state(state_root: Path) -> Finding:
    existing = _existing(state_root)
    in_memory = is_tmpfs(existing)
    return Finding(
        name="state",
        works=not in_memory,
        tried=f"statfs(2) of {existing}",
        found="a file system in memory (tmpfs)" if in_memory else "a file system on a disk",
        means="writable layers and fetched images lie there; overlay and EROFS do not work on tmpfs",
        command=f"mkdir -p {state_root} && mount DISK {state_root}" if in_memory else None,
    )
