"""Fixtures of the attacks: the programs, a node, hold and spawn alone; and the host, compared around every test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.node_tool import Node
from tests.integration.spawn_kit import Tree, running
from tests.security.kit import attack_node, build_programs, host_state, put_programs


@pytest.fixture(scope="session")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The compiled attack programs."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    return build_programs(tmp_path_factory.mktemp("attacks") / "bin")


@pytest.fixture(scope="session")
def attacked(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Iterator[Node]:
    """A node for all modules; each test leaves it without containers."""
    with attack_node(tmp_path_factory.mktemp("attacked"), programs) as node:
        yield node


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory, programs: Path) -> Iterator[Tree]:
    """hold and spawn, and an extracted image with the attack programs: here a protection can be left out."""
    with running(tmp_path_factory.mktemp("spawn")) as tree:
        tree.mount_extracted()
        put_programs(programs, tree.state / "tree")
        yield tree


@pytest.fixture(autouse=True)
def the_host_is_as_before() -> Iterator[None]:
    """Nothing that a container does changes the host."""
    before = host_state()
    yield
    assert host_state() == before
