"""BLAKE3 of many chunks in one call, beside the wheel of its authors and SHA-256: GB/s on one core."""

from __future__ import annotations

import hashlib
import os
import time
from array import array
from collections.abc import Callable

import pytest
from blake3 import blake3
from pytest_benchmark.fixture import BenchmarkFixture

from bench.options import Options
from bench.recorder import Recorder
from bench.rounds import in_rounds
from native import hashing

BYTES = 4 << 20
INTO, BYTES_OUT = "hash_many_into", "hash_many"
WHEEL, SHA256 = "blake3 wheel", "hashlib SHA-256"


@pytest.mark.parametrize("chunk", [4096, 65536, 262_144])
def bench_hash(benchmark: BenchmarkFixture, chunk: int, recorder: Recorder, options: Options) -> None:
    """4 MiB that stay in the cache; the others are called once for each chunk, which is how they are used."""
    data = os.urandom(BYTES)
    ends, out = array("Q", range(0, BYTES + 1, chunk)), bytearray(32 * (BYTES // chunk))
    views = [memoryview(data)[begin : begin + chunk] for begin in range(0, BYTES, chunk)]
    calls: dict[str, Callable[[], object]] = {
        WHEEL: lambda: [blake3(view).digest() for view in views],
        SHA256: lambda: [hashlib.sha256(view).digest() for view in views],
        BYTES_OUT: lambda: hashing.hash_many(data, ends),
        INTO: lambda: hashing.hash_many_into(data, ends, out),
    }
    title = f"BLAKE3 of chunks of {chunk // 1024} KiB"
    rows = [(name, "GB/s") for name in calls]
    with recorder.group(f"hash.{chunk}", title, rows, baselines=(WHEEL, SHA256), direction="rate") as group:

        def turn(name: str) -> None:
            begin_ns = time.perf_counter_ns()
            calls[name]()
            group.add(name, BYTES / (time.perf_counter_ns() - begin_ns))

        def others() -> None:
            for name in calls:
                if name != INTO:
                    turn(name)

        in_rounds(benchmark, lambda: turn(INTO), others=others, rounds=options.starts)
