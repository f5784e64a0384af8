"""Checkpoints of a hub's log: C2SP tlog-checkpoint in a C2SP signed-note (docs/spec/hub-log.md, LOGHUB-2). Pure.

    zos-hub/<public key, 64 hex digits>
    <number of leaves, decimal>
    <root, base64>

    — zos-hub/<public key> <base64 of key hash 4 | signature 64>

The origin is made from the key, so that whoever remembers the one remembers the other.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from dataclasses import dataclass

from flist.hub.errors import CheckpointInvalid
from zos_core.base.keyring import KEY_BYTES, SIGNATURE_BYTES, Key, is_bare_signature

__all__ = ["CHECKPOINT_BYTES_MAX", "Checkpoint", "open_checkpoint", "origin_of", "sign_checkpoint"]

CHECKPOINT_BYTES_MAX = 4096
SIZE_MAX = 1 << 48
ED25519 = b"\x01"
"""The type of the key in signed-note."""

_ORIGIN = re.compile(r"zos-hub/([0-9a-f]{64})\Z")
_SIZE = re.compile(r"(0|[1-9][0-9]{0,17})\Z")
_DASH = "\N{EM DASH} "


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """The state of a log: the key that signed it, the number of its leaves, its root."""

    public: bytes
    size: int
    root: bytes

    def body(self) -> str:
        """The text that is signed."""
        return f"{origin_of(self.public)}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def origin_of(public: bytes) -> str:
    """The name of the log, and of its key."""
    return f"zos-hub/{public.hex()}"


def key_hash(public: bytes) -> bytes:
    """The key hash of signed-note: of its name, a newline, the type and the key."""
    return hashlib.sha256(origin_of(public).encode() + b"\n" + ED25519 + public).digest()[:4]


def sign_checkpoint(key: Key, size: int, root: bytes) -> str:
    """The note of a log's state."""
    body = Checkpoint(public=key.public, size=size, root=root).body()
    signature = base64.b64encode(key_hash(key.public) + key.sign_bare(body.encode())).decode()
    return f"{body}\n{_DASH}{origin_of(key.public)} {signature}\n"


def open_checkpoint(text: str) -> Checkpoint:
    """A note whose origin's key has signed it; signatures of others, such as witnesses, are passed over.

    Raises:
        CheckpointInvalid: anything else.
    """
    if len(text.encode(errors="replace")) > CHECKPOINT_BYTES_MAX:
        raise CheckpointInvalid("the checkpoint is too long")
    body, separator, signatures = text.partition("\n\n")
    lines = body.split("\n")
    if not separator or len(lines) < 3 or not signatures.endswith("\n"):
        raise CheckpointInvalid("this is no checkpoint")
    origin, size, root = _ORIGIN.match(lines[0]), _SIZE.match(lines[1]), _base64(lines[2])
    if origin is None or size is None or root is None or len(root) != 32 or int(size[1]) > SIZE_MAX:
        raise CheckpointInvalid("the checkpoint has a wrong origin, size or root")
    public = bytes.fromhex(origin[1])
    signed = f"{body}\n".encode()
    for line in signatures[:-1].split("\n"):
        name, _, value = line.removeprefix(_DASH).partition(" ")
        data = _base64(value)
        if not line.startswith(_DASH) or data is None or len(data) < 5:
            raise CheckpointInvalid("the checkpoint has a line that is no signature")
        if name == lines[0] and data[:4] == key_hash(public):
            if len(data) != 4 + SIGNATURE_BYTES or not is_bare_signature(public, signed, data[4:]):
                raise CheckpointInvalid("the signature of the checkpoint is wrong", origin=lines[0])
            assert len(public) == KEY_BYTES
            return Checkpoint(public=public, size=int(size[1]), root=root)
    raise CheckpointInvalid("the checkpoint is not signed by the key of its origin", origin=lines[0])


def _base64(text: str) -> bytes | None:
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return None
    return data if base64.b64encode(data).decode() == text else None
