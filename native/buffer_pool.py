"""Memory for shards that is taken once: huge pages where the kernel gives them, touched before the first use.

A page fault costs more than hashing and erasure coding the page (2.2 us for 4 KiB on a Zen 4), so buffers are
used again and again. Shards of a stripe lie `shard_bytes + SKEW_BYTES` apart: at distances that are powers of two the
streams of a code would evict each other from the caches.
"""

from __future__ import annotations

import mmap
from collections import deque
from types import TracebackType
from typing import Final, Self

from native.erasure_errors import BufferUnusable, PoolExhausted, ShapeInvalid, ShardEmpty

__all__ = ["ALIGN_BYTES", "SKEW_BYTES", "BufferPool", "Stripe"]

SKEW_BYTES: Final = 4160
"""One page and one cache line: +15 to 27 % of read speed of 16 streams in DRAM against no skew, on a Zen 4."""
ALIGN_BYTES: Final = 64
"""Shards begin at a cache line, as streaming stores want it."""
POOL_BYTES_MAX: Final = 1 << 40
SHARDS_MAX: Final = 255
_MADV_POPULATE_WRITE: Final = 23
"""madvise(2), Linux 5.14; not in the mmap module of Python 3.11."""


class Stripe:
    """Buffers for one stripe, in use until `release`; as a context manager, until the end of the block.

    Attributes:
        shards: a writable memoryview for each shard; their contents are whatever the last user left. After `release`
            they are closed, and a call that is given one is refused.
    """

    def __init__(self, pool: BufferPool, number: int) -> None:
        """Made by `BufferPool.stripe` alone."""
        self._pool = pool
        self._number = number
        self.shards: list[memoryview] = pool._views(number)

    def release(self) -> None:
        """Give the buffers back; once more does nothing.

        Raises:
            BufferUnusable: a shard is still in use, by a call of another thread or something that exports it. The
                stripe stays in use then; call again later. Slices of a shard are not seen: drop them before.
        """
        if self._number < 0:
            return
        for shard in self.shards:
            try:
                shard.release()
            except BufferError as error:
                raise BufferUnusable(
                    "a shard of the stripe is still in use", hint="release what was made of it"
                ) from error
        number, self._number = self._number, -1
        self._pool._take_back(number)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()


class BufferPool:
    """A fixed number of stripes in one piece of memory. May be used by several threads."""

    def __init__(self, *, shards: int, shard_bytes: int, stripes: int = 1) -> None:
        """Take the memory, and touch all of it.

        Args:
            shards: of a stripe, 1 to 255: k + m.
            shard_bytes: length of a shard.
            stripes: how many can be in use at once.

        Raises:
            ShapeInvalid: shards or stripes out of their limits, or all together over 1 TiB.
            ShardEmpty: shard_bytes is not positive.
            MemoryError: the system has not so much.
        """
        if not 1 <= shards <= SHARDS_MAX or stripes < 1:
            raise ShapeInvalid(f"shards must be 1 to {SHARDS_MAX}, stripes 1 and more")
        if shard_bytes < 1:
            raise ShardEmpty("a shard has at least one byte")
        self.shard_bytes: Final = shard_bytes
        self.stride_bytes: Final = -(-shard_bytes // ALIGN_BYTES) * ALIGN_BYTES + SKEW_BYTES
        self.shards: Final = shards
        total_bytes = self.stride_bytes * shards * stripes
        if total_bytes > POOL_BYTES_MAX:
            raise ShapeInvalid(f"the pool would have more than {POOL_BYTES_MAX} bytes")
        try:
            self._arena: mmap.mmap | None = mmap.mmap(-1, total_bytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        except OSError as error:
            raise MemoryError(f"no {total_bytes} bytes for a pool: {error}") from error
        self._touch(self._arena, total_bytes)
        self._free = deque(range(stripes))
        self._stripes = stripes

    @staticmethod
    def _touch(arena: mmap.mmap, total_bytes: int) -> None:
        """Fault every page in, as huge ones if possible."""
        try:
            arena.madvise(mmap.MADV_HUGEPAGE)
        except OSError:
            # A kernel without transparent huge pages says EINVAL: small pages do as well, with more misses of the TLB.
            pass
        try:
            arena.madvise(_MADV_POPULATE_WRITE)
        except OSError:
            # Before Linux 5.14: a write to each page.
            for at in range(0, total_bytes, mmap.PAGESIZE):
                arena[at] = 0

    def _views(self, number: int) -> list[memoryview]:
        if self._arena is None:
            raise PoolExhausted("the pool is closed")
        with memoryview(self._arena) as whole:
            begin = number * self.shards * self.stride_bytes
            starts = range(begin, begin + self.shards * self.stride_bytes, self.stride_bytes)
            return [whole[start : start + self.shard_bytes] for start in starts]

    def _take_back(self, number: int) -> None:
        # The one used last is warm.
        self._free.appendleft(number)

    def stripe(self) -> Stripe:
        """Buffers for one stripe.

        Raises:
            PoolExhausted: all are in use, or the pool is closed.
        """
        try:
            number = self._free.popleft()
        except IndexError:
            reason = (
                "the pool is closed" if self._arena is None else f"all {self._stripes} stripes of the pool are in use"
            )
            raise PoolExhausted(reason, hint="release one, or make a larger pool") from None
        return Stripe(self, number)

    def close(self) -> None:
        """Give the memory back; once more does nothing.

        Raises:
            BufferUnusable: a stripe is still in use. The pool stays open then.
        """
        if self._arena is None:
            return
        try:
            self._arena.close()
        except BufferError as error:
            raise BufferUnusable("a stripe of the pool is still in use", hint="release it first") from error
        self._arena = None
        self._free.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
