"""Blocking work in a thread, which is never left behind.

`asyncio.to_thread` returns at once when its caller is cancelled, and the thread works on: into descriptors that are
closed by then, into directories that are being removed. `in_thread` waits for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import partial
from typing import ParamSpec, TypeVar

__all__ = ["in_stoppable_thread", "in_thread"]

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(...)` in a thread of the loop's pool. When cancelled, first lets it come to its end, then is."""
    return await in_stoppable_thread(lambda: None, partial(work, *args, **kwargs))


async def in_stoppable_thread(stop: Callable[[], None], work: Callable[[], T]) -> T:
    """The same for work that may wait for long: when cancelled, calls `stop`, on which the work has to end soon."""
    future = asyncio.get_running_loop().run_in_executor(None, work)
    try:
        return await asyncio.shield(future)
    except asyncio.CancelledError:
        stop()
        while not future.done():
            try:
                await asyncio.wait([future])
            except asyncio.CancelledError:
                continue  # a second Ctrl-C: the thread still has to end before anything is taken from under it
        if not future.cancelled():
            future.exception()  # retrieved; the cancellation counts more
        raise
