"""Control groups of an instance: `BASE/zos/INSTANCE/c-NAME` for each container, with the limits that are in force.

Everything is in the kernel: the same call makes a group or finds it, so that a restarted supervisor adopts what runs.
The kernel may hold a lock of its own for milliseconds on each of these writes, so they are done in a thread.
"""

from __future__ import annotations

import asyncio
import errno
import os
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final

from zos_core.base.paths import Instance
from zos_core.base.threads import in_thread
from zos_core.host import cgroupfs, layout
from zos_core.host.errors import CgroupBusy, CgroupFailed, CgroupUnavailable, SystemdRefused
from zos_core.host.events import is_populated, wait_empty
from zos_core.host.layout import SYSTEM_LEAF, Base, BaseKind, CgroupMount
from zos_core.host.limits import KNOBS, Limits, LimitState, check_limits

__all__ = ["CgroupGroup", "CgroupStatistics", "CgroupTree"]

CONTROLLERS: Final = tuple(knob.controller for knob in KNOBS)
KILL_TIMEOUT_S: Final = 10.0
"""A killed process ends in milliseconds, unless the kernel holds it (a disk or a FUSE server that does not answer)."""
LEAVE_TIMEOUT_S: Final = 5.0
"""hold's tree has ended when its lock is free, a moment before its last process has left its group."""
GROUP_PREFIX: Final = "c-"
"""No interface file begins so: a container may be called `memory.max`, or `system`."""
NAME_BYTES_MAX: Final = 255 - len(GROUP_PREFIX)
MAKE_TRIES_MAX: Final = 16
"""`zos` is shared by the instances, and goes with the last one: it may vanish between two of our calls."""
_SEARCH_DEPTH_MAX: Final = 12
_MARK: Final = "trusted.zos"
SYSTEMD_RUNS: Final = Path("/run/systemd/system")
"""Is there where systemd is the service manager, and to be seen from here: sd_booted(3)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupStatistics:
    """What a group uses now. None: the kernel does not count it here (the controller is not of version 2)."""

    cpu_us: int | None
    memory_bytes: int | None
    memory_peak_bytes: int | None
    out_of_memory_kills: int | None
    processes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupGroup:
    """The group of one container. `path` is absolute, for spawn; `limits` are as `create` found them in force."""

    name: str
    path: Path
    limits: tuple[LimitState, ...] = ()

    async def kill(self) -> None:
        """Send SIGKILL to every process of the group, those that are being forked included; none is not an error."""
        await in_thread(_kill, self.path)

    async def wait_empty(self) -> None:
        """Return when no process lives in the group; at once when there is no such group."""
        await wait_empty(self.path)

    async def remove(self) -> None:
        """Remove the group with what was made below it; absent is not an error.

        Raises:
            CgroupBusy: a process lives in it.
        """
        await in_thread(_remove, self.path)

    async def end(self) -> None:
        """Kill what lives in the group, wait until it has ended, and remove the group; absent is not an error."""
        if await in_thread(_kill_and_remove, self.path):
            return
        await self.wait_empty()
        await self.remove()

    async def statistics(self) -> CgroupStatistics:
        """Read what the group uses.

        Raises:
            CgroupFailed: there is no such group.
        """
        return await in_thread(_statistics, self.path)


@dataclass(frozen=True, slots=True, kw_only=True)
class CgroupTree:
    """All groups of an instance.

    Attributes:
        path: `BASE/zos/INSTANCE`.
        layout: the base, and why it is ours.
        controllers: those of `cpu`, `memory` and `pids` that limit the groups below `path`.
        reasons: for each of the others, why it does not.
    """

    path: Path
    layout: Base
    controllers: frozenset[str]
    reasons: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    async def open(cls, instance: Instance, *, processes: Iterable[int] = (), base: Base | None = None) -> CgroupTree:
        """Find the instance's tree, or make it where this machine lets us.

        Args:
            instance: whose groups.
            processes: hold's; they, their descendants beside them and we ourselves are moved to a leaf where systemd
                or the kernel asks for it (a group that hands out controllers has no processes itself).
            base: where to make it, instead of choosing.

        Raises:
            CgroupUnavailable: no cgroup2 is mounted, or our own group is not visible.
            CgroupFailed: the kernel refused.
        """
        mount = cgroupfs.find_mount()
        note = None
        if base is None:
            base, note = await _choose(instance, mount, processes)
        return await in_thread(_prepare, instance, base, note, list(processes))

    @classmethod
    async def find(cls, instance: Instance) -> CgroupTree | None:
        """Find what an instance has left on this machine; nothing is made."""
        mount = cgroupfs.find_mount()
        base = await in_thread(_search, mount, instance)
        if base is None:
            return None
        path = base.path / "zos" / instance.name
        try:
            controllers = frozenset(cgroupfs.words(path / "cgroup.subtree_control"))
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV):
                raise
            return None  # systemd has just put the scope away, as it does when the last process of it has ended
        return cls(path=path, layout=base, controllers=controllers)

    def group(self, name: str) -> CgroupGroup:
        """Give the group of a container without making it, and without asking for its limits."""
        if not name or "/" in name or "\0" in name or "\n" in name or len(os.fsencode(name)) > NAME_BYTES_MAX:
            raise CgroupFailed(f"{name[:40]!r} cannot name a control group", path=str(self.path), errno=errno.EINVAL)
        return CgroupGroup(name=name, path=self.path / f"{GROUP_PREFIX}{name}")

    async def create(self, name: str, limits: Limits) -> CgroupGroup:
        """Make the group of a container and set its limits, or set the limits of the one that is there.

        Raises:
            LimitInvalid: see `check_limits`; nothing was made.
            CgroupFailed: the kernel refused the group. A limit that it refuses is in `limits`, with the reason.
        """
        check_limits(limits)
        group = self.group(name)
        states = await in_thread(self._create, group.path, limits)
        return CgroupGroup(name=name, path=group.path, limits=states)

    def names(self) -> list[str]:
        """Names of the containers that have a group."""
        try:
            entries = sorted(os.listdir(self.path))
        except FileNotFoundError:
            return []
        return [
            entry.removeprefix(GROUP_PREFIX)
            for entry in entries
            if entry.startswith(GROUP_PREFIX) and (self.path / entry).is_dir()
        ]

    async def reconcile(self, wanted: Collection[str]) -> list[str]:
        """Kill and remove every group of a container that is not wanted; gives their names.

        Raises:
            ExceptionGroup of CgroupBusy: processes that did not end in `KILL_TIMEOUT_S`.
        """
        gone = [name for name in self.names() if name not in wanted]
        async with asyncio.TaskGroup() as tasks:
            for name in gone:
                tasks.create_task(_end(self.group(name)), name=f"remove group {name}")
        return gone

    async def remove(self) -> None:
        """Remove everything, when hold's tree is gone; absent is not an error.

        Raises:
            CgroupBusy: a process of hold's tree still lives in its leaf.
        """
        await self.reconcile(())
        try:
            async with asyncio.timeout(LEAVE_TIMEOUT_S):
                await wait_empty(self.path / SYSTEM_LEAF)
        except TimeoutError:
            pass  # the removal says it
        await in_thread(self._remove)

    def _create(self, path: Path, limits: Limits) -> tuple[LimitState, ...]:
        with cgroupfs.failing(path, "make"):
            cgroupfs.make(path)
        states: list[LimitState] = []
        for knob in KNOBS:
            asked = knob.asked(limits)
            enforced = None
            reason = None if asked is None else self.reasons.get(knob.controller)
            if knob.controller in self.controllers:
                try:
                    cgroupfs.write(path / knob.file, knob.write(asked))
                    enforced = knob.read(cgroupfs.read(path / knob.file))
                except OSError as error:
                    reason = f"the kernel refused it: {os.strerror(error.errno or 0)}"
            states.append(LimitState(name=knob.name, requested=asked, enforced=enforced, reason=reason))
        if "memory" in self.controllers:
            # Memory means memory: no swap beside it, and a container that is out of it ends as a whole.
            cgroupfs.write_if_there(path / "memory.swap.max", "max" if limits.memory_bytes is None else "0")
            cgroupfs.write_if_there(path / "memory.oom.group", "1")
        return tuple(states)

    def _remove(self) -> None:
        _remove(self.path / SYSTEM_LEAF)
        _remove(self.path)
        try:
            os.rmdir(self.path.parent)
        except OSError as error:
            # Another instance has groups there, or has removed it.
            if error.errno not in (errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT):
                raise CgroupFailed(
                    f"cannot remove {self.path.parent}: {error.strerror}",
                    path=str(self.path.parent),
                    errno=error.errno or 0,
                ) from error


async def _end(group: CgroupGroup) -> None:
    try:
        async with asyncio.timeout(KILL_TIMEOUT_S):
            await group.end()
    except TimeoutError as error:
        raise CgroupBusy(
            f"processes of {group.name!r} did not end in {KILL_TIMEOUT_S:.0f} s",
            hint="the kernel holds them: does a disk or an image's source not answer?",
            path=str(group.path),
        ) from error


async def _choose(instance: Instance, mount: CgroupMount, processes: Iterable[int]) -> tuple[Base, str | None]:
    """The base, and a note on why it is not a better one."""
    found = await in_thread(_search, mount, instance)
    if found is not None and (found.kind is not BaseKind.SCOPE or _populated(found.path)):
        return found, None  # an empty scope is one that systemd is about to remove
    own = cgroupfs.directory_of(mount, "self")
    if not _managed(mount):
        return Base(kind=BaseKind.ROOT, path=mount.path), None
    from zos_core.host.systemd import start_scope  # and a D-Bus codec, for the start of a node alone

    unit = layout.scope_unit(instance.name)
    try:
        await start_scope(
            unit,
            slice=layout.SLICE,
            description=f"zos instance {instance.name}",
            processes=sorted(_with_descendants(mount, processes)),
        )
    except SystemdRefused as error:
        note = f"not delegated: {error}"
    else:
        return Base(kind=BaseKind.SCOPE, path=layout.scope_directory(mount, instance.name)), None
    if own is None:
        raise CgroupUnavailable("our own control group is not visible here", hint="mount /sys/fs/cgroup of the host")
    return Base(kind=_kind(mount, instance, own), path=own), note


def _search(mount: CgroupMount, instance: Instance) -> Base | None:
    """Base of the tree that the instance has already: a tree with containers stays where it is."""
    scope = layout.scope_directory(mount, instance.name)
    for base in (scope, mount.path):
        if (base / "zos" / instance.name).is_dir():
            return Base(kind=_kind(mount, instance, base), path=base)
    mark = _mark(instance)
    for directory, below, _ in os.walk(mount.path):
        path = Path(directory)
        if path.name == "zos" and instance.name in below and _get_mark(path / instance.name) == mark:
            return Base(kind=_kind(mount, instance, path.parent), path=path.parent)
        if len(path.parts) - len(mount.path.parts) >= _SEARCH_DEPTH_MAX:
            below.clear()
    return None


def _mark(instance: Instance) -> bytes:
    """What tells our tree from one of the same name that somebody made inside a container of his own."""
    return f"{instance.name} {os.stat('/proc/self/ns/pid').st_ino}".encode()


def _get_mark(path: Path) -> bytes | None:
    try:
        return os.getxattr(path, _MARK)
    except OSError:
        return None


def _kind(mount: CgroupMount, instance: Instance, base: Path) -> BaseKind:
    if base == layout.scope_directory(mount, instance.name):
        return BaseKind.SCOPE
    if not _managed(mount) and base == mount.path:
        return BaseKind.ROOT
    return BaseKind.OWN if _delegated(base) else BaseKind.UNDELEGATED


def _populated(path: Path) -> bool:
    try:
        return is_populated((path / "cgroup.events").read_bytes())
    except OSError:
        return False


def _managed(mount: CgroupMount) -> bool:
    """Whether systemd owns the hierarchy, seen also from within another root."""
    return (mount.path / "init.scope").is_dir() or SYSTEMD_RUNS.is_dir()


def _delegated(directory: Path) -> bool:
    """Whether systemd has written beside the group that it leaves everything below to us."""
    for attribute in ("trusted.delegate", "user.delegate"):
        try:
            if os.getxattr(directory, attribute) == b"1":
                return True
        except OSError:
            continue
    return False


def _with_descendants(mount: CgroupMount, processes: Iterable[int]) -> set[int]:
    """We, the processes given, and their descendants in the same group: containers are in others, and stay there."""
    found = {os.getpid()}
    waiting = [(pid, cgroupfs.directory_of(mount, pid)) for pid in processes]
    while waiting:
        pid, directory = waiting.pop()
        if pid in found and pid != os.getpid():
            continue
        found.add(pid)
        for child in _children(pid):
            if child not in found and cgroupfs.directory_of(mount, child) == directory:
                waiting.append((child, directory))
    return found


def _children(pid: int) -> list[int]:
    try:
        return [
            int(word)
            for task in os.listdir(f"/proc/{pid}/task")
            for word in cgroupfs.words(Path(f"/proc/{pid}/task/{task}/children"))
        ]
    except OSError:
        return []


def _prepare(instance: Instance, base: Base, note: str | None, processes: list[int]) -> CgroupTree:
    """Make the tree's directory, free the base of processes where that is asked for, hand the controllers down."""
    mount = cgroupfs.find_mount()
    shared, path = base.path / "zos", base.path / "zos" / instance.name
    leaf = path / SYSTEM_LEAF
    with cgroupfs.failing(path, "make"):
        _make_in_shared(shared, path)
        try:
            os.setxattr(path, _MARK, _mark(instance))
        except PermissionError:  # without CAP_SYS_ADMIN the tree is found only where it is expected
            pass
        reasons = _missing(base, note)
        wanted = [name for name in CONTROLLERS if name not in reasons]
        ours = _with_descendants(mount, processes)
        if base.kind is BaseKind.SCOPE:
            cgroupfs.make(leaf)
            cgroupfs.move(ours | cgroupfs.pids(base.path), leaf)
        elif wanted and (base.path / "cgroup.events").exists():  # the root of all groups, which has none, may have both
            foreign = cgroupfs.pids(base.path) - ours
            if foreign:
                reasons |= dict.fromkeys(
                    wanted, f"other processes are in {base.path}, which can hand out no controllers while they are"
                )
                wanted = []
            elif inside := cgroupfs.pids(base.path):
                cgroupfs.make(leaf)
                cgroupfs.move(inside, leaf)
    for name in wanted:
        for directory in (base.path, shared, path):
            if name in cgroupfs.words(directory / "cgroup.subtree_control"):
                continue
            try:
                cgroupfs.write(directory / "cgroup.subtree_control", f"+{name}")
            except OSError as error:
                reasons[name] = f"cannot be handed down by {directory}: {os.strerror(error.errno or 0)}"
                break
    return CgroupTree(
        path=path,
        layout=base,
        controllers=frozenset(CONTROLLERS) - reasons.keys(),
        reasons=MappingProxyType(reasons),
    )


