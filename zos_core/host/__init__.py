"""The machine below the node: where control groups may be made, and which limits are in force.

tree = await CgroupTree.open(instance, processes=(hold_pid,))  # finds or makes BASE/zos/INSTANCE
tree.path, tree.layout, tree.controllers: frozenset[str], tree.reasons: Mapping[str, str]
group = await tree.create(name, Limits(memory_bytes=..., cpu_milli=..., pids=...))  # idempotent: adopts
group.name, group.path (absolute, for spawn), group.limits: tuple[LimitState, ...]
await group.end(); await group.statistics()
tree.group(name)                              # the same without making it, for kill, wait_empty, remove
removed = await tree.reconcile(wanted_names)  # kills and removes every other group of this instance
tree = await CgroupTree.find(instance); await tree.remove()  # after hold is gone: nothing is left
check_limits(limits); parse_memory("256M") -> bytes; parse_cpus("0.5") -> thousandths  # typed errors with a hint
LimitState(name, requested, enforced: int | None, reason: str | None)
"""

from __future__ import annotations

from zos_core.host.cgroup import CgroupGroup, CgroupStatistics, CgroupTree
from zos_core.host.errors import CgroupBusy, CgroupFailed, CgroupUnavailable, LimitInvalid, SystemdRefused
from zos_core.host.limits import Limits, LimitState, check_limits, parse_cpus, parse_memory

__all__ = [
    "CgroupBusy",
    "CgroupFailed",
    "CgroupGroup",
    "CgroupStatistics",
    "CgroupTree",
    "CgroupUnavailable",
    "LimitInvalid",
    "LimitState",
    "Limits",
    "SystemdRefused",
    "check_limits",
    "parse_cpus",
    "parse_memory",
]
