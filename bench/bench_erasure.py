"""The erasure code beside ISA-L in the same process, and beside the roofline: the same traffic of memory, XOR alone.

Time is that of the calling thread on its processor, so that other work on the machine moves caches and not figures.
Rates are GB/s (10^9 bytes) of data in: k shards. Buffers are those of a `BufferPool`, for ISA-L as well.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.isal import Isal, find
from bench.recorder import Collected, Recorder
from bench.rounds import in_rounds
from native import _rust, erasure

ROUNDS = 31
SAMPLE_BYTES = 32 << 20
OURS, ISAL, ROOF, ROOF_STREAMING = "zos", "ISA-L", "XOR roofline", "XOR roofline, streaming"
SHAPES = {
    "16+4.64KiB": (16, 4, 64 << 10),
    "10+4.64KiB": (10, 4, 64 << 10),
    "4+2.64KiB": (4, 2, 64 << 10),
    "16+4.8MiB": (16, 4, 8 << 20),
}
Call = Callable[[], object]


def _sample(call: Call, count: int) -> float:
    """Nanoseconds of a call, of `count` calls one after the other."""
    begin_ns = time.thread_time_ns()
    for _ in range(count):
        call()
    return max(1, time.thread_time_ns() - begin_ns) / count


def _measure(benchmark: BenchmarkFixture, group: Collected, calls: dict[str, Call], ours: str, data_bytes: int) -> None:
    """All calls in turns, each often enough for a sample that the clock can tell."""
    count = max(1, SAMPLE_BYTES // data_bytes)
    for call in calls.values():
        call()

    def one(name: str) -> None:
        group.add(name, data_bytes / _sample(calls[name], count))

    def others() -> None:
        for name in calls:
            if name != ours:
                one(name)

    in_rounds(benchmark, lambda: one(ours), others=others, rounds=ROUNDS)


def _fill(shards: list[memoryview]) -> None:
    for shard in shards:
        shard[:] = os.urandom(len(shard))


@pytest.mark.parametrize("name", list(SHAPES))
def bench_encode(benchmark: BenchmarkFixture, name: str, recorder: Recorder) -> None:
    """Parity of data that is hot, or that comes from DRAM."""
    k, m, shard_bytes = SHAPES[name]
    others = [path for path in erasure.PATHS if path not in (erasure.PATH, "scalar")]
    rows = [OURS, *(f"zos, {path}" for path in others), ISAL, ROOF, ROOF_STREAMING]
    title = f"Reed-Solomon encode, {name.replace('.', ', shards of ')}"
    with (
        recorder.group(
            f"erasure.encode.{name}",
            title,
            [(row, "GB/s") for row in rows],
            baselines=[ISAL, ROOF, ROOF_STREAMING],
            direction="rate",
        ) as group,
        erasure.BufferPool(shards=k + m, shard_bytes=shard_bytes) as pool,
        pool.stripe() as stripe,
    ):
        data, parity = stripe.shards[:k], stripe.shards[k:]
        _fill(data)
        group.note(OURS, f"path {erasure.PATH}")
        calls: dict[str, Call] = {OURS: partial(erasure.Code(k, m).encode_into, data, parity)}
        for path in others:
            calls[f"zos, {path}"] = partial(erasure.Code(k, m, path=path).encode_into, data, parity)
        calls[ROOF] = lambda: _rust.erasure_roofline(data, parity, streaming=False)
        calls[ROOF_STREAMING] = lambda: _rust.erasure_roofline(data, parity, streaming=True)
        peer = _isal(group)
        if peer is not None:
            calls[ISAL] = peer.encoder(data, parity)
            _agree(calls[OURS], calls[ISAL], parity)
        _measure(benchmark, group, calls, OURS, k * shard_bytes)
        calls.clear()


@pytest.mark.parametrize("losses", [1, 4])
def bench_reconstruct(benchmark: BenchmarkFixture, losses: int, recorder: Recorder) -> None:
    """Lost data shards of 16 + 4 from the others, the inverse kept; beside encoding as many, and ISA-L."""
    k, m, shard_bytes = SHAPES["16+4.64KiB"]
    ours, encode = "reconstruct", f"own encode, 16+{losses}"
    rows = [ours, encode, ISAL]
    with (
        recorder.group(
            f"erasure.reconstruct.16+4.lost-{losses}",
            f"Reed-Solomon reconstruct, {losses} of 16+4 lost, shards of 64 KiB",
            [(row, "GB/s") for row in rows],
            baselines=[ISAL, encode],
            direction="rate",
        ) as group,
        erasure.BufferPool(shards=k + m + losses, shard_bytes=shard_bytes) as pool,
        pool.stripe() as stripe,
    ):
        whole, out = stripe.shards[: k + m], stripe.shards[k + m :]
        _fill(whole[:k])
        code, same = erasure.Code(k, m), erasure.Code(k, losses)
        code.encode_into(whole[:k], whole[k:])
        lost, have = list(range(losses)), list(range(losses, k + losses))
        survivors = [whole[index] for index in have]
        calls: dict[str, Call] = {
            ours: lambda: code.reconstruct_into(have, survivors, lost, out),
            encode: lambda: same.encode_into(survivors, out),
        }
        peer = _isal(group)
        if peer is not None:
            # ISA-L has no repair: its caller inverts, and gives it the rows. Here it is given ours, already inverted.
            calls[ISAL] = peer.encoder(survivors, out)
        _measure(benchmark, group, calls, ours, k * shard_bytes)
        calls[ours]()
        assert [bytes(shard) for shard in out] == [bytes(whole[index]) for index in lost]
        # ISA-L's call holds the buffers.
        calls.clear()


def bench_overhead(benchmark: BenchmarkFixture, recorder: Recorder) -> None:
    """What the way through Python costs: a call that does next to nothing, beside one on the shards of the goals."""
    k, m, shard_bytes = SHAPES["16+4.64KiB"]
    whole, empty = "call on 64 KiB shards", "call on 64-byte shards"
    with (
        recorder.group(
            "erasure.overhead", "Reed-Solomon 16+4, time of a call", [(whole, "us"), (empty, "us")], baselines=[whole]
        ) as group,
        erasure.BufferPool(shards=k + m, shard_bytes=shard_bytes) as pool,
        pool.stripe() as stripe,
    ):
        _fill(stripe.shards[:k])
        code = erasure.Code(k, m)
        data, parity = stripe.shards[:k], stripe.shards[k:]
        small = [shard[:64] for shard in stripe.shards]
        few, none = small[:k], small[k:]

        def one(name: str, call: Call, count: int) -> None:
            group.add(name, _sample(call, count) / 1e3)

        in_rounds(
            benchmark,
            lambda: one(whole, lambda: code.encode_into(data, parity), 64),
            others=lambda: one(empty, lambda: code.encode_into(few, none), 2000),
            rounds=ROUNDS,
        )
        for shard in small:
            shard.release()


def _isal(group: Collected) -> Isal | None:
    path = find()
    if path is None:
        group.missing(ISAL, "missing: no ISA-L 2.31 or newer here (libisal2 of Debian 13, or pyeclib's wheel)")
        return None
    group.note(ISAL, str(path.resolve().name))
    return Isal(path)


def _agree(one: Call, other: Call, parity: list[memoryview]) -> None:
    """A peer that does other work is no peer."""
    one()
    made = [bytes(shard) for shard in parity]
    for shard in parity:
        shard[:] = bytes(len(shard))
    other()
    assert [bytes(shard) for shard in parity] == made
