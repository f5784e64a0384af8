"""Takes the samples of a run, group by group, and makes the documents of them."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from bench.errors import MeasureFailed
from bench.machine import cpu_times, probe_s, wait_quiet
from bench.results import Group, Noise, PeerSeen, Role, Row
from bench.series import spread
from zos_core.base.progress import SILENT, Progress, Task

__all__ = ["Collected", "Recorder"]

# Below these many probes their spread says nothing.
PROBES_MIN = 5
NOT_MEASURED = "missing: not measured, or broken off before"


@dataclass(kw_only=True)
class Collected:
    """A group while it is being measured."""

    rows: dict[str, Row]
    notes: list[str]
    task: Task
    probes_s: list[float] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        """One more sample of a row."""
        self.rows[name].values.append(value)

    def add_ms(self, name: str, nanoseconds: float) -> None:
        """One more sample of a row in milliseconds."""
        self.add(name, nanoseconds / 1e6)

    def missing(self, name: str, reason: str) -> None:
        """Say why a row has no samples."""
        self._change(name, missing=reason)

    def note(self, name: str, text: str) -> None:
        """Say something of a row."""
        self._change(name, note=text)

    def next_round(self) -> None:
        """Between two rounds: measure the machine itself, for what varies there is not what is being compared."""
        self.probes_s.append(probe_s())
        self.task.advance(1)

    def _change(self, name: str, *, missing: str | None = None, note: str | None = None) -> None:
        row = self.rows[name]
        self.rows[name] = Row(
            name=row.name,
            unit=row.unit,
            values=row.values,
            missing=missing or row.missing,
            note=note or row.note,
            role=row.role,
        )


@dataclass(kw_only=True)
class Recorder:
    """All groups of a run.

    Attributes:
        say: prints a line of progress.
        show: prints a group that is complete.
        quiet_wait_s: how long each group may wait for other programs to rest.
        suite: the GROUP of the command line whose measures run now.
        progress: where rounds are shown.
        label: what is said of the run's own progress beside a title.
    """

    say: Callable[[str], None]
    show: Callable[[Group], None]
    quiet_wait_s: float
    suite: str = ""
    progress: Progress = SILENT
    label: Callable[[str], str] = str
    groups: list[Group] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    peers: dict[str, PeerSeen] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)

    @contextmanager
    def group(
        self,
        key: str,
        title: str,
        rows: Sequence[tuple[str, str]],
        *,
        baselines: Sequence[str] = (),
        peers: Sequence[str] | None = None,
        roofs: Sequence[str] = (),
        direction: Literal["cost", "rate", "speed"] = "cost",
        headline: str | None = None,
        notes: Sequence[str] = (),
    ) -> Iterator[Collected]:
        """Measure a group of rows (name, unit); kept, as far as it came, if it is broken off.

        Args:
            key: unique in the run; budgets and `compare` name the group by it.
            title: of the table and the plot.
            rows: names, each once, with their units.
            baselines: rows to which the others are set in relation.
            peers: rows that are not ours; the baselines, if not said.
            roofs: rows that are what the machine can do at most, or a floor: no rivals.
            direction: see `results.Group`.
            headline: the row of ours that is meant to be compared, if it is not the first one.
            notes: printed below the table.

        Raises:
            MeasureFailed: the key was measured before, or a row is named twice: a fault in the measure.
        """
        names = [name for name, _ in rows]
        if len(set(names)) != len(names) or any(group.key == key for group in self.groups):
            raise MeasureFailed(f"the group {key}, or one of its rows, has a name that is taken", group=key)
        self.say(title)
        busy = wait_quiet(self.quiet_wait_s)
        load, ticks, begin_s = os.getloadavg()[0], cpu_times(), time.monotonic()
        theirs = baselines if peers is None else peers
        made = {name: Row(name=name, unit=unit, values=[], role=_role(name, theirs, roofs)) for name, unit in rows}
        collected: Collected | None = None
        try:
            with self.progress.task(self.label(title)) as task:
                collected = Collected(rows=made, notes=[*notes], task=task)
                yield collected
        finally:
            ticks_after = cpu_times()
            # What has neither samples nor a reason is no row (BENCH-RESULTS-3).
            kept = [
                row if row.values or row.missing is not None else msgspec.structs.replace(row, missing=NOT_MEASURED)
                for row in made.values()
            ]
            group = Group(
                key=key,
                title=title,
                suite=self.suite,
                rows=kept,
                baselines=list(baselines),
                direction=direction,
                headline=headline,
                notes=[*notes] if collected is None else collected.notes,
                noise=Noise(
                    load=(load, os.getloadavg()[0]),
                    busy=busy,
                    stolen=(ticks_after[2] - ticks[2]) / max(1, ticks_after[0] - ticks[0]),
                    jitter=_jitter(collected),
                ),
                seconds=time.monotonic() - begin_s,
            )
            if any(row.values for row in group.rows):
                self.groups.append(group)
                self.show(group)

    def faults(self, key: str, title: str, values: Mapping[str, list[float]], roles: Mapping[str, Role]) -> None:
        """Keep the minor page faults of each call, which were counted beside another group."""
        rows = [
            Row(name=name, unit="faults", values=counts, role=roles[name]) for name, counts in values.items() if counts
        ]
        group = Group(key=key, title=title, suite=self.suite, rows=rows, noise=self.groups[-1].noise)
        self.groups.append(group)
        self.show(group)

    def path(self, kernel: str, path: str) -> None:
        """Which of its code paths a native kernel has chosen on this CPU, for the page."""
        self.paths[kernel] = path

    def skip(self, reason: str) -> None:
        """Something is not measured; the same reason is told once, however many groups it keeps from being measured."""
        if reason not in self.skipped:
            self.say(f"skipped: {reason}")
            self.skipped.append(reason)

    def saw_peer(self, name: str, *, version: str | None = None, missing: str | None = None) -> None:
        """A peer took part, or was missing."""
        self.peers[name] = PeerSeen(name=name, version=version, missing=missing)


def _jitter(collected: Collected | None) -> float:
    if collected is None or len(collected.probes_s) < PROBES_MIN:
        return 0.0
    return spread(collected.probes_s)


def _role(name: str, peers: Sequence[str], roofs: Sequence[str]) -> Role:
    if name in roofs:
        return "roof"
    return "peer" if name in peers else "ours"
