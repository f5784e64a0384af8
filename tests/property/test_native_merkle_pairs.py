"""Merkle trees: the compiled side and the twin agree on every tree, proof and damage."""

from __future__ import annotations

from array import array
from collections.abc import Callable
from hashlib import sha256
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from native import _rust as rust
from native.errors import ZosError
from native.reference import merkle as reference

SIZES = st.integers(1, 300)


def leaves_of(count: int, seed: int) -> bytes:
    return b"".join(
        sha256(seed.to_bytes(8, "little") + number.to_bytes(8, "little")).digest() for number in range(count)
    )


def outcome(call: Callable[..., object], *arguments: Any) -> object:
    """The answer, or the class of the refusal."""
    try:
        return call(*arguments)
    except ZosError as error:
        return type(error)


@given(st.lists(st.binary(max_size=200), max_size=50))
def test_merkle_leaves_agree(leaves: list[bytes]) -> None:
    ends = array("Q", [0])
    for leaf in leaves:
        ends.append(ends[-1] + len(leaf))
    data = b"".join(leaves)
    assert rust.merkle_hash_leaves(data, ends) == reference.hash_leaves(data, ends)


@given(st.lists(st.integers(0, 70), max_size=8), st.integers(0, 9))
def test_merkle_growing_agrees(steps: list[int], seed: int) -> None:
    nodes, size = b"", 0
    leaves = leaves_of(sum(steps), seed)
    for step in steps:
        added = leaves[32 * size : 32 * (size + step)]
        fresh = rust.merkle_extend(nodes, size, added)
        assert fresh == reference.extend(nodes, size, added)
        nodes, size = nodes + fresh, size + step
        assert rust.merkle_root(nodes, size) == reference.root(nodes, size)
    assert nodes == rust.merkle_extend(b"", 0, leaves)


@given(SIZES, st.data())
def test_merkle_proofs_agree_and_verify_across(size: int, data: st.DataObject) -> None:
    """What one side proves the other one verifies."""
    leaves = leaves_of(size, 1)
    nodes = rust.merkle_extend(b"", 0, leaves)
    root = reference.root(nodes, size)
    index, old = data.draw(st.integers(0, size - 1)), data.draw(st.integers(1, size))
    leaf = leaves[32 * index : 32 * index + 32]
    proof = rust.merkle_inclusion_proof(nodes, size, index)
    assert proof == reference.inclusion_proof(nodes, size, index)
    assert len(proof) == reference.proof_bytes(size, index)
    rust.merkle_verify_inclusion(root, size, index, leaf, proof)
    reference.verify_inclusion(root, size, index, leaf, proof)
    between, old_root = rust.merkle_consistency_proof(nodes, old, size), reference.root(nodes, old)
    assert between == reference.consistency_proof(nodes, old, size)
    rust.merkle_verify_consistency(old_root, old, root, size, between)
    reference.verify_consistency(old_root, old, root, size, between)


@given(SIZES, st.data())
def test_merkle_damage_is_judged_alike(size: int, data: st.DataObject) -> None:
    """A proof of one place, shown for another, cut, lengthened or changed: both sides give the same verdict."""
    nodes = rust.merkle_extend(b"", 0, leaves_of(size, 2))
    root, index = reference.root(nodes, size), data.draw(st.integers(0, size - 1))
    proof = bytearray(rust.merkle_inclusion_proof(nodes, size, index))
    if proof and data.draw(st.booleans()):
        proof[data.draw(st.integers(0, len(proof) - 1))] ^= data.draw(st.integers(1, 255))
    proof += bytes(32 * data.draw(st.integers(0, 2)))
    del proof[32 * data.draw(st.integers(0, len(proof) // 32)) :]
    shown = data.draw(st.integers(0, size + 1)), data.draw(st.integers(0, size + 1))
    leaf = leaves_of(size, 2)[32 * index : 32 * index + 32]
    arguments = (root, shown[0], shown[1], leaf, proof)
    assert outcome(rust.merkle_verify_inclusion, *arguments) == outcome(reference.verify_inclusion, *arguments)


@given(SIZES, st.data())
def test_merkle_forks_are_judged_alike(size: int, data: st.DataObject) -> None:
    nodes = rust.merkle_extend(b"", 0, leaves_of(size, 3))
    old = data.draw(st.integers(1, size))
    proof = bytearray(rust.merkle_consistency_proof(nodes, old, size))
    if proof and data.draw(st.booleans()):
        proof[data.draw(st.integers(0, len(proof) - 1))] ^= data.draw(st.integers(1, 255))
    proof += bytes(32 * data.draw(st.integers(0, 2)))
    del proof[32 * data.draw(st.integers(0, len(proof) // 32)) :]
    shown_old = data.draw(st.sampled_from([old, old, old, data.draw(st.integers(0, size + 1))]))
    old_root = reference.root(nodes, min(shown_old, size))
    arguments = (old_root, shown_old, reference.root(nodes, size), size, proof)
    assert outcome(rust.merkle_verify_consistency, *arguments) == outcome(reference.verify_consistency, *arguments)
