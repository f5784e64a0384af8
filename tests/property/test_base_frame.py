"""The frame codec: what is encoded comes back, and no bytes do more than be refused."""

from __future__ import annotations

import fcntl
import os

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from zos_core.base import frame
from zos_core.base.document import Record, decode_canonical, decode_msgpack, encode_msgpack
from zos_core.base.errors import DocumentInvalid, FrameInvalid

ids = st.integers(0, 2**64 - 1)
words = st.text(max_size=40)
bodies = st.dictionaries(
    words, st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | words | st.binary(max_size=60), max_size=5
)


def through(data: bytes) -> frame.Message:
    datagram, descriptors, memory = frame.wrap(data, [])
    assert (descriptors, memory) == ([], None)
    return frame.decode_message(frame.unwrap(datagram, []))


@given(ids, words, bodies)
def test_requests_come_back(id_: int, op: str, body: dict[str, object]) -> None:
    message = through(frame.encode_request(id_, op, body))
    assert isinstance(message, frame.Request)
    assert (message.id, message.op, msgspec.msgpack.decode(message.body)) == (id_, op, body)


@given(ids, bodies)
def test_replies_come_back(id_: int, body: dict[str, object]) -> None:
    message = through(frame.encode_reply(id_, body))
    assert isinstance(message, frame.Reply)
    assert (message.id, msgspec.msgpack.decode(message.body)) == (id_, body)


@given(words, bodies)
def test_events_come_back(event: str, body: dict[str, object]) -> None:
    message = through(frame.encode_event(event, body))
    assert isinstance(message, frame.Event)
    assert (message.event, msgspec.msgpack.decode(message.body)) == (event, body)


@given(ids, words, words, st.none() | words, st.none() | st.integers(0, 200), st.none() | words)
def test_errors_come_back(
    id_: int, code: str, text: str, step: str | None, errno: int | None, hint: str | None
) -> None:
    message = through(frame.encode_error(id_, code, text, step=step, errno=errno, hint=hint))
    assert isinstance(message, frame.Failure)
    error = message.error
    assert (message.id, error.remote_code, error.message) == (id_, code, text)
    assert (error.step, error.errno, error.hint) == (step, errno, hint)


@given(st.binary(max_size=300))
def test_any_datagram_is_a_frame_or_is_refused(datagram: bytes) -> None:
    try:
        frame.decode_message(frame.unwrap(datagram, []))
    except FrameInvalid:
        pass


@given(st.recursive(words | ids | st.none(), lambda inner: st.dictionaries(words, inner) | st.lists(inner)))
def test_any_msgpack_is_a_message_or_is_refused(value: object) -> None:
    try:
        frame.decode_message(msgspec.msgpack.encode(value))
    except FrameInvalid:
        pass


@given(st.integers(1, 5))
def test_a_cut_frame_is_refused(cut: int) -> None:
    datagram, _, _ = frame.wrap(frame.encode_event("x", {"y": "z" * 10}), [])
    with pytest.raises(FrameInvalid):
        frame.unwrap(datagram[:-cut], [])


def test_a_long_map_is_sealed() -> None:
    data = frame.encode_event("x", {"y": bytes(frame.INLINE_BYTES_MAX)})
    datagram, descriptors, memory = frame.wrap(data, [])
    assert memory is not None
    assert descriptors == [memory]
    assert len(datagram) == 6
    assert fcntl.fcntl(memory, fcntl.F_GET_SEALS) == 0xF
    assert frame.unwrap(datagram, descriptors) == data
    with pytest.raises(OSError, match="Bad file descriptor"):
        os.fstat(memory)


def test_limits_of_the_sender() -> None:
    with pytest.raises(FrameInvalid, match="FRAME-3"):
        frame.wrap(b"\x80", list(range(65)))
    with pytest.raises(FrameInvalid, match="FRAME-2"):
        frame.wrap(bytes(frame.MAP_BYTES_MAX + 1), [])


class Pair(Record, frozen=True, kw_only=True):
    number: int
    data: bytes = b""


@given(ids, st.binary(max_size=50))
def test_one_encoding_is_accepted(number: int, data: bytes) -> None:
    pair = Pair(number=number, data=data)
    assert decode_canonical(encode_msgpack(pair), Pair, what="pair") == pair
    for other in (
        msgspec.msgpack.encode({"data": data, "number": number}),  # another order
        msgspec.msgpack.encode({"number": number, "data": data, "more": 1}),
        b"\xde\x00\x02" + encode_msgpack(pair)[1:],  # a longer head
    ):
        assert decode_msgpack(other, Pair, what="pair") == pair
        with pytest.raises(DocumentInvalid, match="canonical"):
            decode_canonical(other, Pair, what="pair")


@given(st.binary(max_size=80))
def test_any_bytes_are_a_document_or_are_refused(data: bytes) -> None:
    try:
        decode_canonical(data, Pair, what="pair")
    except DocumentInvalid:
        pass
