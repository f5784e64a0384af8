"""rtnetlink messages and attributes in plain Python: the twin of `native/cy/netlink.pyx`, and its oracle.

Bytes are those of netlink(7) and rtnetlink(7) in the machine's byte order: a header of 16 bytes (u32 length, u16 type,
u16 flags, u32 sequence, u32 port), a payload, padding to four bytes; an attribute is u16 length, u16 type, value and
padding. Nothing that comes from outside is believed: every length is checked against what is there, and the whole
buffer must be used up.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final, NamedTuple, TypeAlias

from native.errors import ZosError

__all__ = [
    "DATAGRAM_MAX",
    "NESTING_MAX",
    "VALUE_MAX",
    "AttributeValue",
    "Message",
    "NetlinkInvalid",
    "pack_attributes",
    "pack_message",
    "parse_messages",
    "unpack_attributes",
]

DATAGRAM_MAX: Final = 1 << 20
"""Bytes of one datagram or message; the kernel's own are at most 32 KiB."""
VALUE_MAX: Final = 0xFFFF - 4
"""Bytes of one attribute's value: its length field has 16 bits and counts four bytes of header."""
NESTING_MAX: Final = 8
"""Attributes in attributes; rtnetlink uses four levels."""

AttributeValue: TypeAlias = "bytes | Sequence[tuple[int, AttributeValue]]"

_MESSAGE: Final = struct.Struct("=IHHII")
_ATTRIBUTE: Final = struct.Struct("=HH")
_TYPE_MASK: Final = 0x3FFF  # without NLA_F_NESTED and NLA_F_NET_BYTEORDER


class NetlinkInvalid(ZosError):
    """Bytes that are not netlink messages, or values that do not fit into one."""

    code, http_status, exit_status, retryable = "network.netlink-invalid", 502, 80, False


class Message(NamedTuple):
    """One netlink message; `payload` is without padding."""

    type: int
    flags: int
    sequence: int
    port: int
    payload: bytes


def _check(name: str, value: int, bits: int) -> None:
    if not 0 <= value < 1 << bits:
        raise NetlinkInvalid(f"netlink: {name} {value} does not fit {bits} bits")


def pack_message(type: int, flags: int, sequence: int, payload: bytes) -> bytes:
    """Build one message with port 0, padded to four bytes, so that messages can be joined into one datagram."""
    _check("type", type, 16)
    _check("flags", flags, 16)
    _check("sequence", sequence, 32)
    length = _MESSAGE.size + len(payload)
    if length > DATAGRAM_MAX:
        raise NetlinkInvalid(f"netlink: a message of {length} bytes is above {DATAGRAM_MAX}")
    return _MESSAGE.pack(length, type, flags, sequence, 0) + payload + bytes(-length % 4)


def pack_attributes(attributes: Sequence[tuple[int, AttributeValue]]) -> bytes:
    """Build attributes in the order given; a value that is a sequence is nested.

    NLA_F_NESTED is set only where the caller sets it in the type: the kernel wants it in some families, not in others.
    """
    return _pack_attributes(attributes, 1)


def _pack_attributes(attributes: Sequence[tuple[int, AttributeValue]], depth: int) -> bytes:
    if depth > NESTING_MAX:
        raise NetlinkInvalid(f"netlink: attributes nested deeper than {NESTING_MAX}")
    out = bytearray()
    for type, value in attributes:
        _check("attribute type", type, 16)
        if not isinstance(value, bytes):
            value = _pack_attributes(value, depth + 1)
        if len(value) > VALUE_MAX:
            raise NetlinkInvalid(f"netlink: a value of {len(value)} bytes is above {VALUE_MAX}")
        out += _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), type)
        out += value
        out += bytes(-len(value) % 4)
    return bytes(out)


def parse_messages(data: bytes) -> list[Message]:
    """Split one datagram into its messages.

    Raises:
        NetlinkInvalid: a length below 16 or past the end, or bytes left over. The last message may lack its padding.
    """
    end = len(data)
    if end > DATAGRAM_MAX:
        raise NetlinkInvalid(f"netlink: a datagram of {end} bytes is above {DATAGRAM_MAX}")
    found: list[Message] = []
    at = 0
    while at < end:
        if end - at < _MESSAGE.size:
            raise NetlinkInvalid(f"netlink: {end - at} bytes left at {at}, too few for a header")
        length, type, flags, sequence, port = _MESSAGE.unpack_from(data, at)
        if not _MESSAGE.size <= length <= end - at:
            raise NetlinkInvalid(f"netlink: message length {length} at {at} with {end - at} bytes left")
        found.append(Message(type, flags, sequence, port, data[at + _MESSAGE.size : at + length]))
        at += length + -length % 4
    return found


def unpack_attributes(data: bytes, offset: int = 0) -> list[tuple[int, bytes]]:
    """Split `data` from `offset` (the size of the fixed part before them) into attributes.

    Gives (type without its two flag bits, value) in order; a nested value is unpacked by calling this again.

    Raises:
        NetlinkInvalid: a length below four or past the end, bytes left over, or an offset outside the data. The last
            attribute may lack its padding.
    """
    end = len(data)
    if not 0 <= offset <= end:
        raise NetlinkInvalid(f"netlink: attributes from {offset} of {end} bytes")
    found: list[tuple[int, bytes]] = []
    at = offset
    while at < end:
        if end - at < _ATTRIBUTE.size:
            raise NetlinkInvalid(f"netlink: {end - at} bytes left at {at}, too few for an attribute")
        length, type = _ATTRIBUTE.unpack_from(data, at)
        if not _ATTRIBUTE.size <= length <= end - at:
            raise NetlinkInvalid(f"netlink: attribute length {length} at {at} with {end - at} bytes left")
        found.append((type & _TYPE_MASK, data[at + _ATTRIBUTE.size : at + length]))
        at += length + -length % 4
    return found
