"""What the measures share: one workspace and one recorder for the whole run, given by `bench.__main__`."""

from __future__ import annotations

from typing import cast

import pytest

from bench.options import Options
from bench.recorder import Recorder
from bench.workspace import Workspace


@pytest.fixture(scope="session")
def options(pytestconfig: pytest.Config) -> Options:
    """How long and what."""
    return cast(Options, _plugin(pytestconfig, "options"))


@pytest.fixture(scope="session")
def recorder(pytestconfig: pytest.Config) -> Recorder:
    """Takes the samples."""
    return cast(Recorder, _plugin(pytestconfig, "recorder"))


@pytest.fixture(scope="session")
def workspace(pytestconfig: pytest.Config) -> Workspace:
    """Everything that is made."""
    return cast(Workspace, _plugin(pytestconfig, "workspace"))


def _plugin(config: pytest.Config, attribute: str) -> object:
    run = config.pluginmanager.get_plugin("zos-bench")
    if run is None:
        pytest.exit("the measures are run by `python -m bench`", returncode=2)
    return getattr(run, attribute)
