"""What this machine can do at most: what every other figure is to be seen against."""

from __future__ import annotations

import mmap
from contextlib import ExitStack

import pytest

from bench.duel import Duel, Rival, Work, throughput
from native.buffer_pool import BufferPool

SIZES = {"64KiB": 64 << 10, "1MiB": 1 << 20, "128MiB": 128 << 20}
TOUCHED = 8 << 20


@pytest.mark.parametrize("size", list(SIZES))
def bench_memory(duel: Duel, size: str) -> None:
    """Copying from Python, which is memcpy(3) and the call, beside a C loop; hot, in the last cache, in DRAM."""
    length = SIZES[size]
    numbers = {"bytes": length}
    with ExitStack() as stack:
        # A pool for each: the pages that the roofline's have (BENCH-PEER-8).
        pools = [stack.enter_context(BufferPool(shards=1, shard_bytes=length)) for _ in range(2)]
        source, target = (stack.enter_context(pool.stripe()).shards[0] for pool in pools)

        def copy() -> None:
            target[:] = source

        duel(
            f"machine.memory.{size}",
            f"Memory of {size}",
            throughput(length),
            ours={"copy from Python": copy},
            roofs=[
                Rival("roofline", Work("roofline.memcpy", numbers), title="memcpy"),
                Rival("roofline", Work("roofline.read", numbers), title="read"),
            ],
            notes=["bytes copied or read; a copy moves each twice"],
        )


def bench_fresh(duel: Duel) -> None:
    """First touch of anonymous memory: what an allocation per call costs."""

    def touch() -> None:
        with mmap.mmap(-1, TOUCHED) as fresh:
            fresh[:: mmap.PAGESIZE] = bytes(TOUCHED // mmap.PAGESIZE)

    duel(
        "machine.fresh",
        "Fresh memory, one byte written in each page",
        throughput(TOUCHED),
        ours={"mmap, touch, munmap": touch},
        faults=True,
        roofs=[Rival("roofline", Work("roofline.fault", {"bytes": TOUCHED}), title="the same in C")],
    )
