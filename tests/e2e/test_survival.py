"""Any process of the tree is killed while everything is under way at once: nothing is lost, nothing comes twice."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.node_tool import Hub, Node, Reading, large_sums
from tests.hold_tool import HoldTool

pytestmark = pytest.mark.root

SERVICES = ("supervisor", "blockd", "logd", "forward", "spawn")
READERS = 4
# Prints numbers until it is told to stop, in bursts, so that a line is always under way.
WRITER = """trap 'stop=1' TERM; i=0
while [ -z "$stop" ]; do echo $i; i=$((i+1)); [ $((i % 200)) = 0 ] && usleep 20000; done
echo "end $i"; exit 7"""


@pytest.fixture(scope="module")
def lazy_hub(store: Path) -> Iterator[Hub]:
    """One hub for the module, since an image is fetched once: each test reads other files of it."""
    made = Hub(store)
    yield made
    made.close()


@pytest.mark.parametrize("service", SERVICES)
def test_a_killed_service_stops_nothing(node: Node, lazy_hub: Hub, service: str) -> None:
    number = SERVICES.index(service)
    hub = lazy_hub
    writer = Reading(node.start("--name", "writer", "small", command=["sh", "-c", WRITER], store=hub.url))
    writer.wait_lines(400)
    hub.gated = lambda path: path.startswith("/pack/")
    hub.gate.clear()
    wanted = range(number * READERS, (number + 1) * READERS)
    reads = "; ".join(f"sha256sum /data/{file:02} &" for file in wanted).replace("&;", "&")
    readers = Reading(node.start("--name", "readers", "small", command=["sh", "-c", f"{reads} wait"], store=hub.url))
    late = [f"/late/busybox-{number * 2 + each:02}" for each in range(2)]
    launch = Reading(node.start("--rm", "--name", "late", "small", command=[late[0], "echo", "in"], store=hub.url))
    inside = Reading(node.begin("exec", "writer", "--", late[1], "sh", "-c", "echo inside; exit 5"))
    hub.wait_waiting(READERS + 2)

    node.kill(service)
    writer.wait_lines(len(writer.lines) + 400)
    hub.gate.set()

    assert readers.end() == 0, readers.err + node.service_logs()
    assert sorted(readers.lines) == sorted(large_sums()[file] for file in wanted)
    assert (launch.end(), launch.lines) == (0, ["in"]), launch.err + node.service_logs()
    assert (inside.end(), inside.lines) == (5, ["inside"]), inside.err + node.service_logs()
    assert sorted(node.names()) == ["readers", "writer"]
    assert node.zos("stop", "writer").status == 0
    assert writer.end() == 7, writer.err + node.service_logs()
    *numbers, last = writer.lines
    assert last == f"end {len(numbers)}"
    assert numbers == [str(each) for each in range(len(numbers))]
    assert node.zos("logs", "writer").out.splitlines() == writer.lines
    for name in ("writer", "readers"):
        assert node.zos("rm", name).status == 0


def test_an_end_while_the_supervisor_is_away_is_reported_once(node: Node) -> None:
    with node.hold() as hold:
        follower = Reading(node.start("--name", "victim", "small", command=["sh", "-c", "echo up; sleep 1000"]))
        follower.wait_lines(1)
        hold.ask("subscribe")
        supervisor = node.pid("supervisor")
        os.kill(supervisor, signal.SIGSTOP)
        os.kill(node_pid_of(hold, "victim"), signal.SIGKILL)
        hold.event("exit", name="victim", signal=9)
        os.kill(supervisor, signal.SIGKILL)
        assert follower.end() == 137, follower.err
        hold.until(lambda: hold.ask("exits", after=0)["exits"] == [])
    state = node.inspect("victim")
    assert (state["status"], state["exit_signal"], state["exit_unknown"]) == ("exited", 9, False)
    assert node.zos("rm", "victim").status == 0


def node_pid_of(hold: HoldTool, name: str) -> int:
    children = hold.ask("children")["children"]
    return int(next(child["pid"] for child in children if child["name"] == name))
