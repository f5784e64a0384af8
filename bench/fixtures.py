"""What the measures share, as pytest fixtures: given by `bench.run`, wherever a part's measures lie."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.duel import Duel
from bench.options import Options
from bench.peers.arena import Arena
from bench.recorder import Recorder
from bench.workspace import Workspace

if TYPE_CHECKING:
    from bench.run import Run

__all__ = ["arena", "duel", "options", "recorder", "workspace"]

PLUGIN = "zos-bench"


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    """How long and what."""
    return _run(pytestconfig).options


@pytest.fixture(scope="session")
def recorder(pytestconfig: pytest.Config) -> Recorder:
    """Takes the samples."""
    return _run(pytestconfig).recorder


@pytest.fixture(scope="session")
def workspace(pytestconfig: pytest.Config) -> Workspace:
    """Trees, stores and nodes on a disk, made when first asked for."""
    return _run(pytestconfig).workspace()


@pytest.fixture(scope="session")
def arena(pytestconfig: pytest.Config) -> Arena:
    """The peers that are installed."""
    return _run(pytestconfig).arena


@pytest.fixture
def duel(benchmark: BenchmarkFixture, recorder: Recorder, options: Options, arena: Arena) -> Duel:
    """One short measure, ours and the peers in turns."""
    return Duel(benchmark=benchmark, recorder=recorder, options=options, arena=arena)


def _run(config: pytest.Config) -> Run:
    run = config.pluginmanager.get_plugin(PLUGIN)
    if run is None:
        pytest.exit("the measures are run by `zos bench run`", returncode=2)
    return cast("Run", run)
