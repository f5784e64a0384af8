"""The netlink codec, compiled and twin: the same bytes, the same refusals."""

from __future__ import annotations

import struct
from typing import Protocol

import pytest

import native.netlink
from native.cy import netlink as compiled
from native.netlink import DATAGRAM_MAX, NESTING_MAX, VALUE_MAX, AttributeValue, Message, NetlinkInvalid
from native.reference import netlink as reference


class Codec(Protocol):
    """What both sides are."""

    def pack_message(self, type: int, flags: int, sequence: int, payload: bytes) -> bytes: ...
    def pack_attributes(self, attributes: list[tuple[int, AttributeValue]]) -> bytes: ...
    def parse_messages(self, data: bytes) -> list[Message]: ...
    def unpack_attributes(self, data: bytes, offset: int = 0) -> list[tuple[int, bytes]]: ...


@pytest.fixture(params=[compiled, reference], ids=["cython", "reference"])
def codec(request: pytest.FixtureRequest) -> Codec:
    side: Codec = request.param
    return side


def test_netlink_facade_gives_the_side_that_was_asked_for() -> None:
    assert native.netlink.pack_message in (compiled.pack_message, reference.pack_message)


def test_netlink_message_bytes(codec: Codec) -> None:
    """RTM_GETLINK dump, as `ip link` sends it."""
    assert codec.pack_message(18, 0x301, 7, b"\x11" + bytes(15)) == bytes.fromhex(
        "2000000012000103070000000000000011000000000000000000000000000000"
    )
    assert codec.pack_message(1, 2, 3, b"abcde")[16:] == b"abcde\0\0\0"


def test_netlink_attribute_bytes(codec: Codec) -> None:
    packed = codec.pack_attributes([(3, b"eth0\0"), (18, [(1, b"veth"), (2, [(1, b"")])]), (0x8004, b"\x2a\0\0\0")])
    assert packed == bytes.fromhex(
        "0900" "0300" "6574683000" "000000"
        "1400" "1200" "0800" "0100" "76657468" "0800" "0200" "0400" "0100"
        "0800" "0480" "2a000000"
    )  # fmt: skip
    assert codec.pack_attributes([]) == b""


def test_netlink_round_trip(codec: Codec) -> None:
    one = codec.pack_message(16, 0xFFFF, 0xFFFFFFFF, b"x" * 5)
    two = codec.pack_message(0, 0, 0, b"")
    assert codec.parse_messages(one + two) == [
        Message(16, 0xFFFF, 0xFFFFFFFF, 0, b"x" * 5),
        Message(0, 0, 0, 0, b""),
    ]
    assert codec.parse_messages(b"") == []
    assert codec.parse_messages(one[:-3])[0].payload == b"x" * 5  # the last padding may be missing
    inner = codec.pack_attributes([(5, b"1"), (6, b"22")])
    assert codec.unpack_attributes(b"HEAD" + codec.pack_attributes([(1 | 0x8000, inner)]), 4) == [(1, inner)]
    assert codec.unpack_attributes(inner) == [(5, b"1"), (6, b"22")]


@pytest.mark.parametrize(
    "data",
    [
        b"\0",
        bytes(15),
        bytes(16),  # length 0
        struct.pack("=IHHII", 15, 0, 0, 0, 0),
        struct.pack("=IHHII", 17, 0, 0, 0, 0),
        struct.pack("=IHHII", 0xFFFFFFFF, 0, 0, 0, 0),
        struct.pack("=IHHII", 16, 0, 0, 0, 0) + b"\0\0\0\0",
        bytes(DATAGRAM_MAX + 4),
    ],
)
def test_netlink_hostile_messages(codec: Codec, data: bytes) -> None:
    with pytest.raises(NetlinkInvalid):
        codec.parse_messages(data)


@pytest.mark.parametrize(
    ("data", "offset"),
    [
        (b"\0", 0),
        (b"\0\0\0", 0),
        (bytes(4), 0),  # length 0: would never end
        (struct.pack("=HH", 3, 1), 0),
        (struct.pack("=HH", 5, 1), 0),
        (struct.pack("=HH", 0xFFFF, 1), 0),
        (struct.pack("=HH", 4, 1) + b"\0\0", 0),
        (b"", 1),
        (b"abcd", -1),
        (b"abcd", 5),
        (b"abcd", 1 << 70),
    ],
)
def test_netlink_hostile_attributes(codec: Codec, data: bytes, offset: int) -> None:
    with pytest.raises(NetlinkInvalid):
        codec.unpack_attributes(data, offset)


@pytest.mark.parametrize(
    ("type", "flags", "sequence"),
    [(1 << 16, 0, 0), (-1, 0, 0), (0, 1 << 16, 0), (0, 0, 1 << 32), (0, 0, -1), (1 << 80, 0, 0)],
)
def test_netlink_numbers_that_do_not_fit(codec: Codec, type: int, flags: int, sequence: int) -> None:
    with pytest.raises(NetlinkInvalid, match="does not fit"):
        codec.pack_message(type, flags, sequence, b"")


def test_netlink_sizes_that_do_not_fit(codec: Codec) -> None:
    assert len(codec.pack_attributes([(1, bytes(VALUE_MAX))])) == 4 + VALUE_MAX + 1
    with pytest.raises(NetlinkInvalid):
        codec.pack_attributes([(1, bytes(VALUE_MAX + 1))])
    with pytest.raises(NetlinkInvalid):
        codec.pack_attributes([(1, [(2, bytes(40_000)), (3, bytes(40_000))])])
    with pytest.raises(NetlinkInvalid):
        codec.pack_attributes([(1 << 16, b"")])
    with pytest.raises(NetlinkInvalid):
        codec.pack_message(0, 0, 0, bytes(DATAGRAM_MAX - 15))
    assert len(codec.pack_message(0, 0, 0, bytes(DATAGRAM_MAX - 16))) == DATAGRAM_MAX


def test_netlink_nesting_has_a_limit(codec: Codec) -> None:
    deep: AttributeValue = b"x"
    for _ in range(NESTING_MAX - 1):
        deep = [(1, deep)]
    packed = codec.pack_attributes([(1, deep)])
    for _ in range(NESTING_MAX):
        ((_, packed),) = codec.unpack_attributes(packed)
    assert packed == b"x"
    with pytest.raises(NetlinkInvalid, match="nested deeper"):
        codec.pack_attributes([(1, [(1, deep)])])


@pytest.mark.parametrize("data", [None, "text", bytearray(16), memoryview(bytes(16)), 7])
def test_netlink_only_bytes_are_taken(data: object) -> None:
    """The compiled side reads memory: nothing that another thread could resize meanwhile is let in."""
    for call in (compiled.parse_messages, compiled.unpack_attributes):
        with pytest.raises(TypeError):
            call(data)  # type: ignore[arg-type]
