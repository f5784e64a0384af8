"""A sample of the kill matrix (tests/soak/kill_matrix.py): each process and each pair once, under the same load."""

from __future__ import annotations

import pytest

from tests.soak.kill_matrix import combinations, matrix

# Three minutes at most on a busy machine; some 70 s on an idle one.
pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

SEED = 4


async def test_each_process_and_each_pair_is_killed_once() -> None:
    killer = await matrix(combinations(1, 1), seed=SEED)
    assert len(killer.kills) == len(set(combinations(1, 1)))
