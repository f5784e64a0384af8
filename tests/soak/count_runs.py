"""After many runs of a container all is counted as after the first: `python -m tests.soak.count_runs --runs N`."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tests.e2e.machine import snapshot
from tests.e2e.node_tool import Node, image_store
from zos_core.base.paths import Instance

RUNS = 1000
PROCESSES = ("spawn", "blockd", "logd", "forward", "supervisor")


def counts(node: Node) -> Mapping[str, int]:
    """How many there are of everything that a run could leave."""
    found = dict(Counter(line.partition(":")[0] for line in snapshot().of(node.instance)))
    for name in PROCESSES:
        found[f"descriptors of {name}"] = len(os.listdir(f"/proc/{node.pid(name)}/fd"))
    # The others are in the machine's own namespace, where anybody mounts.
    found["mounts of spawn"] = len(Path(f"/proc/{node.pid('spawn')}/mountinfo").read_text().splitlines())
    found["files"] = sum(len(files) + len(folders) for _, folders, files in os.walk(Instance(node.instance).state_dir))
    with node.hold() as hold:
        found["kept by hold"] = len(hold.names())
        found["exits of hold"] = len(hold.ask("exits", after=0)["exits"])
        # It has answered this connection, and so has closed those that were closed before it.
        found["descriptors of hold"] = len(os.listdir(f"/proc/{node.pid('hold')}/fd"))
    return found


def settled(node: Node) -> Mapping[str, int]:
    """The counts when two in a row are the same: the last run has been put away."""
    last = counts(node)
    for _ in range(100):
        now = counts(node)
        if now == last:
            return now
        last = now
    raise AssertionError(f"the counts do not settle: {last}")


def run_once(node: Node, number: int) -> None:
    """One container with an exec's worth of everything: output, a published port, an end."""
    command = ["sh", "-c", f"echo {number}"]
    done = node.run("--rm", "--name", "again", "-p", "127.0.0.1:0:80", "small", command=command)
    assert (done.status, done.out) == (0, f"{number}\n"), done.err + node.service_logs()


def compare(node: Node, runs: int) -> tuple[Mapping[str, int], Mapping[str, int]]:
    """Counts after the first run, and after `runs` more."""
    run_once(node, 0)
    first = settled(node)
    for number in range(1, runs + 1):
        run_once(node, number)
    return first, settled(node)


def main() -> int:
    """As many runs as asked for, on a node of its own."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=RUNS)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="zos-runs-") as directory, image_store(Path(directory)) as store:
        node = Node(store=store, config=store)
        node.up()
        try:
            first, last = compare(node, arguments.runs)
        finally:
            node.down()
    print(f"after {arguments.runs} runs: {dict(last)}")
    different = {what: (first[what], last[what]) for what in first if first[what] != last[what]}
    assert not different, f"(after the first, after {arguments.runs}): {different}"
    return 0


if __name__ == "__main__":
    sys.exit(main())
