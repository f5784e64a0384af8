"""Twin of `native/crates/erasure`: the same arguments, results and errors, by the definitions of docs/spec/erasure.md.

A product of a whole shard with one factor is `bytes.translate`, a sum an XOR of long integers.
"""

from __future__ import annotations

import itertools
import operator
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Final, SupportsIndex

from native.erasure_errors import (
    BuffersOverlap,
    BufferUnusable,
    LengthMismatch,
    PathUnavailable,
    ShapeInvalid,
    ShardCountWrong,
    ShardEmpty,
    ShardIndexInvalid,
    ThreadsInvalid,
    TooFewShards,
)
from native.reference.buffers import addresses, check_format, shown

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["Code", "erasure_choose_path", "erasure_paths"]

K_MAX, M_MAX, SHARDS_MAX, THREADS_MAX = 128, 32, 255, 64
POLYNOMIAL: Final = 0x11D
NAMES: Final = ("gfni512", "gfni256", "avx2", "neon", "scalar")
_Matrix = list[list[int]]


def _product(a: int, b: int) -> int:
    """By the schoolbook (ERASURE-FIELD-1)."""
    product = 0
    for bit in range(8):
        if b >> bit & 1:
            product ^= a << bit
    for bit in range(14, 7, -1):
        if product >> bit & 1:
            product ^= POLYNOMIAL << (bit - 8)
    return product


PRODUCTS: Final = [bytes(_product(a, b) for b in range(256)) for a in range(256)]
INVERSES: Final = [0, *(row.index(1) for row in PRODUCTS[1:])]


def erasure_choose_path(name: str | None) -> str:
    """The twin has one path; another one is refused, as where a processor has not its instructions."""
    if name and name not in NAMES:
        raise PathUnavailable(f'no path "{name}"; known: {", ".join(NAMES)}')
    if name and name not in erasure_paths():
        raise PathUnavailable(f"plain Python has not the instructions of the path {name}")
    return "scalar"


def erasure_paths() -> list[str]:
    """The one path of the twin."""
    return ["scalar"]


def _cauchy(k: int, m: int) -> _Matrix:
    """ERASURE-MATRIX-1."""
    return [[INVERSES[row ^ column] for column in range(k)] for row in range(k, k + m)]


def _vandermonde(k: int, m: int) -> _Matrix:
    """ERASURE-MATRIX-2."""

    def power(row: int, exponent: int) -> int:
        value = 1
        for _ in range(exponent):
            value = PRODUCTS[value][row]
        return value

    whole = [[power(row, column) for column in range(k)] for row in range(k + m)]
    return _times(whole[k:], _invert(whole[:k]))


def _times(a: _Matrix, b: _Matrix) -> _Matrix:
    columns = list(zip(*b, strict=True))
    return [[_dot(row, column) for column in columns] for row in a]


def _dot(a: Iterable[int], b: Iterable[int]) -> int:
    total = 0
    for x, y in zip(a, b, strict=True):
        total ^= PRODUCTS[x][y]
    return total


def _invert(matrix: _Matrix) -> _Matrix:
    """By Gauss and Jordan; every square that comes here is regular."""
    n = len(matrix)
    rows = [[*row, *(int(at == column) for column in range(n))] for at, row in enumerate(matrix)]
    for column in range(n):
        pivot = next(at for at in range(column, n) if rows[at][column])
        rows[column], rows[pivot] = rows[pivot], rows[column]
        scale = PRODUCTS[INVERSES[rows[column][column]]]
        rows[column] = [scale[value] for value in rows[column]]
        for at in range(n):
            factor = rows[at][column]
            if at != column and factor:
                by = PRODUCTS[factor]
                rows[at] = [value ^ by[other] for value, other in zip(rows[at], rows[column], strict=True)]
    return [row[n:] for row in rows]


def _combine(factors: Iterable[int], shards: Iterable[bytes], length: int) -> bytes:
    total = 0
    for factor, shard in zip(factors, shards, strict=True):
        total ^= int.from_bytes(shard.translate(PRODUCTS[factor]), "little")
    return total.to_bytes(length, "little")


