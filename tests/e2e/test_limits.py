"""A node at the end of its descriptors, or of its disk: it says so in time, what runs goes on, and it recovers."""

from __future__ import annotations

import resource
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.e2e.node_tool import TIMEOUT_S, ZOS, Done, Node, Reading, problem
from zos_core.base.frame import socket_address
from zos_core.base.paths import Instance

pytestmark = pytest.mark.root

# A command that takes longer has waited for something: most of this is the start of Python under load.
AT_ONCE_S = 20.0
FEW_DESCRIPTORS = 140
COUNTER = "i=0; while sleep 0.1; do i=$((i+1)); echo $i; done"


def timed(node: Node, *arguments: str) -> Done:
    """A verb of the node that must not take long, whatever becomes of it."""
    began = time.monotonic()
    done = node.zos(*arguments)
    assert time.monotonic() - began < AT_ONCE_S, arguments
    return done


def check_refused(done: Done, code: str, *parts: str) -> None:
    """The command failed with this error, which says these things, and with a hint."""
    told = problem(done)
    assert told["code"] == code, done.out + done.err
    assert all(part in told["message"] for part in parts), told
    assert told["hint"]


@contextmanager
def crowded(node: Node, *, limit: int) -> Iterator[None]:
    """Let the supervisor have few descriptors, and take as many as it gives away by connections to its API."""
    pid = node.pid("supervisor")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        with ExitStack() as stack, socket_address(Instance(node.instance).socket("api")) as address:
            for _ in range(limit):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(TIMEOUT_S)
                client.connect(address)
                client.sendall(b"GET /v1/node HTTP/1.1\r\nHost: zos\r\n\r\n")
                if b" 503 " in client.recv(65_536).splitlines()[0]:
                    break
            else:
                raise AssertionError("everybody was let in")
            yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_supervisor_without_descriptors_says_so_and_recovers(node: Node) -> None:
    follower = Reading(node.start("--rm", "--name", "counter", "small", command=["sh", "-c", COUNTER]))
    follower.wait_lines(1)
    pid = node.pid("supervisor")
    with crowded(node, limit=128):
        check_refused(timed(node, "ps", "--json"), "base.no-descriptors", "zos node", "(RLIMIT_NOFILE) is 128")
        refused = timed(node, "run", "--json", "--store", str(node.store), "--name", "no", "small", "--", "true")
        assert refused.status == 125
        check_refused(refused, "base.no-descriptors", "(RLIMIT_NOFILE) is 128")
        follower.wait_lines(len(follower.lines) + 5)
    assert node.names() == ["counter"]
    assert node.run("--rm", "--name", "yes", "small", command=["echo", "yes"]).out == "yes\n"
    assert node.pid("supervisor") == pid
    assert node.zos("stop", "counter").status == 0
    follower.end()
    assert follower.lines == [str(1 + number) for number in range(len(follower.lines))]


def test_a_node_of_few_descriptors_starts_what_fits(store: Path) -> None:
    node = Node(store=store, config=store)
    prlimit = shutil.which("prlimit")
    assert prlimit is not None
    up = [prlimit, f"--nofile={FEW_DESCRIPTORS}", str(ZOS), "up", "--instance", node.instance]
    subprocess.run(up, check=True, capture_output=True, timeout=TIMEOUT_S)
    try:
        first = Reading(node.start("--name", "c0", "small", command=["sh", "-c", COUNTER]))
        first.wait_lines(1)
        empty = node.footprint_without_services()
        running = ["c0"]
        while True:
            assert len(running) < 60, "the limit was never reached"
            name = f"c{len(running)}"
            arguments = ("--json", "-d", "--store", str(store), "--name", name, "small", "--", "sleep", "1000")
            done = timed(node, "run", *arguments)
            if done.status:
                break
            running.append(name)
        check_refused(done, "base.no-descriptors", f"(RLIMIT_NOFILE) is {FEW_DESCRIPTORS}")
        assert sorted(node.names()) == sorted(running), "nothing of what failed is left"
        first.wait_lines(len(first.lines) + 5)
        readers = [Reading(node.begin("logs", "-f", "c0")) for _ in range(3)]
        for reader in readers:
            reader.wait_lines(len(first.lines))
        for freed in running[-2:]:
            assert node.zos("rm", "--force", freed).status == 0
        assert timed(node, "run", *arguments).status == 0, "there is room again"
        for each in [*running[1:-2], name]:
            assert node.zos("rm", "--force", each).status == 0
        assert node.footprint_without_services() == empty
        assert node.zos("stop", "c0").status == 0
        first.end()
        for reader in readers:
            assert reader.end() == 0
            assert reader.lines == first.lines
    finally:
        node.down()
