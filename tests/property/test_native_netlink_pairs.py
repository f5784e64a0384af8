"""The netlink codec: what is packed is read back; garbage is read alike by both sides, or refused by both."""

from __future__ import annotations

import struct

from hypothesis import example, given
from hypothesis import strategies as st

from native.cy import netlink as compiled
from native.netlink import AttributeValue, Message, NetlinkInvalid
from native.reference import netlink as reference

TYPES = st.integers(0, 0x3FFF)
VALUES: st.SearchStrategy[AttributeValue] = st.recursive(
    st.binary(max_size=40), lambda inner: st.lists(st.tuples(TYPES, inner), max_size=4), max_leaves=12
)
ATTRIBUTES = st.lists(st.tuples(TYPES, VALUES), max_size=6)
MESSAGES = st.lists(
    st.tuples(st.integers(0, 0xFFFF), st.integers(0, 0xFFFF), st.integers(0, 0xFFFFFFFF), st.binary(max_size=64)),
    max_size=6,
)


def flat(attributes: list[tuple[int, AttributeValue]]) -> list[tuple[int, bytes]]:
    return [
        (kind, value if isinstance(value, bytes) else reference.pack_attributes(value)) for kind, value in attributes
    ]


@given(MESSAGES)
def test_netlink_messages_round_trip(messages: list[tuple[int, int, int, bytes]]) -> None:
    data = b"".join(compiled.pack_message(*one) for one in messages)
    assert data == b"".join(reference.pack_message(*one) for one in messages)
    expected = [Message(type, flags, sequence, 0, payload) for type, flags, sequence, payload in messages]
    assert compiled.parse_messages(data) == reference.parse_messages(data) == expected


@given(ATTRIBUTES)
def test_netlink_attributes_round_trip(attributes: list[tuple[int, AttributeValue]]) -> None:
    data = compiled.pack_attributes(attributes)
    assert data == reference.pack_attributes(attributes)
    assert compiled.unpack_attributes(data) == reference.unpack_attributes(data) == flat(attributes)


def outcome(call: object, *arguments: object) -> object:
    try:
        return call(*arguments)  # type: ignore[operator]
    except NetlinkInvalid as error:
        return error.message


@given(st.binary(max_size=200))
@example(struct.pack("=IHHII", 18, 1, 2, 3, 4) + b"ab\0\0" + struct.pack("=IHHII", 16, 1, 2, 3, 4))
def test_netlink_garbage_is_read_alike(data: bytes) -> None:
    assert outcome(compiled.parse_messages, data) == outcome(reference.parse_messages, data)


@given(st.binary(max_size=200), st.integers(-8, 220))
def test_netlink_garbage_attributes_are_read_alike(data: bytes, offset: int) -> None:
    assert outcome(compiled.unpack_attributes, data, offset) == outcome(reference.unpack_attributes, data, offset)


@given(MESSAGES, st.data())
def test_netlink_damage_is_read_alike(messages: list[tuple[int, int, int, bytes]], data: st.DataObject) -> None:
    """One byte changed in something that was right: nearer to the truth than garbage, and just as untrusted."""
    whole = bytearray(b"".join(reference.pack_message(*one) for one in messages))
    if whole:
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
        del whole[data.draw(st.integers(0, len(whole))) :]
    assert outcome(compiled.parse_messages, bytes(whole)) == outcome(reference.parse_messages, bytes(whole))
