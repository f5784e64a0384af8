"""What the erasure code and its pool refuse, with the same error on every side, and with nothing written."""

from __future__ import annotations

import array
import ctypes
import io
import mmap
import pickle
import resource
import tracemalloc
from collections.abc import Callable
from typing import Any

import pytest

from native import erasure
from native.buffer_pool import SKEW_BYTES
from tests.erasure_kit import SIDES, code

LENGTH = 100
Call = Callable[[erasure.Code, list[bytes], list[bytearray]], object]


def closed_view() -> memoryview:
    view = memoryview(bytearray(LENGTH))
    view.release()
    return view


def closed_map() -> mmap.mmap:
    room = mmap.mmap(-1, LENGTH)
    room.close()
    return room


def scattered(writable: bool) -> memoryview:
    return memoryview(bytearray(2 * LENGTH) if writable else bytes(2 * LENGTH))[::2]


def overlapping_outputs(under_test: erasure.Code, data: list[bytes], parity: list[bytearray]) -> None:
    room = memoryview(bytearray(2 * LENGTH - 1))
    under_test.encode_into(data, [room[:LENGTH], room[LENGTH - 1 :]])


def output_over_input(under_test: erasure.Code, data: list[bytes], parity: list[bytearray]) -> None:
    room = memoryview(bytearray(2 * LENGTH - 1))
    under_test.encode_into([*data[:2], room[:LENGTH]], [parity[0], room[LENGTH - 1 :]])


def repaired_in_place(under_test: erasure.Code, data: list[bytes], parity: list[bytearray]) -> None:
    under_test.reconstruct_into([0, 1, 3], [*data[:2], parity[0]], [4], [parity[0]])


