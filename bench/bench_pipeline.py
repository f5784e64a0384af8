"""Chunks of 64 KiB in one pass, beside what its stages cost by themselves: nothing may be lost between them (G6).

The data are compiled code and sources, as images are full of; 1 MiB of them, so that a sample is a few milliseconds.
"""

from __future__ import annotations

import sysconfig
from array import array
from functools import partial
from pathlib import Path

import pytest

import native._rust
from bench.duel import Duel, each, throughput
from native import erasure, hashing, pipeline

CHUNK, COUNT = 65_536, 16
BYTES = CHUNK * COUNT
K, M = 16, 4
KEY = bytes(range(32))


def whole() -> pipeline.Pipeline:
    """With every stage."""
    return pipeline.Pipeline(chunk_bytes=CHUNK, level=1, cipher="aes-256-gcm", key=KEY, k=K, m=M)


@pytest.fixture(scope="module")
def data() -> bytearray:
    """Half of it our compiled library, half the sources of Python's."""
    binary = Path(native._rust.__file__).read_bytes()
    library = Path(sysconfig.get_path("stdlib"))
    text = b"".join(path.read_bytes() for path in sorted(library.glob("*.py")))
    half = BYTES // 2
    assert min(len(binary), len(text)) >= half
    return bytearray(binary[-half:] + text[:half])


class Room:
    """A pipeline and the buffers of one call, touched before they are measured."""

    def __init__(self, line: pipeline.Pipeline, count: int) -> None:
        self.line = line
        self.slots, self.lengths = bytearray(line.slot_bytes * count), array("I", [0] * count)
        self.digests, self.shard_digests = bytearray(32 * count), bytearray(32 * count * line.shards)

    def seal(self, data: bytes | bytearray, *, digests: bool = False, shard_digests: bool = False) -> None:
        """One call."""
        self.line.seal_into(
            data,
            self.slots,
            self.lengths,
            digests=self.digests if digests else None,
            shard_digests=self.shard_digests if shard_digests else None,
        )

    def open(self, out: bytearray, have: list[int] | None) -> None:
        """The way back, everything verified."""
        self.line.open_into(
            self.slots, self.lengths, out, have=have, digests=self.digests, shard_digests=self.shard_digests
        )


def bench_zstd1(duel: Duel, data: bytearray) -> None:
    """BLAKE3 and zstd level 1 in one pass; beside both, one after the other, by the same libraries without anything."""
    room, frame = Room(pipeline.Pipeline(chunk_bytes=CHUNK, level=1), COUNT), bytearray(2 * CHUNK)
    ends, digests = array("Q", range(0, BYTES + 1, CHUNK)), bytearray(32 * COUNT)

    def separate() -> None:
        hashing.hash_many_into(data, ends, digests)
        native._rust.pipeline_zstd(data, frame, CHUNK, 1)

    baseline = "BLAKE3 and zstd -1, separate"
    duel(
        "pipeline.zstd1",
        "BLAKE3 and zstd -1 of chunks of 64 KiB",
        throughput(BYTES),
        ours={
            "zos, one pass": partial(room.seal, data, digests=True),
            baseline: separate,
            "BLAKE3 alone": partial(hashing.hash_many_into, data, ends, digests),
            "zstd -1 alone": partial(native._rust.pipeline_zstd, data, frame, CHUNK, 1),
        },
        against=[baseline],
        faults=True,
        notes=[f"frames have {native._rust.pipeline_zstd(data, frame, CHUNK, 1) / BYTES:.2f} of the data"],
    )


def bench_whole(duel: Duel, data: bytearray) -> None:
    """All stages, and the time of each by itself on what it gets from the one before."""
    room = Room(whole(), COUNT)
    room.seal(data, digests=True, shard_digests=True)
    frame, ends, digests = bytearray(2 * CHUNK), array("Q", range(0, BYTES + 1, CHUNK)), bytearray(32 * COUNT)
    body = native._rust.pipeline_zstd(data, frame, CHUNK, 1) // COUNT
    bodies = bytes(data[: body * COUNT])
    cipher = Room(pipeline.Pipeline(chunk_bytes=body, cipher="aes-256-gcm", key=KEY), COUNT)
    shard_bytes = sum(room.lengths) // COUNT // 64 * 64
    shard_ends = array("Q", range(0, shard_bytes * (K + M) * COUNT + 1, shard_bytes))
    shards = bytes(shard_bytes * (K + M) * COUNT)
    shard_digests = bytearray(32 * (K + M) * COUNT)
    code = erasure.Code(K, M)
    with erasure.BufferPool(shards=K + M, shard_bytes=shard_bytes) as pool, pool.stripe() as stripe:
        halves = stripe.shards[:K], stripe.shards[K:]

        def parity() -> None:
            for _ in range(COUNT):
                code.encode_into(*halves)

        hash_chunks = partial(hashing.hash_many_into, data, ends, digests)
        compress = partial(native._rust.pipeline_zstd, data, frame, CHUNK, 1)
        encrypt = partial(cipher.seal, bodies)
        hash_shards = partial(hashing.hash_many_into, shards, shard_ends, shard_digests)

        def separate() -> None:
            for stage in (hash_chunks, compress, encrypt, parity, hash_shards):
                stage()

        duel(
            "pipeline.seal",
            f"A chunk of 64 KiB: BLAKE3, zstd -1, AES-256-GCM, {K}+{M}, shard digests",
            each(COUNT),
            ours={
                "zos, one pass": partial(room.seal, data, digests=True, shard_digests=True),
                "all stages, separate": separate,
                "BLAKE3": hash_chunks,
                "zstd -1": compress,
                "AES-256-GCM and its salts": encrypt,
                f"Reed-Solomon {K}+{M}": parity,
                "BLAKE3 of the shards": hash_shards,
            },
            against=["all stages, separate"],
            faults=True,
            notes=[f"shards of about {shard_bytes} bytes"],
        )


def bench_open(duel: Duel, data: bytearray) -> None:
    """The way back with nothing lost, and with a shard or four to be made anew."""
    room, out = Room(whole(), COUNT), bytearray(BYTES)
    room.seal(data, digests=True, shard_digests=True)
    duel(
        "pipeline.open",
        f"A chunk of 64 KiB back from {K}+{M} shards, all verified",
        each(COUNT),
        ours={
            "zos": partial(room.open, out, None),
            "zos, 1 shard lost": partial(room.open, out, list(range(1, K + M))),
            "zos, 4 shards lost": partial(room.open, out, list(range(M, K + M))),
        },
        faults=True,
    )
    assert out == data
