"""Write vectors.json anew with the twin, whose ciphers are libsodium's: `python -m tests.vectors.pipeline.make`.

Only a new version of the format may change what is there; frames of zstd are those of 1.5.7, and any other frame of the
same bytes is as right (PIPELINE-ZSTD-1).
"""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

from native.reference.pipeline import Pipeline

__all__ = ["main"]

KEY = bytes(range(32))
PLAIN = b"".join(b"line %d\n" % at for at in range(25))
CASES: dict[str, dict[str, Any]] = {
    "plain": {},
    "zstd": {"level": 3},
    "aes-256-gcm": {"cipher": "aes-256-gcm"},
    "chacha20-poly1305": {"cipher": "chacha20-poly1305"},
    "zstd and aes-256-gcm": {"level": 3, "cipher": "aes-256-gcm"},
    "2 + 1": {"k": 2, "m": 1},
    "everything": {"level": 3, "cipher": "chacha20-poly1305", "k": 4, "m": 2},
}


def main() -> None:
    """Write the file."""
    vectors = []
    for name, settings in CASES.items():
        key: dict[str, Any] = {"key": KEY} if "cipher" in settings else {}
        line = Pipeline(chunk_bytes=150, **settings, **key)
        count = -(-len(PLAIN) // 150)
        slots, lengths = bytearray(count * line.slot_bytes), array("I", [0] * count)
        digests, shard_digests = bytearray(32 * count), bytearray(32 * count * line.shards)
        line.seal_into(PLAIN, slots, lengths, digests=digests, shard_digests=shard_digests)
        stripes = [slots[at * line.slot_bytes :][: lengths[at] * line.shards].hex() for at in range(count)]
        vectors.append(
            {
                "name": name,
                "settings": settings,
                "slot_bytes": line.slot_bytes,
                "stripes": stripes,
                "digests": digests.hex(),
                "shard_digests": shard_digests.hex(),
            }
        )
    document = {
        "about": "docs/spec/pipeline.md; each stripe is all shards of a chunk, end to end; chunks of 150 bytes",
        "key": KEY.hex(),
        "plain": PLAIN.hex(),
        "vectors": vectors,
    }
    (Path(__file__).parent / "vectors.json").write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
