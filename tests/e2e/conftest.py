"""Fixtures of the end-to-end tests: one image for all, a node for each module, a hub for each test."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.node_tool import Hub, Node, image_store


@pytest.fixture(scope="session", autouse=True)
def data_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Revisions that tests build do not count for the user who runs them, nor for tests beside these."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_DATA_HOME", str(tmp_path_factory.mktemp("data")))
        yield


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A directory store with the image `small`."""
    if os.geteuid() != 0:
        pytest.skip("needs root")
    with image_store(tmp_path_factory.mktemp("image")) as made:
        yield made


@pytest.fixture(scope="module")
def node(store: Path) -> Iterator[Node]:
    """A running node that several tests share; each leaves it without containers."""
    made = Node(store=store, config=store)
    made.up()
    yield made
    made.down()


@pytest.fixture
def own_node(store: Path) -> Iterator[Node]:
    """A running node for one test alone, because that test kills parts of it."""
    made = Node(store=store, config=store)
    made.up()
    yield made
    made.down()


@pytest.fixture
def hub(store: Path) -> Iterator[Hub]:
    """The store over HTTP, on its best behaviour until the test says otherwise."""
    made = Hub(store)
    yield made
    made.close()
