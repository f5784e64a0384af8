"""What is known of every container, and its documents, which say the same as soon as there is room for it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from weakref import WeakValueDictionary

import msgspec

from zos_core.base.errors import DiskFull
from zos_core.containers.document import ContainerState, ExecState
from zos_core.containers.errors import NoSuchContainer, NoSuchExec
from zos_core.supervisor.registry import Registry
from zos_core.supervisor.tasks import Tasks

__all__ = ["States"]

log = logging.getLogger("zos.supervisor")


class States:
    """The states of a node's containers by name; who changes one in several steps holds its lock."""

    def __init__(self, *, registry: Registry, tasks: Tasks) -> None:
        self._registry = registry
        self._tasks = tasks
        self._states: dict[str, ContainerState] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._changed = asyncio.Condition()

    async def load(self) -> None:
        """Take up what the documents say, and nothing else."""
        self._states = await self._registry.load()

    # --- reading -------------------------------------------------------------------------------------------------

    def all(self) -> list[ContainerState]:
        """Every container, as they are now."""
        return list(self._states.values())

    def find(self, name: str) -> ContainerState | None:
        """One container, or None where there is none of that name."""
        return self._states.get(name)

    def get(self, name: str) -> ContainerState:
        """One container.

        Raises:
            NoSuchContainer: there is none of that name.
        """
        try:
            return self._states[name]
        except KeyError:
            raise _unknown(name) from None

    def current(self, state: ContainerState) -> ContainerState | None:
        """This very container as it now is; None when it was removed."""
        known = self._states.get(state.name)
        return known if known is not None and known.generation == state.generation else None

    def get_exec(self, name: str, number: str) -> ExecState:
        """One exec by its number as it stands in a path.

        Raises:
            NoSuchContainer, NoSuchExec: unknown.
        """
        for known in self.get(name).execs:
            if str(known.id) == number:
                return known
        raise NoSuchExec(f"container {name!r} has no exec {number}", name=name, number=number)

    # --- waiting -------------------------------------------------------------------------------------------------

    def lock(self, name: str) -> asyncio.Lock:
        """Orders the work on one container."""
        return self._locks.setdefault(name, asyncio.Lock())

    async def notify(self) -> None:
        """Have those that wait look again."""
        async with self._changed:
            self._changed.notify_all()

    async def wait_until(self, condition: Callable[[], bool], *, timeout_s: float) -> None:
        """Return when `condition` holds, or after `timeout_s` seconds."""
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            return

    async def ended(self, state: ContainerState, *, timeout_s: float) -> ContainerState:
        """This very container when it has ended, or after `timeout_s` seconds: a later one of its name is another.

        Raises:
            NoSuchContainer: it was removed meanwhile.
        """

        def has_ended() -> bool:
            known = self.current(state)
            return known is None or known.status == "exited"

        await self.wait_until(has_ended, timeout_s=timeout_s)
        known = self.current(state)
        if known is None:
            raise _unknown(state.name)
        return known

    # --- changing ------------------------------------------------------------------------------------------------

    def put(self, state: ContainerState) -> None:
        """Add a container, or replace what is known of it, here alone."""
        self._states[state.name] = state

    async def delete(self, name: str) -> None:
        """Forget a container and its document."""
        await self._registry.delete(name)
        self._states.pop(name, None)

    def change(self, state: ContainerState, **changes: object) -> ContainerState:
        """Change fields of a container here alone; what others have changed of it meanwhile stays."""
        changed = msgspec.structs.replace(self._states.get(state.name, state), **changes)
        self._states[state.name] = changed
        return changed

    def change_exec(self, name: str, changed: ExecState) -> ContainerState:
        """Put an exec in the place of the one with its number."""
        state = self.get(name)
        return self.change(state, execs=[changed if known.id == changed.id else known for known in state.execs])

    async def save(self, state: ContainerState, *, durable: bool = False, **changes: object) -> ContainerState:
        """Change a container in its document and here; in neither where the document cannot be written."""
        before = self._states.get(state.name)
        changed = self.change(state, **changes)
        try:
            await self._registry.save(changed, durable=durable)
        except Exception:
            known = self.current(changed)
            if known is not None and before is not None:  # what others have changed meanwhile stays
                kept = {field: getattr(before, field) for field in changes}
                self._states[state.name] = msgspec.structs.replace(known, **kept)
            raise
        return changed

    async def note(self, state: ContainerState, **changes: object) -> ContainerState:
        """As `save`, of what was found out and is so; where there is no room for the document, it is written later."""
        changed = self.change(state, **changes)
        try:
            await self._registry.save(changed, durable=False)
        except DiskFull as error:
            log.warning("the document of %s waits: %s", state.name, error)
            self.save_behind(state.name)
        return changed

    def save_behind(self, name: str) -> None:
        """Write the document of a container as it then is, in its turn; nobody waits for it.

        For what hold knows as well: that a process was made, and its pid.
        """

        async def save() -> None:
            async with self.lock(name):
                if (state := self._states.get(name)) is not None:
                    await self._registry.save(state, durable=False)

        self._tasks.background(self._tasks.in_the_end(save, f"the document of {name}"), f"save {name}")


def _unknown(name: str) -> NoSuchContainer:
    return NoSuchContainer(f"there is no container {name!r}", hint="zos ps lists those there are", name=name)
