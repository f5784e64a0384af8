"""Short measures: ours and the peers in turns on one CPU, calls repeated until a sample lasts long enough.

    def bench_encode(duel: Duel) -> None:
        encode = Work("erasure.encode", {"k": 16, "m": 4, "shard_bytes": 65536})
        duel(
            "erasure.encode.16+4.64KiB",
            "Reed-Solomon encode, 16+4, 64 KiB shards, hot",
            throughput(16 * 65536),
            ours={"zos": lambda: codec.encode_into(data, parity)},
            rivals=[Rival("isa-l", encode, digest=digest_of(parity)), Rival("klauspost", encode)],
            roofs=[Rival("roofline", Work("roofline.xor", encode.parameters), title="XOR roofline")],
            input_=data,
        )

How a peer is asked is in docs/spec/bench-peer.md, how to write a group in docs/benchmarks.md.
"""

from __future__ import annotations

import gc
import resource
import time
import zlib
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from itertools import repeat
from typing import Literal

from pytest_benchmark.fixture import BenchmarkFixture

from bench.errors import MeasureFailed, PeerFailed
from bench.machine import pinned
from bench.options import Options
from bench.peers.arena import Arena, Contest
from bench.peers.protocol import Work
from bench.recorder import Collected, Recorder
from bench.rounds import in_rounds

__all__ = ["Duel", "Rival", "Scale", "Timed", "Work", "digest_of", "each", "throughput"]

COUNT_MAX = 1 << 24
# A bootstrap of fewer samples than these says nothing.
ROUNDS_MIN = 5


@dataclass(frozen=True, slots=True)
class Scale:
    """How nanoseconds of a sample become the value of a row.

    Attributes:
        amount: bytes, or items, of one call.
    """

    unit: str
    direction: Literal["rate", "cost"]
    amount: float
    nanoseconds: float = 1.0

    def value(self, spent_ns: int, count: int) -> float:
        """The value of a sample of `count` calls."""
        each_ns = max(1, spent_ns) / count
        if self.direction == "rate":
            return self.amount / each_ns
        return each_ns / self.amount / self.nanoseconds


def throughput(bytes_per_call: int) -> Scale:
    """GB/s (10^9 bytes of what goes in)."""
    return Scale("GB/s", "rate", bytes_per_call)


def each(items_per_call: int = 1, unit: Literal["us", "ns"] = "us") -> Scale:
    """Time for each of the items that a call does."""
    return Scale(unit, "cost", items_per_call, 1e3 if unit == "us" else 1.0)


def digest_of(*parts: bytes | bytearray | memoryview) -> str:
    """CRC-32 of the parts, one after the other, as a peer tells it of its output (BENCH-PEER-7)."""
    crc = 0
    for part in parts:
        crc = zlib.crc32(part, crc)
    return f"{crc:08x}"


@dataclass(frozen=True, slots=True)
class Timed:
    """Something of ours that repeats itself and tells the time, such as a kernel's own loop: count -> nanoseconds."""

    run: Callable[[int], int]


@dataclass(frozen=True, slots=True)
class Rival:
    """A peer in one measure.

    Attributes:
        peer: its name in the catalogue.
        work: what it is asked to do on the input.
        title: of its row; the catalogue's, if not said.
        digest: `digest_of` what it must give; a peer that gives something else is no peer and has no figure.
        scale: if its calls do another amount than ours.
    """

    peer: str
    work: Work
    title: str | None = None
    digest: str | None = None
    scale: Scale | None = None


