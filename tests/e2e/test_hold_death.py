"""hold is killed: containers, reads, logs and ports go on, and `zos up` takes everything back (HOLD-TAKE)."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.node_tool import TIMEOUT_S, Hub, Node, Reading, large_sums

pytestmark = pytest.mark.root

SURVIVORS = ("blockd", "logd", "forward")
TICKER = """trap 'stop=1' TERM; i=0
while [ -z "$stop" ]; do echo $i; i=$((i+1)); [ $((i % 50)) = 0 ] && usleep 20000; done
echo "end $i"; exit 7"""


def kill_and_wait(pid: int) -> None:
    """SIGKILL, and return when the process has ended."""
    pidfd = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        poll = select.poll()
        poll.register(pidfd, select.POLLIN)
        assert poll.poll(TIMEOUT_S * 1000), f"process {pid} does not end"
    finally:
        os.close(pidfd)


def keeper_of(instance: str) -> int:
    """The keeper: who has its title, and hold's environment."""
    wanted = f"ZOS_INSTANCE={instance}".encode()
    for process in Path("/proc").iterdir():
        if not process.name.isdecimal():
            continue
        try:
            if (process / "comm").read_text() == "zos-keep\n" and wanted in (process / "environ").read_bytes().split(
                b"\0"
            ):
                return int(process.name)
        except OSError:
            continue
    raise AssertionError(f"no keeper of {instance}")


def wait_exited(node: Node, name: str) -> dict[str, Any]:
    """The container's state when it has ended; the pace is that of the command."""
    deadline = time.monotonic() + TIMEOUT_S
    while (state := node.inspect(name))["status"] != "exited":
        assert time.monotonic() < deadline, state
    return dict(state)


@pytest.fixture
def lazy(store: Path) -> Iterator[Hub]:
    made = Hub(store)
    yield made
    made.close()


def test_everything_goes_on_and_is_taken_back(own_node: Node, lazy: Hub) -> None:
    node = own_node
    writer = Reading(node.start("--name", "writer", "small", command=["sh", "-c", TICKER], store=lazy.url))
    writer.wait_lines(200)
    serving = node.run(
        "-d",
        "--name",
        "echo",
        "-p",
        "127.0.0.1:0:7",
        "small",
        store=lazy.url,
        command=["sh", "-c", "while true; do usleep 100000; done"],
    )
    assert serving.status == 0, serving.err
    short = node.run("-d", "--name", "short", "small", command=["sh", "-c", "usleep 400000; exit 9"], store=lazy.url)
    assert short.status == 0, short.err
    lazy.gated = lambda path: path.startswith("/pack/")
    lazy.gate.clear()
    reads = Reading(node.start("--name", "reader", "small", command=["sh", "-c", "sha256sum /data/00"], store=lazy.url))
    lazy.wait_waiting(1)
    before = {name: node.pid(name) for name in SURVIVORS}
    spawn = node.pid("spawn")

    kill_and_wait(node.pid("hold"))
    lazy.gate.set()
    assert node.zos("ps").status != 0
    assert all(Path(f"/proc/{pid}").exists() for pid in before.values())

    node.up()
    assert reads.end() == 0, reads.err + node.service_logs()
    assert reads.lines == large_sums()[:1]
    assert {name: node.pid(name) for name in SURVIVORS} == before, node.service_logs()
    assert node.pid("spawn") != spawn
    ended = wait_exited(node, "short")
    assert (ended["exit_code"], ended["exit_unknown"]) == (9, False), node.service_logs()
    inside = node.zos("exec", "writer", "--", "echo", "in")
    assert (inside.status, inside.out) == (0, "in\n"), inside.err + node.service_logs()
    assert node.zos("stop", "writer").status == 0
    assert writer.end() == 7, writer.err + node.service_logs()
    *numbers, last = writer.lines
    assert (numbers, last) == ([str(each) for each in range(len(numbers))], f"end {len(numbers)}")
    fresh = node.run("--rm", "small", command=["echo", "new"], store=lazy.url)
    assert (fresh.status, fresh.out) == (0, "new\n"), fresh.err