REFUSED: dict[str, tuple[type[erasure.ErasureError], Call]] = {
    "a data shard too few": (erasure.ShardCountWrong, lambda c, d, p: c.encode_into(d[:2], p)),
    "no data": (erasure.ShardCountWrong, lambda c, d, p: c.encode_into([], p)),
    "no data, output made": (erasure.ShardCountWrong, lambda c, d, p: c.encode([])),
    "a data shard too many": (erasure.ShardCountWrong, lambda c, d, p: c.encode_into([*d, d[0]], p)),
    "very many": (erasure.ShardCountWrong, lambda c, d, p: c.encode_into([d[0]] * 300, p)),
    "without end": (erasure.ShardCountWrong, lambda c, d, p: c.encode_into(iter(lambda: d[0], None), p)),
    "a parity shard too few": (erasure.ShardCountWrong, lambda c, d, p: c.encode_into(d, p[:1])),
    "a shorter data shard": (erasure.LengthMismatch, lambda c, d, p: c.encode_into([*d[:2], d[2][1:]], p)),
    "a longer data shard": (erasure.LengthMismatch, lambda c, d, p: c.encode([*d[:2], d[2] + b"1"])),
    "a shorter output": (erasure.LengthMismatch, lambda c, d, p: c.encode_into(d, [p[0], bytearray(LENGTH - 1)])),
    "shards of no bytes": (erasure.ShardEmpty, lambda c, d, p: c.encode([b""] * 3)),
    "outputs of no bytes": (erasure.ShardEmpty, lambda c, d, p: c.encode_into([b""] * 3, [bytearray()] * 2)),
    "no buffer": (erasure.BufferUnusable, lambda c, d, p: c.encode_into([*d[:2], 5], p)),  # type: ignore[list-item]
    "a string": (erasure.BufferUnusable, lambda c, d, p: c.encode(["a" * LENGTH] * 3)),  # type: ignore[list-item]
    "None": (erasure.BufferUnusable, lambda c, d, p: c.verify(d, [None, p[1]])),  # type: ignore[list-item]
    "a scattered input": (erasure.BufferUnusable, lambda c, d, p: c.encode([*d[:2], scattered(False)])),
    "a scattered output": (erasure.BufferUnusable, lambda c, d, p: c.encode_into(d, [p[0], scattered(True)])),
    "a backward input": (erasure.BufferUnusable, lambda c, d, p: c.encode([*d[:2], memoryview(d[2])[::-1]])),
    "references": (erasure.BufferUnusable, lambda c, d, p: c.encode([*d[:2], (ctypes.py_object * 2)()])),
    "an output of references": (
        erasure.BufferUnusable,
        lambda c, d, p: c.encode_into(d, [p[0], (ctypes.py_object * 2)()]),
    ),
    "a closed view": (erasure.BufferUnusable, lambda c, d, p: c.encode([*d[:2], closed_view()])),
    "a closed output": (erasure.BufferUnusable, lambda c, d, p: c.encode_into(d, [p[0], closed_view()])),
    "a closed map": (erasure.BufferUnusable, lambda c, d, p: c.encode([*d[:2], closed_map()])),
    "a read-only output": (erasure.BufferUnusable, lambda c, d, p: c.encode_into(d, [p[0], bytes(LENGTH)])),
    "outputs that overlap": (erasure.BuffersOverlap, overlapping_outputs),
    "one output twice": (erasure.BuffersOverlap, lambda c, d, p: c.encode_into(d, [p[0], p[0]])),
    "an output over an input": (erasure.BuffersOverlap, output_over_input),
    "a repair in place": (erasure.BuffersOverlap, repaired_in_place),
    "an update of itself": (erasure.BuffersOverlap, lambda c, d, p: c.update(0, d[0], p[0], p)),
    "no threads": (erasure.ThreadsInvalid, lambda c, d, p: c.encode(d, threads=0)),
    "negative threads": (erasure.ThreadsInvalid, lambda c, d, p: c.encode_into(d, p, threads=-1)),
    "very many threads": (erasure.ThreadsInvalid, lambda c, d, p: c.verify(d, p, threads=2**70)),
    "threads that cannot be printed": (erasure.ThreadsInvalid, lambda c, d, p: c.encode(d, threads=10**5000)),
    "an index that cannot": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0, 1, 10**5000], d, [2])),
    "one of an update": (erasure.ShardIndexInvalid, lambda c, d, p: c.update(-(10**5000), d[0], d[1], p)),
    "threads of an update": (erasure.ThreadsInvalid, lambda c, d, p: c.update(0, d[0], d[1], p, threads=65)),
    "threads of a repair": (erasure.ThreadsInvalid, lambda c, d, p: c.reconstruct([0, 1, 2], d, [3], threads=65)),
    "an index past the end": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0, 1, 5], d, [2])),
    "a negative index": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0, 1, -1], d, [2])),
    "a huge index": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0, 1, 2**80], d, [2])),
    "a lost index past the end": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0, 1, 2], d, [5])),
    "an index twice": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0, 1, 1], d, [2])),
    "a lost index twice": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0, 1, 2], d, [3, 3])),
    "lost and here": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0, 1, 2], d, [2])),
    "very many indexes": (erasure.ShardIndexInvalid, lambda c, d, p: c.reconstruct([0] * 300, d, [2])),
    "an update past the data": (erasure.ShardIndexInvalid, lambda c, d, p: c.update(3, d[0], d[1], p)),
    "too few shards": (erasure.TooFewShards, lambda c, d, p: c.reconstruct([0, 1], d[:2], [2])),
    "none at all": (erasure.TooFewShards, lambda c, d, p: c.reconstruct([], [], [2])),
    "fewer shards than indexes": (erasure.ShardCountWrong, lambda c, d, p: c.reconstruct([0, 1, 2], d[:2], [3])),
    "fewer outputs than lost": (
        erasure.ShardCountWrong,
        lambda c, d, p: c.reconstruct_into([0, 1, 2], d, [3, 4], p[:1]),
    ),
    "an unread shard of another length": (
        erasure.LengthMismatch,
        lambda c, d, p: c.reconstruct([0, 1, 2, 4], [*d, b"1"], [3]),
    ),
}


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize("name", REFUSED)
def test_erasure_refuses(side: str, name: str) -> None:
    expected, call = REFUSED[name]
    data = [bytes([value]) * LENGTH for value in range(3)]
    parity = [bytearray(b"\xee" * LENGTH) for _ in range(2)]
    with pytest.raises(expected) as caught:
        call(code(side, 3, 2), data, parity)
    assert type(caught.value) is expected
    assert parity == [bytearray(b"\xee" * LENGTH)] * 2
    # Nothing stays exported but by the frames of the twin: an array whose buffer is held cannot grow.
    caught.value.__traceback__ = None
    del caught
    for shard in parity:
        shard.append(0)


