"""The pipeline, compiled and twin: there and back with every stage and without, what is repaired, what is refused."""

from __future__ import annotations

import contextlib
import random
import resource
from array import array
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
import zstandard
from blake3 import blake3

import native.pipeline
from native import _rust as rust
from native import erasure
from native.errors import InputInvalid
from native.pipeline import ChunkMalformed, DigestWrong, SealBroken, stripe
from native.reference import pipeline as reference
from tests.erasure_kit import guarded

KEY = bytes(range(32))
CHUNK = 1000
TEXT = b"".join(b"line %d of a text that is compressed\n" % at for at in range(100))
STAGES: dict[str, dict[str, Any]] = {
    "nothing": {},
    "zstd": {"level": 1},
    "aes": {"cipher": "aes-256-gcm", "key": KEY},
    "chacha": {"cipher": "chacha20-poly1305", "key": KEY},
    "shards": {"k": 4, "m": 2},
    "all": {"level": 3, "cipher": "aes-256-gcm", "key": KEY, "k": 4, "m": 2},
    "all with chacha": {"level": 3, "cipher": "chacha20-poly1305", "key": KEY, "k": 5, "m": 3},
}
ALL = STAGES["all"]


@pytest.fixture(params=["rust", "reference"])
def make(request: pytest.FixtureRequest) -> Callable[..., Any]:
    return {"rust": rust.Pipeline, "reference": reference.Pipeline}[request.param]


class Sealed(NamedTuple):
    slots: bytearray
    lengths: array[int]
    digests: bytearray
    shard_digests: bytearray


