"""Any shape, any length, any loss: every side of the erasure code against the twin and against itself."""

from __future__ import annotations

import io
import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from native import erasure
from tests.erasure_kit import SIDES, code

SHAPES = st.one_of(
    st.tuples(st.integers(1, 20), st.integers(1, 8)),
    st.tuples(st.integers(1, 128), st.integers(1, 32)),
    st.sampled_from([(16, 4), (10, 4), (4, 2), (2, 1), (1, 1), (128, 32)]),
)


def shards(seed: int, count: int, length: int) -> list[bytes]:
    """Too many bytes to draw one by one; of a drawn seed."""
    source = random.Random(seed)
    return [source.randbytes(length) for _ in range(count)]


@pytest.mark.parametrize("side", SIDES)
@settings(max_examples=40)
@given(
    shape=SHAPES,
    length=st.one_of(st.integers(1, 300), st.integers(1, 5000)),
    seed=st.integers(0, 2**32),
    matrix=st.sampled_from(["cauchy", "vandermonde"]),
    streaming=st.sampled_from([None, True, False]),
    draw=st.data(),
)
def test_erasure_any_loss_is_made_good(
    side: str,
    shape: tuple[int, int],
    length: int,
    seed: int,
    matrix: str,
    streaming: bool | None,
    draw: st.DataObject,
) -> None:
    k, m = shape
    under_test = code(side, k, m, matrix=matrix, streaming=streaming)
    twin = code("reference", k, m, matrix=matrix)
    data = shards(seed, k, length)
    parity = under_test.encode(data)
    assert under_test.factors == twin.factors
    assert parity == twin.encode(data)
    assert under_test.verify(data, parity) == []

    whole = [*data, *map(bytes, parity)]
    lost = draw.draw(st.lists(st.integers(0, k + m - 1), unique=True, max_size=m), label="lost")
    have = draw.draw(st.permutations([index for index in range(k + m) if index not in lost]), label="have")
    made = under_test.reconstruct(have, [whole[index] for index in have], lost)
    assert made == [whole[index] for index in lost]

    changed = draw.draw(st.integers(0, k - 1), label="changed")
    new = shards(seed + 1, 1, length)[0]
    under_test.update(changed, data[changed], new, parity)
    data[changed] = new
    assert parity == twin.encode(data)

    row, at = draw.draw(st.integers(0, m - 1), label="row"), draw.draw(st.integers(0, length - 1), label="at")
    parity[row][at] ^= 1
    assert under_test.verify(data, parity) == [k + row]


@settings(max_examples=60)
@given(
    shape=st.tuples(st.integers(1, 6), st.integers(1, 4)),
    shard_bytes=st.integers(1, 40),
    seed=st.integers(0, 2**32),
    draw=st.data(),
)
def test_erasure_streams_give_the_object_back(
    shape: tuple[int, int], shard_bytes: int, seed: int, draw: st.DataObject
) -> None:
    k, m = shape
    length = draw.draw(st.integers(0, 4 * k * shard_bytes), label="length")
    under_test = erasure.Code(k, m)
    (whole,) = shards(seed, 1, length)
    streams = [io.BytesIO() for _ in range(k + m)]
    assert erasure.encode_stream(under_test, io.BytesIO(whole), streams, shard_bytes=shard_bytes) == length
    kept = [stream.getvalue() for stream in streams]
    assert {len(stream) for stream in kept} == {erasure.stream_bytes(length, k, shard_bytes)}

    lost = draw.draw(st.lists(st.integers(0, k + m - 1), unique=True, max_size=m), label="lost")
    have = {index: io.BytesIO(kept[index]) for index in range(k + m) if index not in lost}
    target = io.BytesIO()
    erasure.decode_stream(under_test, have, target, length=length, shard_bytes=shard_bytes)
    assert target.getvalue() == whole
    for stream in have.values():
        stream.seek(0)
    made = {index: io.BytesIO() for index in lost}
    erasure.repair_stream(under_test, have, made, length=length, shard_bytes=shard_bytes)
    assert {index: stream.getvalue() for index, stream in made.items()} == {index: kept[index] for index in lost}
