"""Where control groups of version 2 are on this machine, and which of them are ours to use. Pure: texts in, choice out.

| machine | our base | processors, memory, pids limited |
|---|---|---|
| systemd | a scope of our own, delegated to us | yes (pure v2); no (hybrid) |
| systemd out of reach (in another root), own cgroup delegated | the own cgroup | if only processes of ours are in it |
| systemd out of reach, nothing delegated | the own cgroup | no |
| no systemd | the mount as it was found | if the controllers are of version 2 |

Nothing is ever written above the base. See cgroups(7), and systemd's CGROUP_DELEGATION.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path, PurePosixPath
from typing import Final

__all__ = [
    "SYSTEM_LEAF",
    "Base",
    "BaseKind",
    "CgroupMount",
    "find_mount",
    "own_cgroup",
    "own_directory",
    "scope_directory",
    "scope_unit",
    "v1_controllers",
]

SYSTEM_LEAF: Final = "system"
"""Where the processes of hold's tree are, when the kernel wants groups with children to be without processes."""
SLICE: Final = "system.slice"
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")


class BaseKind(StrEnum):
    """Why the base is ours."""

    SCOPE = "scope"  # systemd delegated it
    OWN = "own"  # somebody delegated the cgroup we were started in
    UNDELEGATED = "undelegated"  # below our own cgroup, without touching its controllers
    ROOT = "root"  # no systemd: the mount as it was found


@dataclass(frozen=True, slots=True, kw_only=True)
class Base:
    """The directory below which everything of ours is made."""

    kind: BaseKind
    path: Path

    def __str__(self) -> str:
        return f"{self.kind} {self.path}"


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupMount:
    """A mount of cgroup2: which group its root shows (`/`, or the one bound there), and where."""

    root: PurePosixPath
    path: Path


def find_mount(mountinfo: str) -> CgroupMount | None:
    """First mount of cgroup2 in the text of /proc/self/mountinfo: pure (/sys/fs/cgroup) or hybrid (.../unified)."""
    for line in mountinfo.splitlines():
        before, separator, after = line.partition(" - ")
        fields = before.split()
        if separator and after.split(" ", 1)[0] == "cgroup2" and len(fields) >= 5:
            return CgroupMount(root=PurePosixPath(_unescape(fields[3])), path=Path(_unescape(fields[4])))
    return None


def own_cgroup(proc_cgroup: str) -> PurePosixPath | None:
    """Path of the version 2 group in the text of /proc/PID/cgroup; None where there is none."""
    for line in proc_cgroup.splitlines():
        if line.startswith("0::"):
            return PurePosixPath(line.removeprefix("0::").removesuffix(" (deleted)"))
    return None


def v1_controllers(proc_cgroup: str) -> frozenset[str]:
    """Controllers that a version 1 hierarchy holds, so that version 2 cannot have them (hybrid hosts)."""
    found: set[str] = set()
    for line in proc_cgroup.splitlines():
        number, _, rest = line.partition(":")
        if number != "0":
            found.update(name for name in rest.partition(":")[0].split(",") if name and "=" not in name)
    return frozenset(found)


def own_directory(mount: CgroupMount, own: PurePosixPath) -> Path | None:
    """Directory of a group below the mount; None when it lies outside what the mount, or our namespace, shows."""
    if not own.is_relative_to(mount.root) or ".." in own.parts:
        return None
    return mount.path / own.relative_to(mount.root)


def scope_unit(instance: str) -> str:
    """Name of the instance's scope. Names of instances have no character that systemd would want escaped."""
    return f"zos-{instance}.scope"


def scope_directory(mount: CgroupMount, instance: str) -> Path:
    """Where systemd puts that scope."""
    return mount.path / SLICE / scope_unit(instance)


def _unescape(field: str) -> str:
    """Undo the octal escapes of mountinfo (blank, tab, newline, backslash)."""
    return _ESCAPE.sub(lambda form: chr(int(form[1], 8)), field)
