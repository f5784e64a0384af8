"""Control groups on this machine, whatever its layout: made, killed, removed, and nothing left."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from zos_core.base.paths import Instance
from zos_core.host import CgroupBusy, CgroupFailed, CgroupTree, LimitInvalid, Limits, cgroup
from zos_core.host.cgroupfs import find_mount
from zos_core.host.events import wait_empty
from zos_core.host.layout import Base, BaseKind, CgroupMount
from zos_core.host.visit import visiting

pytestmark = pytest.mark.root


@pytest.fixture
def instance() -> Instance:
    return Instance(f"t-net-{uuid.uuid4().hex[:6]}")


@pytest.fixture
def base() -> Iterator[Base]:
    """A directory of the hierarchy for this test alone, which is empty and gone afterwards."""
    path = find_mount().path / f"t-net-{uuid.uuid4().hex[:6]}"
    path.mkdir()
    yield Base(kind=BaseKind.OWN, path=path)
    assert [entry.name for entry in path.iterdir() if entry.is_dir()] == []
    path.rmdir()


@contextmanager
def process_in(group: Path, command: str = "exec sleep 600") -> Iterator[subprocess.Popen[bytes]]:
    """A process that is in the group when the body runs."""
    enter = f"echo $$ > {group}/cgroup.procs && echo in && {{ {command}; }}"
    with subprocess.Popen(["sh", "-c", enter], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"in\n"
        try:
            yield child
        finally:
            if child.poll() is None:
                child.kill()


async def test_host_cgroup_life_of_a_group(instance: Instance, base: Base) -> None:
    tree = await CgroupTree.open(instance, base=base)
    assert tree.path == base.path / "zos" / instance.name
    group = await tree.create("web", Limits(memory_bytes=64 << 20, cpu_milli=500, pids=100))
    assert [state.name for state in group.limits] == ["memory", "cpu", "pids"]
    for state in group.limits:
        assert (state.enforced is None) == (state.reason is not None), state
    with process_in(group.path) as child:
        statistics = await group.statistics()
        assert statistics.processes == 1
        assert statistics.cpu_us is not None
        with pytest.raises(CgroupBusy):
            await group.remove()
        async with asyncio.TaskGroup() as tasks:
            waiting = tasks.create_task(group.wait_empty())
            await group.kill()
            async with asyncio.timeout(10):
                await waiting
        assert child.wait() == -signal.SIGKILL
    await group.wait_empty()
    await group.remove()
    await group.remove()
    await group.kill()
    await group.wait_empty()
    await tree.remove()
    await tree.remove()


async def test_host_cgroup_create_again_adopts(instance: Instance, base: Base) -> None:
    tree = await CgroupTree.open(instance, base=base)
    first = await tree.create("web", Limits(pids=64))
    with process_in(first.path):
        again = await CgroupTree.open(instance, base=base)
        assert again == tree
        assert await again.create("web", Limits(pids=64)) == first
        assert again.names() == ["web"]
        assert await again.reconcile(["web"]) == []
        assert (await first.statistics()).processes == 1
        assert await again.reconcile([]) == ["web"]
    assert not first.path.exists()
    await tree.remove()


async def test_host_cgroup_what_forks_is_killed_as_well(instance: Instance, base: Base) -> None:
    tree = await CgroupTree.open(instance, base=base)
    group = await tree.create("storm", Limits())
    with process_in(group.path, "while :; do sh -c 'sleep 600 & sleep 600 &' & done"):
        await group.kill()
        async with asyncio.timeout(20):
            await group.wait_empty()
        await group.remove()
    await tree.remove()


async def test_host_cgroup_waiting_is_cancelled_cleanly(instance: Instance, base: Base) -> None:
    tree = await CgroupTree.open(instance, base=base)
    group = await tree.create("web", Limits())
    before = len(os.listdir("/proc/self/fd"))
    with process_in(group.path):
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await group.wait_empty()
    assert len(os.listdir("/proc/self/fd")) == before
    await tree.remove()


async def test_host_cgroup_groups_within_a_group_go_with_it(instance: Instance, base: Base) -> None:
    tree = await CgroupTree.open(instance, base=base)
    group = await tree.create("web", Limits())
    (group.path / "a" / "b").mkdir(parents=True)
    with process_in(group.path / "a" / "b"):
        with pytest.raises(CgroupBusy):
            await group.remove()
        await group.kill()
        await group.wait_empty()
    await group.remove()
    assert not group.path.exists()
    await tree.remove()


@pytest.mark.parametrize("name", ["", "a/b", "a\0b", "a\nb", "x" * 254])
async def test_host_cgroup_names_that_cannot_be(instance: Instance, base: Base, name: str) -> None:
    tree = await CgroupTree.open(instance, base=base)
    with pytest.raises(CgroupFailed):
        await tree.create(name, Limits())
    await tree.remove()


@pytest.mark.parametrize("name", ["memory.max", "cgroup.procs", "system", "..", "x" * 253])
async def test_host_cgroup_names_that_look_like_something_else(instance: Instance, base: Base, name: str) -> None:
    tree = await CgroupTree.open(instance, base=base)
    group = await tree.create(name, Limits())
    assert group.path.parent == tree.path
    assert tree.names() == [name]
    await tree.remove()


async def test_host_cgroup_limits_below_the_minimum_make_nothing(instance: Instance, base: Base) -> None:
    tree = await CgroupTree.open(instance, base=base)
    with pytest.raises(LimitInvalid, match="below the minimum of 16 MiB"):
        await tree.create("web", Limits(memory_bytes=1 << 20))
    assert tree.names() == []
    await tree.remove()


async def test_host_cgroup_found_again_wherever_it_is(instance: Instance, base: Base) -> None:
    assert await CgroupTree.find(instance) is None
    tree = await CgroupTree.open(instance, base=base)
    found = await CgroupTree.find(instance)
    assert found is not None
    assert found.path == tree.path
    assert (await CgroupTree.open(instance)).path == tree.path
    await found.remove()
    assert await CgroupTree.find(instance) is None


async def test_host_cgroup_of_the_same_name_by_another_is_not_ours(instance: Instance, base: Base) -> None:
    (base.path / "zos" / instance.name).mkdir(parents=True)
    assert await CgroupTree.find(instance) is None
    (base.path / "zos" / instance.name).rmdir()
    (base.path / "zos").rmdir()


async def test_host_cgroup_two_instances_come_and_go(instance: Instance, base: Base) -> None:
    other = Instance("t-net-other")
    for _ in range(5):
        async with asyncio.TaskGroup() as tasks:
            mine = tasks.create_task(CgroupTree.open(instance, base=base))
            theirs = tasks.create_task(CgroupTree.open(other, base=base))
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(mine.result().remove())
            tasks.create_task(theirs.result().remove())
    assert not (base.path / "zos").exists()


async def test_host_cgroup_on_this_machine_says_what_is_not_in_force(instance: Instance) -> None:
    """The machine's own layout: each limit is in force as the kernel says, or the reason is there."""
    async with visiting(instance):  # where systemd rules, this very process is moved into the scope
        tree = await CgroupTree.open(instance)
        assert tree.controllers | tree.reasons.keys() == {"cpu", "memory", "pids"}
        assert not tree.controllers & tree.reasons.keys()
        group = await tree.create("web", Limits(memory_bytes=64 << 20, cpu_milli=500, pids=100))
        for state in group.limits:
            if state.name in tree.controllers:
                assert state.enforced == state.requested
            else:
                assert state.reason == tree.reasons[state.name]
        unasked = await tree.create("free", Limits())
        assert {(state.requested, state.enforced, state.reason) for state in unasked.limits} == {(None, None, None)}
    assert not tree.path.exists()


