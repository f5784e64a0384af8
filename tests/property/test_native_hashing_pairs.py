"""BLAKE3: the compiled side, the twin and the wheel of BLAKE3's authors agree on all parts, modes and threads."""

from __future__ import annotations

from array import array
from itertools import pairwise
from typing import Any

from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from native import _rust as rust
from native.reference import hashing as reference

LENGTHS = st.one_of(st.integers(0, 200), st.sampled_from([1023, 1024, 1025, 3000]))
KEYS = st.one_of(st.none(), st.binary(min_size=32, max_size=32))


@settings(max_examples=25)
@given(st.lists(LENGTHS, max_size=4), KEYS, st.one_of(st.none(), st.text(max_size=20)), st.integers(1, 4))
def test_hashing_agrees(lengths: list[int], key: bytes | None, context: str | None, threads: int) -> None:
    if key is not None:
        context = None
    data, ends = b"", array("Q", [0])
    for number, length in enumerate(lengths):
        data += bytes((number + place) % 256 for place in range(length))
        ends.append(len(data))
    found = rust.hash_many(data, ends, key=key, context=context, threads=threads)
    assert found == reference.hash_many(data, ends, key=key, context=context)
    mode: dict[str, Any] = {"key": key} if key is not None else {}
    if context is not None:
        mode = {"derive_key_context": context}
    wheel = b"".join(blake3(data[begin:end], **mode).digest() for begin, end in pairwise(ends))
    assert found == wheel


@settings(max_examples=50)
@given(st.lists(st.binary(max_size=5000), max_size=6))
def test_hashing_bit_by_bit_agrees(pieces: list[bytes]) -> None:
    hasher = rust.Hasher()
    for piece in pieces:
        hasher.update(piece)
    assert hasher.digest() == blake3(b"".join(pieces)).digest()
