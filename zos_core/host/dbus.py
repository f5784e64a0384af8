"""The D-Bus that one call to systemd takes: jeepney's codec, with our limits and errors around it. Pure.

Source: the D-Bus Specification, "Message Protocol".
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from jeepney import DBusAddress, HeaderFields, Message, MessageType, new_method_call
from jeepney.low_level import Header, calc_msg_size

from zos_core.host.errors import SystemdRefused

__all__ = ["ERROR", "METHOD_RETURN", "SIGNAL", "Incoming", "encode_call", "message_length", "parse_message"]

METHOD_RETURN: Final = MessageType.method_return
ERROR: Final = MessageType.error
SIGNAL: Final = MessageType.signal
MESSAGE_BYTES_MAX: Final = 1 << 20
"""The specification allows 128 MiB; what systemd says to us is below a page."""
_HEADER_BYTES: Final = 16
_BODIES: Final = frozenset({"o", "s", "so", "uoss"})
"""Bodies that are read: a job, a reason, `UnitRemoved`, `JobRemoved`; other signals say nothing to us. jeepney would
stay in an array of empty structures for ever, so it gets no types but these."""
_DAMAGE: Final = (struct.error, ValueError, LookupError, TypeError, AssertionError, RecursionError)
"""What jeepney raises for bytes that are no message."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One message from the other side: an answer, an error or a signal. `body` is empty if it is not read."""

    type: MessageType
    reply_serial: int | None
    member: str | None
    error_name: str | None
    body: tuple[Any, ...]


def encode_call(
    serial: int, *, destination: str, path: str, interface: str, member: str, signature: str, body: Sequence[Any]
) -> bytes:
    """Build a method call."""
    address = DBusAddress(path, bus_name=destination, interface=interface)
    return bytes(new_method_call(address, member, signature, tuple(body)).serialise(serial=serial))


def message_length(data: bytes) -> int | None:
    """Bytes of the first message in `data`, or None while its header is not whole.

    Raises:
        SystemdRefused: not D-Bus, or above `MESSAGE_BYTES_MAX`.
    """
    if len(data) < _HEADER_BYTES:
        return None
    if data[:1] != b"l" or data[3] != 1:
        raise SystemdRefused("systemd answered with something that is not D-Bus of this machine")
    length = int(calc_msg_size(data[:_HEADER_BYTES]))
    if length > MESSAGE_BYTES_MAX:
        raise SystemdRefused(f"systemd answered with {length} bytes")
    return length


def parse_message(data: bytes) -> Incoming:
    """Read one whole message.

    Raises:
        SystemdRefused: it does not follow the format.
    """
    try:
        header, _ = Header.from_buffer(data)
        read = header.fields.get(HeaderFields.signature) in _BODIES
        body = Message.from_buffer(data).body if read else ()
    except _DAMAGE as error:
        raise SystemdRefused(f"systemd answered with a damaged message: {error}") from error
    return Incoming(
        type=header.message_type,
        reply_serial=header.fields.get(HeaderFields.reply_serial),
        member=header.fields.get(HeaderFields.member),
        error_name=header.fields.get(HeaderFields.error_name),
        body=tuple(body),
    )