def _missing(base: Base, note: str | None) -> dict[str, str]:
    """Controllers that this base does not have for us, and why."""
    if base.kind is BaseKind.UNDELEGATED:
        return dict.fromkeys(CONTROLLERS, note or f"{base.path} is not delegated to us")
    have = cgroupfs.words(base.path / "cgroup.controllers")
    v1 = layout.v1_controllers(cgroupfs.read(Path("/proc/self/cgroup")))
    return {
        name: (
            "the controller belongs to cgroup v1 on this host (hybrid layout)"
            if name in v1
            else f"{base.path} has no such controller"
        )
        for name in CONTROLLERS
        if name not in have
    }


def _make_in_shared(shared: Path, path: Path) -> None:
    """Make `zos` and our directory in it, also while another instance removes `zos` as its last one."""
    for _ in range(MAKE_TRIES_MAX):
        cgroupfs.make(shared)
        try:
            return cgroupfs.make(path)
        except FileNotFoundError:
            continue
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(shared))


def _kill(path: Path) -> None:
    with cgroupfs.failing(path, "kill what is in"):
        try:
            cgroupfs.write(path / "cgroup.kill", "1")
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ENODEV) or path.is_dir():
                raise


def _kill_and_remove(path: Path) -> bool:
    """Both at once, where nothing lives in the group any more: whether that was so."""
    _kill(path)
    try:
        _remove(path)
    except CgroupBusy:
        return False
    return True


def _remove(path: Path) -> None:
    """Remove a group and those below it, deepest first."""
    try:
        if is_populated((path / "cgroup.events").read_bytes()):
            raise CgroupBusy(f"processes live in {path}", hint="kill them first", path=str(path))
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise CgroupFailed(
                f"cannot read {path}: {error.strerror}", path=str(path), errno=error.errno or 0
            ) from error
        return
    with cgroupfs.failing(path, "remove"):
        for directory, _, _ in os.walk(path, topdown=False):
            try:
                os.rmdir(directory)
            except FileNotFoundError:
                continue


def _statistics(path: Path) -> CgroupStatistics:
    with cgroupfs.failing(path, "read"):
        return CgroupStatistics(
            cpu_us=cgroupfs.keyed(path / "cpu.stat", "usage_usec"),
            memory_bytes=cgroupfs.number(path / "memory.current"),
            memory_peak_bytes=cgroupfs.number(path / "memory.peak"),
            out_of_memory_kills=cgroupfs.keyed(path / "memory.events", "oom_kill"),
            processes=len(cgroupfs.pids(path)),
        )
