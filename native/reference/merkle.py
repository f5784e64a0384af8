"""Merkle trees of RFC 6962 in plain Python: the twin of `native/crates/merkle`, and its oracle.

It follows the definitions of the RFC by recursion, and verifies by the algorithms of RFC 9162, sections 2.1.3.2 and
2.1.4.2; the Rust side does neither.
"""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Final

from native.errors import InputInvalid, ZosError
from native.reference.buffers import count_of, item, items, numbers, parts, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "EMPTY_ROOT",
    "HASH_BYTES",
    "SIZE_MAX",
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

HASH_BYTES: Final = 32
SIZE_MAX: Final = 1 << 48
"""Most leaves of a tree: their nodes would take 18 PB."""
_STEP_BYTES: Final = 1 << 24
"""So many are hashed at a time, some 10 ms: in between Ctrl-C is heard."""
EMPTY_ROOT: Final = sha256().digest()
"""Root of the tree without leaves (MERKLE-2)."""


class ProofInvalid(ZosError):
    """A proof is too short, too long, or leads to another root. `index`: of the leaf, where it is about one."""

    code, http_status, exit_status = "merkle.proof-invalid", 422, 97


def hash_leaf(data: Buffer) -> bytes:
    """Hash of one leaf's data (MERKLE-1); hashlib is as fast as anything for one."""
    whole = view(data, "data")
    if len(whole) <= _STEP_BYTES:
        return sha256(b"\0" + whole).digest()
    leaf = sha256(b"\0")
    for at in range(0, len(whole), _STEP_BYTES):
        leaf.update(whole[at : at + _STEP_BYTES])
    return leaf.digest()


def hash_leaves(data: Buffer, offsets: Buffer) -> bytes:
    """Hashes of many leaves, whose data lie between neighbouring offsets (u64[n + 1])."""
    return b"".join(sha256(b"\0" + part).digest() for part in parts(data, offsets))


def node_count(size: int) -> int:
    """Number of nodes of a tree of `size` leaves (MERKLE-3).

    Raises:
        InputInvalid: more than `SIZE_MAX` leaves.
    """
    return 2 * _size(size) - size.bit_count()


def proof_bytes(size: int, index: int) -> int:
    """Bytes of the inclusion proof of a leaf (MERKLE-4): where the next one begins in `inclusion_proofs`."""
    if not 0 <= index < _size(size):
        raise InputInvalid("the tree has no leaf of this index")
    hashes, last = 0, size - 1
    while last:
        hashes += index & 1 or index < last
        index, last = index >> 1, last >> 1
    return HASH_BYTES * hashes


def extend(nodes: Buffer, size: int, leaves: Buffer) -> bytes:
    """The nodes that come behind those of `size` leaves when leaf hashes are added; the tree's own are not changed.

    Args:
        nodes: of the tree, at least `node_count(size)`.
        size: its number of leaves.
        leaves: hashes of those to add.
    """
    tree, added = _Tree(nodes, size), items(leaves, HASH_BYTES, "leaves")
    if size + len(added) > SIZE_MAX:
        raise InputInvalid("a tree has at most 2^48 leaves")
    edge = [tree.hash(low, high) for low, high in _complete(0, size)]
    fresh: list[bytes] = []
    for number, leaf in enumerate(added, size):
        edge.append(leaf)
        fresh.append(leaf)
        while number & 1:
            right, left = edge.pop(), edge.pop()
            edge.append(_join(left, right))
            fresh.append(edge[-1])
            number >>= 1
    return b"".join(fresh)


def root(nodes: Buffer, size: int) -> bytes:
    """Root of the first `size` leaves of a tree (MERKLE-2); it may have more."""
    tree = _Tree(nodes, size)
    return tree.hash(0, size) if size else EMPTY_ROOT


def inclusion_proof(nodes: Buffer, size: int, index: int) -> bytes:
    """Proof that leaf `index` is one of the first `size` of a tree (MERKLE-4)."""
    tree = _Tree(nodes, size)
    if not count_of(index) < size:
        raise InputInvalid("the tree has no leaf of this index")
    return b"".join(tree.path(index, 0, size))


def inclusion_proofs(nodes: Buffer, size: int, indices: Buffer) -> bytes:
    """Proofs of many leaves (u64[n]), end to end; `proof_bytes` says how long each is."""
    return b"".join(inclusion_proof(nodes, size, index) for index in numbers(indices, "indices"))


def consistency_proof(nodes: Buffer, old_size: int, size: int) -> bytes:
    """Proof that a tree of `size` leaves begins with what its first `old_size` were (MERKLE-5)."""
    tree = _Tree(nodes, size)
    _old_size(old_size, size)
    return b"".join(tree.subproof(old_size, 0, size, known=True))


def verify_inclusion(root: Buffer, size: int, index: int, leaf: Buffer, proof: Buffer) -> None:
    """Verify that leaf `index` of the tree of `size` leaves under `root` has the hash `leaf` (MERKLE-4).

    Raises:
        ProofInvalid: the proof does not show that.
    """
    expected, node = item(root, HASH_BYTES, "root"), item(leaf, HASH_BYTES, "leaf")
    hashes = items(proof, HASH_BYTES, "proof")
    if not count_of(index) < _size(size):
        raise InputInvalid("the tree has no leaf of this index")
    where, last = index, size - 1
    for other in hashes:
        if last == 0:
            raise ProofInvalid("the proof is too long", index=index)
        if where & 1 or where == last:
            node = _join(other, node)
            while not where & 1 and where:
                where, last = where >> 1, last >> 1
        else:
            node = _join(node, other)
        where, last = where >> 1, last >> 1
    if last:
        raise ProofInvalid("the proof is too short", index=index)
    if node != expected:
        raise ProofInvalid("the proof does not lead to the root", index=index)


