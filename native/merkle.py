"""Merkle trees of RFC 6962 (docs/spec/merkle.md): hash, keep, prove, verify.

A tree is kept as its *nodes*: the hashes of all complete subtrees, 32 bytes each, in the order in which they become
complete. Adding leaves only adds nodes at the end, so a log keeps them in a file that only grows and is mapped for
proofs; root and proofs of every past size come from the same nodes, reading a few dozen of them. Verifying needs none.

    nodes = bytearray()
    nodes += extend(nodes, 0, hash_leaves(b"onetwo", array("Q", [0, 3, 6])))
    proof = inclusion_proof(nodes, 2, 1)
    verify_inclusion(root(nodes, 2), 2, 1, hash_leaf(b"two"), proof)

Buffers are C-contiguous, of any kind; hashes lie end to end, numbers are u64, little-endian. Wrong lengths and numbers
are `InputInvalid`. What takes long is done without the GIL, and Ctrl-C is heard within about 10 ms. The functions are
those of `native/crates/merkle`, or of the twin `native/reference/merkle.py`, where each one is described.
"""

from __future__ import annotations

from native._choice import REFERENCE
from native.errors import InputInvalid
from native.reference.merkle import EMPTY_ROOT, HASH_BYTES, SIZE_MAX, ProofInvalid, hash_leaf, proof_bytes

if REFERENCE:
    from native.reference.merkle import (
        consistency_proof,
        extend,
        hash_leaves,
        inclusion_proof,
        inclusion_proofs,
        node_count,
        root,
        verify_consistency,
        verify_inclusion,
        verify_inclusions,
    )
else:
    import native._main_only  # noqa: F401  # refuses other interpreters
    from native._rust import merkle_consistency_proof as consistency_proof
    from native._rust import merkle_extend as extend
    from native._rust import merkle_hash_leaves as hash_leaves
    from native._rust import merkle_inclusion_proof as inclusion_proof
    from native._rust import merkle_inclusion_proofs as inclusion_proofs
    from native._rust import merkle_node_count as node_count
    from native._rust import merkle_root as root
    from native._rust import merkle_verify_consistency as verify_consistency
    from native._rust import merkle_verify_inclusion as verify_inclusion
    from native._rust import merkle_verify_inclusions as verify_inclusions

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "SIZE_MAX",
    "InputInvalid",
    "ProofInvalid",
    "consistency_proof",
    "extend",
    "hash_leaf",
    "hash_leaves",
    "inclusion_proof",
    "inclusion_proofs",
    "node_count",
    "proof_bytes",
    "root",
    "verify_consistency",
    "verify_inclusion",
    "verify_inclusions",
]
