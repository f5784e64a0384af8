"""What a first start fetches: bytes and requests that the hub counted, against the whole image."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.node import Node
from bench.options import Options
from bench.recorder import Recorder
from bench.rounds import in_rounds
from bench.workspace import Workspace

COMMANDS = {
    "hello": ["python3", "-c", "1"],
    "imports": ["python3", "-c", "import django, numpy, ssl, sqlite3, asyncio"],
}
FETCHED, SHARE, REQUESTS, TIME, WHOLE = "fetched", "of the image", "requests", "request to exit", "whole image"


@pytest.mark.parametrize("name", list(COMMANDS))
def bench_fetch(
    benchmark: BenchmarkFixture, name: str, workspace: Workspace, recorder: Recorder, options: Options
) -> None:
    """A node with empty state runs one command; the hub is on loopback, so bytes and requests count, not the time."""
    command = " ".join(COMMANDS[name])
    whole = workspace.store_bytes()
    rows = [(FETCHED, "MB"), (SHARE, "%"), (REQUESTS, "requests"), (TIME, "ms"), (WHOLE, "MB")]
    with recorder.group(f"fetch.{name}", f"First start of `{command}` on an empty node", rows) as group:
        group.add(WHOLE, whole / 1e6)
        hub = workspace.hub()
        round_ = 0
        node: Node | None = None

        def others() -> None:
            nonlocal node, round_
            if node is not None:
                node.down()
            round_ += 1
            node = Node(workspace, suffix=f"f{name[0]}{round_}", store=hub)

        def ours() -> None:
            assert node is not None
            before = workspace.hub_statistics()
            span = node.run(node.request(COMMANDS[name]))
            after = workspace.hub_statistics()
            sent = after["bytes_sent"] - before["bytes_sent"]
            group.add(FETCHED, sent / 1e6)
            group.add(SHARE, 100 * sent / whole)
            group.add(REQUESTS, after["requests"] - before["requests"] - 1)
            group.add_ms(TIME, span.exit_ns)
            group.note(FETCHED, _by_kind(before, after))

        in_rounds(benchmark, ours, others=others, rounds=options.fetches, group=group)
        if node is not None:
            node.down()
        group.notes.append(
            f"loopback, no simulated link; the plain files of the image are {workspace.tree_bytes() / 1e6:.0f} MB"
        )


def _by_kind(before: Mapping[str, Any], after: Mapping[str, Any]) -> str:
    parts = []
    for kind, now in sorted(after["by_kind"].items()):
        then = before["by_kind"].get(kind, {"requests": 0, "bytes_sent": 0})
        requests = now["requests"] - then["requests"]
        if requests:
            parts.append(f"{kind} {(now['bytes_sent'] - then['bytes_sent']) / 1e6:.2f} MB in {requests}")
    return ", ".join(parts)
