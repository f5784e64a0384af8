"""Merkle trees: leaves hashed and added, proofs built and verified, in us, beside the twin, hashlib in a loop."""

from __future__ import annotations

import os
import time
from array import array
from collections.abc import Callable
from types import ModuleType

from pytest_benchmark.fixture import BenchmarkFixture

from bench.options import Options
from bench.recorder import Recorder
from bench.rounds import in_rounds
from native import merkle
from native.reference import merkle as twin

LEAVES, LEAF_BYTES = 4096, 200
"""A tree of twelve levels, and about what an entry of a log has."""
OURS, TWIN = "zos", "hashlib in Python"


def bench_merkle(benchmark: BenchmarkFixture, recorder: Recorder, options: Options) -> None:
    """One group for each step, all on the same tree."""
    data, ends = os.urandom(LEAVES * LEAF_BYTES), array("Q", range(0, LEAVES * LEAF_BYTES + 1, LEAF_BYTES))
    leaves = merkle.hash_leaves(data, ends)
    nodes = merkle.extend(b"", 0, leaves)
    root, places = merkle.root(nodes, LEAVES), array("Q", range(0, LEAVES, 16))
    some = b"".join(leaves[32 * place : 32 * place + 32] for place in places)
    proofs = merkle.inclusion_proofs(nodes, LEAVES, places)
    steps: dict[str, tuple[Callable[[ModuleType], object], int]] = {
        "leaves hashed": (lambda side: side.hash_leaves(data, ends), LEAVES),
        "leaves added": (lambda side: side.extend(b"", 0, leaves), LEAVES),
        "proofs built": (lambda side: side.inclusion_proofs(nodes, LEAVES, places), len(places)),
        "proofs verified": (lambda side: side.verify_inclusions(root, LEAVES, places, some, proofs), len(places)),
    }
    rows = [(f"{step}, {side}", "us") for step in steps for side in (TWIN, OURS)]
    with recorder.group("merkle", f"Merkle tree of {LEAVES} leaves of {LEAF_BYTES} bytes", rows) as group:

        def turn(side: ModuleType, name: str) -> None:
            for step, (work, count) in steps.items():
                begin_ns = time.perf_counter_ns()
                work(side)
                group.add(f"{step}, {name}", (time.perf_counter_ns() - begin_ns) / 1e3 / count)

        in_rounds(
            benchmark, lambda: turn(merkle, OURS), others=lambda: turn(twin, TWIN), rounds=max(3, options.starts // 4)
        )
