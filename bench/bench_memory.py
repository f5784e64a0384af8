"""Memory of each process of the tree: when nothing has happened yet, and after some containers."""

from __future__ import annotations

from pytest_benchmark.fixture import BenchmarkFixture

from bench.node import Node, memory_kib
from bench.options import Options
from bench.recorder import Collected, Recorder
from bench.rounds import in_rounds
from bench.workspace import Workspace

COMMAND = ["/bin/true"]
KINDS = ("Rss", "Private")


def bench_memory(benchmark: BenchmarkFixture, workspace: Workspace, recorder: Recorder, options: Options) -> None:
    """Resident memory, and what of it no other process shares."""
    node = Node(workspace, suffix="m")
    names = [process.name for process in node.info().processes]
    moments = ("idle", f"after {options.runs} runs")
    rows = [(f"{name}, {moment}: {kind}", "MiB") for name in names for moment in moments for kind in KINDS]
    with recorder.group("memory", "Memory of the process tree", rows) as group:
        _look(group, node, moments[0])

        def ours() -> None:
            request = node.request(COMMAND)
            node.run(request)
            node.remove(request.name)

        in_rounds(benchmark, ours, rounds=options.runs)
        _look(group, node, moments[1])
    node.down()


def _look(group: Collected, node: Node, moment: str) -> None:
    for process in node.info().processes:
        if process.pid is None:
            for kind in KINDS:
                group.missing(f"{process.name}, {moment}: {kind}", "missing: it does not run")
            continue
        found = memory_kib(process.pid)
        for kind in KINDS:
            group.add(f"{process.name}, {moment}: {kind}", found[kind] / 1024)
