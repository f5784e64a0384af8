"""Blocking work in a thread, which is never left behind.

`asyncio.to_thread` returns at once when its caller is cancelled, and the thread works on: into descriptors that are
closed by then, into directories that are being removed. `in_thread` waits for it.

The one exception is `in_thread_apart`: for reading a path that somebody else chose, on a file system (NFS, FUSE) that
may never answer. The kernel lets go of such a thread when it likes; nothing of ours waits for it.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import ParamSpec, TypeVar

__all__ = ["in_stoppable_thread", "in_thread", "in_thread_apart"]

P = ParamSpec("P")
T = TypeVar("T")

APART_MAX = 128
"""Threads apart at once: so many are such that wait for a store, or hang."""


async def in_thread(work: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """`work(...)` in a thread of the loop's pool. When cancelled, first lets it come to its end, then is."""
    pool = asyncio.get_running_loop().run_in_executor(None, partial(work, *args, **kwargs))
    return await _to_its_end(pool, lambda: None)


async def in_stoppable_thread(stop: Callable[[], None], work: Callable[[], T]) -> T:
    """The same for work that may wait for long: when cancelled, calls `stop`, on which the work has to end soon.

    The thread is none of the pool, of which a few that wait would hold up everything else.
    """
    return await _to_its_end(_begin_apart(work), stop)


async def _to_its_end(future: asyncio.Future[T], stop: Callable[[], None]) -> T:
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


class _Apart:
    """Threads of which each ends when there is no more to do, and none is waited for."""

    def __init__(self, threads_max: int) -> None:
        self._threads_max = threads_max
        self._lock = threading.Lock()
        self._jobs: deque[Callable[[], None]] = deque()
        self._running = 0

    def begin(self, job: Callable[[], None]) -> None:
        """Have it done; while as many as may be hang, by whichever comes back first."""
        with self._lock:
            self._jobs.append(job)
            if self._running == self._threads_max:
                return
            self._running += 1
        try:
            threading.Thread(target=self._work, name="apart", daemon=True).start()
        except BaseException:
            with self._lock:
                self._running -= 1
            raise

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._jobs:
                    self._running -= 1
                    return
                job = self._jobs.popleft()
            job()


_apart = _Apart(APART_MAX)


async def in_thread_apart(work: Callable[[], T]) -> T:
    """`work()` in a thread that, when this is cancelled, is left behind, and not waited for at the program's end.

    For work that holds and changes nothing of ours. Beyond `APART_MAX` that hang it waits for one of them.
    """
    return await _begin_apart(work)


def _begin_apart(work: Callable[[], T]) -> asyncio.Future[T]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def tell(settle: Callable[[], None]) -> None:
        with suppress(RuntimeError):  # the loop is closed: nobody waits any more
            loop.call_soon_threadsafe(lambda: None if future.done() else settle())

    def job() -> None:
        if future.done():
            return
        try:
            result = work()
        except BaseException as error:  # noqa: BLE001 (it is raised where `work` is waited for)
            tell(partial(future.set_exception, error))
        else:
            tell(partial(future.set_result, result))

    _apart.begin(job)
    return future
