"""Fixtures of the integration tests: the real programs."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from native.programs import program
from tests.hold_tool import Starter


@pytest.fixture(scope="session")
def zos_init() -> Path:
    """The real zos-init: `ZOS_INIT` while one works on it, otherwise the one that was built (`make setup`)."""
    given = os.environ.get("ZOS_INIT")
    return Path(given) if given else program("zos-init")


@pytest.fixture
def start_hold(zos_init: Path, tmp_path: Path) -> Iterator[Starter]:
    """Call it with rows of the service table for a running hold, which ends with the test."""
    starter = Starter(zos_init, tmp_path)
    yield starter
    starter.close()
