"""The erasure code beside the field, and beside the roofline: the same traffic of memory, XOR alone.

Rates are GB/s (10^9 bytes) of data in: k shards. Our buffers are those of a `BufferPool`; the peers' programs lay
theirs out alike (BENCH-PEER-4). ISA-L and klauspost have our matrix: their parity must be ours, byte for byte.
"""

from __future__ import annotations

import os
from functools import partial

import pytest

from bench.duel import Duel, Rival, Work, digest_of, each, throughput
from bench.recorder import Recorder
from native import erasure

OURS = "zos"
SHAPES = {
    "16+4.64KiB": (16, 4, 64 << 10),
    "10+4.64KiB": (10, 4, 64 << 10),
    "4+2.64KiB": (4, 2, 64 << 10),
    "16+4.8MiB": (16, 4, 8 << 20),
}
SAME_CODE = ("isa-l", "klauspost")
OTHER_CODES = ("reed-solomon-simd", "reed-solomon-erasure", "pyeclib", "pyeclib-heap-kept", "zfec")
REPAIRERS = ("isa-l", "klauspost", "reed-solomon-simd", "reed-solomon-erasure", "zfec")


def _fill(shards: list[memoryview]) -> None:
    for shard in shards:
        shard[:] = os.urandom(len(shard))


@pytest.mark.parametrize("name", list(SHAPES))
def bench_encode(duel: Duel, recorder: Recorder, name: str) -> None:
    """Parity of data that is hot, or that comes from DRAM."""
    k, m, shard_bytes = SHAPES[name]
    recorder.path("erasure", erasure.PATH)
    others = [path for path in erasure.PATHS if path not in (erasure.PATH, "scalar")]
    with (
        erasure.BufferPool(shards=k + m, shard_bytes=shard_bytes) as pool,
        pool.stripe() as stripe,
    ):
        data, parity = stripe.shards[:k], stripe.shards[k:]
        _fill(data)
        erasure.Code(k, m).encode_into(data, parity)
        work = Work("erasure.encode", {"k": k, "m": m, "shard_bytes": shard_bytes})
        duel(
            f"erasure.encode.{name}",
            f"Reed-Solomon encode, {name.replace('.', ', shards of ')}",
            throughput(k * shard_bytes),
            ours={
                OURS: partial(erasure.Code(k, m).encode_into, data, parity),
                **{f"zos, {path}": partial(erasure.Code(k, m, path=path).encode_into, data, parity) for path in others},
            },
            rivals=[
                *(Rival(peer, work, digest=digest_of(*parity)) for peer in SAME_CODE),
                *(Rival(peer, work) for peer in OTHER_CODES),
            ],
            roofs=[
                Rival("roofline", Work("roofline.xor", work.parameters), title="XOR roofline"),
                Rival("roofline", Work("roofline.gf", work.parameters), title="GFNI issue limit")
                if erasure.PATH.startswith("gfni")
                else Rival("roofline", Work("roofline.gf", work.parameters), title="pshufb issue limit"),
            ],
            input_=b"".join(data),
            faults=True,
        )


@pytest.mark.parametrize("losses", [1, 4])
def bench_reconstruct(duel: Duel, losses: int) -> None:
    """Lost data shards of 16 + 4 from the others, the inverse kept; beside encoding as many, and the peers."""
    k, m, shard_bytes = SHAPES["16+4.64KiB"]
    encode = "zos, encode"
    with (
        erasure.BufferPool(shards=k + m + losses, shard_bytes=shard_bytes) as pool,
        pool.stripe() as stripe,
    ):
        whole, out = stripe.shards[: k + m], stripe.shards[k + m :]
        _fill(whole[:k])
        code, same = erasure.Code(k, m), erasure.Code(k, losses)
        code.encode_into(whole[:k], whole[k:])
        lost, have = list(range(losses)), list(range(losses, k + losses))
        survivors = [whole[index] for index in have]
        work = Work("erasure.reconstruct", {"k": k, "m": m, "shard_bytes": shard_bytes, "lost": losses})
        wanted = digest_of(*whole[:losses])
        duel(
            f"erasure.reconstruct.16+4.64KiB.lost{losses}",
            f"Reed-Solomon reconstruct, {losses} of 16+4 lost, shards of 64 KiB",
            throughput(k * shard_bytes),
            ours={
                OURS: lambda: code.reconstruct_into(have, survivors, lost, out),
                encode: lambda: same.encode_into(survivors, out),
            },
            rivals=[Rival(peer, work, digest=wanted) for peer in REPAIRERS],
            against=[encode],
            input_=b"".join(whole[:k]),
        )
        code.reconstruct_into(have, survivors, lost, out)
        assert digest_of(*out) == wanted


@pytest.mark.parametrize("name", ["16+4.64KiB", "4+2.64KiB"])
def bench_overhead(duel: Duel, name: str) -> None:
    """What the way through Python costs: a call that does next to nothing, beside one on the shards of the goals."""
    k, m, shard_bytes = SHAPES[name]
    whole, empty = "call on 64 KiB shards", "call on 64-byte shards"
    with (
        erasure.BufferPool(shards=k + m, shard_bytes=shard_bytes) as pool,
        pool.stripe() as stripe,
    ):
        _fill(stripe.shards[:k])
        code = erasure.Code(k, m)
        data, parity = stripe.shards[:k], stripe.shards[k:]
        small = [shard[:64] for shard in stripe.shards]
        few, none = small[:k], small[k:]
        duel(
            f"erasure.overhead.{name}",
            f"Reed-Solomon {k}+{m}, time of a call",
            each(),
            ours={whole: partial(code.encode_into, data, parity), empty: partial(code.encode_into, few, none)},
            against=[whole],
        )
        del few, none
        for shard in small:
            shard.release()
