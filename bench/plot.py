"""Plots as SVG: one for a group of rows, one for the goals. Pure; no script, readable on light and on dark pages.

Bars begin at zero. Where the largest value is more than `LOG_FROM` times the smallest, bars would lie: then points on a
logarithmic axis, which says so. Whiskers go from the 10th to the 90th percentile of the samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from xml.sax.saxutils import escape

from bench.budgets import Verdict
from bench.results import Group, Row
from bench.series import median, quantile
from bench.tables import value_text

__all__ = ["goals_plot", "group_plot", "plottable"]

WIDTH = 760
ROW_HEIGHT = 26
TOP, BOTTOM, RIGHT, GAP = 46, 50, 96, 12
LABEL_WIDTH_MAX = 300
CHARACTER_WIDTH = 6.9
LOG_FROM = 60.0
TICKS = 6
# Less is nothing, and steps of it are no numbers any more.
SHOWN_MIN = 1e-100
GOAL_LOW, GOAL_HIGH = 0.25, 4.0
GOAL_RIGHT = 124

STYLE = """
.z-bg{fill:#fff}.z-text{fill:#1f2328}.z-dim{fill:#59636e}.z-grid{stroke:#d1d9e0}.z-axis{stroke:#818b98}
.z-ours{fill:#0969da}.z-peer{fill:#9aa4af}.z-roof{fill:none;stroke:#bc4c00;stroke-dasharray:5 3}
.z-whisker{stroke:#1f2328}.z-reached{fill:#1a7f37}.z-missed{fill:#cf222e}.z-goal{stroke:#1f2328;stroke-dasharray:2 3}
.z-roofdot{fill:#bc4c00}
text{font-family:system-ui,-apple-system,"Segoe UI","DejaVu Sans",sans-serif;font-size:13px}
.z-title{font-weight:600;font-size:14px}.z-small{font-size:12px}
@media (prefers-color-scheme:dark){
.z-bg{fill:#0d1117}.z-text{fill:#f0f6fc}.z-dim{fill:#9198a1}.z-grid{stroke:#2f353d}.z-axis{stroke:#656c76}
.z-ours{fill:#4493f8}.z-peer{fill:#656c76}.z-roof{stroke:#f0883e}.z-roofdot{fill:#f0883e}
.z-whisker{stroke:#f0f6fc}.z-reached{fill:#3fb950}.z-missed{fill:#f85149}.z-goal{stroke:#f0f6fc}
}
"""


@dataclass(frozen=True, slots=True)
class _Axis:
    """Values to places: `low` at `left`, `high` at `right`, linear or logarithmic."""

    low: float
    high: float
    left: float
    right: float
    logarithmic: bool

    def at(self, value: float) -> float:
        if self.logarithmic:
            value = min(max(value, self.low), self.high)
            share = math.log(value / self.low) / math.log(self.high / self.low)
        else:
            share = (value - self.low) / (self.high - self.low)
        return self.left + share * (self.right - self.left)

    def ticks(self) -> list[float]:
        if self.logarithmic:
            return _log_ticks(self.low, self.high)
        step = _nice_step(self.high - self.low)
        count = int(self.high / step + 1e-9)
        return [number * step for number in range(count + 1)]


def _nice_step(span: float) -> float:
    """A step of 1, 2 or 5 times a power of ten that gives about `TICKS` ticks."""
    rough = span / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * 0.999)


def _log_ticks(low: float, high: float) -> list[float]:
    first, last = math.floor(math.log10(low)), math.ceil(math.log10(high))
    factors = (1, 2, 5) if last - first <= 3 else (1,)
    every = [factor * 10.0**power for power in range(first, last + 1) for factor in factors]
    return [value for value in every if low * 0.999 <= value <= high * 1.001]


def _tick_text(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 or value == 0 else f"{value:.6g}"


def plottable(group: Group) -> list[Row]:
    """The rows that a plot can show, if there are two of them in one unit; else none."""
    rows = [row for row in group.rows if row.missing is None and row.values and median(row.values) > SHOWN_MIN]
    if len(rows) < 2 or len({row.unit for row in rows}) != 1:
        return []
    return rows


def group_plot(group: Group) -> str | None:
    """The rows of a group as bars, or as points on a logarithmic axis; None where there is nothing to set beside."""
    rows = plottable(group)
    if not rows:
        return None
    medians = [median(row.values) for row in rows]
    tops = [max(quantile(row.values, 0.9), middle) for row, middle in zip(rows, medians, strict=True)]
    logarithmic = max(medians) / min(medians) > LOG_FROM
    left = _label_width([row.name for row in rows])
    if logarithmic:
        lows = [max(quantile(row.values, 0.1), middle / 10) for row, middle in zip(rows, medians, strict=True)]
        low, high = min(lows) / 1.3, max(tops) * 1.15
    else:
        low, high = 0.0, max(tops) * 1.04
    axis = _Axis(low, high, left, WIDTH - RIGHT, logarithmic)
    better = "more is better" if group.more_is_better else "less is better"
    scale = ", logarithmic" if logarithmic else ""
    height = TOP + ROW_HEIGHT * len(rows) + BOTTOM
    parts = _frame(axis, height, group.title, f"{rows[0].unit} ({better}{scale})")
    for number, (row, middle) in enumerate(zip(rows, medians, strict=True)):
        parts += _row(axis, row, middle, TOP + ROW_HEIGHT * number)
    listed = "; ".join(f"{row.name} {value_text(middle)}" for row, middle in zip(rows, medians, strict=True))
    return _svg(height, group.title, f"{rows[0].unit}, {better}: {listed}", parts)


def _row(axis: _Axis, row: Row, middle: float, top: float) -> list[str]:
    """Label, bar or point, whisker and figure of one row."""
    centre = top + ROW_HEIGHT / 2
    low, high = axis.at(quantile(row.values, 0.1)), axis.at(quantile(row.values, 0.9))
    end = axis.at(middle)
    parts = [_text(axis.left - GAP, centre + 4.5, _shortened(row.name), "z-text", anchor="end")]
    if axis.logarithmic:
        kind = {"ours": "z-ours", "peer": "z-peer", "roof": "z-roofdot"}[row.role]
        parts.append(_line(axis.left, centre, end, centre, "z-grid"))
        parts.append(f'<circle class="{kind}" cx="{end:.1f}" cy="{centre:.1f}" r="6"/>')
    else:
        kind = {"ours": "z-ours", "peer": "z-peer", "roof": "z-roof"}[row.role]
        width = max(0.5, end - axis.left)
        parts.append(
            f'<rect class="{kind}" x="{axis.left:.1f}" y="{top + 5:.1f}" width="{width:.1f}"'
            f' height="{ROW_HEIGHT - 10}" rx="2"/>'
        )
    whisker = len(row.values) > 2 and high - low > 0.5
    if whisker:
        parts.append(_line(low, centre, high, centre, "z-whisker"))
        parts += [_line(place, centre - 4, place, centre + 4, "z-whisker") for place in (low, high)]
    beside = max(end, high) if whisker else end
    parts.append(_text(beside + 9, centre + 4.5, value_text(middle), "z-text z-small"))
    return parts


def goals_plot(verdicts: Sequence[Verdict]) -> str | None:
    """What was seen over what was wanted, right of the line is reached; None where no goal has a ratio."""
    shown = [(verdict, ratio) for verdict in verdicts if (ratio := _reached(verdict)) is not None]
    if not shown:
        return None
    labels = [_goal_name(verdict) for verdict, _ in shown]
    axis = _Axis(GOAL_LOW, GOAL_HIGH, _label_width(labels), WIDTH - GOAL_RIGHT, logarithmic=True)
    height = TOP + ROW_HEIGHT * len(shown) + BOTTOM
    title = "Goals: what was seen over what was wanted"
    parts = _frame(axis, height, title, "times the goal (right of 1 is reached, logarithmic)")
    goal = axis.at(1)
    parts.append(_line(goal, TOP - 6, goal, height - BOTTOM + 2, "z-goal"))
    for number, (verdict, (value, low, high)) in enumerate(shown):
        centre = TOP + ROW_HEIGHT * (number + 0.5)
        place = axis.at(value)
        parts.append(_text(axis.left - GAP, centre + 4.5, _shortened(labels[number]), "z-text", anchor="end"))
        parts.append(_line(axis.at(low), centre, axis.at(high), centre, "z-whisker"))
        if verdict.outcome == "reached":
            parts.append(f'<circle class="z-reached" cx="{place:.1f}" cy="{centre:.1f}" r="6"/>')
        else:  # another shape, for those who do not see red and green apart
            square = f'x="{place - 5:.1f}" y="{centre - 5:.1f}" width="10" height="10"'
            turn = f'transform="rotate(45 {place:.1f} {centre:.1f})"'
            parts.append(f'<rect class="z-missed" {square} {turn}/>')
        seen = "" if verdict.value is None else value_text(verdict.value)
        parts.append(_text(WIDTH - GOAL_RIGHT + 12, centre + 4.5, f"{seen} {verdict.outcome}", "z-text z-small"))
    listed = "; ".join(f"{label} {verdict.outcome}" for label, (verdict, _) in zip(labels, shown, strict=True))
    return _svg(height, title, listed, parts)


def _reached(verdict: Verdict) -> tuple[float, float, float] | None:
    """How many times the goal was reached, and the ends of the interval."""
    seen, budget = verdict.seen, verdict.budget
    if seen is None or not verdict.applies or min(seen.value, seen.low) <= 0:
        return None
    if budget.floor is not None:
        return (seen.value / budget.floor, seen.low / budget.floor, seen.high / budget.floor)
    if budget.at_most:
        return (budget.at_most / seen.value, budget.at_most / seen.high, budget.at_most / seen.low)
    return None


def _goal_name(verdict: Verdict) -> str:
    budget = verdict.budget
    beside = f" / {budget.baseline}" if budget.baseline else f": {budget.row}"
    return f"{budget.goal + ' ' if budget.goal else ''}{budget.group}{beside}"


# --- pieces of SVG ---------------------------------------------------------------------------------------------------


def _label_width(names: Sequence[str]) -> float:
    return min(LABEL_WIDTH_MAX, 24 + CHARACTER_WIDTH * max(len(name) for name in names))


def _shortened(name: str) -> str:
    most = int((LABEL_WIDTH_MAX - 20) / CHARACTER_WIDTH)
    return name if len(name) <= most else f"{name[: most - 1]}…"


def _frame(axis: _Axis, height: float, title: str, axis_title: str) -> list[str]:
    """Title, grid, ticks with figures, and the axis with what it measures."""
    bottom = height - BOTTOM
    parts = [_text(16, 26, title, "z-text z-title")]
    for value in axis.ticks():
        place = axis.at(value)
        parts.append(_line(place, TOP - 6, place, bottom + 4, "z-grid"))
        parts.append(_text(place, bottom + 18, _tick_text(value), "z-dim z-small", anchor="middle"))
    parts.append(_line(axis.left, bottom + 2, axis.right, bottom + 2, "z-axis"))
    parts.append(_text((axis.left + axis.right) / 2, bottom + 38, axis_title, "z-dim z-small", anchor="middle"))
    return parts


def _svg(height: float, title: str, description: str, parts: Sequence[str]) -> str:
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" width="{WIDTH}" '
        f'height="{height:.0f}" role="img">\n<title>{escape(title)}</title>\n<desc>{escape(description)}</desc>\n'
        f'<style>{STYLE}</style>\n<rect class="z-bg" width="{WIDTH}" height="{height:.0f}" rx="6"/>\n{body}\n</svg>\n'
    )


def _text(x: float, y: float, text: str, kind: str, *, anchor: str = "start") -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{escape(text)}</text>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}" stroke-width="1.2"/>'
