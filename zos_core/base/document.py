"""Documents: everything that crosses a wire or reaches a disk, and their bytes.

`Document` is signed or asked for: unknown fields are refused. `Record` is answered or kept: unknown fields are
ignored, so that versions can roll. (Repeat `frozen=True, kw_only=True` on every subclass, mypy needs it.)
`bytes` are base64 in JSON and `bin` in msgpack; integers carry their unit in the name.
"""

from __future__ import annotations

from typing import Any, TypeVar

import msgspec

from zos_core.base.errors import DocumentInvalid

__all__ = [
    "Document",
    "Record",
    "decode_canonical",
    "decode_json",
    "decode_msgpack",
    "encode_json",
    "encode_msgpack",
]

T = TypeVar("T")


class Document(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Base of everything that is signed or asked for."""


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """Base of answers and kept state."""


_json = msgspec.json.Encoder(order="deterministic")
_msgpack = msgspec.msgpack.Encoder(order="deterministic")


def encode_json(value: Any) -> bytes:
    """One line of JSON without a newline; the keys of a mapping are sorted, fields keep their order."""
    return _json.encode(value)


def decode_json(data: bytes | bytearray | memoryview | str, type_: type[T], *, what: str) -> T:
    """`data` as `type_`. `what` names the source in the error.

    Raises:
        DocumentInvalid: not JSON, or not of that shape; the message holds the path of the fault.
    """
    try:
        return msgspec.json.decode(data, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentInvalid(f"{what}: {error}", what=what) from error


def encode_msgpack(value: Any) -> bytes:
    """Our one encoding: fields in the order of their declaration, mappings sorted, shortest integers."""
    return _msgpack.encode(value)


def decode_msgpack(data: bytes | bytearray | memoryview | msgspec.Raw, type_: type[T], *, what: str) -> T:
    """`data` as `type_`.

    Raises:
        DocumentInvalid: not msgpack, or not of that shape; the message holds the path of the fault.
    """
    try:
        return msgspec.msgpack.decode(data, type=type_)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise DocumentInvalid(f"{what}: {error}", what=what) from error


def decode_canonical(data: bytes, type_: type[T], *, what: str) -> T:
    """`data` as `type_`, accepted only if encoding it again gives the same bytes: what is signed has one form.

    Raises:
        DocumentInvalid: as `decode_msgpack`, or another encoding than ours.
    """
    value = decode_msgpack(data, type_, what=what)
    if _msgpack.encode(value) != data:
        raise DocumentInvalid(f"{what}: not in canonical form", what=what)
    return value