def _view(item: Buffer, *, writable: bool = False) -> memoryview:
    """A shard as bytes."""
    try:
        view = memoryview(item)
        check_format(view)
    except (TypeError, ValueError, BufferError) as error:
        raise BufferUnusable(str(error)) from error
    if not view.c_contiguous:
        raise BufferUnusable("a shard's buffer is not contiguous")
    if writable and view.readonly:
        raise BufferUnusable("an output's buffer is read-only")
    # A view of no bytes cannot be cast.
    return view.cast("B") if view.nbytes else memoryview(bytearray() if writable else b"")


def _views(items: Iterable[Buffer], *, writable: bool = False) -> list[memoryview]:
    views = [_view(item, writable=writable) for item in itertools.islice(items, SHARDS_MAX + 1)]
    if len(views) > SHARDS_MAX:
        raise ShardCountWrong(f"more than {SHARDS_MAX} buffers")
    return views


def _indexes(items: Iterable[SupportsIndex]) -> list[int]:
    indexes = [operator.index(item) for item in itertools.islice(items, SHARDS_MAX + 1)]
    if len(indexes) > SHARDS_MAX:
        raise ShardIndexInvalid(f"more than {SHARDS_MAX} indexes")
    return indexes


def _count(what: str, have: int, need: int) -> None:
    if have != need:
        raise ShardCountWrong(f"{what}: {have} buffers where {need} are needed")


def _length(views: Sequence[memoryview]) -> int:
    first = views[0].nbytes
    for view in views:
        if view.nbytes != first:
            raise LengthMismatch(f"shards of {first} and of {view.nbytes} bytes: all must have the same length")
    if first == 0:
        raise ShardEmpty("a shard has at least one byte")
    return first


def _no_overlap(sources: Sequence[memoryview], targets: Sequence[memoryview]) -> None:
    inputs, outputs = [addresses(view) for view in sources], [addresses(view) for view in targets]
    for row, place in enumerate(outputs):
        for at, other in enumerate(inputs):
            if place.start < other.stop and other.start < place.stop:
                raise BuffersOverlap(f"output {row} overlaps input {at}")
        for at, other in enumerate(outputs[:row]):
            if place.start < other.stop and other.start < place.stop:
                raise BuffersOverlap(f"outputs {at} and {row} overlap")


def _check_threads(threads: SupportsIndex | None) -> None:
    if threads is not None and not 1 <= operator.index(threads) <= THREADS_MAX:
        raise ThreadsInvalid(f"threads must be 1 to {THREADS_MAX}")


