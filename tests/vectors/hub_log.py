"""Golden log of a hub, written with no code of ours; run as a script it writes the JSON beside.

Three name records by the key whose seed is the bytes 0..31, in the log whose key has the seed 32..63.
"""

import base64
import hashlib
import json
import struct
from pathlib import Path
from typing import Any

from nacl.signing import SigningKey

PUBLISHER = SigningKey(bytes(range(32)))
LOG = SigningKey(bytes(range(32, 64)))


def text(value: str) -> bytes:
    return bytes([0xA0 | len(value)]) + value.encode()


def record(revision: int) -> bytes:
    fields = [
        ("name", text("jane/web")),
        ("tag", text("latest")),
        ("digest", b"\xc4\x20" + bytes([revision]) * 32),
        ("revision", bytes([revision])),
    ]
    body = bytes([0x80 | len(fields)]) + b"".join(text(name) + value for name, value in fields)
    head = struct.pack("<8sHI", b"ZOSFNAME", 1, len(body)) + body
    return head + bytes(PUBLISHER.verify_key) + PUBLISHER.sign(b"zos/flist/name/v1\0" + head).signature


def node(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


def checkpoint(size: int, root: bytes) -> str:
    public = bytes(LOG.verify_key)
    origin = f"zos-hub/{public.hex()}"
    body = f"{origin}\n{size}\n{base64.b64encode(root).decode()}\n"
    key_hash = hashlib.sha256(origin.encode() + b"\n\x01" + public).digest()[:4]
    signature = base64.b64encode(key_hash + LOG.sign(body.encode()).signature).decode()
    return f"{body}\n\u2014 {origin} {signature}\n"


def vectors() -> dict[str, Any]:
    records = [record(n) for n in (1, 2, 3)]
    a, b, c = (hashlib.sha256(b"\0" + each).digest() for each in records)
    roots = [hashlib.sha256(b"").digest(), a, node(a, b), node(node(a, b), c)]
    return {
        "publisher": bytes(PUBLISHER.verify_key).hex(),
        "seed": bytes(range(32, 64)).hex(),
        "records": [each.hex() for each in records],
        "roots": [each.hex() for each in roots],
        "checkpoints": [checkpoint(size, root) for size, root in enumerate(roots)],
        "inclusion of leaf 0 in 3": (b + c).hex(),
        "consistency of 1 and 3": (b + c).hex(),
        "consistency of 2 and 3": c.hex(),
        "log": (
            struct.pack("<8sHH", b"ZOSHUBLG", 1, 0) + b"".join(struct.pack("<I", len(each)) + each for each in records)
        ).hex(),
    }


if __name__ == "__main__":
    Path(__file__).with_suffix(".json").write_text(json.dumps(vectors(), indent=1) + "\n")
