"""The tasks of one supervisor: what goes on without whoever asked for it, and what must not be left half done.

All of them are children of one group: an error that nobody has handled ends the supervisor, and its successor's
`reconcile` begins where it broke off.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import TypeVar

from native.errors import ZosError
from zos_core.base.errors import DescriptorsExhausted, DiskFull
from zos_core.base.frame import PeerGone

__all__ = ["SCARCE", "Tasks"]

log = logging.getLogger("zos.supervisor")

T = TypeVar("T")

# What has to be done in the end, and cannot be while a disk or a limit is full, is tried again after so long.
SCARCE = (DescriptorsExhausted, DiskFull)
SCARCE_INTERVAL_S = 0.5
# How often what is being called off is told to end: it may only now have got the name by which it is told.
HURRY_INTERVAL_S = 0.1


class Tasks:
    """Begins tasks in `group`, and keeps those that nobody waits for."""

    def __init__(self, group: asyncio.TaskGroup) -> None:
        self._group = group
        self._kept: set[asyncio.Task[None]] = set()

    def begin(self, work: Coroutine[None, None, T], name: str) -> asyncio.Task[T]:
        """A task of this supervisor.

        Raises:
            PeerGone: it is on its way down; whoever asked asks the next one.
        """
        try:
            return self._group.create_task(work, name=name)
        except RuntimeError as error:  # the group begins nothing more
            work.close()
            raise PeerGone("the supervisor is ending", sent=False) from error

    def background(self, work: Coroutine[None, None, None], name: str) -> None:
        """Begin something for which nobody waits."""
        task = self.begin(work, name)
        self._kept.add(task)
        task.add_done_callback(self._kept.discard)

    def abandon(self) -> None:
        """Give up everything for which nobody waits."""
        for task in list(self._kept):
            task.cancel()

    async def in_the_end(self, work: Callable[[], Awaitable[None]], what: str) -> None:
        """Do something that must not be left undone: again and again while a disk or a limit is full."""
        told = False
        while True:
            try:
                return await work()
            except SCARCE as error:
                if not told:
                    log.warning("%s waits: %s", what, error)
                told = True
                await asyncio.sleep(SCARCE_INTERVAL_S)

    async def to_its_end(
        self, work: Coroutine[None, None, T], *, hurry: Callable[[], Awaitable[None]] | None = None
    ) -> T:
        """The result of `work`; when cancelled, first lets it come to its end, so that what it made can be undone.

        `hurry` is called meanwhile, again and again, to bring that end about.
        """
        outcome: asyncio.Future[T] = asyncio.get_running_loop().create_future()

        async def carry() -> None:
            try:
                outcome.set_result(await work)
            except ZosError as error:
                outcome.set_exception(error)
            except asyncio.CancelledError:  # given up with everything else
                outcome.cancel()
                raise

        try:
            self.background(carry(), "launch")
        except PeerGone:
            work.close()
            raise
        try:
            return await asyncio.shield(outcome)
        except asyncio.CancelledError:
            while not outcome.done():
                if hurry is not None:
                    await hurry()
                await asyncio.wait([outcome], timeout=None if hurry is None else HURRY_INTERVAL_S)
            if not outcome.cancelled():
                outcome.exception()  # retrieved; that it was called off counts more
            raise