def seal(line: Any, data: bytes, *, threads: int = 1) -> Sealed:
    count = -(-len(data) // line.chunk_bytes)
    sealed = Sealed(
        bytearray(count * line.slot_bytes),
        array("I", bytes(4 * count)),
        bytearray(32 * count),
        bytearray(32 * count * line.shards),
    )
    slots, lengths, digests, shard_digests = sealed
    assert count == line.seal_into(data, slots, lengths, digests=digests, shard_digests=shard_digests, threads=threads)
    return sealed


def opened(line: Any, sealed: Sealed, length: int, **options: Any) -> tuple[bytes, list[tuple[int, int]]]:
    out = bytearray(b"\xee" * length)
    options = {"digests": sealed.digests, "shard_digests": sealed.shard_digests, **options}
    wrong = line.open_into(sealed.slots, sealed.lengths, out, **options)
    return bytes(out), wrong


def test_pipeline_facade_gives_the_side_that_was_asked_for() -> None:
    assert native.pipeline.Pipeline in (rust.Pipeline, reference.Pipeline)


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
@pytest.mark.parametrize("length", [0, 1, 999, 1000, 1001, 3500])
def test_pipeline_there_and_back(make: Callable[..., Any], stages: dict[str, Any], length: int) -> None:
    line, data = make(chunk_bytes=CHUNK, **stages), TEXT[:length]
    sealed = seal(line, data)
    chunks = [data[at : at + CHUNK] for at in range(0, length, CHUNK)]
    assert sealed.digests == b"".join(blake3(chunk).digest() for chunk in chunks)
    for number in range(len(chunks)):
        shards = stripe(line, sealed.slots, sealed.lengths, number)
        place = 32 * line.shards * number
        assert b"".join(blake3(each).digest() for each in shards) == sealed.shard_digests[place:][: 32 * line.shards]
        if "key" in stages and len(chunks[number]) >= 32:
            assert not any(chunks[number][:32] in bytes(shard) for shard in shards)
        if "k" in stages:
            assert len(shards[0]) % 64 == 0
            code = erasure.Code(stages["k"], stages["m"])
            assert code.verify(shards[: code.k], shards[code.k :]) == []
    assert opened(line, sealed, length) == (data, [])
    assert opened(line, sealed, length, digests=None, shard_digests=None) == (data, [])


@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_pipeline_both_sides_write_the_same(stages: dict[str, Any]) -> None:
    for chunk_bytes, data in ((700, TEXT), (20_000, random.Random(1).randbytes(20_000) + TEXT * 10)):
        ours: Any
        twin: Any
        ours, twin = (
            rust.Pipeline(chunk_bytes=chunk_bytes, **stages),
            reference.Pipeline(chunk_bytes=chunk_bytes, **stages),
        )
        assert (ours.slot_bytes, ours.shards) == (twin.slot_bytes, twin.shards)
        one, other = seal(ours, data, threads=3), seal(twin, data)
        assert (one.lengths, one.digests, one.shard_digests) == (other.lengths, other.digests, other.shard_digests)
        for number in range(len(one.lengths)):
            assert stripe(ours, one.slots, one.lengths, number) == stripe(twin, other.slots, other.lengths, number)
        assert opened(ours, other, len(data), threads=2) == opened(twin, one, len(data)) == (data, [])


def test_pipeline_compresses_what_is_worth_it(make: Callable[..., Any]) -> None:
    """PIPELINE-ZSTD-1 and 2: noise is moved, and what begins with noise, too; flat bytes that repeat are not."""
    noise = random.Random(2).randbytes(4096)
    line = make(chunk_bytes=65_536, level=1)
    cases = [
        (bytes(65_536), True),
        (TEXT * 20, True),
        (noise * 16, False),
        (noise[:1024] * 64, True),
        (noise, False),
        (noise + bytes(1000), True),  # under 16 KiB nobody looks at the beginning
        (noise + bytes(60_000), False),
    ]
    for data, compressed in cases:
        sealed = seal(line, data[:65_536])
        assert (sealed.slots[1] & 1 == 1) == compressed
        assert opened(line, sealed, len(data[:65_536]))[0] == data[:65_536]


def test_pipeline_same_chunk_same_seal_and_no_key_twice(make: Callable[..., Any]) -> None:
    """PIPELINE-SEAL-2: salts differ as soon as one byte of header or body does, levels and keys included."""
    data = TEXT[:CHUNK]
    salts = set()
    for stages in (
        ALL,
        {**ALL, "level": None},
        {**ALL, "level": 19},
        {**ALL, "cipher": "chacha20-poly1305"},
        {**ALL, "key": bytes(32)},
    ):
        for text in (data, data[:-1], data[:-1] + b"?"):
            first, again = seal(make(chunk_bytes=CHUNK, **stages), text), seal(make(chunk_bytes=CHUNK, **stages), text)
            assert first == again
            salts.add((stages["key"], bytes(first.slots[16:40])))
    # Levels 3 and 19 may make the same frame, and then they rightly have the same salt.
    assert 12 <= len(salts) <= 15


def lost_sets(k: int, m: int) -> Iterator[list[int]]:
    chance = random.Random(3)
    for _ in range(6):
        yield sorted(chance.sample(range(k + m), m))


def test_pipeline_any_k_shards_are_enough(make: Callable[..., Any]) -> None:
    data = TEXT[:2500]
    for stages in (ALL, STAGES["shards"], {"level": 1, "k": 4, "m": 2}):
        line = make(chunk_bytes=CHUNK, **stages)
        for lost in lost_sets(4, 2):
            sealed = seal(line, data)
            for number in range(3):
                for index in lost:
                    shard = stripe(line, sealed.slots, sealed.lengths, number)[index]
                    shard[:] = b"\xaa" * len(shard)
            have = [index for index in range(6) if index not in lost]
            assert opened(line, sealed, len(data), have=have, shard_digests=None) == (data, [])
            # Without being told: by the digests, and those that were looked at are named.
            text, wrong = opened(line, sealed, len(data))
            assert text == data
            looked_at = have[3]
            assert wrong == [(number, index) for number in range(3) for index in lost if index < looked_at]
            with pytest.raises(erasure.TooFewShards, match="chunk 0: 3 shards") as caught:
                opened(line, sealed, len(data), have=have[1:])
            assert caught.value.context == {"index": 0}


def flip(buffer: bytearray, at: int) -> None:
    buffer[at] ^= 1


@pytest.mark.parametrize("stages", ["aes", "chacha", "all", "all with chacha"])
def test_pipeline_every_changed_byte_is_found(make: Callable[..., Any], stages: str) -> None:
    """With a cipher, and no digest to help: each byte of a sealed chunk."""
    line, data = make(chunk_bytes=CHUNK, **STAGES[stages]), TEXT[:100]
    sealed = seal(line, data)
    whole = sum(map(len, stripe(line, sealed.slots, sealed.lengths, 0)[: STAGES[stages].get("k", 1)]))
    for at in range(whole):
        flip(sealed.slots, at)
        with pytest.raises((SealBroken, ChunkMalformed)) as caught:
            opened(line, sealed, len(data), digests=None, shard_digests=None)
        assert caught.value.context == {"index": 0}
        flip(sealed.slots, at)
    assert opened(line, sealed, len(data)) == (data, [])


def test_pipeline_what_is_not_right_is_not_given_out(make: Callable[..., Any]) -> None:
    data = TEXT[: 2 * CHUNK]
    line, other = make(chunk_bytes=CHUNK, **ALL), make(chunk_bytes=CHUNK, **{**ALL, "key": bytes(32)})
    sealed, out = seal(line, data), bytearray(b"\xee" * len(data))
    with pytest.raises(SealBroken):
        other.open_into(sealed.slots, sealed.lengths, out)
    assert out[:CHUNK] == bytes(CHUNK)
    # A chunk that nobody encrypted is not taken for one that is, nor the other way about (PIPELINE-OPEN-4).
    bare = make(chunk_bytes=CHUNK, **{**STAGES["shards"], "level": 3})
    naked = seal(bare, data)
    for one, given in ((line, naked), (bare, sealed)):
        slots = bytearray(2 * one.slot_bytes)
        for number in range(2):
            begin = number * one.slot_bytes
            from_line = bare if given is naked else line
            text = b"".join(stripe(from_line, given.slots, given.lengths, number))[: one.slot_bytes]
            slots[begin : begin + len(text)] = text
        with pytest.raises((SealBroken, ChunkMalformed)):
            one.open_into(slots, given.lengths, out)
    flip(sealed.digests, 40)
    with pytest.raises(DigestWrong) as caught:
        line.open_into(sealed.slots, sealed.lengths, out, digests=sealed.digests)
    assert caught.value.context == {"index": 1}
    assert out == data[:CHUNK] + bytes(CHUNK)


MALFORMED = {
    "short": b"\1\0\0\0\1\0\0\0\1\0\0\0\0\0\0",
    "version": b"\2\0\0\0\4\0\0\0\4\0\0\0\0\0\0\0text",
    "flags": b"\1\x08\0\0\4\0\0\0\4\0\0\0\0\0\0\0text",
    "reserved": b"\1\0\1\0\4\0\0\0\4\0\0\0\0\0\0\0text",
    "reserved at the end": b"\1\0\0\0\4\0\0\0\4\0\0\0\0\0\0\1text",
    "another length": b"\1\0\0\0\3\0\0\0\3\0\0\0\0\0\0\0tex",
    "too much": b"\1\0\0\0\4\0\0\0\4\0\0\0\0\0\0\0text\0",
    "too little": b"\1\0\0\0\4\0\0\0\4\0\0\0\0\0\0\0tex",
    "body not plain": b"\1\0\0\0\4\0\0\0\3\0\0\0\0\0\0\0tex",
    "no shorter": b"\1\1\0\0\4\0\0\0\4\0\0\0\0\0\0\0text",
    "no frame": b"\1\1\0\0\4\0\0\0\3\0\0\0\0\0\0\0tex",
    "no body": b"\1\1\0\0\4\0\0\0\0\0\0\0\0\0\0\0",
    "huge": b"\1\0\0\0" + b"\xff" * 8 + bytes(4) + b"text",
}


@pytest.mark.parametrize("sealed", MALFORMED.values(), ids=MALFORMED)
def test_pipeline_malformed_chunks_are_refused(make: Callable[..., Any], sealed: bytes) -> None:
    line = make(chunk_bytes=100)
    slot, out = bytearray(sealed.ljust(line.slot_bytes, b"\0")), bytearray(4)
    with pytest.raises(ChunkMalformed) as caught:
        line.open_into(slot, array("I", [len(sealed)]), out)
    assert caught.value.context == {"index": 0}
    assert out == bytes(4)


def test_pipeline_frames_that_lie_are_refused(make: Callable[..., Any]) -> None:
    """Of another length than the header says, two of them, one with something behind it, one cut short."""
    line = make(chunk_bytes=5000, level=3)
    sealed = seal(line, TEXT[:3000])
    frame = bytes(sealed.slots[16 : sealed.lengths[0]])
    short = seal(line, TEXT[:2000])
    other = bytes(short.slots[16 : short.lengths[0]])
    for body in (other, frame + b"\0", frame[:-1], frame + other, frame[:20], b"\x50\x2a\x4d\x18\0\0\0\0"):
        header = b"\1\1\0\0" + (3000).to_bytes(4, "little") + len(body).to_bytes(4, "little") + bytes(4)
        slot = bytearray((header + body).ljust(line.slot_bytes, b"\0"))
        with pytest.raises(ChunkMalformed):
            line.open_into(slot, array("I", [16 + len(body)]), bytearray(3000))


@pytest.mark.parametrize("window_log", [12, 27, 28, 31, 32])
def test_pipeline_frames_of_any_window(make: Callable[..., Any], window_log: int) -> None:
    """A frame without its content's size has its window's: RFC 8878, 3.1.1.1.2. None is needed."""
    line, text = make(chunk_bytes=5000), TEXT[:3000]
    stream = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    frame = bytearray(stream.compress(text) + stream.flush())
    assert frame[4] & 0xE0 == 0, "no content size, and a byte of window"
    frame[5] = (window_log - 10) << 3
    header = b"\1\1\0\0" + (3000).to_bytes(4, "little") + len(frame).to_bytes(4, "little") + bytes(4)
    slot, out = bytearray((header + frame).ljust(line.slot_bytes, b"\0")), bytearray(3000)
    if window_log > 31:
        with pytest.raises(ChunkMalformed):
            line.open_into(slot, array("I", [16 + len(frame)]), out)
    else:
        line.open_into(slot, array("I", [16 + len(frame)]), out)
        assert out == text


def test_pipeline_lengths_out_of_the_limits_are_refused(make: Callable[..., Any]) -> None:
    line = make(chunk_bytes=CHUNK, **ALL)
    sealed = seal(line, TEXT[:CHUNK])
    for length in (0, 63, 65, sealed.lengths[0] + 64, line.slot_bytes // 6 + 64, 0xFFFFFFC0, 0xFFFFFFFF):
        with pytest.raises(ChunkMalformed):
            line.open_into(sealed.slots, array("I", [length]), bytearray(CHUNK))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"chunk_bytes": 0}, InputInvalid),
        ({"chunk_bytes": -1}, InputInvalid),
        ({"chunk_bytes": (1 << 20) + 1}, InputInvalid),
        ({"chunk_bytes": 1 << 70}, InputInvalid),
        ({"chunk_bytes": 10**5000}, InputInvalid),
        ({"level": 10**5000}, InputInvalid),
        ({"level": 0}, InputInvalid),
        ({"level": 20}, InputInvalid),
        ({"level": -5}, InputInvalid),
        ({"cipher": "aes-256-gcm"}, InputInvalid),
        ({"key": KEY}, InputInvalid),
        ({"cipher": "rot13", "key": KEY}, InputInvalid),
        ({"cipher": "aes-256-gcm", "key": KEY[1:]}, InputInvalid),
        ({"cipher": "aes-256-gcm", "key": "k" * 32}, TypeError),
        ({"k": 4}, InputInvalid),
        ({"m": 2}, InputInvalid),
        ({"k": 0, "m": 2}, erasure.ShapeInvalid),
        ({"k": 4, "m": 0}, erasure.ShapeInvalid),
        ({"k": 129, "m": 1}, erasure.ShapeInvalid),
        ({"k": 128, "m": 33}, erasure.ShapeInvalid),
        ({"chunk_bytes": None}, TypeError),
    ],
)
def test_pipeline_settings_are_refused(
    make: Callable[..., Any], settings: dict[str, Any], expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        make(**{"chunk_bytes": CHUNK, **settings})


def read_only(size: int) -> bytes:
    return bytes(size)


def strided(size: int) -> memoryview:
    return memoryview(bytearray(2 * size))[::2]


def closed(size: int) -> memoryview:
    view = memoryview(bytearray(size))
    view.release()
    return view


OUTPUTS = ["slots", "lengths", "digests", "shard_digests"]


@pytest.mark.parametrize("wrong", [read_only, strided, closed])
@pytest.mark.parametrize("name", OUTPUTS)
def test_pipeline_outputs_that_cannot_be_written_are_refused(
    make: Callable[..., Any], wrong: Callable[[int], object], name: str
) -> None:
    line = make(chunk_bytes=CHUNK, **ALL)
    given: dict[str, Any] = dict(zip(OUTPUTS, seal(line, TEXT), strict=True))
    given[name] = wrong(len(memoryview(given[name]).cast("B")))
    with pytest.raises(InputInvalid):
        line.seal_into(TEXT, **given)
    with pytest.raises(InputInvalid):
        line.open_into(*seal(line, TEXT)[:2], wrong(len(TEXT)))
    with pytest.raises(TypeError):
        line.seal_into(TEXT, **{**given, name: 7})


@pytest.mark.parametrize("name", OUTPUTS)
@pytest.mark.parametrize("off", [-4, 4, 1])
def test_pipeline_wrong_lengths_are_refused(make: Callable[..., Any], name: str, off: int) -> None:
    line = make(chunk_bytes=CHUNK, **ALL)
    sealed = seal(line, TEXT)
    given: dict[str, Any] = dict(zip(OUTPUTS, sealed, strict=True))
    right = bytes(memoryview(given[name]).cast("B"))
    given[name] = bytearray((right + bytes(4))[: len(right) + off])
    with pytest.raises(InputInvalid):
        line.seal_into(TEXT, **given)
    out = bytearray(len(TEXT))
    with pytest.raises(InputInvalid):
        line.open_into(
            given["slots"], given["lengths"], out, digests=given["digests"], shard_digests=given["shard_digests"]
        )
    for length in (len(TEXT) + CHUNK, len(TEXT) - CHUNK, 0):
        with pytest.raises(InputInvalid):
            line.open_into(*sealed[:2], bytearray(length))
    with pytest.raises(ChunkMalformed):
        line.open_into(*sealed[:2], bytearray(len(TEXT) - 1))


def test_pipeline_overlaps_are_refused(make: Callable[..., Any]) -> None:
    line = make(chunk_bytes=CHUNK, **ALL)
    sealed = seal(line, TEXT)
    room = memoryview(bytearray(2 * len(sealed.slots)))
    size = len(sealed.slots)
    with pytest.raises(InputInvalid, match="slots overlaps what is read"):
        line.seal_into(room[size - 1 :][: len(TEXT)], room[:size], sealed.lengths)
    with pytest.raises(InputInvalid, match="digests overlaps slots"):
        line.seal_into(TEXT, room[:size], sealed.lengths, digests=room[size - 1 :][: len(sealed.digests)])
    with pytest.raises(InputInvalid, match="out overlaps what is read"):
        line.open_into(room[:size], sealed.lengths, room[size - 1 :][: len(TEXT)])
    with pytest.raises(InputInvalid, match="out overlaps what is read"):
        line.open_into(sealed.slots, sealed.lengths, room[: len(TEXT)], digests=room[: len(sealed.digests)])


@pytest.mark.parametrize(
    ("have", "expected"),
    [
        ([0, 1, 2, 3, 6], erasure.ShardIndexInvalid),
        ([0, 1, 2, -1], erasure.ShardIndexInvalid),
        ([0, 1, 2, 2], erasure.ShardIndexInvalid),
        ([0, 1, 2], erasure.TooFewShards),
        ([], erasure.TooFewShards),
        (7, TypeError),
        (["0"], TypeError),
    ],
)
def test_pipeline_shards_at_hand_are_refused(make: Callable[..., Any], have: Any, expected: type[Exception]) -> None:
    line = make(chunk_bytes=CHUNK, **ALL)
    with pytest.raises(expected):
        opened(line, seal(line, TEXT), len(TEXT), have=have)


@pytest.mark.parametrize("threads", [0, 65, -1, 1 << 70])
def test_pipeline_threads_are_refused(make: Callable[..., Any], threads: int) -> None:
    line = make(chunk_bytes=CHUNK, **ALL)
    sealed = seal(line, TEXT)
    with pytest.raises(InputInvalid):
        seal(line, TEXT, threads=threads)
    with pytest.raises(InputInvalid):
        opened(line, sealed, len(TEXT), threads=threads)


def test_pipeline_stripes_are_refused() -> None:
    line = rust.Pipeline(chunk_bytes=CHUNK, **ALL)
    sealed = seal(line, TEXT)
    for number in (-1, len(sealed.lengths)):
        with pytest.raises(InputInvalid):
            stripe(line, sealed.slots, sealed.lengths, number)
    sealed.lengths[0] = 1 << 20
    with pytest.raises(InputInvalid):
        stripe(line, sealed.slots, sealed.lengths, 0)


def test_pipeline_first_error_of_many_threads() -> None:
    line = rust.Pipeline(chunk_bytes=CHUNK, cipher="aes-256-gcm", key=KEY)
    data = TEXT[:3000] * 10
    sealed = seal(line, data, threads=4)
    for number in (29, 11, 23):
        flip(sealed.slots, number * line.slot_bytes + 50)
    with pytest.raises(SealBroken) as caught:
        opened(line, sealed, len(data), shard_digests=None, threads=4)
    assert caught.value.context == {"index": 11}


def test_pipeline_works_in_the_buffers_of_a_pool() -> None:
    line, data = rust.Pipeline(chunk_bytes=CHUNK, **ALL), TEXT[:2500]
    with (
        erasure.BufferPool(shards=1, shard_bytes=3 * line.slot_bytes) as slots_pool,
        erasure.BufferPool(shards=1, shard_bytes=len(data)) as plain_pool,
        slots_pool.stripe() as slots,
        plain_pool.stripe() as plain,
    ):
        lengths = array("I", [0] * 3)
        assert line.seal_into(data, slots.shards[0], lengths) == 3
        assert line.open_into(slots.shards[0], lengths, plain.shards[0], have=[1, 2, 4, 5]) == []
        assert plain.shards[0] == data


@pytest.mark.parametrize("at_end", [True, False])
@pytest.mark.parametrize("stages", STAGES.values(), ids=STAGES)
def test_pipeline_touches_nothing_beside_its_buffers(stages: dict[str, Any], at_end: bool) -> None:
    """Every buffer touches a page without rights: one byte too far ends the process."""
    line = rust.Pipeline(chunk_bytes=CHUNK, **stages)
    for length in (1, 63, 64, 65, 999, 1000, 2999):
        count = -(-length // CHUNK)
        sizes = [length, count * line.slot_bytes, count * 4, count * 32, count * 32 * line.shards, length]
        with contextlib.ExitStack() as stack:
            data, slots, lengths, digests, shard_digests, out = (
                stack.enter_context(guarded(size, at_end=at_end)) for size in sizes
            )
            data[:] = TEXT[:length]
            line.seal_into(data, slots, lengths, digests=digests, shard_digests=shard_digests)
            have = None if line.shards == 1 else list(range(1, line.shards))
            line.open_into(slots, lengths, out, have=have, digests=digests, shard_digests=shard_digests)
            assert out == data


def test_pipeline_steady_state_has_no_page_faults() -> None:
    """Seal and open 64 KiB chunks of every kind, one shard of each lost."""
    chance = random.Random(4)
    data = b"".join(chance.choice((chance.randbytes(65_536), (TEXT * 20)[:65_536])) for _ in range(8))
    line = rust.Pipeline(chunk_bytes=65_536, level=1, cipher="aes-256-gcm", key=KEY, k=16, m=4)
    sealed, out = seal(line, data), bytearray(len(data))
    have = [index for index in range(20) if index != 3]

    def call() -> None:
        slots, lengths, digests, shard_digests = sealed
        line.seal_into(data, slots, lengths, digests=digests, shard_digests=shard_digests)
        line.open_into(slots, lengths, out, have=have, digests=digests, shard_digests=shard_digests)

    faults = []
    for _ in range(30):
        before = resource.getrusage(resource.RUSAGE_THREAD).ru_minflt
        call()
        faults.append(resource.getrusage(resource.RUSAGE_THREAD).ru_minflt - before)
    assert out == data
    # The interpreter's own allocator takes a new arena now and then; a call of ours would fault every time.
    assert sorted(faults)[len(faults) // 2] == 0
    assert sum(count > 0 for count in faults[10:]) <= 2, faults
