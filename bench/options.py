"""How long and what: the options of `zos bench run` as the measures see them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["FULL", "QUICK", "Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Rounds of each kind of measure, and where things are.

    Attributes:
        rounds: rounds of a measure that takes microseconds or milliseconds (`bench.duel`).
        sample_s: how long one sample of such a measure lasts; calls are repeated until it does. Not longer than what a
            busy kernel lets a process run in one go, so that the median is of samples that nobody interrupted.
        group_s: a group of such measures takes about so long at most: where a round is slow, there are fewer of them.
        starts: container starts and execs.
        builds: builds of the whole image.
        fetches: fresh nodes that fetch.
        warm, cold: reads of a mount.
        runs: containers between two looks at memory.
        tree: a root file system to take instead of making one.
        peers: set what is measured beside the peers of the catalogue.
        quick: few rounds were asked for.
        preferred: what is measured takes precedence over other programs.
        quiet_wait_s: how long each group may wait for other programs to rest.
    """

    rounds: int = 61
    sample_s: float = 0.004
    group_s: float = 45.0
    starts: int = 40
    builds: int = 3
    fetches: int = 3
    warm: int = 9
    cold: int = 5
    runs: int = 20
    tree: Path | None = None
    peers: bool = False
    quick: bool = False
    preferred: bool = False
    quiet_wait_s: float = 0.0


FULL = Options()
QUICK = Options(
    rounds=15, sample_s=0.002, group_s=4.0, starts=10, builds=1, fetches=1, warm=3, cold=2, runs=10, quick=True
)