@pytest.mark.parametrize("side", SIDES)
def test_erasure_takes_no_memory_for_what_it_refuses(side: str) -> None:
    under_test, large = code(side, 8, 4), mmap.mmap(-1, 8 << 20)
    calls: list[tuple[type[erasure.ErasureError], Callable[[], object]]] = [
        (erasure.ShardCountWrong, lambda: under_test.encode([large])),
        (erasure.LengthMismatch, lambda: under_test.encode([large] * 7 + [b"1"])),
        (erasure.ThreadsInvalid, lambda: under_test.encode([large] * 8, threads=65)),
        (erasure.ShardIndexInvalid, lambda: under_test.reconstruct([0], [large], [1] * 60)),
        (erasure.TooFewShards, lambda: under_test.reconstruct([0], [large], [1])),
        (erasure.ShardCountWrong, lambda: under_test.reconstruct(range(8), [large], [9])),
        (erasure.LengthMismatch, lambda: under_test.reconstruct(range(8), [large] * 7 + [b"1"], [9])),
        (erasure.ThreadsInvalid, lambda: under_test.reconstruct(range(8), [large] * 8, [9], threads=0)),
    ]
    tracemalloc.start()
    try:
        for refused, call in calls:
            with pytest.raises(refused):
                call()
        assert tracemalloc.get_traced_memory()[1] < 4 << 20
    finally:
        tracemalloc.stop()


SHAPES_REFUSED = [(0, 1), (1, 0), (0, 0), (-1, 4), (129, 1), (1, 33), (128, 128), (2**70, 1), (1, -(2**70))]


@pytest.mark.parametrize("side", SIDES)
@pytest.mark.parametrize(("k", "m"), SHAPES_REFUSED)
def test_erasure_refuses_shapes(side: str, k: int, m: int) -> None:
    with pytest.raises(erasure.ShapeInvalid):
        code(side, k, m)


@pytest.mark.parametrize("side", SIDES)
def test_erasure_refuses_shapes_that_cannot_be_printed(side: str) -> None:
    for k, m in ((10**5000, 1), (1, 10**5000), (-(10**5000), 1)):
        with pytest.raises(erasure.ShapeInvalid) as caught:
            code(side, k, m)
        assert str(2**64 - 1) not in str(caught.value)
    with pytest.raises(erasure.ShapeInvalid):
        erasure.BufferPool(shards=1, shard_bytes=1, stripes=10**5000)
    with pytest.raises(erasure.ShapeInvalid):
        erasure.BufferPool(shards=10**5000, shard_bytes=1)


@pytest.mark.parametrize("side", SIDES)
def test_erasure_refuses_names(side: str) -> None:
    with pytest.raises(erasure.ShapeInvalid, match="cauchy, vandermonde"):
        code(side, 2, 1, matrix="hilbert")
    with pytest.raises(erasure.PathUnavailable, match="gfni512"):
        type(code(side, 2, 1))(2, 1, path="mmx")
    # One of the two belongs to another architecture.
    absent = next(path for path in ("neon", "avx2") if path not in erasure.PATHS)
    with pytest.raises(erasure.PathUnavailable):
        type(code(side, 2, 1))(2, 1, path=absent)


