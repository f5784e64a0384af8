"""As much of the D-Bus wire format as one call to systemd takes: pure, strict, little-endian.

Source: the D-Bus Specification, "Message Protocol". A value is encoded by a signature: `y b u t s o g`, arrays `aX`,
structures `(XY)`, variants `v`, whose value is a pair (signature, value).
"""

from __future__ import annotations

import struct
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any, Final

from zos_core.host.errors import SystemdRefused

__all__ = ["ERROR", "METHOD_RETURN", "SIGNAL", "Incoming", "encode_call", "message_length", "parse_message"]

METHOD_CALL: Final = 1
METHOD_RETURN: Final = 2
ERROR: Final = 3
SIGNAL: Final = 4
MESSAGE_BYTES_MAX: Final = 1 << 20
"""The specification allows 128 MiB; what systemd says to us is below a page."""
_DEPTH_MAX: Final = 16
_HEADER: Final = struct.Struct("<cBBBIII")  # order, type, flags, version, body length, serial, length of the fields
_PATH, _INTERFACE, _MEMBER, _ERROR_NAME, _REPLY_SERIAL, _DESTINATION, _SIGNATURE = 1, 2, 3, 4, 5, 6, 8
_FIXED: Final = {"y": "<B", "b": "<I", "u": "<I", "i": "<i", "t": "<Q", "x": "<q"}
_ALIGNMENT: Final = {"y": 1, "g": 1, "v": 1, "b": 4, "u": 4, "i": 4, "s": 4, "o": 4, "a": 4, "t": 8, "x": 8, "(": 8}


@dataclass(frozen=True, slots=True, kw_only=True)
class Incoming:
    """One message from the other side: an answer, an error or a signal. `body` has the values of its signature."""

    type: int
    reply_serial: int | None
    path: str | None
    member: str | None
    error_name: str | None
    body: tuple[Any, ...]


def encode_call(
    serial: int, *, destination: str, path: str, interface: str, member: str, signature: str, body: Sequence[Any]
) -> bytes:
    """Build a method call."""
    content = bytearray()
    for kind, value in zip(_split(signature), body, strict=True):
        _encode(content, kind, value)
    fields = bytearray()
    _encode(
        fields,
        "a(yv)",
        [
            (_PATH, ("o", path)),
            (_INTERFACE, ("s", interface)),
            (_MEMBER, ("s", member)),
            (_DESTINATION, ("s", destination)),
            (_SIGNATURE, ("g", signature)),
        ],
    )
    # The fields' array begins at 12 in the message, and its elements at 16: both are aligned as they are from 0.
    (length,) = struct.unpack_from("<I", fields)
    head = _HEADER.pack(b"l", METHOD_CALL, 0, 1, len(content), serial, length) + fields[8:]
    return head + bytes(-len(head) % 8) + content


def message_length(data: bytes) -> int | None:
    """Bytes of the first message in `data`, or None while its header is not whole.

    Raises:
        SystemdRefused: not D-Bus, or above `MESSAGE_BYTES_MAX`.
    """
    if len(data) < _HEADER.size:
        return None
    order, _, _, version, body, _, fields = _HEADER.unpack_from(data)
    if order != b"l" or version != 1:
        raise SystemdRefused("systemd answered with something that is not D-Bus of this machine")
    length = _HEADER.size + fields + -fields % 8 + body
    if length > MESSAGE_BYTES_MAX:
        raise SystemdRefused(f"systemd answered with {length} bytes")
    return int(length)


def parse_message(data: bytes, *, signals: Collection[str] = ()) -> Incoming:
    """Read one whole message. The body of a signal is read only if its name is in `signals`: others have types of
    their own, and say nothing to us.

    Raises:
        SystemdRefused: it does not follow the format.
    """
    try:
        return _parse(data, signals)
    except (struct.error, UnicodeDecodeError, IndexError, KeyError, TypeError) as error:
        raise SystemdRefused(f"systemd answered with a damaged message: {error}") from error


