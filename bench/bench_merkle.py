"""Merkle trees: leaves hashed and added, proofs built and verified, in us, beside the twin, hashlib in a loop."""

from __future__ import annotations

import os
from array import array
from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import NamedTuple

import pytest

from bench.duel import Duel, each
from native import merkle
from native.reference import merkle as twin

LEAVES, LEAF_BYTES, PROVED_EACH = 4096, 200, 16
"""A tree of twelve levels, about what an entry of a log has, and one leaf of so many is proved."""
PROVED = LEAVES // PROVED_EACH
OURS, TWIN = "zos", "hashlib in Python"


class Grown(NamedTuple):
    """A tree and what goes with it."""

    data: bytes
    ends: array[int]
    leaves: bytes
    nodes: bytes
    root: bytes
    places: array[int]
    some: bytes
    proofs: bytes


@pytest.fixture(scope="module")
def grown() -> Grown:
    """All steps are on the same tree."""
    data, ends = os.urandom(LEAVES * LEAF_BYTES), array("Q", range(0, LEAVES * LEAF_BYTES + 1, LEAF_BYTES))
    leaves = merkle.hash_leaves(data, ends)
    nodes = merkle.extend(b"", 0, leaves)
    places = array("Q", range(0, LEAVES, PROVED_EACH))
    some = b"".join(leaves[32 * place : 32 * place + 32] for place in places)
    proofs = merkle.inclusion_proofs(nodes, LEAVES, places)
    return Grown(data, ends, leaves, nodes, merkle.root(nodes, LEAVES), places, some, proofs)


Step = tuple[str, int, Callable[[ModuleType, Grown], object]]
STEPS: dict[str, Step] = {
    "leaves": ("leaves hashed", LEAVES, lambda side, tree: side.hash_leaves(tree.data, tree.ends)),
    "nodes": ("leaves added", LEAVES, lambda side, tree: side.extend(b"", 0, tree.leaves)),
    "proofs": ("proofs built", PROVED, lambda side, tree: side.inclusion_proofs(tree.nodes, LEAVES, tree.places)),
    "verify": (
        "proofs verified",
        PROVED,
        lambda side, tree: side.verify_inclusions(tree.root, LEAVES, tree.places, tree.some, tree.proofs),
    ),
}


@pytest.mark.parametrize("name", list(STEPS))
def bench_merkle(duel: Duel, grown: Grown, name: str) -> None:
    """One step of a log's life, in one call for all leaves."""
    title, count, step = STEPS[name]
    duel(
        f"merkle.{name}",
        f"Merkle tree of {LEAVES} leaves of {LEAF_BYTES} bytes: {title}",
        each(count),
        ours={OURS: partial(step, merkle, grown), TWIN: partial(step, twin, grown)},
        against=[TWIN],
    )
