"""The pipeline: the compiled side and the twin write and read each other's chunks, whatever the settings and losses."""

from __future__ import annotations

import struct
from array import array
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from native import _rust as rust
from native.pipeline import stripe
from native.reference import pipeline as reference

CIPHERS = st.sampled_from([None, "aes-256-gcm", "chacha20-poly1305"])
SHAPES = st.one_of(st.none(), st.tuples(st.integers(1, 9), st.integers(1, 4)))
# Text that repeats, noise, and something of both.
DATA = st.builds(
    lambda some, times, end: some * times + end, st.binary(max_size=40), st.integers(0, 60), st.binary(max_size=300)
)

TIGHT_BYTES = 32


@settings(max_examples=60)
@given(
    data=DATA,
    chunk_bytes=st.integers(1, 700),
    level=st.sampled_from([None, 1, 3, 9]),
    cipher=CIPHERS,
    key=st.binary(min_size=32, max_size=32),
    shape=SHAPES,
    threads=st.integers(1, 4),
    drawn=st.data(),
)
def test_pipeline_agrees(
    data: bytes,
    chunk_bytes: int,
    level: int | None,
    cipher: str | None,
    key: bytes,
    shape: tuple[int, int] | None,
    threads: int,
    drawn: st.DataObject,
) -> None:
    chunk_bytes = max(chunk_bytes, len(data) // 20)
    given: dict[str, Any] = {"chunk_bytes": chunk_bytes, "level": level}
    if cipher is not None:
        given |= {"cipher": cipher, "key": key}
    k, m = (1, 0) if shape is None else shape
    if shape is not None:
        given |= {"k": k, "m": m}
    ours, twin = rust.Pipeline(**given), reference.Pipeline(**given)
    lost = drawn.draw(st.sets(st.integers(0, k + m - 1), max_size=m))
    have = [index for index in range(k + m) if index not in lost]
    made = []
    for line in (ours, twin):
        count = -(-len(data) // chunk_bytes)
        slots, lengths = bytearray(count * line.slot_bytes), array("I", [0] * count)
        digests, shard_digests = bytearray(32 * count), bytearray(32 * count * line.shards)
        line.seal_into(data, slots, lengths, digests=digests, shard_digests=shard_digests, threads=threads)
        stripes = [list(map(bytes, stripe(ours, slots, lengths, number))) for number in range(count)]
        made.append((stripes, digests, shard_digests))
        for number in range(count):
            for index in lost:
                shard = stripe(ours, slots, lengths, number)[index]
                shard[:] = bytes(len(shard))
        other, out = twin if line is ours else ours, bytearray(len(data))
        wrong = other.open_into(
            slots, lengths, out, have=have, digests=digests, shard_digests=shard_digests, threads=threads
        )
        assert (bytes(out), wrong) == (data, [])
    # A frame that would only just fit is no frame for the compiled side, which gives zstd no more room than that.
    pairs = zip(made[0][0], made[1][0], strict=True)
    tight = [number for number, (a, b) in enumerate(pairs) if b"".join(a)[1] & 1 != b"".join(b)[1] & 1]
    for number in tight:
        compiled, twin_s = (struct.unpack_from("<BBHII", b"".join(stripes[number])) for stripes, _, _ in made)
        assert compiled[1] & 1 == 0
        assert twin_s[4] >= compiled[3] - TIGHT_BYTES
    if not tight:
        assert made[0] == made[1]