def verify_inclusions(root: Buffer, size: int, indices: Buffer, leaves: Buffer, proofs: Buffer) -> None:
    """Verify many leaves under one root: u64[n], n hashes, and their proofs end to end.

    Raises:
        ProofInvalid: of the first leaf whose proof is wrong, whose `index` it has.
    """
    places, hashes, rest = numbers(indices, "indices"), items(leaves, HASH_BYTES, "leaves"), view(proofs, "proofs")
    if len(places) != len(hashes):
        raise InputInvalid(f"{len(places)} indices and {len(hashes)} leaves")
    if len(rest) % HASH_BYTES:
        raise InputInvalid(f"proofs has {len(rest)} bytes, no multiple of {HASH_BYTES}")
    item(root, HASH_BYTES, "root")
    for index, leaf in zip(places, hashes, strict=True):
        length = proof_bytes(size, index)
        verify_inclusion(root, size, index, leaf, rest[:length])
        rest = rest[length:]
    if rest:
        raise InputInvalid(f"{len(rest) // HASH_BYTES} hashes behind the last proof")


def verify_consistency(old_root: Buffer, old_size: int, root: Buffer, size: int, proof: Buffer) -> None:
    """Verify that the tree under `root` begins with all leaves of the one under `old_root` (MERKLE-5).

    Raises:
        ProofInvalid: the proof does not show that.
    """
    before, after = item(old_root, HASH_BYTES, "old_root"), item(root, HASH_BYTES, "root")
    hashes = items(proof, HASH_BYTES, "proof")
    _old_size(old_size, _size(size))
    if old_size == size:
        if hashes:
            raise ProofInvalid("the proof is too long")
        if before != after:
            raise ProofInvalid("the proof does not lead to the root")
        return
    if old_size & (old_size - 1) == 0:
        hashes.insert(0, before)
    if not hashes:
        raise ProofInvalid("the proof is too short")
    where, last = old_size - 1, size - 1
    while where & 1:
        where, last = where >> 1, last >> 1
    old = new = hashes[0]
    for other in hashes[1:]:
        if last == 0:
            raise ProofInvalid("the proof is too long")
        if where & 1 or where == last:
            old, new = _join(other, old), _join(other, new)
            while not where & 1 and where:
                where, last = where >> 1, last >> 1
        else:
            new = _join(new, other)
        where, last = where >> 1, last >> 1
    if last:
        raise ProofInvalid("the proof is too short")
    if old != before:
        raise ProofInvalid("the proof does not lead to the old root")
    if new != after:
        raise ProofInvalid("the proof does not lead to the new root")


class _Tree:
    """The nodes of at least `size` leaves, and the recursive definitions of RFC 6962 over them."""

    def __init__(self, nodes: Buffer, size: int) -> None:
        self._nodes = view(nodes, "nodes")
        if len(self._nodes) % HASH_BYTES:
            raise InputInvalid(f"nodes has {len(self._nodes)} bytes, no multiple of {HASH_BYTES}")
        if node_count(size) * HASH_BYTES > len(self._nodes):
            raise InputInvalid("nodes is too short for this size")

    def hash(self, low: int, high: int) -> bytes:
        """MTH(D[low:high]), section 2.1; complete subtrees are read."""
        leaves = high - low
        if leaves & (leaves - 1) == 0:
            # Behind the nodes of all leaves before the last, and the smaller subtrees that end with it.
            at = HASH_BYTES * (node_count(high - 1) + leaves.bit_length() - 1)
            return bytes(self._nodes[at : at + HASH_BYTES])
        middle = low + _half(leaves)
        return _join(self.hash(low, middle), self.hash(middle, high))

    def path(self, index: int, low: int, high: int) -> list[bytes]:
        """PATH(m, D[low:high]), section 2.1.1."""
        if high - low == 1:
            return []
        middle = low + _half(high - low)
        if index < middle:
            return [*self.path(index, low, middle), self.hash(middle, high)]
        return [*self.path(index, middle, high), self.hash(low, middle)]

    def subproof(self, old: int, low: int, high: int, *, known: bool) -> list[bytes]:
        """SUBPROOF(m, D[low:high], b), section 2.1.2; `old` is counted from the first leaf of all."""
        if old == high:
            return [] if known else [self.hash(low, high)]
        middle = low + _half(high - low)
        if old <= middle:
            return [*self.subproof(old, low, middle, known=known), self.hash(middle, high)]
        return [*self.subproof(old, middle, high, known=False), self.hash(low, middle)]


def _complete(low: int, high: int) -> list[tuple[int, int]]:
    """The largest complete subtrees from left to right."""
    if low == high:
        return []
    end = low + (1 << ((high - low).bit_length() - 1))
    return [(low, end), *_complete(end, high)]


def _half(leaves: int) -> int:
    """The largest power of two below `leaves`."""
    return 1 << ((leaves - 1).bit_length() - 1)


def _join(left: bytes, right: bytes) -> bytes:
    return sha256(b"\1" + left + right).digest()


def _size(size: int) -> int:
    if count_of(size) > SIZE_MAX:
        raise InputInvalid("a tree has at most 2^48 leaves")
    return size


def _old_size(old_size: int, size: int) -> None:
    if count_of(old_size) == 0:
        raise InputInvalid("every tree extends the empty one: there is nothing to prove")
    if old_size > size:
        raise InputInvalid("the old tree is larger than the new one")
