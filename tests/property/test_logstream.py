"""The log stream, cut anywhere: nothing is lost, nothing comes twice."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zos_core.containers.logstream import (
    STDERR,
    STDOUT,
    LogStreamDecoder,
    LogStreamInvalid,
    StreamFrame,
    encode_frame,
    encode_position,
)

frames = st.builds(
    StreamFrame,
    stream=st.sampled_from([STDOUT, STDERR]),
    time_ns=st.integers(0, 2**64 - 1),
    data=st.binary(min_size=1, max_size=200),
)
batches = st.lists(st.lists(frames, min_size=1, max_size=5), max_size=8)


def encode(written: list[list[StreamFrame]], first: int = 0) -> bytes:
    return b"".join(
        b"".join(encode_frame(frame) for frame in batch) + encode_position(1, number)
        for number, batch in enumerate(written[first:], first + 1)
    )


@given(written=batches, cuts=st.lists(st.integers(0, 5000)))
def test_pieces_of_any_size_give_the_same_frames(written: list[list[StreamFrame]], cuts: list[int]) -> None:
    data = encode(written)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    decoder = LogStreamDecoder()
    seen = [frame for a, b in itertools.pairwise(edges) for frame in decoder.feed(data[a:b])]
    assert seen == [frame for batch in written for frame in batch]
    assert decoder.offset == len(written)


@given(written=batches, cut=st.integers(0, 5000))
def test_a_broken_connection_is_resumed_at_the_last_position(written: list[list[StreamFrame]], cut: int) -> None:
    decoder = LogStreamDecoder()
    seen = list(decoder.feed(encode(written)[:cut]))
    decoder.broken()
    seen += list(decoder.feed(encode(written, decoder.offset)))
    assert seen == [frame for batch in written for frame in batch]


@given(st.binary(max_size=300))
def test_garbage_is_refused_or_waits_for_more(data: bytes) -> None:
    decoder = LogStreamDecoder()
    try:
        list(decoder.feed(data))
    except LogStreamInvalid:
        return
    assert len(decoder._buffer) <= len(data)


def test_a_batch_without_a_position_is_bounded() -> None:
    decoder = LogStreamDecoder()
    frame = encode_frame(StreamFrame(STDOUT, 0, bytes(65_536)))
    with pytest.raises(LogStreamInvalid, match="1 MiB"):
        for _ in range(17):
            list(decoder.feed(frame))