@pytest.mark.parametrize("side", SIDES)
def test_erasure_takes_any_contiguous_buffer(side: str) -> None:
    under_test = code(side, 3, 1)
    numbers = array.array("I", range(16))
    room = mmap.mmap(-1, 64)
    room[:] = bytes(range(64))
    square = (ctypes.c_uint16 * 8 * 4).from_buffer_copy(bytes(reversed(range(64))))
    (parity,) = under_test.encode([numbers, room, square])
    assert [parity] == under_test.encode([numbers.tobytes(), room[:], bytes(square)])
    wide = array.array("Q", [0] * 8)
    under_test.encode_into([numbers, room, square], [wide])
    assert wide.tobytes() == parity


@pytest.mark.parametrize("side", SIDES)
def test_erasure_one_shard_may_be_given_twice(side: str) -> None:
    same = bytearray(b"abc")
    assert code(side, 2, 1).encode([same, same]) == code(side, 2, 1).encode([b"abc", b"abc"])


@pytest.mark.parametrize("side", SIDES)
def test_erasure_repair_of_nothing_is_nothing(side: str) -> None:
    assert code(side, 2, 1).reconstruct([0, 1], [b"a", b"b"], []) == []


@pytest.mark.parametrize("side", SIDES)
def test_erasure_an_error_of_the_caller_comes_through(side: str) -> None:
    def broken() -> Any:
        yield b"a"
        raise LookupError("from inside")

    with pytest.raises(LookupError, match="from inside"):
        code(side, 2, 1).encode(broken())


def test_erasure_pool_lends_and_takes_back() -> None:
    with erasure.BufferPool(shards=3, shard_bytes=1000, stripes=2) as pool:
        assert pool.stride_bytes == 1024 + SKEW_BYTES
        first, second = pool.stripe(), pool.stripe()
        with pytest.raises(erasure.PoolExhausted):
            pool.stripe()
        for number, shard in enumerate([*first.shards, *second.shards]):
            shard[:] = bytes([number]) * 1000
        assert [bytes({*shard}) for shard in [*first.shards, *second.shards]] == [bytes([n]) for n in range(6)]
        kept = first.shards[0]
        first.release()
        first.release()
        with pytest.raises(erasure.BufferUnusable):
            erasure.Code(2, 1).encode([kept, kept])
        with pool.stripe() as again:
            # As a call of another thread would hold it.
            held = pickle.PickleBuffer(again.shards[0])
            with pytest.raises(erasure.BufferUnusable):
                again.release()
            held.release()
        with pytest.raises(erasure.BufferUnusable):
            pool.close()
        second.release()
    with pytest.raises(erasure.PoolExhausted, match="closed"):
        pool.stripe()
    pool.close()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"shards": 0, "shard_bytes": 1}, erasure.ShapeInvalid),
        ({"shards": 256, "shard_bytes": 1}, erasure.ShapeInvalid),
        ({"shards": 1, "shard_bytes": 1, "stripes": 0}, erasure.ShapeInvalid),
        ({"shards": 1, "shard_bytes": 0}, erasure.ShardEmpty),
        ({"shards": 1, "shard_bytes": -5}, erasure.ShardEmpty),
        ({"shards": 255, "shard_bytes": 1 << 50}, erasure.ShapeInvalid),
    ],
)
def test_erasure_pool_refuses(arguments: dict[str, int], expected: type[Exception]) -> None:
    with pytest.raises(expected):
        erasure.BufferPool(**arguments)


