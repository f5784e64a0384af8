"""Goals and what became of them: bench/budgets.toml, judged against the figures of one run. Pure but for `load`."""

from __future__ import annotations

import tomllib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bench.errors import BudgetsInvalid
from bench.results import Group
from bench.series import Interval, median_interval, ratio
from bench.standing import advantage
from zos_core.base.document import Document

__all__ = ["BUDGETS", "Budget", "Budgets", "Outcome", "Verdict", "judge", "load"]

BUDGETS = Path(__file__).with_name("budgets.toml")

Outcome = Literal["reached", "missed", "missing", "not here"]


class Budget(Document, frozen=True, kw_only=True):
    """A goal: the ratio of a row to a baseline (or, without one, the row's median) at most, or at least, so much.

    Attributes:
        times: at least so many times as good as the baseline, whichever way is better.
        goal: the name of the goal it is part of, such as G1.
        needs: CPU features without which the goal does not apply.
        without: CPU features with which another goal takes its place.
        source: where the goal comes from.
        explanation: why it was missed when it last was, with the profile that shows it; said beside a miss alone.
    """

    group: str
    row: str
    baseline: str | None = None
    at_most: float | None = None
    at_least: float | None = None
    times: float | None = None
    goal: str | None = None
    needs: list[str] = []
    without: list[str] = []
    source: str
    explanation: str | None = None

    @property
    def floor(self) -> float | None:
        """What the value must reach, if it must."""
        return self.at_least if self.times is None else self.times

    @property
    def bound_text(self) -> str:
        """The bound for people."""
        if self.at_most is not None:
            return f"<= {self.at_most:g}"
        return f">= {self.at_least:g}" if self.times is None else f">= {self.times:g}x"


class Budgets(Document, frozen=True, kw_only=True):
    """bench/budgets.toml."""

    budget: Annotated[list[Budget], Meta(max_length=1000)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """What became of a budget.

    Attributes:
        seen: the value with its interval, or None where nothing was measured.
        reason: why there is none, or why the goal does not apply here.
        applies: the CPU has what the goal is about.
    """

    budget: Budget
    seen: Interval | None = None
    reason: str | None = None
    applies: bool = True

    @property
    def value(self) -> float | None:
        """The value seen."""
        return None if self.seen is None else self.seen.value

    @property
    def outcome(self) -> Outcome:
        """Reached, missed, missing (nothing was measured), or not here (the CPU lacks what the goal is about)."""
        if not self.applies:
            return "not here"
        if self.seen is None:
            return "missing"
        most, least = self.budget.at_most, self.budget.floor
        reached = (most is None or self.seen.value <= most) and (least is None or self.seen.value >= least)
        return "reached" if reached else "missed"

    @property
    def within_noise(self) -> bool:
        """Whether the bound lies inside the interval of what was seen, so that another run may decide otherwise."""
        if self.seen is None:
            return False
        bounds = (self.budget.at_most, self.budget.floor)
        return any(bound is not None and self.seen.low < bound < self.seen.high for bound in bounds)


def load(path: Path = BUDGETS) -> list[Budget]:
    """The goals of a file.

    Raises:
        BudgetsInvalid: no TOML, not of that shape, or a goal without exactly one bound.
        OSError: it cannot be read.
    """
    try:
        budgets = msgspec.convert(tomllib.loads(path.read_text()), Budgets).budget
    except (tomllib.TOMLDecodeError, msgspec.ValidationError, UnicodeDecodeError) as error:
        raise BudgetsInvalid(f"{path}: {error}", hint="bench/budgets.toml shows the form") from error
    for budget in budgets:
        bounds = [budget.at_most, budget.at_least, budget.times]
        if bounds.count(None) != 2 or (budget.times is not None and budget.baseline is None):
            raise BudgetsInvalid(
                f"{path}: {budget.group}: {budget.row} has not exactly one of at_most, at_least and times",
                hint="give it one bound; times needs a baseline",
            )
    return budgets


def judge(budgets: Sequence[Budget], groups: Sequence[Group], features: Collection[str] = ()) -> list[Verdict]:
    """Set each budget beside what was measured on a CPU with these features."""
    by_key = {group.key: group for group in groups}
    return [_judged(budget, by_key, features) for budget in budgets]


def _judged(budget: Budget, groups: Mapping[str, Group], features: Collection[str]) -> Verdict:
    lacking = [name for name in budget.needs if name not in features]
    if lacking:
        return Verdict(budget=budget, reason=f"this CPU has no {', '.join(lacking)}", applies=False)
    if budget.without and all(name in features for name in budget.without):
        return Verdict(budget=budget, reason=f"for CPUs without {', '.join(budget.without)}", applies=False)
    group = groups.get(budget.group)
    if group is None:
        return Verdict(budget=budget, reason="was not run")
    for name in (budget.row, *([] if budget.baseline is None else [budget.baseline])):
        row = group.row(name)
        if row is None or row.missing is not None or not row.values:
            return Verdict(budget=budget, reason=(row and row.missing) or f"{name} was not measured")
    return Verdict(budget=budget, seen=_seen(budget, group))


def _seen(budget: Budget, group: Group) -> Interval | None:
    row = group.row(budget.row)
    assert row is not None
    if budget.baseline is None:
        return median_interval(row.values)
    other = group.row(budget.baseline)
    assert other is not None
    if min(*row.values, *other.values) <= 0:
        return None
    if budget.times is not None:
        return advantage(group, row, other)
    pair = (other.values, row.values) if group.direction == "speed" else (row.values, other.values)
    return ratio(*pair)
