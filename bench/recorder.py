"""Takes the samples of a run, group by group, and makes the report of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal

from bench.machine import wait_quiet
from bench.report import Group, Row

__all__ = ["Collected", "Recorder"]


@dataclass(kw_only=True)
class Collected:
    """A group while it is being measured."""

    rows: dict[str, Row]
    notes: list[str]

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

    def _change(self, name: str, *, missing: str | None = None, note: str | None = None) -> None:
        row = self.rows[name]
        self.rows[name] = Row(
            name=row.name, unit=row.unit, values=row.values, missing=missing or row.missing, note=note or row.note
        )


@dataclass(kw_only=True)
class Recorder:
    """All groups of a run.

    Attributes:
        say: prints a line of progress.
        show: prints a group that is complete.
        quiet_wait_s: how long each group may wait for other programs to rest.
    """

    say: Callable[[str], None]
    show: Callable[[Group], None]
    quiet_wait_s: float
    groups: list[Group] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)

    @contextmanager
    def group(
        self,
        key: str,
        title: str,
        rows: Sequence[tuple[str, str]],
        *,
        baselines: Sequence[str] = (),
        direction: Literal["cost", "rate", "speed"] = "cost",
        notes: Sequence[str] = (),
    ) -> Iterator[Collected]:
        """Measure a group of rows (name, unit); kept, as far as it came, if it is broken off."""
        self.say(title)
        busy = wait_quiet(self.quiet_wait_s)
        begin = os.getloadavg()[0]
        collected = Collected(rows={name: Row(name=name, unit=unit, values=[]) for name, unit in rows}, notes=[*notes])
        try:
            yield collected
        finally:
            group = Group(
                key=key,
                title=title,
                rows=list(collected.rows.values()),
                baselines=list(baselines),
                direction=direction,
                notes=collected.notes,
                load=(begin, os.getloadavg()[0]),
                busy=busy,
            )
            if any(row.values for row in group.rows):
                self.groups.append(group)
                self.show(group)

    def skip(self, reason: str) -> None:
        """Something is not measured."""
        self.say(f"skipped: {reason}")
        self.skipped.append(reason)