def test_erasure_steady_state_has_no_page_faults() -> None:
    under_test = erasure.Code(4, 2)
    with erasure.BufferPool(shards=7, shard_bytes=64 << 10) as pool:

        def call() -> None:
            with pool.stripe() as stripe:
                data, parity, spare = stripe.shards[:4], stripe.shards[4:6], stripe.shards[6]
                under_test.encode_into(data, parity)
                under_test.reconstruct_into([1, 2, 3, 4], [*data[1:], parity[0]], [0], [spare])
                under_test.update(1, data[1], data[2], parity)
                under_test.verify(data, parity)

        faults = []
        for _ in range(30):
            before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
            call()
            faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        # The interpreter's own allocator takes a new arena now and then; a call of ours would fault every time.
        assert sorted(faults)[len(faults) // 2] == 0
        assert sum(faults[10:]) <= 4, faults


class Slow(io.RawIOBase):
    """Gives and takes a byte at a time, and from `stops` on nothing, as a descriptor that does not wait."""

    def __init__(self, data: bytes | bytearray = b"", stops: int = 1 << 30) -> None:
        self.data, self.at, self.stops = bytearray(data), 0, stops

    def readinto(self, buffer: Any) -> int | None:
        if self.at >= self.stops:
            return None
        part = self.data[self.at : self.at + 1]
        buffer[: len(part)] = part
        self.at += len(part)
        return len(part)

    def write(self, data: Any) -> int | None:
        if len(self.data) >= self.stops:
            return None
        self.data += data[:1]
        return 1


def test_erasure_streams_of_few_bytes_at_a_time() -> None:
    under_test, data = erasure.Code(2, 1), bytes(range(11))
    streams = [Slow() for _ in range(3)]
    assert erasure.encode_stream(under_test, Slow(data), streams, shard_bytes=4) == 11
    target = Slow()
    again = {0: Slow(streams[0].data), 2: Slow(streams[2].data)}
    erasure.decode_stream(under_test, again, target, length=11, shard_bytes=4)
    assert target.data == data
    with pytest.raises(BlockingIOError):
        erasure.encode_stream(under_test, Slow(data, stops=5), streams, shard_bytes=4)
    with pytest.raises(BlockingIOError):
        erasure.encode_stream(under_test, Slow(data), [Slow(stops=3), Slow(), Slow()], shard_bytes=4)


def test_erasure_streams_refuse() -> None:
    under_test = erasure.Code(2, 1)
    with pytest.raises(erasure.ShardCountWrong):
        erasure.encode_stream(under_test, io.BytesIO(b"abc"), [io.BytesIO()])
    with pytest.raises(erasure.ShardEmpty):
        erasure.encode_stream(under_test, io.BytesIO(b"abc"), [io.BytesIO()] * 3, shard_bytes=0)
    target = io.BytesIO()
    with pytest.raises(erasure.TooFewShards):
        erasure.decode_stream(under_test, {0: io.BytesIO()}, target, length=1)
    with pytest.raises(erasure.ShardIndexInvalid):
        erasure.decode_stream(under_test, {0: io.BytesIO(), 3: io.BytesIO()}, target, length=1)
    with pytest.raises(erasure.ShapeInvalid):
        erasure.decode_stream(under_test, {0: io.BytesIO(), 1: io.BytesIO()}, target, length=-1)
    with pytest.raises(erasure.StreamTruncated) as caught:
        erasure.decode_stream(under_test, {0: io.BytesIO(b"abc"), 2: io.BytesIO(b"ab")}, target, length=6)
    assert caught.value.context == {"shard": 2}
    assert target.getvalue() == b""
    with pytest.raises(erasure.ThreadsInvalid):
        erasure.decode_stream(under_test, {0: io.BytesIO(b"abc"), 1: io.BytesIO(b"abc")}, target, length=6, threads=999)
    for length, k, shard_bytes in ((-10, 1, 1), (10, 0, 1), (10, 1, 0)):
        with pytest.raises(erasure.ErasureError):
            erasure.stream_bytes(length, k, shard_bytes)
    both = {0: io.BytesIO(b"abc"), 1: io.BytesIO(b"abc")}
    for wrong in (1, 3, -1):
        with pytest.raises(erasure.ShardIndexInvalid):
            erasure.repair_stream(under_test, both, {wrong: io.BytesIO()}, length=6)