def _free_controller() -> str:
    """Some controller of version 2 that can stand for the three where version 1 holds those."""
    for name in (find_mount().path / "cgroup.controllers").read_text().split():
        return name
    pytest.skip("no controller of cgroup v2 is free on this machine")


async def test_host_cgroup_hold_is_moved_to_a_leaf_so_that_controllers_can_be_handed_down(
    instance: Instance, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    controller = _free_controller()
    root = find_mount().path / "cgroup.subtree_control"
    had = controller in root.read_text().split()
    monkeypatch.setattr(cgroup, "CONTROLLERS", (controller,))
    if not had:
        root.write_text(f"+{controller}")
    try:
        script = "sleep 600 & echo $!; wait"
        with process_in(base.path, script) as hold:
            assert hold.stdout is not None
            service = int(hold.stdout.readline())
            stranger = await CgroupTree.open(instance, base=base, processes=[os.getpid()])
            assert "other processes" in stranger.reasons[controller]
            assert stranger.controllers == frozenset()
            tree = await CgroupTree.open(instance, base=base, processes=[hold.pid])
            assert tree.controllers == {controller}
            leaf = tree.path / "system"
            assert set((leaf / "cgroup.procs").read_text().split()) == {str(hold.pid), str(service)}
            assert controller in (tree.path / "cgroup.subtree_control").read_text().split()
            group = await tree.create("web", Limits())
            assert (group.path / "cgroup.controllers").read_text().split() == [controller]
            monkeypatch.setattr(cgroup, "LEAVE_TIMEOUT_S", 0.05)
            with pytest.raises(CgroupBusy):
                await tree.remove()
            os.kill(service, signal.SIGKILL)
            hold.wait()
            await wait_empty(leaf)
            await tree.remove()
    finally:
        if not had:
            (base.path / "cgroup.subtree_control").write_text(f"-{controller}")
            root.write_text(f"-{controller}")


async def test_host_cgroup_a_scope_that_goes_while_it_is_looked_for(
    instance: Instance, base: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """systemd puts a scope away when its last process has ended: between our finding it and our reading of it."""
    search = cgroup._search

    def found_and_gone(mount: CgroupMount, wanted: Instance) -> Base | None:
        found = search(mount, wanted)
        assert found is not None
        (found.path / "zos" / wanted.name).rmdir()
        (found.path / "zos").rmdir()
        return found

    await CgroupTree.open(instance, base=base)
    monkeypatch.setattr(cgroup, "_search", found_and_gone)
    assert await CgroupTree.find(instance) is None
