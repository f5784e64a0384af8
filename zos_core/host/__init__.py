"""The machine below the node: where control groups may be made, and which limits are in force.

    tree = await CgroupTree.open(instance, processes=(hold_pid, ...))   # finds or makes `zos/<instance>`, moves hold's tree to a leaf where the kernel asks for it
    tree.path: Path; tree.controllers: frozenset[str]; tree.reasons: Mapping[str, str]; tree.layout (for `zos doctor`)
    group = await tree.create(name, Limits(memory_bytes=..., cpu_milli=..., pids=...))   # idempotent: the same call adopts after a restart
    group.name, group.path (absolute, for spawn), group.limits: tuple[LimitState, ...]
    await group.kill(); await group.wait_empty(); await group.remove(); await group.statistics()
    removed = await tree.reconcile(wanted_names)    # kills and removes every other group of this instance
    await tree.remove()                             # after hold is gone: nothing is left
    check_limits(limits); parse_memory("256M") -> bytes; parse_cpus("0.5") -> thousandths   # typed errors with a hint
    LimitState(name, requested, enforced: int | None, reason: str | None)
"""
