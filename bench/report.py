"""What a run of the measures found: documents, and the tables made of them. Pure.

A `Group` is a set of rows that were measured in turns, so that their ratios count; a row is one thing under one
configuration with every sample that was taken. A row that could not be measured says why, and is never a number.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

from msgspec import Meta

from bench.series import median, quantile, ratio
from zos_core.base.document import Document, Record

__all__ = [
    "Budget",
    "Budgets",
    "Group",
    "Machine",
    "Report",
    "Row",
    "Verdict",
    "budget_cells",
    "cells",
    "judge",
    "load_line",
    "machine_lines",
    "markdown",
    "value_text",
]

MISSING = "missing"
# Above these other programs take part in what is measured.
LOAD_NOISY = 2.0
BUSY_NOISY = 0.25


class Machine(Record, frozen=True, kw_only=True):
    """Where the figures come from."""

    kernel: str
    cpu: str
    cpus: int
    memory_mib: int
    file_system: str
    virtual: str
    versions: dict[str, str]


class Row(Record, frozen=True, kw_only=True):
    """One thing under one configuration: its samples in `unit`, or why there are none."""

    name: str
    unit: str
    values: list[float] = []
    missing: str | None = None
    note: str | None = None


class Group(Record, frozen=True, kw_only=True):
    """Rows that were measured in turns.

    Attributes:
        key: by which budgets name it.
        baselines: rows to which the others are set in relation.
        direction: `cost`: row / baseline, less is better; `rate`: the same, more is better; `speed`: baseline / row of
            times, more is better.
        load: load average over one minute at the beginning and at the end.
        busy: share of the CPUs that was in use just before the beginning.
    """

    key: str
    title: str
    rows: list[Row]
    baselines: list[str] = []
    direction: Literal["cost", "rate", "speed"] = "cost"
    notes: list[str] = []
    load: tuple[float, float] = (0.0, 0.0)
    busy: float = 0.0

    def row(self, name: str) -> Row | None:
        """The row of that name, if it is there."""
        return next((row for row in self.rows if row.name == name), None)


class Report(Record, frozen=True, kw_only=True):
    """A whole run."""

    version: int = 1
    begun: str
    seconds: float
    arguments: list[str]
    interrupted: bool = False
    machine: Machine
    image: str
    groups: list[Group]
    skipped: list[str] = []


class Budget(Document, frozen=True, kw_only=True):
    """A goal: the ratio of a row to a baseline (or, without one, the row's median) at most, or at least, so much."""

    group: str
    row: str
    baseline: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    source: str


class Budgets(Document, frozen=True, kw_only=True):
    """bench/budgets.toml."""

    budget: Annotated[list[Budget], Meta(max_length=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a budget: the value seen, or None where nothing was measured."""

    budget: Budget
    value: float | None

    @property
    def text(self) -> str:
        """`within`, `over` or `missing`."""
        if self.value is None:
            return MISSING
        most, least = self.budget.at_most, self.budget.at_least
        within = (most is None or self.value <= most) and (least is None or self.value >= least)
        return "within" if within else "over"


def value_text(value: float) -> str:
    """Three figures, four where the first is a 1; without an exponent."""
    for limit, places in ((0.01, 5), (0.1, 4), (1, 3), (10, 2), (100, 1)):
        if abs(value) < limit:
            return f"{value:.{places}f}"
    return f"{value:,.0f}"


def _ratio_text(group: Group, row: Row, baseline: str) -> str:
    other = group.row(baseline)
    if other is None or not other.values or not row.values or row.missing is not None:
        return MISSING
    if row.name == baseline:
        return "1"
    if min(*row.values, *other.values) <= 0:  # processor time is counted in clock ticks, so it may be none
        return "-"
    found = ratio(other.values, row.values) if group.direction == "speed" else ratio(row.values, other.values)
    text = f"{found.value:.2f}"
    return text if min(len(row.values), len(other.values)) < 3 else f"{text} ({found.low:.2f}-{found.high:.2f})"


def cells(group: Group) -> list[list[str]]:
    """The group as a table of text, its head first: name, unit, number of samples, p10, median, p90, ratios.

    Where no row has two samples, one column has the values.
    """
    sign = "x" if group.direction == "speed" else "/"
    single = all(len(row.values) < 2 for row in group.rows)
    shares = {"value": 0.5} if single else {"p10": 0.1, "median": 0.5, "p90": 0.9}
    table = [["", "unit", *([] if single else ["n"]), *shares, *(f"{sign} {name}" for name in group.baselines)]]
    for row in group.rows:
        count = [] if single else [str(len(row.values))]
        if row.values and row.missing is None:
            figures = [value_text(quantile(row.values, share)) for share in shares.values()]
        else:
            reason = row.missing or "not measured"
            figures = [reason] if single else [MISSING, reason, MISSING]
        ratios = [_ratio_text(group, row, name) for name in group.baselines]
        table.append([row.name, row.unit, *count, *figures, *ratios])
    return table


def judge(budgets: Sequence[Budget], groups: Sequence[Group]) -> list[Verdict]:
    """Set each budget beside what was measured."""
    by_key: Mapping[str, Group] = {group.key: group for group in groups}
    return [Verdict(budget=budget, value=_measured(budget, by_key.get(budget.group))) for budget in budgets]


def _measured(budget: Budget, group: Group | None) -> float | None:
    row = None if group is None else group.row(budget.row)
    if group is None or row is None or not row.values:
        return None
    if budget.baseline is None:
        return median(row.values)
    other = group.row(budget.baseline)
    if other is None or not other.values or min(*row.values, *other.values) <= 0:
        return None
    pair = (other.values, row.values) if group.direction == "speed" else (row.values, other.values)
    return ratio(*pair).value


def budget_cells(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """The budgets as a table of text, its head first."""
    table = [["budget", "goal", "seen", "verdict", "from"]]
    for verdict in verdicts:
        budget = verdict.budget
        name = f"{budget.group}: {budget.row}" + (f" to {budget.baseline}" if budget.baseline else "")
        bounds = [f"<= {budget.at_most:g}"] if budget.at_most is not None else []
        bounds += [f">= {budget.at_least:g}"] if budget.at_least is not None else []
        seen = MISSING if verdict.value is None else value_text(verdict.value)
        table.append([name, ", ".join(bounds), seen, verdict.text, budget.source])
    return table


def machine_lines(report: Report) -> list[str]:
    """Where, when and on what the figures were taken."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    return [
        f"{report.begun}, {report.seconds:.0f} s{', interrupted' if report.interrupted else ''}",
        f"Linux {machine.kernel}, {machine.cpus} x {machine.cpu} ({machine.virtual}), "
        f"{machine.memory_mib} MiB, work on {machine.file_system}",
        versions,
        f"image: {report.image}",
    ]


def load_line(group: Group) -> str:
    """How loaded the machine was, and whether that makes the figures doubtful."""
    begin, end = group.load
    noisy = begin > LOAD_NOISY or group.busy > BUSY_NOISY
    doubt = " (noisy: other programs ran, trust the ratios only)" if noisy else ""
    return f"load average {begin:.1f} before, {end:.1f} after, CPUs {group.busy:.0%} busy before{doubt}"


def markdown(report: Report, verdicts: Sequence[Verdict]) -> str:
    """The report as a page."""
    lines = ["# zos, measured", "", *(f"- {line}" for line in machine_lines(report)), ""]
    for group in report.groups:
        lines += [f"## {group.title}", ""]
        lines += [*_markdown_table(cells(group)), ""]
        row_notes = [f"{row.name}: {row.note}" for row in group.rows if row.note]
        lines += [f"- {note}" for note in [load_line(group), *row_notes, *group.notes]]
        lines.append("")
    if verdicts:
        lines += ["## Budgets (reported, not gated)", "", *_markdown_table(budget_cells(verdicts)), ""]
    if report.skipped:
        lines += ["## Skipped", "", *(f"- {reason}" for reason in report.skipped), ""]
    return "\n".join(lines)


def _markdown_table(table: Sequence[Sequence[str]]) -> list[str]:
    def line(row: Sequence[str]) -> str:
        return "| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |"

    return [line(table[0]), line(["---"] * len(table[0])), *(line(row) for row in table[1:])]
