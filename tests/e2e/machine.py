"""What a run could leave behind on a machine, as one snapshot that can be compared with a later one."""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, fields
from pathlib import Path

from zos_core.network.plan import tag_of

__all__ = ["Snapshot", "snapshot"]

# What a node might be tempted to change for its containers' network.
SYSCTLS = (
    "net/ipv4/ip_forward",
    "net/ipv4/conf/all/forwarding",
    "net/ipv4/conf/all/route_localnet",
    "net/ipv4/conf/all/rp_filter",
    "net/ipv4/conf/default/rp_filter",
    "net/ipv6/conf/all/forwarding",
    "net/ipv4/ip_unprivileged_port_start",
    "kernel/core_pattern",
    "kernel/pid_max",
    "user/max_user_namespaces",
    "fs/pipe-max-size",
)
# What does not bear an instance's name, and that nobody else is likely to change within seconds. Of loop devices only
# those that zos made are looked at: the whole machine shares them, and a build beside this may mount its own.
NAMELESS = ("loops", "sysctls")
LOOP_GET_STATUS64 = 0x4C05
# lo_file_name in struct loop_info64, 232 bytes; native/crates/linux/src/loopdev.rs writes it.
LOOP_NAME = slice(56, 120)
# The control groups of the whole machine are seen from every namespace, those of other instances among them.
SHARED = ("cgroups",)
NAMESPACES = ("cgroup", "ipc", "mnt", "net", "pid", "user", "uts")


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """Names of everything of a kind; what other programs of the machine make meanwhile is theirs to explain."""

    mounts: frozenset[str]
    processes: frozenset[str]
    namespaces: frozenset[str]
    cgroups: frozenset[str]
    unix_sockets: frozenset[str]
    tcp_listeners: frozenset[str]
    loops: frozenset[str]
    links: frozenset[str]
    sysctls: frozenset[str]
    run_files: frozenset[str]
    state: frozenset[str]

    def difference(self, later: Snapshot, *, instance: str, alone: bool) -> list[str]:
        """What `later` has more or less, a line each: `+mounts: ...`, `-links: ...`.

        Other programs of the machine come and go meanwhile, so beside `NAMELESS` only what bears the instance's marks
        counts. `alone`: this is a world of its own (tests/e2e/alone.sh), where everything counts but what is `SHARED`.
        """
        lines = []
        for field in fields(self):
            before: frozenset[str] = getattr(self, field.name)
            after: frozenset[str] = getattr(later, field.name)
            changed = [("+", name) for name in sorted(after - before)] + [
                ("-", name) for name in sorted(before - after)
            ]
            all_count = field.name in NAMELESS or (alone and field.name not in SHARED)
            marks = _marks(instance)
            lines += [
                f"{sign}{field.name}: {name}"
                for sign, name in changed
                if all_count or any(mark in name for mark in marks)
            ]
        return lines

    def of(self, instance: str) -> list[str]:
        """What of it is an instance's, a line each; what only its neighbours on this machine have is not."""
        marks = _marks(instance)
        return [
            f"{field.name}: {name}"
            for field in fields(self)
            for name in sorted(getattr(self, field.name))
            if any(mark in name for mark in marks)
        ]


def _marks(instance: str) -> tuple[str, ...]:
    """What the names of an instance's things contain."""
    return instance, f"z{tag_of(instance)}-"


def snapshot(*, exclude_pids: frozenset[int] = frozenset()) -> Snapshot:
    """Look at the machine. Kernel threads, this process and `exclude_pids` are not counted.

    The caller's own helpers (a hub that it started itself) are excluded by pid where they are meant to live on.
    """
    pids = [pid for pid in _pids() if pid not in exclude_pids and not _is_nobodys(pid)]
    return Snapshot(
        mounts=frozenset(_mounts()),
        processes=frozenset(_process(pid) for pid in pids),
        namespaces=frozenset(name for pid in pids for name in _namespaces(pid)),
        cgroups=frozenset(_cgroups()),
        unix_sockets=frozenset(_unix_sockets()),
        tcp_listeners=frozenset(_tcp_listeners()),
        loops=frozenset(_loops()),
        links=frozenset(os.listdir("/sys/class/net")),
        sysctls=frozenset(_sysctls()),
        run_files=frozenset(_names(Path("/run/zos"))),
        state=frozenset(_names(Path("/var/lib/zos"))),
    )


def _pids() -> Iterator[int]:
    return (int(name) for name in os.listdir("/proc") if name.isdecimal())


def _is_nobodys(pid: int) -> bool:
    """A kernel thread, or one that has ended and that init reaps when it comes to it."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    state, parent, *_, flags = stat.rpartition(")")[2].split()[:7]  # proc_pid_stat(5), from the third field on
    return bool(int(flags) & 0x00200000) or (state, parent) == ("Z", "1")  # PF_KTHREAD


def _process(pid: int) -> str:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
        command = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return f"{pid} (ended)"
    return f"{_instance(pid)}{pid} started {stat.rpartition(')')[2].split()[19]}: {command.strip() or stat.split()[1]}"


def _instance(pid: int) -> str:
    """The instance a process belongs to: as hold tells its services, or, of a container, by its control group."""
    try:
        variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
        group = Path(f"/proc/{pid}/cgroup").read_text()
    except OSError:
        return ""
    found = [each.partition(b"=")[2].decode() for each in variables if each.startswith(b"ZOS_INSTANCE=")]
    found += re.findall(r"/zos/([^/\n]+)/", group)
    return f"[{found[0]}] " if found else ""


def _namespaces(pid: int) -> Iterator[str]:
    for kind in NAMESPACES:
        try:
            yield _instance(pid) + os.readlink(f"/proc/{pid}/ns/{kind}")
        except OSError:
            return


def _mounts() -> Iterator[str]:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        parts = line.split()
        yield f"{parts[4]} {parts[parts.index('-') + 1]}"


def _cgroups() -> Iterator[str]:
    for root in (Path("/sys/fs/cgroup/unified"), Path("/sys/fs/cgroup")):
        if (root / "cgroup.procs").exists():
            yield from (str(path) for path in root.rglob("*") if path.is_dir() and not path.is_symlink())
            return


def _unix_sockets() -> Iterator[str]:
    for line in Path("/proc/net/unix").read_text().splitlines()[1:]:
        parts = line.split(maxsplit=7)
        if len(parts) == 8:
            yield parts[7]


def _tcp_listeners() -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            parts = line.split()
            if parts[3] == "0A":
                yield f"{table} {parts[1]}"


def _loops() -> Iterator[str]:
    """Those that zos attached, in any of the machine's namespaces."""
    for device in Path("/sys/block").glob("loop*"):
        try:
            backing = (device / "loop/backing_file").read_text().strip()
            with open(f"/dev/{device.name}", "rb", buffering=0) as file:
                info = fcntl.ioctl(file, LOOP_GET_STATUS64, bytes(232))
        except OSError:
            continue  # nothing is behind it, or not any more
        if info[LOOP_NAME].rstrip(b"\0") == b"zos":
            yield f"{device.name} {backing}"


def _sysctls() -> Iterator[str]:
    for name in SYSCTLS:
        try:
            yield f"{name}={Path('/proc/sys', name).read_text().strip()}"
        except OSError:
            continue


def _names(directory: Path) -> Iterator[str]:
    if directory.is_dir():
        yield from (path.name for path in directory.iterdir())