class _Ours:
    """Calls of ours, repeated as timeit does."""

    def __init__(self, call: Callable[[], object] | Timed) -> None:
        self._call = call
        self.faults = 0.0

    def sample(self, count: int) -> int:
        """Nanoseconds of `count` calls; `faults` has the minor page faults of each."""
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        if isinstance(self._call, Timed):
            spent_ns = self._call.run(count)
        else:
            call, times = self._call, repeat(None, count)
            begin_ns = time.perf_counter_ns()
            for _ in times:
                call()
            spent_ns = time.perf_counter_ns() - begin_ns
        self.faults = (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / count
        return spent_ns


@dataclass(slots=True)
class _Row:
    name: str
    side: _Ours | Contest
    scale: Scale
    count: int = 1
    expected_s: float = 0.0

    def take(self, group: Collected, faults: dict[str, list[float]]) -> None:
        """One sample into the group, and its page faults."""
        group.add(self.name, self.scale.value(self.side.sample(self.count), self.count))
        faults[self.name].append(self.side.faults)

    def calibrate(self, sample_s: float) -> None:
        """Find how many calls last `sample_s`, or one call if it is longer; what is done warms caches and clocks."""
        while True:
            spent_ns = self.side.sample(self.count)
            if spent_ns >= sample_s * 0.25e9 or self.count >= COUNT_MAX:
                break
            self.count *= 4
        each_ns = max(1, spent_ns) / self.count
        self.count = max(1, min(COUNT_MAX, round(sample_s * 1e9 / each_ns)))
        self.expected_s = each_ns * self.count / 1e9


class Duel:
    """The fixture `duel`: one measure of one group of rows."""

    def __init__(self, *, benchmark: BenchmarkFixture, recorder: Recorder, options: Options, arena: Arena) -> None:
        self._benchmark = benchmark
        self._recorder = recorder
        self._options = options
        self._arena = arena
        self._used = False

    def __call__(
        self,
        key: str,
        title: str,
        scale: Scale,
        *,
        ours: Mapping[str, Callable[[], object] | Timed],
        rivals: Sequence[Rival] = (),
        roofs: Sequence[Rival] = (),
        input_: bytes | bytearray | memoryview = b"",
        against: Sequence[str] = (),
        faults: bool = False,
        headline: str | None = None,
        notes: Sequence[str] = (),
        missing: Mapping[str, str] | None = None,
    ) -> None:
        """Measure.

        Args:
            key: by which budgets name the group; unique.
            title: of table and plot.
            scale: `throughput(bytes per call)` or `each(items per call)`.
            ours: row -> what is called; the first one is measured by pytest-benchmark, the others beside it.
            rivals: peers; not started without --peers, and their rows then not made.
            roofs: likewise, for what the machine can do at most.
            input_: what peers read as their input file.
            against: rows of ours that are baselines, too.
            faults: record minor page faults of each call in a second group, KEY.faults.
            headline: the row of ours to compare, if it is not the first.
            notes: printed below.
            missing: rows of ours that cannot be measured here, and why.

        Raises:
            MeasureFailed: called twice in one measure, or without anything of ours.
        """
        if self._used or not ours:
            raise MeasureFailed(f"{key}: one measure makes one group, with something of ours in it", group=key)
        self._used = True
        asked = self._options.peers
        named = {(rival.title or self._arena.title(rival.peer)): rival for rival in (*rivals, *roofs)} if asked else {}
        roof_names = [name for name, rival in named.items() if rival in roofs]
        names = [*ours, *(missing or {}), *named]
        with ExitStack() as stack:
            cpu = stack.enter_context(pinned())
            group = stack.enter_context(
                self._recorder.group(
                    key,
                    title,
                    [(name, scale.unit) for name in names],
                    baselines=[*against, *named],
                    peers=[name for name in named if name not in roof_names],
                    roofs=roof_names,
                    direction=scale.direction,
                    headline=headline,
                    notes=[*notes, f"all on CPU {cpu} in turns, samples of {self._options.sample_s * 1e3:g} ms"],
                )
            )
            for name, why in (missing or {}).items():
                group.missing(name, why)
            rows = [_Row(name, _Ours(call), scale) for name, call in ours.items()]
            for name, rival in named.items():
                try:
                    contest = stack.enter_context(self._arena.contest(rival.peer, rival.work, input_, rival.digest))
                except PeerFailed as error:
                    group.missing(name, f"missing: {error.message}")
                    continue
                if contest.missing is not None:
                    group.missing(name, f"missing: {contest.missing}")
                    continue
                rows.append(_Row(name, contest, rival.scale or scale))
            paging: dict[str, list[float]] = {row.name: [] for row in rows}
            self._play(rows, group, paging)
            roles = {row.name: row.role for row in group.rows.values()}
        if faults:
            self._recorder.faults(f"{key}.faults", f"{title}: minor page faults of each call", paging, roles)

    def _play(self, rows: list[_Row], group: Collected, paging: dict[str, list[float]]) -> None:
        """Rounds in which everybody has a turn, ours last; the order of the others changes from round to round."""
        first, others = rows[0], rows[1:]  # a peer that breaks off leaves `others`
        first.calibrate(self._options.sample_s)
        for row in list(others):
            self._try(row, others, group, partial(row.calibrate, self._options.sample_s))
        round_s = sum(row.expected_s for row in rows if row is first or row in others)
        in_time = max(float(ROUNDS_MIN), self._options.group_s / max(round_s, 1e-9))
        rounds = int(min(float(self._options.rounds), in_time))
        turn = 0

        def in_turns() -> None:
            nonlocal turn
            turn += 1
            at = turn % len(others) if others else 0
            for row in [*others[at:], *others[:at]]:
                self._try(row, others, group, partial(row.take, group, paging))

        collecting = gc.isenabled()
        gc.disable()
        try:
            in_rounds(
                self._benchmark,
                lambda: first.take(group, paging),
                others=in_turns,
                rounds=rounds,
                group=group,
            )
        finally:
            if collecting:
                gc.enable()

    @staticmethod
    def _try(row: _Row, others: list[_Row], group: Collected, act: Callable[[], None]) -> None:
        """Let a peer act; one that breaks off loses its row, and the others go on."""
        try:
            act()
        except PeerFailed as error:
            group.missing(row.name, f"missing: {error.message}")
            others.remove(row)
