"""hold is killed: containers, reads, logs and ports go on, and `zos up` takes everything back (HOLD-TAKE)."""

from __future__ import annotations

import contextlib
import os
import random
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.machine import snapshot
from tests.e2e.node_tool import TIMEOUT_S, Hub, Node, Reading, large_sums
from zos_core.base.paths import Instance

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

SEED = 7
TAKEOVERS = 6
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


def keepers_of(instance: str) -> list[int]:
    """The keepers: who has that name, and hold's environment."""
    wanted = f"ZOS_INSTANCE={instance}".encode()
    found = []
    for process in Path("/proc").iterdir():
        with contextlib.suppress(OSError):
            keeps = process.name.isdecimal() and (process / "comm").read_text() == "zos-keep\n"
            if keeps and wanted in (process / "environ").read_bytes().split(b"\0"):
                found.append(int(process.name))
    return found


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


def test_a_takeover_may_be_killed_at_any_moment(own_node: Node) -> None:
    node = own_node
    writer = Reading(node.start("--name", "writer", "small", command=["sh", "-c", TICKER]))
    writer.wait_lines(100)
    before = node.pid("logd")
    lock = Instance(node.instance).run_dir / "lock"
    order = random.Random(SEED)
    old = node.pid("hold")
    kill_and_wait(old)
    for _ in range(TAKEOVERS):
        attempt = node.begin("up")
        # The new hold has the lock from its first step on; what follows takes some ten milliseconds.
        new = wait_new_owner(lock, old, attempt)
        threading.Event().wait(order.uniform(0, 0.06))
        kill_and_wait(new)
        attempt.communicate(timeout=TIMEOUT_S)
        old = new
    node.up()
    assert node.pid("logd") == before, node.service_logs()
    assert len(list(keepers_of(node.instance))) == 1, "a keeper that is not in charge stayed"
    inside = node.zos("exec", "writer", "--", "echo", "in")
    assert (inside.status, inside.out) == (0, "in\n"), inside.err
    assert node.zos("stop", "writer").status == 0
    writer.end()
    lines = node.zos("logs", "writer").out.splitlines()
    assert lines == [*(str(each) for each in range(len(lines) - 1)), f"end {len(lines) - 1}"]


def wait_new_owner(lock: Path, old: int, attempt: subprocess.Popen[str]) -> int:
    """The pid in the lock file when it is another than `old`."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline:
        with contextlib.suppress(FileNotFoundError, ValueError):
            if (owner := int(lock.read_text())) != old:
                return owner
        assert attempt.poll() is None, attempt.communicate()
    raise AssertionError("no new hold took the lock")


@pytest.mark.parametrize("verb", ["up", "down"])
def test_without_hold_and_keeper_everything_is_cleaned(own_node: Node, verb: str) -> None:
    node = own_node
    done = node.run("-d", "--name", "victim", "-p", "127.0.0.1:0:80", "small", command=["sleep", "1000"])
    assert done.status == 0, done.err
    listen = node.inspect("victim")["network"]["ports"][0]["listen"]
    hold, [keeper] = node.pid("hold"), keepers_of(node.instance)
    os.kill(hold, signal.SIGSTOP)  # or it would start another
    kill_and_wait(keeper)
    kill_and_wait(hold)
    if verb == "up":
        node.up()
        victim = wait_exited(node, "victim")
        assert (victim["exit_unknown"], victim["exit_code"], victim["exit_signal"]) == (True, None, None), victim
        assert node.zos("rm", "victim").status == 0
        assert node.footprint_without_services() == []
    else:
        assert node.zos("down", "--grace", "1").status == 0
        assert [line for line in snapshot().of(node.instance) if not line.startswith("state:")] == []
        node.up()
    host, _, port = listen.rpartition(":")
    with socket.socket() as client:
        assert client.connect_ex((host, int(port))) != 0, "somebody still listens"


def test_down_takes_over_and_ends_all_in_good_order(own_node: Node) -> None:
    node = own_node
    started = node.run(
        "-d", "--name", "polite", "small", command=["sh", "-c", "trap 'exit 5' TERM; while true; do usleep 9999; done"]
    )
    assert started.status == 0, started.err
    kill_and_wait(node.pid("hold"))
    assert node.zos("down", "--grace", "10").status == 0
    assert [line for line in snapshot().of(node.instance) if not line.startswith("state:")] == []
    node.up()
    assert node.inspect("polite")["exit_code"] == 5
