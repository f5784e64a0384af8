"""What a list of samples says: quantiles, and the ratio of two lists with what noise leaves open. Pure."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

__all__ = ["Interval", "median", "median_interval", "quantile", "ratio", "spread"]

RESAMPLES = 400
# Of the medians of the resamples: what other rounds of this process would have shown nine times of ten. Another process
# has its memory elsewhere, which is not in it: medians of runs lie farther apart than this.
INTERVAL_LOW, INTERVAL_HIGH = 0.05, 0.95


@dataclass(frozen=True, slots=True)
class Interval:
    """A median, or a ratio of medians, and the ends of its 90 % bootstrap interval over the rounds of one process."""

    value: float
    low: float
    high: float


def quantile(values: Sequence[float], share: float) -> float:
    """The value below which `share` (0 to 1) of the values lie, linear between neighbours.

    Raises:
        ValueError: no values, or a share outside 0..1.
    """
    if not values:
        raise ValueError("no values have no quantile")
    if not 0 <= share <= 1:
        raise ValueError(f"{share} is no share")
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)


def ratio(values: Sequence[float], baseline: Sequence[float], *, one_run: bool = True) -> Interval:
    """Median of `values` over median of `baseline`, both positive.

    Samples of the same round were taken one after the other, so lists of the same length are drawn again by rounds:
    what slowed down both at once does not widen the interval. The draw is the same each time (a fixed seed).

    Args:
        one_run: the lists are of the same rounds of one run.

    Raises:
        ValueError: an empty list, or a value that is not positive.
    """
    if not values or not baseline:
        raise ValueError("a ratio needs values on both sides")
    if min(values) <= 0 or min(baseline) <= 0:
        raise ValueError("a ratio needs positive values")
    draw = random.Random(0)
    paired = one_run and len(values) == len(baseline)
    ratios = []
    for _ in range(RESAMPLES):
        rounds = draw.choices(range(len(values)), k=len(values))
        others = rounds if paired else draw.choices(range(len(baseline)), k=len(baseline))
        ratios.append(median(values[at] for at in rounds) / median(baseline[at] for at in others))
    return Interval(
        value=median(values) / median(baseline),
        low=quantile(ratios, INTERVAL_LOW),
        high=quantile(ratios, INTERVAL_HIGH),
    )


def median_interval(values: Sequence[float]) -> Interval:
    """The median and its 90 % bootstrap interval; below three values the ends are those of the values.

    Raises:
        ValueError: no values.
    """
    if not values:
        raise ValueError("no values have no median")
    if len(values) < 3:
        return Interval(value=median(values), low=min(values), high=max(values))
    draw = random.Random(0)
    medians = [median(draw.choices(values, k=len(values))) for _ in range(RESAMPLES)]
    return Interval(value=median(values), low=quantile(medians, INTERVAL_LOW), high=quantile(medians, INTERVAL_HIGH))


def spread(values: Sequence[float]) -> float:
    """(p90 - p10) / median: 0.1 says that four of five samples lie within a band of a tenth of the median.

    Raises:
        ValueError: no values, or a median that is not positive.
    """
    middle = median(values) if values else 0.0
    if middle <= 0:
        raise ValueError("a spread needs a positive median")
    return (quantile(values, 0.9) - quantile(values, 0.1)) / middle
