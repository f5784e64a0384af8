"""The golden vectors of docs/spec/pipeline.md on both sides."""

from __future__ import annotations

import json
from array import array
from pathlib import Path
from typing import Any

import pytest
import zstandard

from native import _rust as rust
from native import pipeline
from native.reference import pipeline as reference

VECTORS: dict[str, Any] = json.loads((Path(__file__).parents[1] / "vectors/pipeline/vectors.json").read_text())
PLAIN = bytes.fromhex(VECTORS["plain"])
CHUNK = 150


@pytest.mark.parametrize("vector", VECTORS["vectors"], ids=lambda vector: vector["name"])
@pytest.mark.parametrize("side", [rust.Pipeline, reference.Pipeline], ids=["rust", "reference"])
def test_pipeline_vectors(side: Any, vector: dict[str, Any]) -> None:
    settings = vector["settings"]
    key = {"key": bytes.fromhex(VECTORS["key"])} if "cipher" in settings else {}
    line = side(chunk_bytes=CHUNK, **settings, **key)
    assert line.slot_bytes == vector["slot_bytes"]
    stripes = [bytes.fromhex(each) for each in vector["stripes"]]
    digests, shard_digests = bytes.fromhex(vector["digests"]), bytes.fromhex(vector["shard_digests"])
    lengths = array("I", [len(stripe) // line.shards for stripe in stripes])
    slots, out = b"".join(stripe.ljust(line.slot_bytes, b"\0") for stripe in stripes), bytearray(len(PLAIN))
    assert line.open_into(slots, lengths, out, digests=digests, shard_digests=shard_digests) == []
    assert out == PLAIN
    if "level" in settings and zstandard.ZSTD_VERSION != (1, 5, 7):
        return  # another release may make other frames
    made, sizes = bytearray(len(slots)), array("I", [0] * len(stripes))
    found, each = bytearray(len(digests)), bytearray(len(shard_digests))
    line.seal_into(PLAIN, made, sizes, digests=found, shard_digests=each)
    assert [made[at * line.slot_bytes :][: len(stripe)] for at, stripe in enumerate(stripes)] == stripes
    assert (sizes, bytes(found), bytes(each)) == (lengths, digests, shard_digests)


def test_pipeline_limits_are_those_of_the_page() -> None:
    assert (pipeline.CHUNK_BYTES_MAX, pipeline.LEVEL_MAX, pipeline.SHARD_ALIGN) == (1 << 20, 19, 64)
