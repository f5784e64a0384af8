"""What this machine can do at most: what every other figure is to be seen against."""

from __future__ import annotations

import mmap
from contextlib import suppress

import pytest

from bench.duel import Duel, Rival, Work, throughput
from bench.peers.arena import HUGE_BYTES

SIZES = {"64KiB": 64 << 10, "1MiB": 1 << 20, "128MiB": 128 << 20}
TOUCHED = 8 << 20


def _touched(length: int) -> memoryview:
    """Memory with the pages that the roofline's has (BENCH-PEER-8)."""
    memory = mmap.mmap(-1, length, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    if length >= HUGE_BYTES:
        with suppress(OSError):  # a kernel without transparent huge pages
            memory.madvise(mmap.MADV_HUGEPAGE)
    view = memoryview(memory)
    view[:] = bytes(length)
    return view


@pytest.mark.parametrize("size", list(SIZES))
def bench_memory(duel: Duel, size: str) -> None:
    """Copying from Python, which is memcpy(3) and the call, beside a C loop; hot, in the last cache, in DRAM."""
    length = SIZES[size]
    source, target = _touched(length), _touched(length)
    numbers = {"bytes": length}

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
