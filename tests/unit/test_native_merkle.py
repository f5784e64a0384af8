"""Merkle trees, compiled and twin: the vectors of RFC 6962, and what is refused."""

from __future__ import annotations

import json
from array import array
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import native.merkle
from native import _rust as rust
from native.errors import InputInvalid
from native.merkle import EMPTY_ROOT, SIZE_MAX, ProofInvalid, hash_leaf
from native.reference import merkle as reference

VECTORS = json.loads((Path(__file__).parents[1] / "vectors/merkle/rfc6962.json").read_text())
LEAVES = [bytes.fromhex(leaf) for leaf in VECTORS["leaves"]]
NAMES = [name for name in reference.__all__ if hasattr(rust, f"merkle_{name}")]
COMPILED = SimpleNamespace(**{name: getattr(rust, f"merkle_{name}") for name in NAMES})


@pytest.fixture(params=[COMPILED, reference], ids=["rust", "reference"])
def side(request: pytest.FixtureRequest) -> Any:
    return request.param


def offsets_of(leaves: list[bytes]) -> array[int]:
    ends = array("Q", [0])
    for leaf in leaves:
        ends.append(ends[-1] + len(leaf))
    return ends


def hashed(side: Any, leaves: list[bytes]) -> bytes:
    return bytes(side.hash_leaves(b"".join(leaves), offsets_of(leaves)))


def joined(hashes: list[str]) -> bytes:
    return bytes.fromhex("".join(hashes))


def test_merkle_facade_gives_the_side_that_was_asked_for() -> None:
    assert len(NAMES) == 10
    for name in NAMES:
        assert getattr(native.merkle, name) in (getattr(COMPILED, name), getattr(reference, name))


def test_merkle_vectors_of_leaves_and_roots(side: Any) -> None:
    leaves = hashed(side, LEAVES)
    assert leaves == b"".join(sha256(b"\0" + leaf).digest() for leaf in LEAVES)
    assert leaves == b"".join(map(hash_leaf, LEAVES))
    nodes = side.extend(b"", 0, leaves)
    assert side.root(nodes, 0) == EMPTY_ROOT == bytes.fromhex(VECTORS["empty_root"])
    for size, expected in enumerate(VECTORS["roots"], 1):
        assert side.root(nodes, size).hex() == expected
        assert len(nodes[: side.node_count(size) * 32]) == 32 * (2 * size - size.bit_count())


@pytest.mark.parametrize("case", VECTORS["inclusion"], ids=lambda case: f"{case['index']}-of-{case['size']}")
def test_merkle_vectors_of_inclusion(side: Any, case: dict[str, Any]) -> None:
    index, size, proof = case["index"], case["size"], joined(case["proof"])
    nodes = side.extend(b"", 0, hashed(side, LEAVES))
    assert side.inclusion_proof(nodes, size, index) == proof
    root = bytes.fromhex(VECTORS["roots"][size - 1])
    side.verify_inclusion(root, size, index, hash_leaf(LEAVES[index]), proof)
    with pytest.raises(ProofInvalid) as refused:
        side.verify_inclusion(root, size, index, hash_leaf(b"another"), proof)
    assert refused.value.context == {"index": index}


@pytest.mark.parametrize("case", VECTORS["consistency"], ids=lambda case: f"{case['old_size']}-{case['size']}")
def test_merkle_vectors_of_consistency(side: Any, case: dict[str, Any]) -> None:
    old_size, size, proof = case["old_size"], case["size"], joined(case["proof"])
    nodes = side.extend(b"", 0, hashed(side, LEAVES))
    assert side.consistency_proof(nodes, old_size, size) == proof
    old_root, root = (bytes.fromhex(VECTORS["roots"][number - 1]) for number in (old_size, size))
    side.verify_consistency(old_root, old_size, root, size, proof)
    for wrong_old, wrong in ((EMPTY_ROOT, root), (old_root, EMPTY_ROOT)):
        with pytest.raises(ProofInvalid):
            side.verify_consistency(wrong_old, old_size, wrong, size, proof)


def test_merkle_many_proofs_lie_end_to_end(side: Any) -> None:
    """Of every leaf of a ragged tree; the first that is wrong is named."""
    leaves = hashed(side, LEAVES)[: 7 * 32]
    nodes = side.extend(b"", 0, leaves)
    root, indices = side.root(nodes, 7), array("Q", range(7))
    proofs = side.inclusion_proofs(nodes, 7, indices)
    assert proofs == b"".join(side.inclusion_proof(nodes, 7, index) for index in indices)
    assert len(proofs) == sum(native.merkle.proof_bytes(7, index) for index in indices)
    side.verify_inclusions(root, 7, indices, leaves, proofs)
    side.verify_inclusions(root, 7, b"", b"", b"")
    begin = native.merkle.proof_bytes(7, 0) + native.merkle.proof_bytes(7, 1)
    for place, index in ((begin, 2), (len(proofs) - 1, 6)):
        damaged = bytearray(proofs)
        damaged[place] ^= 1
        with pytest.raises(ProofInvalid) as refused:
            side.verify_inclusions(root, 7, indices, leaves, damaged)
        assert refused.value.context == {"index": index}
    with pytest.raises(ProofInvalid):
        side.verify_inclusions(root, 7, indices, leaves, proofs[:-32])
    wrong: list[Callable[[], object]] = [
        lambda: side.verify_inclusions(root, 7, indices, leaves, proofs + bytes(32)),
        lambda: side.verify_inclusions(root, 7, indices, leaves[:-32], proofs),
        lambda: side.verify_inclusions(root, 7, indices, leaves, proofs[:-1]),
        lambda: side.verify_inclusions(root, 7, array("Q", [7]), leaves[:32], b""),
        lambda: side.verify_inclusions(root[:-1], 7, b"", b"", b""),
    ]
    for call in wrong:
        with pytest.raises(InputInvalid):
            call()


