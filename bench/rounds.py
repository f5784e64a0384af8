"""Interleaved rounds on pytest-benchmark: before each measured call of ours the others are measured."""

from __future__ import annotations

from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

__all__ = ["in_rounds"]


def in_rounds(
    benchmark: BenchmarkFixture,
    ours: Callable[[], None],
    *,
    rounds: int,
    others: Callable[[], None] | None = None,
) -> list[float]:
    """Call `others` and then `ours`, `rounds` times; seconds of each call of `ours`."""
    benchmark.pedantic(ours, setup=others, rounds=rounds)  # type: ignore[no-untyped-call]  # pytest-benchmark has none
    assert benchmark.stats is not None
    return [float(seconds) for seconds in benchmark.stats.stats.data]
