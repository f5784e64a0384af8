"""Memory of each process of the tree: when nothing has happened yet, and after some containers."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.node import Node, memory_kib
from bench.options import Options
from bench.recorder import Collected, Recorder
from bench.rounds import in_rounds
from bench.workspace import Workspace

COMMAND = ["/bin/true"]
WHOLE = "whole tree, Pss"


def bench_memory(benchmark: BenchmarkFixture, workspace: Workspace, recorder: Recorder, options: Options) -> None:
    """Resident memory of each, and of all of them with what they share divided."""
    node = Node(workspace, suffix="m")
    names = [f"{process.name}, Rss" for process in node.info().processes]
    moments = ("idle", f"after {options.runs} runs")
    rows = [(f"{name}, {moment}", "MiB") for name in [*names, WHOLE] for moment in moments]
    with recorder.group("memory", "Memory of the process tree", rows) as group:
        _look(group, node, moments[0])

        def ours() -> None:
            request = node.request(COMMAND)
            node.run(request)
            node.remove(request.name)

        in_rounds(benchmark, ours, rounds=options.runs, group=group)
        _look(group, node, moments[1])
    node.down()


def _look(group: Collected, node: Node, moment: str) -> None:
    whole_kib = 0
    for process in node.info().processes:
        row = f"{process.name}, Rss, {moment}"
        if process.pid is None:
            group.missing(row, "missing: it does not run")
            continue
        found = memory_kib(process.pid)
        group.add(row, found["Rss"] / 1024)
        whole_kib += found["Pss"]
    group.add(f"{WHOLE}, {moment}", whole_kib / 1024)