def _parse(data: bytes, signals: Collection[str]) -> Incoming:
    _, kind, _, _, body_length, _, fields_length = _HEADER.unpack_from(data)
    listed, end = _decode(data, _HEADER.size - 4, "a(yv)", 0)
    if end != _HEADER.size + fields_length:
        raise SystemdRefused("systemd answered with a damaged header")
    fields = dict(listed)
    start = end + -end % 8
    if start + body_length != len(data):
        raise SystemdRefused("systemd answered with a damaged body")
    values, at = [], 0
    body = data[start:]
    unread = kind == SIGNAL and fields.get(_MEMBER) not in signals
    for one in () if unread else _split(fields.get(_SIGNATURE, "")):
        value, at = _decode(body, at, one, 0)
        values.append(value)
    return Incoming(
        type=kind,
        reply_serial=fields.get(_REPLY_SERIAL),
        path=fields.get(_PATH),
        member=fields.get(_MEMBER),
        error_name=fields.get(_ERROR_NAME),
        body=tuple(values),
    )


def _split(signature: str) -> list[str]:
    """Single complete types of a signature, in order."""
    found, at = [], 0
    while at < len(signature):
        end = _end_of_type(signature, at, 0)
        found.append(signature[at:end])
        at = end
    return found


def _end_of_type(signature: str, at: int, depth: int) -> int:
    if depth > _DEPTH_MAX:
        raise SystemdRefused("a D-Bus signature is nested too deeply")
    match signature[at]:
        case "a":
            return _end_of_type(signature, at + 1, depth + 1)
        case "(":
            at += 1
            while signature[at] != ")":
                at = _end_of_type(signature, at, depth + 1)
            return at + 1
        case kind if kind in _ALIGNMENT:
            return at + 1
        case kind:
            raise SystemdRefused(f"D-Bus type {kind!r} is not spoken here")


def _encode(out: bytearray, kind: str, value: Any) -> None:
    out += bytes(-len(out) % _ALIGNMENT[kind[0]])
    match kind[0]:
        case "s" | "o":
            raw = value.encode()
            out += struct.pack("<I", len(raw)) + raw + b"\0"
        case "g":
            raw = value.encode()
            out += struct.pack("<B", len(raw)) + raw + b"\0"
        case "v":
            inner, content = value
            _encode(out, "g", inner)
            _encode(out, inner, content)
        case "a":
            at = len(out)
            out += bytes(4)
            out += bytes(-len(out) % _ALIGNMENT[kind[1]])
            start = len(out)
            for item in value:
                _encode(out, kind[1:], item)
            struct.pack_into("<I", out, at, len(out) - start)
        case "(":
            for one, item in zip(_split(kind[1:-1]), value, strict=True):
                _encode(out, one, item)
        case single:
            out += struct.pack(_FIXED[single], value)


def _decode(data: bytes, at: int, kind: str, depth: int) -> tuple[Any, int]:
    if depth > _DEPTH_MAX:
        raise SystemdRefused("a D-Bus value is nested too deeply")
    at += -at % _ALIGNMENT[kind[0]]
    match kind[0]:
        case "s" | "o" | "g":
            layout = struct.Struct("<B" if kind == "g" else "<I")
            (length,) = layout.unpack_from(data, at)
            at += layout.size
            if at + length + 1 > len(data) or data[at + length]:
                raise SystemdRefused("systemd answered with a damaged text")
            return data[at : at + length].decode(), at + length + 1
        case "v":
            inner, at = _decode(data, at, "g", depth + 1)
            if _end_of_type(inner, 0, 0) != len(inner):
                raise SystemdRefused("systemd answered with a damaged variant")
            return _decode(data, at, inner, depth + 1)
        case "a":
            (length,) = struct.unpack_from("<I", data, at)
            at += 4
            at += -at % _ALIGNMENT[kind[1]]
            end = at + length
            if end > len(data):
                raise SystemdRefused("systemd answered with a damaged list")
            items = []
            while at < end:
                item, at = _decode(data, at, kind[1:], depth + 1)
                items.append(item)
            if at != end:
                raise SystemdRefused("systemd answered with a damaged list")
            return items, at
        case "(":
            values = []
            for one in _split(kind[1:-1]):
                value, at = _decode(data, at, one, depth + 1)
                values.append(value)
            return tuple(values), at
        case single:
            layout = struct.Struct(_FIXED[single])
            (number,) = layout.unpack_from(data, at)
            return (bool(number) if single == "b" else number), at + layout.size
