"""BLAKE3, compiled and twin: the official vectors in all modes, and what is refused."""

from __future__ import annotations

import ctypes
import json
from array import array
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from blake3 import blake3

import native.hashing
from native import _rust as rust
from native.errors import InputInvalid
from native.reference import hashing as reference

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/blake3/test_vectors.json").read_text())
NAMES = ["Hasher", "hash_many", "hash_many_into"]
COMPILED = SimpleNamespace(**{name: getattr(rust, name) for name in NAMES})
KEY = VECTORS["key"].encode()
MODES: dict[str, dict[str, Any]] = {
    "hash": {},
    "keyed_hash": {"key": KEY},
    "derive_key": {"context": VECTORS["context_string"]},
}


@pytest.fixture(params=[COMPILED, reference], ids=["rust", "reference"])
def side(request: pytest.FixtureRequest) -> Any:
    return request.param


def test_hashing_facade_gives_the_side_that_was_asked_for() -> None:
    for name in NAMES:
        assert getattr(native.hashing, name) in (getattr(COMPILED, name), getattr(reference, name))


@pytest.mark.parametrize("mode", list(MODES))
def test_hashing_official_vectors(side: Any, mode: str) -> None:
    """Many in one call, into a buffer, and bit by bit."""
    lengths = [case["input_len"] for case in VECTORS["cases"]]
    expected = b"".join(bytes.fromhex(case[mode]) for case in VECTORS["cases"])
    data, ends = b"", array("Q", [0])
    for length in lengths:
        data += bytes(range(251)) * (length // 251) + bytes(range(length % 251))
        ends.append(len(data))
    assert side.hash_many(data, ends, **MODES[mode]) == expected
    out = bytearray(len(expected))
    side.hash_many_into(data, ends, out, threads=3, **MODES[mode])
    assert out == expected
    if side is COMPILED:
        for number, begin in enumerate(ends[:-1]):
            hasher = side.Hasher(**MODES[mode])
            for at in range(begin, ends[number + 1], 700):
                hasher.update(data[at : min(at + 700, ends[number + 1])])
            assert hasher.digest() == expected[32 * number :][:32]


def test_hashing_bit_by_bit(side: Any) -> None:
    hasher = side.Hasher()
    assert hasher.digest() == blake3(b"").digest()
    hasher.update(b"one")
    other = hasher.copy()
    hasher.update(bytearray(b"two"))
    assert hasher.digest() == hasher.digest() == blake3(b"onetwo").digest()
    other.update(memoryview(b"three"))
    assert other.digest() == blake3(b"onethree").digest()


def test_hashing_parts_may_be_empty_and_need_not_fill_the_data(side: Any) -> None:
    assert side.hash_many(b"", array("Q", [0])) == b""
    assert side.hash_many(b"xonex", array("Q", [1, 1, 4])) == blake3(b"").digest() + blake3(b"one").digest()
    side.hash_many_into(b"", array("Q", [0]), bytearray())


class Referring(ctypes.Structure):
    _fields_ = (("number", ctypes.c_uint64), ("object", ctypes.py_object))


REFUSED: list[tuple[str, Callable[[Any], object]]] = [
    ("no offsets", lambda side: side.hash_many(b"", b"")),
    ("ragged offsets", lambda side: side.hash_many(b"", bytes(7))),
    ("falling offsets", lambda side: side.hash_many(b"abc", array("Q", [2, 1]))),
    ("offsets past the end", lambda side: side.hash_many(b"abc", array("Q", [0, 4]))),
    ("a short key", lambda side: side.hash_many(b"", bytes(8), key=bytes(31))),
    ("key and context", lambda side: side.hash_many(b"", bytes(8), key=KEY, context="x")),
    ("key and context, bit by bit", lambda side: side.Hasher(key=KEY, context="x")),
    ("a long key, bit by bit", lambda side: side.Hasher(key=bytes(33))),
    ("no threads", lambda side: side.hash_many(b"", bytes(8), threads=0)),
    ("more threads than can be printed", lambda side: side.hash_many(b"", bytes(8), threads=10**5000)),
    ("too many threads", lambda side: side.hash_many(b"", bytes(8), threads=65)),
    ("less than no threads", lambda side: side.hash_many_into(b"", bytes(8), bytearray(), threads=-1)),
    ("a short out", lambda side: side.hash_many_into(b"", bytes(16), bytearray(31))),
    ("a long out", lambda side: side.hash_many_into(b"", bytes(16), bytearray(33))),
    ("an out that is constant", lambda side: side.hash_many_into(b"", bytes(16), bytes(32))),
    ("a strided out", lambda side: side.hash_many_into(b"", bytes(16), memoryview(bytearray(64))[::2])),
    ("data of references", lambda side: side.hash_many((ctypes.py_object * 1)(), array("Q", [0, 8]))),
    ("an out of references", lambda side: side.hash_many_into(b"", bytes(16), (ctypes.py_object * 4)())),
    ("an out with a reference", lambda side: side.hash_many_into(b"", bytes(16), (Referring * 2)())),
    ("strided data", lambda side: side.hash_many(memoryview(b"abcd")[::2], array("Q", [0, 1]))),
    ("strided data, bit by bit", lambda side: side.Hasher().update(memoryview(b"abcd")[::2])),
]


@pytest.mark.parametrize("call", [call for _, call in REFUSED], ids=[name for name, _ in REFUSED])
def test_hashing_wrong_input_is_refused(side: Any, call: Callable[[Any], object]) -> None:
    with pytest.raises(InputInvalid):
        call(side)


def test_hashing_overlapping_output_is_refused(side: Any) -> None:
    """Neighbours are none: the last byte of one and the first of the other touch."""
    whole = bytearray(200)
    ends = array("Q", [0, 100])
    side.hash_many_into(memoryview(whole)[:100], ends, memoryview(whole)[100:132])
    side.hash_many_into(memoryview(whole)[32:132], ends, memoryview(whole)[:32])
    for begin in (0, 50, 69, 99):
        with pytest.raises(InputInvalid, match="overlaps"):
            side.hash_many_into(memoryview(whole)[:100], ends, memoryview(whole)[begin : begin + 32])
    numbers = memoryview(bytearray(bytes(ends) + bytes(32)))
    with pytest.raises(InputInvalid, match="overlaps"):
        side.hash_many_into(bytes(100), numbers[:16], numbers[8:40])
