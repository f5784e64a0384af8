"""The figures of a run as tables of text, and the sentences beside them. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from bench.budgets import Verdict
from bench.results import Group, Report, Row
from bench.series import quantile, ratio
from bench.standing import advantage

__all__ = ["MISSING", "budget_cells", "cells", "doubts", "load_line", "machine_lines", "peer_cells", "value_text"]

MISSING = "missing"
BASELINES_MAX = 4
# Above these other programs take part in what is measured.
LOAD_NOISY = 2.0
BUSY_NOISY = 0.25
STOLEN_NOISY = 0.02
JITTER_NOISY = 0.15


def value_text(value: float) -> str:
    """Three figures, four where the first is a 1; without an exponent."""
    if value == 0:
        return "0"
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


def _times_text(group: Group, headline: Row, row: Row) -> str:
    if row is headline:
        return "1"
    found = advantage(group, headline, row)
    if found is None:
        return MISSING if row.missing is not None or not row.values else "-"
    return f"{found.value:.2f}x ({found.low:.2f}-{found.high:.2f})"


def cells(group: Group) -> list[list[str]]:
    """The group as a table of text, its head first: name, unit, number of samples, p10, median, p90, ratios.

    Where no row has two samples, one column has the values. Where there are more baselines than columns of ratios can
    be read, one column says how many times as good as each row the headline row is.
    """
    headline = group.headline_row() if len(group.baselines) > BASELINES_MAX else None
    baselines = group.baselines if headline is None else []
    sign = "x" if group.direction == "speed" else "/"
    single = all(len(row.values) < 2 for row in group.rows)
    shares = {"value": 0.5} if single else {"p10": 0.1, "median": 0.5, "p90": 0.9}
    table = [["", "unit", *([] if single else ["n"]), *shares, *(f"{sign} {name}" for name in baselines)]]
    if headline is not None:
        table[0].append(f"{headline.name} is")
    for row in group.rows:
        count = [] if single else [str(len(row.values))]
        if row.values and row.missing is None:
            figures = [value_text(quantile(row.values, share)) for share in shares.values()]
        else:
            reason = row.missing or "not measured"
            figures = [reason] if single else [MISSING, reason, MISSING]
        ratios = [_ratio_text(group, row, name) for name in baselines]
        if headline is not None:
            ratios = [_times_text(group, headline, row)]
        table.append([row.name, row.unit, *count, *figures, *ratios])
    return table


def budget_cells(verdicts: Sequence[Verdict]) -> list[list[str]]:
    """The budgets as a table of text, its head first."""
    table = [["", "budget", "goal", "seen", "verdict", "from"]]
    for verdict in verdicts:
        budget, seen = verdict.budget, verdict.seen
        name = f"{budget.group}: {budget.row}" + (f" to {budget.baseline}" if budget.baseline else "")
        text = MISSING
        if seen is not None:
            text = value_text(seen.value)
            if seen.low != seen.high:
                text += f" ({value_text(seen.low)}-{value_text(seen.high)})"
        elif verdict.reason is not None:
            text = verdict.reason
        outcome = f"{verdict.outcome}, within noise" if verdict.within_noise else verdict.outcome
        table.append([budget.goal or "", name, budget.bound_text, text, outcome, budget.source])
    return table


def peer_cells(report: Report) -> list[list[str]]:
    """The peers of a run and their versions."""
    rows = [[peer.name, peer.version or MISSING, peer.missing or ""] for peer in report.peers]
    return [["peer", "version", "why it is missing"], *rows]


def machine_lines(report: Report) -> list[str]:
    """Where, when and on what the figures were taken."""
    machine = report.machine
    versions = ", ".join(f"{name} {version}" for name, version in machine.versions.items())
    lines = [
        f"{report.begun}, {report.seconds:.0f} s{', interrupted' if report.interrupted else ''}",
        f"Linux {machine.kernel}, {machine.cpus} x {machine.cpu} ({machine.virtual}), "
        f"{machine.memory_mib} MiB, work on {machine.file_system}",
    ]
    if machine.features:
        lines.append(f"CPU features: {' '.join(machine.features)}")
    if machine.paths:
        lines.append("code paths: " + ", ".join(f"{name} {path}" for name, path in machine.paths.items()))
    lines.append(versions)
    if report.image:
        lines.append(f"image: {report.image}")
    return lines


def doubts(group: Group) -> list[str]:
    """What makes the figures of a group doubtful, as sentences; empty on a quiet machine."""
    noise, found = group.noise, []
    if noise.load[0] > LOAD_NOISY or noise.busy > BUSY_NOISY:
        found.append("other programs ran")
    if noise.stolen > STOLEN_NOISY:
        found.append(f"the hypervisor took {noise.stolen:.0%} of the CPU time")
    if noise.jitter > JITTER_NOISY:
        found.append(f"the same work varied by {noise.jitter:.0%}")
    return found


def load_line(group: Group) -> str:
    """How loaded the machine was, and whether that makes the figures doubtful."""
    noise = group.noise
    doubt = "; ".join(doubts(group))
    jitter = f", jitter {noise.jitter:.0%}" if noise.jitter else ""
    return (
        f"load average {noise.load[0]:.1f} before, {noise.load[1]:.1f} after, CPUs {noise.busy:.0%} busy before, "
        f"{noise.stolen:.0%} stolen{jitter}" + (f" (noisy: {doubt}; trust the ratios only)" if doubt else "")
    )
