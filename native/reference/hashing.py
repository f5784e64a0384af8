"""BLAKE3 in plain Python, as its specification defines it: the twin of `native/crates/hash`, and its oracle.

Slow on purpose (some 50 KB a second): nothing but the tree of chunks, the compression function, and the three modes.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Final, NamedTuple, final

from native.errors import InputInvalid
from native.reference.buffers import count_of, item, no_overlap, parts, view

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["DIGEST_BYTES", "KEY_BYTES", "THREADS_MAX", "Hasher", "hash_many", "hash_many_into"]

DIGEST_BYTES: Final = 32
KEY_BYTES: Final = 32
THREADS_MAX: Final = 64

_BLOCK: Final = 64
_CHUNK: Final = 1024
_MASK: Final = 0xFFFFFFFF
_CHUNK_START, _CHUNK_END, _PARENT, _ROOT, _KEYED, _CONTEXT, _MATERIAL = (1 << bit for bit in range(7))
_WORDS: Final = struct.Struct("<8I")
_BLOCK_WORDS: Final = struct.Struct("<16I")
_IV: Final = (
    *(0x6A09E667, 0xBB67AE85, 0x3C6EF372, 0xA54FF53A),
    *(0x510E527F, 0x9B05688C, 0x1F83D9AB, 0x5BE0CD19),
)
_PERMUTATION: Final = (2, 6, 3, 10, 7, 0, 4, 13, 1, 11, 12, 5, 9, 14, 15, 8)
_COLUMNS_AND_DIAGONALS: Final = (
    *((0, 4, 8, 12), (1, 5, 9, 13), (2, 6, 10, 14), (3, 7, 11, 15)),
    *((0, 5, 10, 15), (1, 6, 11, 12), (2, 7, 8, 13), (3, 4, 9, 14)),
)


def hash_many(
    data: Buffer, offsets: Buffer, *, key: Buffer | None = None, context: str | None = None, threads: int = 1
) -> bytes:
    """Digests of the parts of `data` between neighbouring offsets, 32 bytes each.

    Args:
        data: any buffer.
        offsets: n + 1 of u64 for n parts, none smaller than the one before it.
        key: 32 bytes, for digests that nobody else can make.
        context: what the digests are for, when they are keys; not together with `key`.
        threads: that share the work, 1 to 64.
    """
    mode = _mode(key, context)
    _check_threads(threads)
    return b"".join(_digest(bytes(part), mode) for part in parts(data, offsets))


def hash_many_into(
    data: Buffer,
    offsets: Buffer,
    out: Buffer,
    *,
    key: Buffer | None = None,
    context: str | None = None,
    threads: int = 1,
) -> None:
    """As `hash_many`, into a writable buffer of 32 bytes for each part, which overlaps none of the others.

    An interrupted call leaves some of the digests written.
    """
    mode = _mode(key, context)
    _check_threads(threads)
    target = view(out, "out")
    if target.readonly:
        raise InputInvalid("out cannot be written")
    no_overlap({"data": view(data, "data"), "offsets": view(offsets, "offsets")}, {"out": target})
    digests = b"".join(_digest(bytes(part), mode) for part in parts(data, offsets))
    if len(target) != len(digests):
        raise InputInvalid(f"out has {len(target)} bytes for {len(digests) // DIGEST_BYTES} digests")
    if digests:
        target[:] = digests


@final
class Hasher:
    """One digest, of data that comes bit by bit. One thread at a time; another one is refused."""

    def __init__(self, *, key: Buffer | None = None, context: str | None = None) -> None:
        self._mode = _mode(key, context)
        self._data = bytearray()

    def update(self, data: Buffer) -> None:
        """Add data at the end."""
        self._data += view(data, "data")

    def digest(self) -> bytes:
        """The digest of what was added so far; more may be added afterwards."""
        return _digest(bytes(self._data), self._mode)

    def copy(self) -> Hasher:
        """Another hasher in the same state."""
        other = Hasher()
        other._mode, other._data = self._mode, bytearray(self._data)
        return other


class _Mode(NamedTuple):
    """The key words and flags that every compression of a digest has."""

    key: tuple[int, ...]
    flags: int


def _mode(key: Buffer | None, context: str | None) -> _Mode:
    if key is not None and context is not None:
        raise InputInvalid("a digest has a key or a context, not both")
    if key is not None:
        return _Mode(_WORDS.unpack(item(key, KEY_BYTES, "key")), _KEYED)
    if context is not None:
        derived = _digest(context.encode(), _Mode(_IV, _CONTEXT))
        return _Mode(_WORDS.unpack(derived), _MATERIAL)
    return _Mode(_IV, 0)


def _check_threads(threads: int) -> None:
    if not 1 <= count_of(threads) <= THREADS_MAX:
        raise InputInvalid(f"{threads} threads: 1 to {THREADS_MAX}")


class _Node(NamedTuple):
    """A node of the tree before its last compression, which differs when it is the root."""

    value: tuple[int, ...]
    block: bytes
    counter: int
    length: int
    flags: int

    def output(self, flags: int = 0) -> tuple[int, ...]:
        return _compress(self.value, self.block, self.counter, self.length, self.flags | flags)


def _digest(data: bytes, mode: _Mode) -> bytes:
    return _WORDS.pack(*_subtree(data, 0, mode).output(_ROOT))


def _subtree(data: bytes, chunk: int, mode: _Mode) -> _Node:
    """The node over `data`, whose first chunk has the number `chunk`."""
    if len(data) <= _CHUNK:
        return _chunk(data, chunk, mode)
    # The left side is the largest complete tree that leaves at least one byte to the right one.
    left_chunks = 1 << (((len(data) - 1) // _CHUNK).bit_length() - 1)
    middle = left_chunks * _CHUNK
    left, right = _subtree(data[:middle], chunk, mode), _subtree(data[middle:], chunk + left_chunks, mode)
    block = _WORDS.pack(*left.output()) + _WORDS.pack(*right.output())
    return _Node(mode.key, block, 0, _BLOCK, mode.flags | _PARENT)


def _chunk(data: bytes, number: int, mode: _Mode) -> _Node:
    value, flags = mode.key, mode.flags | _CHUNK_START
    while len(data) > _BLOCK:
        value = _compress(value, data[:_BLOCK], number, _BLOCK, flags)
        data, flags = data[_BLOCK:], mode.flags
    return _Node(value, data.ljust(_BLOCK, b"\0"), number, len(data), flags | _CHUNK_END)


def _compress(value: tuple[int, ...], block: bytes, counter: int, length: int, flags: int) -> tuple[int, ...]:
    words = _BLOCK_WORDS.unpack(block)
    state = [*value, *_IV[:4], counter & _MASK, counter >> 32, length, flags]
    for _ in range(7):
        for number, (a, b, c, d) in enumerate(_COLUMNS_AND_DIAGONALS):
            state[a] = (state[a] + state[b] + words[2 * number]) & _MASK
            state[d] = _rotate(state[d] ^ state[a], 16)
            state[c] = (state[c] + state[d]) & _MASK
            state[b] = _rotate(state[b] ^ state[c], 12)
            state[a] = (state[a] + state[b] + words[2 * number + 1]) & _MASK
            state[d] = _rotate(state[d] ^ state[a], 8)
            state[c] = (state[c] + state[d]) & _MASK
            state[b] = _rotate(state[b] ^ state[c], 7)
        words = tuple(words[place] for place in _PERMUTATION)
    return tuple(state[place] ^ state[place + 8] for place in range(8))


def _rotate(word: int, bits: int) -> int:
    return (word >> bits | word << (32 - bits)) & _MASK
