"""Waiting for a control group to be empty, without looking again and again.

`cgroup.events` signals a change as EPOLLPRI (cgroups(7)), and is always readable besides; an event loop only asks for
readable. So an epoll of our own waits for the change, and the loop waits for that epoll.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from pathlib import Path

__all__ = ["is_populated", "wait_empty"]


def is_populated(events: bytes) -> bool:
    """Whether the text of `cgroup.events` says that a process lives in the group or below it."""
    return b"populated 1" in events.splitlines()


async def wait_empty(group: Path) -> None:
    """Return when no process lives in the group or below it; at once when the group does not exist."""
    try:
        descriptor = os.open(group / "cgroup.events", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return
    loop = asyncio.get_running_loop()
    changes = select.epoll()
    try:
        changes.register(descriptor, select.EPOLLPRI)
        while _populated_now(descriptor):
            changed: asyncio.Future[None] = loop.create_future()
            loop.add_reader(changes.fileno(), _wake, changed)
            try:
                await changed
            finally:
                loop.remove_reader(changes.fileno())
    finally:
        changes.close()
        os.close(descriptor)


def _wake(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def _populated_now(descriptor: int) -> bool:
    try:
        return is_populated(os.pread(descriptor, 4096, 0))
    except OSError as error:
        if error.errno == errno.ENODEV:  # the group was removed
            return False
        raise
