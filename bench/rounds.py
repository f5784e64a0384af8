"""Interleaved rounds on pytest-benchmark: before each measured call of ours the others are measured."""

from __future__ import annotations

from collections.abc import Callable

from pytest_benchmark.fixture import BenchmarkFixture

from bench.recorder import Collected

__all__ = ["in_rounds"]


def in_rounds(
    benchmark: BenchmarkFixture,
    ours: Callable[[], None],
    *,
    rounds: int,
    others: Callable[[], None] | None = None,
    group: Collected | None = None,
) -> list[float]:
    """Call `others` and then `ours`, `rounds` times; seconds of each call of `ours`.

    `group` is told of each round: it probes how steady the machine is, and shows progress.
    """

    def before() -> None:
        if group is not None:
            group.next_round()
        if others is not None:
            others()

    if group is not None:
        group.task.expect(rounds)
    benchmark.pedantic(ours, setup=before, rounds=rounds)  # type: ignore[no-untyped-call]  # pytest-benchmark has none
    assert benchmark.stats is not None
    return [float(seconds) for seconds in benchmark.stats.stats.data]
