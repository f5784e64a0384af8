"""rtnetlink readers on hostile answers: a typed object, None, or `NetlinkInvalid`; nothing else."""

from __future__ import annotations

import struct
from collections.abc import Callable
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from native.netlink import AttributeValue, Message, NetlinkInvalid, pack_attributes
from zos_core.network import messages
from zos_core.network.messages import Address, Link, Refusal, Route

READERS: list[Callable[[Message], object]] = [
    messages.read_link,
    messages.read_address,
    messages.read_route,
    messages.read_refusal,
    messages.read_done,
]
ATTRIBUTES = st.lists(st.tuples(st.integers(0, 40), st.binary(max_size=24)), max_size=6)


@given(st.sampled_from(READERS), st.sampled_from([2, 3, 16, 20, 24]), st.integers(0, 0xFFFF), st.binary(max_size=80))
def test_network_messages_garbage(read: Callable[[Message], object], kind: int, flags: int, payload: bytes) -> None:
    try:
        read(Message(kind, flags, 1, 0, payload))
    except NetlinkInvalid:
        pass


@given(st.sampled_from(READERS), st.sampled_from([(16, 16), (20, 8), (24, 12), (2, 20)]), st.data(), ATTRIBUTES)
def test_network_messages_right_form_wrong_values(
    read: Callable[[Message], object],
    kind: tuple[int, int],
    data: st.DataObject,
    attributes: list[tuple[int, AttributeValue]],
) -> None:
    fixed = data.draw(st.binary(min_size=kind[1], max_size=kind[1]))
    try:
        read(Message(kind[0], 0x300, 1, 0, fixed + pack_attributes(attributes)))
    except NetlinkInvalid:
        pass


def test_network_messages_link() -> None:
    attributes: list[tuple[int, AttributeValue]] = [
        (3, b"z3f04be34-0\0"),
        (20, b"zos:zos:web\0"),
        (18, [(1, b"veth\0")]),
        (5, struct.pack("=I", 2)),
    ]
    message = Message(16, 0, 1, 0, struct.pack("=BxHiII", 0, 1, 9, 0x1043, 0) + pack_attributes(attributes))
    assert messages.read_link(message) == Link(
        index=9, name="z3f04be34-0", up=True, kind="veth", alias="zos:zos:web", peer_index=2
    )
    assert messages.read_link(Message(17, 0, 1, 0, b"")) is None


def test_network_messages_address_and_route() -> None:
    address = struct.pack("=BBBBI", 2, 31, 0, 0, 9) + pack_attributes([(2, IPv4Address("100.64.0.8").packed)])
    assert messages.read_address(Message(20, 0, 1, 0, address)) == Address(
        index=9, address=IPv4Address("100.64.0.8"), prefix_length=31
    )
    six = struct.pack("=BBBBI", 10, 64, 0, 0, 9)
    assert messages.read_address(Message(20, 0, 1, 0, six)) is None
    route = struct.pack("=BBBBBBBBI", 2, 16, 0, 0, 255, 0, 0, 0, 0) + pack_attributes(
        [(1, IPv4Address("10.1.0.0").packed), (15, struct.pack("=I", 1000))]
    )
    assert messages.read_route(Message(24, 0, 1, 0, route)) == Route(destination=IPv4Network("10.1.0.0/16"), table=1000)
    bare = struct.pack("=BBBBBBBBI", 2, 0, 0, 0, 254, 0, 0, 0, 0)
    assert messages.read_route(Message(24, 0, 1, 0, bare)) == Route(destination=IPv4Network("0.0.0.0/0"), table=254)


def test_network_messages_refusal_with_words() -> None:
    payload = struct.pack("=i", -19) + bytes(16) + pack_attributes([(1, b"no such link\0")])
    assert messages.read_refusal(Message(2, 0x300, 1, 0, payload)) == Refusal(errno=19, text="no such link")
    assert messages.read_refusal(Message(2, 0, 1, 0, struct.pack("=i", 0) + bytes(16))) == Refusal(errno=0, text=None)
    with pytest.raises(NetlinkInvalid):
        messages.read_refusal(Message(2, 0, 1, 0, struct.pack("=i", 19) + bytes(16)))


@pytest.mark.parametrize("name", ["", "a" * 16])
def test_network_messages_names_of_links(name: str) -> None:
    with pytest.raises(NetlinkInvalid):
        messages.get_link(name)
