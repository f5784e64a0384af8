"""Write vectors.json anew from oracles that are not ours: `python -m tests.vectors.erasure.make [FACTORS.json]`.

Parity and factors of Cauchy come from ISA-L (bench/isal.py). Factors of Vandermonde come from a program of ten lines on
the crate reed-solomon-erasure 6.0, `galois_8::ReedSolomon::new(k, m)`, which encodes the k unit vectors as data and
prints `[[k, m, "hex of all parity"], ...]`; without its file those in vectors.json are kept.
"""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

from bench.isal import Isal, find

__all__ = ["main"]

HERE = Path(__file__).parent
SHAPES = [(1, 1), (2, 1), (3, 2), (4, 2), (5, 3), (10, 4), (16, 4), (17, 3), (20, 8), (32, 8), (100, 30), (128, 32)]
SHARD_BYTES = {16: 1021, 4: 64, 1: 1}
SHARD_BYTES_ELSE = 97


def _shard(index: int, length: int) -> bytes:
    blocks = [hashlib.sha256(f"zos erasure vector {index} {at}".encode()).digest() for at in range(-(-length // 32))]
    return b"".join(blocks)[:length]


def main(arguments: list[str]) -> int:
    """Write the file; 1 if there is no ISA-L here."""
    path = find()
    if path is None:
        print("no ISA-L 2.31 or newer here", file=sys.stderr)
        return 1
    isal, target = Isal(path), HERE / "vectors.json"
    document: dict[str, Any] = json.loads(target.read_text())
    kept = {(one["k"], one["m"]): one["factors"] for one in document["vectors"] if one["matrix"] == "vandermonde"}
    if arguments:
        kept = {(k, m): factors for k, m, factors in json.loads(Path(arguments[0]).read_text())}
    vectors: list[dict[str, Any]] = []
    for k, m in SHAPES:
        length = SHARD_BYTES.get(k, SHARD_BYTES_ELSE)
        parity = isal.encode([_shard(index, length) for index in range(k)], m)
        digests = [hashlib.sha256(shard).hexdigest() for shard in parity]
        factors = isal.matrix(k, m)[k * k :].hex()
        vectors.append(
            {"matrix": "cauchy", "k": k, "m": m, "factors": factors, "shard_bytes": length, "parity_sha256": digests}
        )
    vectors += [{"matrix": "vandermonde", "k": k, "m": m, "factors": kept[k, m]} for k, m in SHAPES]
    document["vectors"] = vectors
    data = [bytes.fromhex(shard) for shard in document["small"]["data"]]
    document["small"]["parity"] = [shard.hex() for shard in isal.encode(data, document["small"]["m"])]
    target.write_text(json.dumps(document, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