class Code:
    """See `native/_rust.pyi`."""

    def __init__(
        self,
        k: SupportsIndex,
        m: SupportsIndex,
        *,
        matrix: str = "cauchy",
        path: str | None = None,
        streaming: bool | None = None,
    ) -> None:
        self._k, self._m = operator.index(k), operator.index(m)
        if matrix not in ("cauchy", "vandermonde"):
            raise ShapeInvalid(f'no matrix "{matrix}"; known: cauchy, vandermonde')
        if path is not None:
            if path not in NAMES:
                raise PathUnavailable(f'no path "{path}"; known: {", ".join(NAMES)}')
            if path not in erasure_paths():
                raise PathUnavailable(f"this machine has not the instructions of the path {path}")
        if not (1 <= self._k <= K_MAX and 1 <= self._m <= M_MAX and self._k + self._m <= SHARDS_MAX):
            raise ShapeInvalid(
                f"data shards must be 1 to {K_MAX}, parity shards 1 to {M_MAX}, together at most {SHARDS_MAX}"
            )
        self._rows = (_cauchy if matrix == "cauchy" else _vandermonde)(self._k, self._m)

    @property
    def k(self) -> int:
        return self._k

    @property
    def m(self) -> int:
        return self._m

    @property
    def path(self) -> str:
        return "scalar"

    @property
    def factors(self) -> bytes:
        return bytes(itertools.chain.from_iterable(self._rows))

    def encode(self, data: Iterable[Buffer], *, threads: SupportsIndex | None = None) -> list[bytearray]:
        views = _views(data)
        _count("data", len(views), self._k)
        length = _length(views)
        _check_threads(threads)
        parity = [bytearray(length) for _ in range(self._m)]
        self.encode_into(views, parity, threads=threads)
        return parity

    def encode_into(
        self, data: Iterable[Buffer], parity: Iterable[Buffer], *, threads: SupportsIndex | None = None
    ) -> None:
        sources, targets = _views(data), _views(parity, writable=True)
        _count("data", len(sources), self._k)
        _count("parity", len(targets), self._m)
        length = _length([*sources, *targets])
        _no_overlap(sources, targets)
        _check_threads(threads)
        shards = [bytes(view) for view in sources]
        for row, target in zip(self._rows, targets, strict=True):
            target[:] = _combine(row, shards, length)

    def reconstruct(
        self,
        indexes: Iterable[SupportsIndex],
        shards: Iterable[Buffer],
        lost: Iterable[SupportsIndex],
        *,
        threads: SupportsIndex | None = None,
    ) -> list[bytearray]:
        have, wanted, views = _indexes(indexes), _indexes(lost), _views(shards)
        self._check_indexes(have, wanted)
        _count("shards", len(views), len(have))
        _check_threads(threads)
        length = _length(views) if wanted else 0
        made = [bytearray(length) for _ in wanted]
        self.reconstruct_into(have, views, wanted, made, threads=threads)
        return made

    def reconstruct_into(
        self,
        indexes: Iterable[SupportsIndex],
        shards: Iterable[Buffer],
        lost: Iterable[SupportsIndex],
        out: Iterable[Buffer],
        *,
        threads: SupportsIndex | None = None,
    ) -> None:
        have, wanted = _indexes(indexes), _indexes(lost)
        sources, targets = _views(shards), _views(out, writable=True)
        self._check_indexes(have, wanted)
        _count("shards", len(sources), len(have))
        _count("lost shards", len(targets), len(wanted))
        _check_threads(threads)
        if not wanted:
            return
        length = _length([*sources, *targets])
        _no_overlap(sources, targets)
        survivors = self._survivors(have, sources)
        inverse = _invert([self._row(index) for index, _ in survivors])
        rows = _times([self._row(index) for index in wanted], inverse)
        data = [shard for _, shard in survivors]
        for row, target in zip(rows, targets, strict=True):
            target[:] = _combine(row, data, length)

    def _check_indexes(self, have: list[int], wanted: list[int]) -> None:
        seen: set[int] = set()
        for index in [*have, *wanted]:
            if not 0 <= index < self._k + self._m:
                raise ShardIndexInvalid(f"there is no shard {shown(index)} in {self._k} + {self._m}")
            if index in seen:
                raise ShardIndexInvalid(f"shard {index} is named twice")
            seen.add(index)
        if len(have) < self._k:
            raise TooFewShards(f"{len(have)} shards are not enough: {self._k} are needed")

    def _survivors(self, have: list[int], sources: list[memoryview]) -> list[tuple[int, bytes]]:
        """The k of lowest index (ERASURE-REPAIR-1)."""
        order = sorted(range(len(have)), key=have.__getitem__)[: self._k]
        return [(have[at], bytes(sources[at])) for at in order]

    def _row(self, index: int) -> list[int]:
        """Of the whole matrix, the identity included."""
        if index < self._k:
            return [int(column == index) for column in range(self._k)]
        return self._rows[index - self._k]

    def update(
        self,
        index: SupportsIndex,
        old: Buffer,
        new: Buffer,
        parity: Iterable[Buffer],
        *,
        threads: SupportsIndex | None = None,
    ) -> None:
        at = operator.index(index)
        sources, targets = [_view(old), _view(new)], _views(parity, writable=True)
        if not 0 <= at < self._k:
            raise ShardIndexInvalid(f"there is no data shard {shown(at)} in {self._k} + {self._m}")
        _count("parity", len(targets), self._m)
        length = _length([*sources, *targets])
        _no_overlap(sources, targets)
        _check_threads(threads)
        before, after = (bytes(view) for view in sources)
        for row, target in zip(self._rows, targets, strict=True):
            target[:] = _combine([row[at], row[at], 1], [before, after, bytes(target)], length)

    def verify(
        self, data: Iterable[Buffer], parity: Iterable[Buffer], *, threads: SupportsIndex | None = None
    ) -> list[int]:
        sources, found = _views(data), _views(parity)
        _count("data", len(sources), self._k)
        _count("parity", len(found), self._m)
        length = _length([*sources, *found])
        _check_threads(threads)
        shards = [bytes(view) for view in sources]
        return [
            self._k + at
            for at, (row, shard) in enumerate(zip(self._rows, found, strict=True))
            if _combine(row, shards, length) != shard
        ]
