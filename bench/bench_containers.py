"""Containers: start to exit, and exec, beside crun and runc under the same configuration (bench/runtimes.py)."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.node import Node
from bench.options import Options
from bench.recorder import Collected, Recorder
from bench.rounds import in_rounds
from bench.runtimes import DIFFERENCES, Runtimes, hierarchies
from bench.workspace import Failed, Workspace

API_RUNNING, API_EXIT, API_REMOVED = "API: request to running", "API: request to exit", "API: request to removed"
RUN, PS, UNSHARE = "zos run --rm", "zos ps", "unshare(1) + chroot"
API_EXEC, EXEC = "API: exec to exit", "zos exec"
BASELINES = ("crun", "runc", "crun, no cgroup")
TRUE = "/bin/true"
SLEEP = ["/bin/sleep", "3600"]
WARM_UP = 3


@pytest.fixture(scope="module")
def node(workspace: Workspace) -> Iterator[Node]:
    """A node whose image lies in a directory store."""
    node = Node(workspace, suffix="c")
    yield node
    node.down()


@pytest.fixture(scope="module")
def peers(workspace: Workspace) -> Iterator[Runtimes]:
    """crun and runc on the tree that the image was built from."""
    peers = Runtimes(
        directory=workspace.directory / "peers", lower=workspace.tree(), name=workspace.instance, command=[TRUE]
    )
    workspace.on_close(peers.close)
    peers.start()
    yield peers
    peers.close()


def _notes() -> list[str]:
    names = ", ".join(hierarchies()) or "none here: cgroup v2 alone"
    return [DIFFERENCES[0], DIFFERENCES[1].format(hierarchies=names), *DIFFERENCES[2:]]


def _mark_missing(group: Collected, peers: Runtimes) -> None:
    for peer in peers.peers.values():
        if peer.missing is not None:
            group.missing(peer.name, peer.missing)


def bench_start(benchmark: BenchmarkFixture, node: Node, peers: Runtimes, recorder: Recorder, options: Options) -> None:
    """A container of /bin/true from nothing to its end."""
    names = [API_RUNNING, API_EXIT, API_REMOVED, RUN, PS, *BASELINES, UNSHARE]
    with recorder.group(
        "container.start",
        "Container start to exit (/bin/true of the image, dynamic)",
        [(name, "ms") for name in names],
        baselines=BASELINES,
        roofs=[UNSHARE],
        headline=API_EXIT,
        notes=_notes(),
    ) as group:
        group.note(PS, "the whole command without any work: what starting Python and asking costs")
        _mark_missing(group, peers)
        for _ in range(WARM_UP):
            request = node.request([TRUE])
            node.run(request)
            node.remove(request.name)
            node.run_command(TRUE)
        request = node.request([TRUE])

        def others() -> None:
            nonlocal request
            for peer in peers.peers.values():
                if peer.missing is None:
                    done = peers.run(peer)
                    if done.status != 0:
                        raise Failed(f"{peer.name} ended with {done.status}: {done.stderr}")
                    group.add_ms(peer.name, done.ns)
            group.add_ms(UNSHARE, peers.unshare().ns)
            group.add_ms(RUN, node.run_command(TRUE))
            group.add_ms(PS, node.zos("ps"))
            request = node.request([TRUE])

        def ours() -> None:
            span = node.run(request)
            group.add_ms(API_RUNNING, span.running_ns)
            group.add_ms(API_EXIT, span.exit_ns)
            group.add_ms(API_REMOVED, span.exit_ns + node.remove(request.name))

        in_rounds(benchmark, ours, others=others, rounds=options.starts, group=group)


def bench_processor(
    benchmark: BenchmarkFixture, node: Node, peers: Runtimes, recorder: Recorder, options: Options
) -> None:
    """Processor time of a start, which other programs disturb less than the time by the clock."""
    names = ["API: request to removed", *(f"of it {process.name}" for process in node.info().processes), *BASELINES]
    with recorder.group(
        "container.processor",
        "Processor time of a container of /bin/true from nothing to its end",
        [(name, "ms") for name in names],
        baselines=BASELINES,
        notes=[*_notes(), "children that were waited for are counted; what the kernel does later by itself is not"],
    ) as group:
        _mark_missing(group, peers)
        before = node.processor_ns()

        def ours() -> None:
            request = node.request([TRUE])
            node.run(request)
            node.remove(request.name)

        in_rounds(benchmark, ours, rounds=options.starts, group=group)
        after = node.processor_ns()
        spent = {name: (after[name] - before[name]) / options.starts for name in after}
        group.add_ms(names[0], sum(spent.values()))
        for name, each_ns in spent.items():
            group.add_ms(f"of it {name}", each_ns)
        for peer in peers.peers.values():
            if peer.missing is None:
                spent_ns = [peers.run(peer).cpu_ns for _ in range(options.starts)]
                group.add_ms(peer.name, sum(spent_ns) / len(spent_ns))


def bench_exec(benchmark: BenchmarkFixture, node: Node, peers: Runtimes, recorder: Recorder, options: Options) -> None:
    """One more program in a container that runs."""
    names = [API_EXEC, EXEC, *BASELINES]
    with recorder.group(
        "container.exec",
        "Exec of /bin/true in a running container, to its exit",
        [(name, "ms") for name in names],
        baselines=BASELINES,
        notes=[DIFFERENCES[0], "ours keeps a log and a document of each exec; a peer's output goes to /dev/null"],
    ) as group:
        _mark_missing(group, peers)
        held = node.request(SLEEP)
        node.start(held)
        present = [peer for peer in peers.peers.values() if peer.missing is None]
        for peer in present:
            peers.hold(peer, SLEEP)
        for _ in range(WARM_UP):
            node.exec(held.name, [TRUE])

        def others() -> None:
            for peer in present:
                done = peers.exec(peer, [TRUE])
                if done.status != 0:
                    raise Failed(f"exec of {peer.name} ended with {done.status}: {done.stderr}")
                group.add_ms(peer.name, done.ns)
            group.add_ms(EXEC, node.zos("exec", held.name, "--", TRUE))

        def ours() -> None:
            node.exec(held.name, [TRUE])

        for seconds in in_rounds(benchmark, ours, others=others, rounds=options.starts, group=group):
            group.add_ms(API_EXEC, seconds * 1e9)
        node.remove(held.name)
