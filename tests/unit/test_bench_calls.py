"""What the goals compare is alike, and a call that is said to release the interpreter does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable

import pytest

import native._rust
from bench import bench_calls
from bench.budgets import Budget, load


def _others_run(call: Callable[[], object]) -> bool:
    """Whether another thread that is ready to run gets the interpreter during the call."""
    gate, ran, interval = threading.Lock(), threading.Event(), sys.getswitchinterval()

    def wait() -> None:
        with gate:
            ran.set()

    gate.acquire()
    thread = threading.Thread(target=wait)
    thread.start()
    sys.setswitchinterval(60)
    try:
        gate.release()
        call()
        return ran.is_set()
    finally:
        sys.setswitchinterval(interval)
        thread.join()


def test_the_call_that_releases_the_interpreter_does_and_the_other_does_not() -> None:
    assert _others_run(lambda: bench_calls.released(1, 64 << 20))
    assert not _others_run(lambda: native._rust.merkle_node_count(7))
    assert bench_calls.released(3) > 0


def test_a_goal_of_the_released_interpreter_is_of_the_row_that_releases_it() -> None:
    goals = [budget for budget in load() if budget.group == "calls.pyo3"]
    assert [budget.row for budget in goals if "release" in budget.source] == [bench_calls.RELEASED]


@pytest.mark.parametrize("budget", [one for one in load() if (one.baseline or "").startswith("curve25519-voi")])
def test_known_keys_are_set_beside_known_keys(budget: Budget) -> None:
    assert budget.baseline is not None
    assert ("cached" in budget.row) == ("expanded" in budget.baseline)