HASH = bytes(32)
REFUSED: list[tuple[str, Callable[[Any], object]]] = [
    ("a size that cannot be printed", lambda side: side.node_count(10**5000)),
    ("one below 0", lambda side: side.root(b"", -(10**5000))),
    ("no offsets", lambda side: side.hash_leaves(b"", b"")),
    ("falling offsets", lambda side: side.hash_leaves(b"abcd", array("Q", [0, 3, 2, 4]))),
    ("offsets past the end", lambda side: side.hash_leaves(b"abcd", array("Q", [0, 5]))),
    ("huge offsets", lambda side: side.hash_leaves(b"abcd", array("Q", [2**64 - 1, 0]))),
    ("odd offsets", lambda side: side.hash_leaves(b"abcd", bytes(9))),
    ("nodes of a ragged length", lambda side: side.root(bytes(33), 1)),
    ("too few nodes", lambda side: side.root(bytes(64), 2)),
    ("a root of too many leaves", lambda side: side.root(bytes(64), SIZE_MAX + 1)),
    ("a negative size", lambda side: side.root(bytes(64), -1)),
    ("a size above 64 bits", lambda side: side.root(bytes(64), 1 << 64)),
    ("counting too many", lambda side: side.node_count(SIZE_MAX + 1)),
    ("ragged leaves", lambda side: side.extend(b"", 0, bytes(31))),
    ("leaves behind too few nodes", lambda side: side.extend(b"", 1, HASH)),
    ("a proof of no leaf", lambda side: side.inclusion_proof(HASH, 1, 1)),
    ("a proof in an empty tree", lambda side: side.inclusion_proof(b"", 0, 0)),
    ("proofs of no leaf", lambda side: side.inclusion_proofs(HASH, 1, array("Q", [0, 1]))),
    ("consistency with nothing", lambda side: side.consistency_proof(HASH, 0, 1)),
    ("consistency backwards", lambda side: side.consistency_proof(bytes(96), 2, 1)),
    ("a short root", lambda side: side.verify_inclusion(bytes(31), 1, 0, HASH, b"")),
    ("a long leaf", lambda side: side.verify_inclusion(HASH, 1, 0, bytes(33), b"")),
    ("a ragged proof", lambda side: side.verify_inclusion(HASH, 1, 0, HASH, b"x")),
    ("an index outside", lambda side: side.verify_inclusion(HASH, 1, 1, HASH, b"")),
    ("a tree too large", lambda side: side.verify_inclusion(HASH, SIZE_MAX + 1, 1, HASH, b"")),
    ("old size 0", lambda side: side.verify_consistency(EMPTY_ROOT, 0, HASH, 1, b"")),
    ("older than old", lambda side: side.verify_consistency(HASH, 2, HASH, 1, b"")),
    ("a short old root", lambda side: side.verify_consistency(b"", 1, HASH, 1, b"")),
    ("strided nodes", lambda side: side.root(memoryview(bytes(64))[::2], 1)),
]


@pytest.mark.parametrize("call", [call for _, call in REFUSED], ids=[name for name, _ in REFUSED])
def test_merkle_wrong_input_is_refused(side: Any, call: Callable[[Any], object]) -> None:
    with pytest.raises(InputInvalid):
        call(side)


def test_merkle_proofs_of_a_wrong_length_are_refused(side: Any) -> None:
    nodes = side.extend(b"", 0, hashed(side, LEAVES))
    root, leaf, proof = side.root(nodes, 8), hash_leaf(LEAVES[3]), side.inclusion_proof(nodes, 8, 3)
    for wrong in (proof[:-32], proof + bytes(32), b""):
        with pytest.raises(ProofInvalid):
            side.verify_inclusion(root, 8, 3, leaf, wrong)
    old = side.root(nodes, 6)
    proof = side.consistency_proof(nodes, 6, 8)
    for wrong in (proof[:-32], proof + bytes(32), b""):
        with pytest.raises(ProofInvalid):
            side.verify_consistency(old, 6, root, 8, wrong)
    with pytest.raises(ProofInvalid):
        side.verify_consistency(root, 8, root, 8, bytes(32))


@pytest.mark.parametrize("argument", [None, "text", 7, [b"list"]])
def test_merkle_what_is_no_buffer_is_a_type_error(side: Any, argument: object) -> None:
    calls: list[Callable[[], object]] = [
        lambda: side.hash_leaves(argument, bytes(8)),
        lambda: side.hash_leaves(b"", argument),
        lambda: side.root(argument, 0),
        lambda: side.root(b"", None),
        lambda: side.root(b"", "1"),
    ]
    for call in calls:
        with pytest.raises(TypeError):
            call()
