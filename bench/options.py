"""How long and what: the options of `python -m bench`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["Options"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Rounds of each kind of measure, and where things are.

    Attributes:
        starts: container starts and execs.
        builds: builds of the whole image.
        fetches: fresh nodes that fetch.
        warm, cold: reads of a mount.
        runs: containers between two looks at memory.
        tree: a root file system to take instead of making one.
        output: directory of the results.
        preferred: what is measured takes precedence over other programs.
        quiet_wait_s: how long each group may wait for other programs to rest.
    """

    starts: int = 40
    builds: int = 3
    fetches: int = 3
    warm: int = 9
    cold: int = 5
    runs: int = 20
    tree: Path | None = None
    output: Path
    preferred: bool = False
    quiet_wait_s: float = 0.0
