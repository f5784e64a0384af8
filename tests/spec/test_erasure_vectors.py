"""The golden vectors of docs/spec/erasure.md on every side of the code."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from native import erasure
from tests.erasure_kit import SIDES, code

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/erasure/vectors.json").read_text())


def shard(index: int, length: int) -> bytes:
    """As the file says of itself."""
    blocks = [hashlib.sha256(f"zos erasure vector {index} {at}".encode()).digest() for at in range(-(-length // 32))]
    return b"".join(blocks)[:length]


@pytest.mark.parametrize("side", SIDES)
def test_erasure_vector_of_the_page(side: str) -> None:
    small = VECTORS["small"]
    data = [bytes.fromhex(each) for each in small["data"]]
    parity = code(side, small["k"], small["m"]).encode(data)
    assert [bytes(each).hex() for each in parity] == small["parity"]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(
    "vector", VECTORS["vectors"], ids=lambda vector: f"{vector['matrix']}-{vector['k']}+{vector['m']}"
)
def test_erasure_vectors(side: str, vector: dict[str, Any]) -> None:
    k, m = vector["k"], vector["m"]
    under_test = code(side, k, m, matrix=vector["matrix"])
    assert under_test.factors.hex() == vector["factors"]
    if "parity_sha256" in vector:
        parity = under_test.encode([shard(index, vector["shard_bytes"]) for index in range(k)])
        assert [hashlib.sha256(each).hexdigest() for each in parity] == vector["parity_sha256"]


def test_erasure_limits_are_those_of_the_page() -> None:
    assert (erasure.K_MAX, erasure.M_MAX, erasure.SHARDS_MAX) == (128, 32, 255)
