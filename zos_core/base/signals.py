"""SIGINT and SIGTERM while a coroutine runs: to one listener at a time, each signal once.

asyncio.Runner has a handler of its own for SIGINT, and a loop that gets one later hears the same signal once more out
of its wake-up pipe. So a program listens from its first step on, and a block that wants the signals for itself borrows
them.
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

__all__ = ["Listener", "signals_to"]

Listener = Callable[[signal.Signals], None]
"""Called on the loop, outside of any task."""

_listener: ContextVar[Listener | None] = ContextVar("listener", default=None)


@contextmanager
def signals_to(listener: Listener) -> Iterator[None]:
    """While the block runs both signals go to `listener`; afterwards to who had them before, or to nobody here."""
    before = _listener.get()
    _listen(listener)
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)
        _listen(before)


def _listen(listener: Listener | None) -> None:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        if listener is None:
            loop.remove_signal_handler(number)
        else:
            loop.add_signal_handler(number, listener, number)
