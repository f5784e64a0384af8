"""BLAKE3 of many chunks in one call, beside the wheel of its authors and SHA-256: GB/s on one core."""

from __future__ import annotations

import os
from array import array
from functools import partial

import pytest

from bench.duel import Duel, Rival, Work, digest_of, throughput
from native import hashing

BYTES = 4 << 20


@pytest.mark.parametrize("chunk", [4096, 65536, 262_144])
def bench_hash(duel: Duel, chunk: int) -> None:
    """4 MiB that stay in the cache; the others are called once for each chunk, which is how they are used."""
    data, count = os.urandom(BYTES), BYTES // chunk
    ends, out = array("Q", range(0, BYTES + 1, chunk)), bytearray(32 * count)
    sizes = {"chunk_bytes": chunk, "chunks": count}
    wanted = digest_of(hashing.hash_many(data, ends))
    duel(
        f"hash.{chunk}",
        f"BLAKE3 of chunks of {chunk // 1024} KiB",
        throughput(BYTES),
        ours={
            "hash_many_into": partial(hashing.hash_many_into, data, ends, out),
            "hash_many": partial(hashing.hash_many, data, ends),
        },
        rivals=[
            Rival("blake3", Work("hash.blake3", sizes), digest=wanted),
            Rival("hashlib", Work("hash.sha256", sizes), title="hashlib SHA-256"),
            Rival("hashlib", Work("hash.blake2b", sizes), title="hashlib BLAKE2b"),
        ],
        input_=data,
        faults=True,
    )
