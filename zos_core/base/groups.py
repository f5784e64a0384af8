"""Task groups whose failure is the failure itself: callers act on typed errors, not on groups of one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

__all__ = ["plain_group"]


@asynccontextmanager
async def plain_group() -> AsyncIterator[asyncio.TaskGroup]:
    """A TaskGroup whose error, if it is one alone, comes out as it is.

    Raises:
        BaseExceptionGroup: several of its tasks failed, or the block beside them.
    """
    try:
        async with asyncio.TaskGroup() as group:
            yield group
    except BaseExceptionGroup as errors:
        if len(errors.exceptions) > 1:
            raise
        raise errors.exceptions[0] from errors.exceptions[0].__cause__
