"""Two results beside each other: what changed, and whether it is more than noise. Pure.

A change of a row counts when the whole 90 % interval of the ratio of its medians lies beyond the threshold, and when it
still does after the drift of the machine is taken out: peers and rooflines of the same group, which nobody has
changed, tell by how much the machine itself was faster or slower in the second run. The interval is over the rounds of
each run: that memory lies elsewhere in another run is not in it, so one pair of runs does not prove a small change.
"""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Literal

from bench.results import Group, Report, Row
from bench.standing import advantage
from bench.tables import doubts, value_text
from zos_core.base.document import Record

__all__ = ["Change", "Comparison", "compare", "comparison_cells", "summary_lines"]

Verdict = Literal["better", "worse", "same", "gone", "new", "not comparable"]


class Change(Record, frozen=True, kw_only=True):
    """What became of one row.

    Attributes:
        before, after: medians, None where there is no figure.
        ratio: how many times as good as before, whichever way is better; None where that cannot be said.
        low, high: its 90 % interval.
        drift: the same of the group's peers, by which the machine itself changed; None without any.
        noisy: what makes one of the runs doubtful.
    """

    group: str
    row: str
    unit: str
    ours: bool
    before: float | None = None
    after: float | None = None
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    drift: float | None = None
    verdict: Verdict
    noisy: list[str] = []


class Comparison(Record, frozen=True, kw_only=True):
    """Two runs.

    Attributes:
        other_machine: what of the machines differs; then values are of two machines.
        other_paths: native kernels that took another code path, with both.
        only_before, only_after: groups that only one of the runs has.
    """

    before: str
    after: str
    threshold: float
    other_machine: list[str] = []
    other_paths: list[str] = []
    changes: list[Change] = []
    only_before: list[str] = []
    only_after: list[str] = []

    @property
    def worse(self) -> list[Change]:
        """Rows of ours that got worse, or that are gone from a group that was measured."""
        return [change for change in self.changes if change.ours and change.verdict in ("worse", "gone")]


def compare(before: Report, after: Report, *, threshold: float) -> Comparison:
    """Set `after` beside `before`; a change below `threshold` (0.05 is 5 %) is none."""
    then = {group.key: group for group in before.groups}
    now = {group.key: group for group in after.groups}
    names = ("kernel", "cpu", "cpus", "architecture", "features", "memory_mib")
    return Comparison(
        before=before.begun,
        after=after.begun,
        threshold=threshold,
        other_machine=[name for name in names if getattr(before.machine, name) != getattr(after.machine, name)],
        other_paths=[
            f"{kernel} {path}, then {after.machine.paths[kernel]}"
            for kernel, path in before.machine.paths.items()
            if after.machine.paths.get(kernel, path) != path
        ],
        changes=[
            change for key in then if key in now for change in _group_changes(then[key], now[key], threshold=threshold)
        ],
        only_before=[key for key in then if key not in now],
        only_after=[key for key in now if key not in then],
    )


def _group_changes(before: Group, after: Group, *, threshold: float) -> list[Change]:
    drifts = []
    for row in before.rows:
        other = after.row(row.name)
        if row.role == "ours" or other is None or not _comparable(before, after, row, other):
            continue
        seen = advantage(after, other, row, one_run=False)
        if seen is not None:
            drifts.append(seen.value)
    drift = median(drifts) if drifts else None
    noisy = [f"{when}: {doubt}" for when, group in (("A", before), ("B", after)) for doubt in doubts(group)]
    names = list(dict.fromkeys(row.name for row in (*before.rows, *after.rows)))
    return [_row_change(before, after, name, drift=drift, threshold=threshold, noisy=noisy) for name in names]


def _comparable(before: Group, after: Group, old: Row, new: Row) -> bool:
    """Whether the values of both runs are of one kind."""
    return before.direction == after.direction and old.unit == new.unit


