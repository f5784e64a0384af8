"""Control groups for a moment: whoever opened them is put back where it was, and what was handed down is taken back."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from zos_core.base.paths import Instance
from zos_core.base.threads import in_thread
from zos_core.host import cgroupfs
from zos_core.host.cgroup import CgroupTree
from zos_core.host.errors import CgroupUnavailable
from zos_core.host.layout import BaseKind

__all__ = ["visiting"]


@asynccontextmanager
async def visiting(instance: Instance) -> AsyncIterator[None]:
    """Within, `CgroupTree.open` may be called for `instance`; at the end nothing of it is left.

    `CgroupTree.open` moves the calling process where systemd or the kernel asks for it, which suits a node; a tool that
    only looks goes back. The instance's own processes must have ended by then.

    Raises:
        CgroupBusy: they have not.
        CgroupFailed: the kernel refused.
    """
    home, handed_down = await in_thread(_now)
    try:
        yield
    finally:
        await asyncio.shield(_leave(instance, home, handed_down))


def _now() -> tuple[Path | None, Mapping[Path, frozenset[str]]]:
    """Our group, and what each group that may become a base hands down."""
    try:
        mount = cgroupfs.find_mount()
    except CgroupUnavailable:
        return None, {}
    home = cgroupfs.directory_of(mount, "self")
    places = [mount.path, *([home] if home is not None else [])]
    known = [place for base in places for place in (base, base / "zos") if place.is_dir()]
    return home, {place: frozenset(cgroupfs.words(place / "cgroup.subtree_control")) for place in known}


async def _leave(instance: Instance, home: Path | None, handed_down: Mapping[Path, frozenset[str]]) -> None:
    if home is None:
        return
    tree = await CgroupTree.find(instance)
    if tree is None:
        return
    await tree.reconcile(())
    await in_thread(_go_home, tree, home, handed_down)
    await tree.remove()


def _go_home(tree: CgroupTree, home: Path, handed_down: Mapping[Path, frozenset[str]]) -> None:
    base = tree.layout.path
    with cgroupfs.failing(base, "leave"):
        # A scope goes with its last process. Elsewhere a group that hands something down takes no process back.
        for place in (tree.path, base / "zos", base) if tree.layout.kind is not BaseKind.SCOPE else ():
            more = frozenset(cgroupfs.words(place / "cgroup.subtree_control")) - handed_down.get(place, frozenset())
            for name in sorted(more):
                cgroupfs.write(place / "cgroup.subtree_control", f"-{name}")
        if os.getpid() not in cgroupfs.pids(home):
            cgroupfs.move([os.getpid()], home)
