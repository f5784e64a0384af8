"""Objects larger than memory as k + m streams of shards, one stripe at a time (ERASURE-STREAM-1 to 4).

The object is cut into stripes of k * shard_bytes; stream i gets shard i of every stripe, one after the other. The last
stripe is as short as it can be: its shards have ceil(rest / k) bytes, the last ones padded with zeros. The length of
the object is not in the streams: whoever keeps them keeps it.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Final, Protocol

from native.buffer_pool import BufferPool, Stripe
from native.erasure_errors import (
    ShapeInvalid,
    ShardCountWrong,
    ShardEmpty,
    ShardIndexInvalid,
    StreamTruncated,
    TooFewShards,
)

if TYPE_CHECKING:
    from native.erasure import Code

__all__ = ["SHARD_BYTES", "decode_stream", "encode_stream", "repair_stream", "stream_bytes"]

SHARD_BYTES: Final = 1 << 20
"""Bytes of a shard for one stripe, if nothing else is said: 20 MiB of buffers for 16 + 4."""


class Readable(Protocol):
    """What bytes are read from (io.RawIOBase): 0 is the end, None that there is nothing yet, which is refused."""

    def readinto(self, buffer: memoryview, /) -> int | None: ...


class Writable(Protocol):
    """What bytes are written to (io.RawIOBase): how many were taken; None, or none at all, is refused."""

    def write(self, data: memoryview, /) -> int | None: ...


def stream_bytes(length: int, k: int, shard_bytes: int) -> int:
    """Length of each stream of an object of `length` bytes.

    Raises:
        ErasureError: there is no such code, shard or object.
    """
    _check(length, shard_bytes)
    if k < 1:
        raise ShapeInvalid(f"a code of {k} data shards")
    whole, rest = divmod(length, k * shard_bytes)
    return whole * shard_bytes + -(-rest // k)


def _fill(source: Readable, buffer: memoryview) -> int:
    """Read until the buffer is full or the source ends; how much was read."""
    at = 0
    while at < len(buffer):
        with buffer[at:] as rest:
            count = source.readinto(rest)
        if count is None:
            raise BlockingIOError(errno.EAGAIN, "the source has nothing to read yet: it must wait itself")
        if count == 0:
            break
        at += count
    return at


def _write(target: Writable, data: memoryview) -> None:
    """Write all of it."""
    at = 0
    while at < len(data):
        with data[at:] as rest:
            count = target.write(rest)
        if not count:
            raise BlockingIOError(errno.EAGAIN, f"the target took {at} of {len(data)} bytes: it must wait itself")
        at += count


def _check(length: int, shard_bytes: int) -> None:
    if shard_bytes < 1:
        raise ShardEmpty("a shard has at least one byte")
    if length < 0:
        raise ShapeInvalid(f"an object of {length} bytes")


def encode_stream(
    code: Code, source: Readable, streams: Sequence[Writable], *, shard_bytes: int = SHARD_BYTES, threads: int = 1
) -> int:
    """Read the object to its end, write its k + m streams of shards; the answer is its length in bytes.

    Raises:
        ErasureError: the number of streams, shard_bytes or threads is wrong.
        OSError: from reading or writing; the streams are of no worth then.
    """
    _check(0, shard_bytes)
    k, count = code.k, code.k + code.m
    if len(streams) != count:
        raise ShardCountWrong(f"{len(streams)} streams where {count} are needed")
    length, full = 0, k * shard_bytes
    with BufferPool(shards=count, shard_bytes=shard_bytes) as pool, pool.stripe() as stripe:
        while True:
            total = sum(_fill(source, shard) for shard in stripe.shards[:k])
            length += total
            size = shard_bytes if total == full else _spread(stripe.shards[:k], total)
            if size:
                _encode_stripe(code, stripe, size, streams, threads)
            if total < full:
                return length


def _spread(shards: Sequence[memoryview], total: int) -> int:
    """Lay the `total` bytes of the last stripe out anew, in shards as short as they can be; bytes of a shard."""
    size = -(-total // len(shards))
    rest = b"".join(shards)[:total].ljust(size * len(shards), b"\0")
    for at, shard in enumerate(shards):
        shard[:size] = rest[at * size : (at + 1) * size]
    return size


def _encode_stripe(code: Code, stripe: Stripe, size: int, streams: Sequence[Writable], threads: int) -> None:
    with ExitStack() as stack:
        shards = _cut(stack, stripe, range(code.k + code.m), size)
        code.encode_into(shards[: code.k], shards[code.k :], threads=threads)
        for stream, shard in zip(streams, shards, strict=True):
            _write(stream, shard)


def _cut(stack: ExitStack, stripe: Stripe, which: Iterable[int], size: int) -> list[memoryview]:
    """The first `size` bytes of some of the shards, until the end of the stack."""
    return [stack.enter_context(stripe.shards[at][:size]) for at in which]


def decode_stream(
    code: Code,
    streams: Mapping[int, Readable],
    target: Writable,
    *,
    length: int,
    shard_bytes: int = SHARD_BYTES,
    threads: int = 1,
) -> None:
    """Write the object of `length` bytes from at least k of its streams, by their shards' index.

    Raises:
        TooFewShards: fewer than k streams.
        StreamTruncated: one of them ends too early.
        ErasureError: an index, length, shard_bytes or threads is wrong.
        OSError: from reading or writing.
    """
    have = _chosen(code, streams)
    lost = [index for index in range(code.k) if index not in have]

    def take(shards: Sequence[memoryview], rest: int) -> None:
        for shard in shards[: code.k]:
            with shard[: max(0, min(len(shard), rest))] as part:
                _write(target, part)
            rest -= len(shard)

    _rebuild(code, streams, have, lost, take, length=length, shard_bytes=shard_bytes, threads=threads)


def repair_stream(
    code: Code,
    streams: Mapping[int, Readable],
    lost: Mapping[int, Writable],
    *,
    length: int,
    shard_bytes: int = SHARD_BYTES,
    threads: int = 1,
) -> None:
    """Write the lost streams of an object of `length` bytes from at least k others.

    Raises:
        As `decode_stream`.
    """
    have = _chosen(code, streams)
    for index in lost:
        if not 0 <= index < code.k + code.m or index in streams:
            raise ShardIndexInvalid(f"shard {index} cannot be lost: there is none, or it is here")

    def take(shards: Sequence[memoryview], rest: int) -> None:
        for index, stream in lost.items():
            _write(stream, shards[index])

    _rebuild(code, streams, have, list(lost), take, length=length, shard_bytes=shard_bytes, threads=threads)


def _chosen(code: Code, streams: Mapping[int, Readable]) -> list[int]:
    """The k of lowest index: reading more would be in vain (ERASURE-REPAIR-1)."""
    for index in streams:
        if not 0 <= index < code.k + code.m:
            raise ShardIndexInvalid(f"there is no shard {index} in {code.k} + {code.m}")
    if len(streams) < code.k:
        raise TooFewShards(f"{len(streams)} streams are not enough: {code.k} are needed")
    return sorted(streams)[: code.k]


def _rebuild(
    code: Code,
    streams: Mapping[int, Readable],
    have: Sequence[int],
    lost: Sequence[int],
    take: Callable[[Sequence[memoryview], int], None],
    *,
    length: int,
    shard_bytes: int,
    threads: int,
) -> None:
    """Stripe by stripe: read k shards, make the lost ones, hand all buffers and the bytes still to come to `take`."""
    _check(length, shard_bytes)
    count, done = code.k + code.m, 0
    with BufferPool(shards=count, shard_bytes=shard_bytes) as pool, pool.stripe() as stripe:
        while done < length:
            size = min(shard_bytes, -(-(length - done) // code.k))
            with ExitStack() as stack:
                shards = _cut(stack, stripe, range(count), size)
                for index in have:
                    if _fill(streams[index], shards[index]) < size:
                        raise StreamTruncated(
                            f"the stream of shard {index} ends before byte {length} of the object", shard=index
                        )
                sources, targets = [shards[index] for index in have], [shards[index] for index in lost]
                code.reconstruct_into(have, sources, lost, targets, threads=threads)
                take(shards, length - done)
            done += code.k * size