def _row_change(
    before: Group, after: Group, name: str, *, drift: float | None, threshold: float, noisy: list[str]
) -> Change:
    old, new = before.row(name), after.row(name)
    row = new or old
    assert row is not None
    then, now = _median(old), _median(new)
    ratio = low = high = None
    verdict: Verdict = "same"
    if then is None or now is None:
        verdict = "same" if then is now else "gone" if now is None else "new"
    elif old is not None and new is not None and not _comparable(before, after, old, new):
        verdict = "not comparable"
    elif old is not None and new is not None:
        seen = advantage(after, new, old, one_run=False)
        if seen is None:  # zeros: no ratio, but more faults than none is worse
            better = now > then if after.more_is_better else now < then
            verdict = "same" if now == then else "better" if better else "worse"
        else:
            ratio, low, high = seen.value, seen.low, seen.high
            verdict = _verdict(low, high, ratio, drift if row.role == "ours" else None, threshold)
    return Change(
        group=after.key,
        row=name,
        unit=row.unit,
        ours=row.role == "ours",
        before=then,
        after=now,
        ratio=ratio,
        low=low,
        high=high,
        drift=drift,
        verdict=verdict,
        noisy=noisy,
    )


def _verdict(low: float, high: float, ratio: float, drift: float | None, threshold: float) -> Verdict:
    worse, better = 1 - threshold, 1 / (1 - threshold)
    corrected = ratio / drift if drift else ratio
    if high < worse and corrected < worse:
        return "worse"
    if low > better and corrected > better:
        return "better"
    return "same"


def _median(row: Row | None) -> float | None:
    if row is None or row.missing is not None or not row.values:
        return None
    return median(row.values)


def comparison_cells(found: Comparison, *, everything: bool = False) -> list[list[str]]:
    """The changes as a table of text, its head first; those of ours that are none, and peers, only on demand."""
    table = [["group", "row", "A", "B", "unit", "B as good as A", "machine drift", "verdict"]]
    for change in found.changes:
        if not everything and (change.verdict == "same" or not change.ours):
            continue
        times = "-"
        if change.ratio is not None and change.low is not None and change.high is not None:
            times = f"{change.ratio:.2f}x ({change.low:.2f}-{change.high:.2f})"
        table.append(
            [
                change.group,
                change.row if change.ours else f"({change.row})",
                *("missing" if value is None else value_text(value) for value in (change.before, change.after)),
                change.unit,
                times,
                "-" if change.drift is None else f"{change.drift:.2f}x",
                f"{change.verdict}, noisy" if change.noisy and change.verdict != "same" else change.verdict,
            ]
        )
    return table


def summary_lines(found: Comparison) -> list[str]:
    """The comparison in sentences."""
    ours = [change for change in found.changes if change.ours]
    counts = {verdict: sum(change.verdict == verdict for change in ours) for verdict in ("better", "worse", "gone")}
    lines = [
        f"A {found.before}, B {found.after}: {len(ours)} rows of ours, {counts['better']} better, "
        f"{counts['worse']} worse, {counts['gone']} gone; "
        f"changes below {found.threshold:.0%}, or within the noise of the samples, are none",
        "where memory lies changes from run to run and is not in that noise: measure again what counts",
    ]
    if found.other_machine:
        lines.append(f"warning: not the same machine ({', '.join(found.other_machine)}): values differ by that, too")
    if found.other_paths:
        lines.append(f"warning: not the same code paths ({'; '.join(found.other_paths)})")
    other = [f"{change.group}: {change.row}" for change in found.changes if change.verdict == "not comparable"]
    if other:
        lines.append(f"warning: {len(other)} rows have another unit or direction than before: {_some(other)}")
    noisy = list(dict.fromkeys(change.group for change in found.changes if change.noisy))
    if noisy:
        lines.append(f"warning: {len(noisy)} groups were measured on a busy machine: {_some(noisy)}")
    if found.only_before:
        lines.append(f"only in A: {_some(found.only_before)}")
    if found.only_after:
        lines.append(f"only in B: {_some(found.only_after)}")
    return lines


def _some(names: Sequence[str], at_most: int = 8) -> str:
    more = f" and {len(names) - at_most} more" if len(names) > at_most else ""
    return ", ".join(names[:at_most]) + more
