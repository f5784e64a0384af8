"""Guest tests on the host; what runs inside a guest is not collected here."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
collect_ignore = [] if os.path.exists("/mnt/checks/main") else ["inside"]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Guests come last: `make test` makes their machines meanwhile."""
    items.sort(key=lambda item: item.path.parent == HERE)
