"""hold is the parent of what is registered, and tells each end exactly once (HOLD-REAP)."""

from __future__ import annotations

import contextlib
import functools
import os
import random
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.hold_tool import (
    SAY_READY,
    WAIT,
    Holding,
    HoldTool,
    Refused,
    Starter,
    is_reaped,
    parent_of,
    pidfd,
    shell_service,
    wait_exit,
)


@pytest.fixture
def holding(start_hold: Starter) -> Holding:
    return start_hold(launcher=True)


@pytest.fixture
def tool(holding: Holding) -> HoldTool:
    return holding.tool()


def register(tool: HoldTool, name: str, pid: int, descriptor: int, generation: int = 1, **keep: int) -> None:
    body = {"name": name, "generation": generation, "pid": pid, "keep": list(keep)}
    tool.call("register", body, [descriptor, *keep.values()])


def test_the_end_of_a_child_is_reported_once(holding: Holding, tool: HoldTool) -> None:
    tool.ask("subscribe")
    pid = holding.launch("exec sleep 1000", tool)
    before = time.time_ns()
    with pidfd(pid) as descriptor:
        register(tool, "web", pid, descriptor, generation=7)
    (child,) = tool.ask("children")["children"]
    assert (child["name"], child["generation"], child["pid"]) == ("web", 7, pid)
    assert before <= child["start_ns"] <= time.time_ns()
    assert tool.names("pidfd/") == ["pidfd/web"]
    tool.ask("kill", name="web", signal=int(signal.SIGTERM))
    event = tool.event("exit")
    assert (event["seq"], event["name"], event["generation"], event["pid"]) == (1, "web", 7, pid)
    assert (event["code"], event["signal"]) == (None, 15)
    assert tool.ask("exits", after=0)["exits"] == [event]
    assert tool.ask("exits", after=1)["exits"] == []
    assert tool.ask("children")["children"] == []
    assert tool.names("pidfd/") == []
    with pytest.raises(Refused) as refused:
        tool.ask("kill", name="web", signal=9)
    assert refused.value.code == "hold.missing"
    tool.ask("ack", seq=1)
    assert tool.ask("exits", after=0)["exits"] == []


def test_a_child_that_ends_before_it_is_registered(holding: Holding, tool: HoldTool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    pid = holding.launch(f"read line < {gate}; exit 7", tool)
    with pidfd(pid) as descriptor:
        gate.write_text("go\n")
        wait_exit(descriptor)
        tool.until(lambda: is_reaped(descriptor))
        assert tool.ask("exits", after=0)["exits"] == []
        register(tool, "web", pid, descriptor)
        (exit_,) = tool.ask("exits", after=0)["exits"]
        assert (exit_["name"], exit_["code"], exit_["signal"], exit_["pid"]) == ("web", 7, None, pid)
        assert tool.names("pidfd/") == []
        with pytest.raises(Refused) as refused:
            register(tool, "again", pid, descriptor)
        assert refused.value.code == "hold.not-a-child"


def test_all_descriptors_are_kept_or_none(holding: Holding, tool: HoldTool) -> None:
    pid = holding.launch("exec sleep 1000", tool)
    read, write = os.pipe()
    with pidfd(pid) as descriptor:
        body = {"name": "web", "generation": 1, "pid": pid, "keep": ["log/web/stdout", "bad name"]}
        with pytest.raises(Refused) as refused:
            tool.call("register", body, [descriptor, read, read])
        assert refused.value.code == "hold.bad-name"
        assert tool.ask("children")["children"] == []
        assert tool.names() == []
        body["keep"] = ["log/web/stdout", "log/web/stderr"]
        tool.call("register", body, [descriptor, read, write])
    assert tool.names() == ["log/web/stderr", "log/web/stdout", "pidfd/web"]
    assert len(tool.get("pidfd/web", "log/web/stdout")) == 2


def test_what_cannot_be_registered(holding: Holding, tool: HoldTool) -> None:
    pid = holding.launch("exec sleep 1000", tool)
    other = holding.launch("exec sleep 1000", tool)
    launcher = tool.service("launcher")["pid"]
    read, _write = os.pipe()
    with pidfd(pid) as descriptor, pidfd(other) as other_descriptor, pidfd(launcher) as service:
        for code, name, number, fd in [
            ("hold.bad-pidfd", "a", pid, read),
            ("hold.bad-pidfd", "a", other, descriptor),
            ("hold.bad-pidfd", "a", launcher, service),
            ("hold.bad-pidfd", "a", 1, descriptor),
            ("hold.bad-pidfd", "a", -5, descriptor),
            ("hold.bad-name", "a b", pid, descriptor),
            ("hold.bad-name", "a" * 250, pid, descriptor),
        ]:
            with pytest.raises(Refused) as refused:
                register(tool, name, number, fd)
            assert refused.value.code == code, (name, number)
        register(tool, "a", pid, descriptor)
        for name, number, fd in [("a", other, other_descriptor), ("b", pid, descriptor)]:
            with pytest.raises(Refused) as refused:
                register(tool, name, number, fd)
            assert refused.value.code == "hold.exists"


@pytest.mark.parametrize("number", [0, -1, 65, 2**31 - 1])
def test_signals_are_numbers(holding: Holding, tool: HoldTool, number: int) -> None:
    pid = holding.launch("exec sleep 1000", tool)
    with pidfd(pid) as descriptor:
        register(tool, "a", pid, descriptor)
    with pytest.raises(Refused) as refused:
        tool.ask("kill", name="a", signal=number)
    assert refused.value.code == "hold.bad-signal"


def test_nobodys_children_are_reaped_and_not_reported(holding: Holding, tool: HoldTool, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    pid = holding.launch(f"read line < {gate}", tool)
    with pidfd(pid) as descriptor:
        gate.write_text("go\n")
        wait_exit(descriptor)
        tool.until(lambda: is_reaped(descriptor))
    assert tool.ask("exits", after=0)["exits"] == []


def test_exits_outlive_a_killed_subscriber(holding: Holding) -> None:
    """kill -9 of the supervisor: its successor finds every end, once."""
    first = holding.tool()
    first.ask("subscribe")
    for number in range(5):
        pid = holding.launch("exec sleep 1000", first)
        with pidfd(pid) as descriptor:
            register(first, f"c{number}", pid, descriptor)
    first.ask("kill", name="c0", signal=9)
    first.event("exit", name="c0")
    first.socket.close()
    second = holding.tool()
    second.ask("subscribe")
    for number in range(1, 5):
        second.ask("kill", name=f"c{number}", signal=9)
    seen = [second.event("exit")["name"] for _ in range(4)]
    assert sorted(seen) == ["c1", "c2", "c3", "c4"]
    exits = second.ask("exits", after=0)["exits"]
    assert [exit_["seq"] for exit_ in exits] == [1, 2, 3, 4, 5]
    assert exits[0]["name"] == "c0"
    second.ask("ack", seq=3)
    assert [exit_["seq"] for exit_ in second.ask("exits", after=0)["exits"]] == [4, 5]


def test_children_outlive_the_service_that_started_them(holding: Holding, tool: HoldTool) -> None:
    pid = holding.launch("exec sleep 1000", tool)
    with pidfd(pid) as descriptor:
        register(tool, "web", pid, descriptor)
    tool.ask("subscribe")
    os.kill(tool.service("launcher")["pid"], signal.SIGKILL)
    tool.event("service", state="ready", generation=2)
    assert [child["name"] for child in tool.ask("children")["children"]] == ["web"]
    assert parent_of(pid) == holding.pid
    os.kill(pid, signal.SIGKILL)
    assert tool.event("exit")["signal"] == 9


def test_a_process_that_is_not_a_child_is_reported_too(start_hold: Starter) -> None:
    """After the death of a hold, its successor keeps containers that it cannot wait for (6.15: with their status)."""
    tool = start_hold().tool()
    tool.ask("subscribe")
    process = subprocess.Popen(["/bin/sh", "-c", "read line; exit 5"], stdin=subprocess.PIPE)
    with pidfd(process.pid) as descriptor:
        register(tool, "foreign", process.pid, descriptor)
        process.communicate(b"go\n")
    exit_ = tool.event("exit")
    assert (exit_["name"], exit_["signal"]) == ("foreign", None)
    release = tuple(int(part) for part in os.uname().release.split(".")[:2])
    assert exit_["code"] == 5 if release >= (6, 15) else exit_["code"] in (5, None)
    assert tool.ask("children")["children"] == []


def test_a_foreign_process_that_becomes_a_child_is_reported_once(start_hold: Starter, tmp_path: Path) -> None:
    """Its parent dies, hold is the subreaper: waitid and the pidfd both tell of the end."""
    pids = tmp_path / "pids"
    os.mkfifo(pids)
    script = f"test $ZOS_GENERATION = 1 && {{ sleep 1000 & echo $! >{pids}; }}; {SAY_READY}; {WAIT}"
    holding = start_hold(shell_service("one", script))
    tool = holding.tool()
    tool.ask("subscribe")
    pid = int(pids.read_text())
    with pidfd(pid) as descriptor:
        assert parent_of(pid) == tool.service("one")["pid"]
        register(tool, "foreign", pid, descriptor)
        os.kill(tool.service("one")["pid"], signal.SIGKILL)
        tool.until(lambda: parent_of(pid) == holding.pid)
        os.kill(pid, signal.SIGKILL)
        assert tool.event("exit")["signal"] == 9
        with pytest.raises(Refused) as refused:
            register(tool, "again", pid, descriptor)
        assert refused.value.code == "hold.not-a-child"
    assert len(tool.ask("exits", after=0)["exits"]) == 1


def test_many_children_end_at_once(holding: Holding, tool: HoldTool) -> None:
    """One SIGCHLD may stand for many: none is lost, none doubled."""
    tool.ask("subscribe")
    pids = []
    for number in range(50):
        pid = holding.launch("exec sleep 1000", tool)
        with pidfd(pid) as descriptor:
            register(tool, f"c{number}", pid, descriptor)
        pids.append(pid)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    seen = [tool.event("exit") for _ in pids]
    assert sorted(exit_["pid"] for exit_ in seen) == sorted(pids)
    assert [exit_["seq"] for exit_ in seen] == list(range(1, 51))
    assert tool.ask("exits", after=0)["exits"] == seen


@pytest.mark.parametrize("seed", range(3))
def test_random_ends_and_kills(start_hold: Starter, seed: int) -> None:
    """Children end, services and subscribers are killed, in any order: each child ends exactly once in the record."""
    chance = random.Random(seed)
    holding = start_hold(shell_service("victim", f"{SAY_READY}; {WAIT}", restarts_max=1_000), launcher=True)
    tool = holding.tool()
    subscriber = holding.tool()
    subscriber.ask("subscribe")
    alive: dict[str, int] = {}
    expected: dict[str, int] = {}
    for number in range(60):
        action = chance.choice(["launch", "launch", "kill", "service", "subscriber", "early"])
        name = f"c{number}"
        if action in ("launch", "early"):
            pid = holding.launch("exec sleep 1000", tool)
            with pidfd(pid) as descriptor:
                if action == "early":
                    os.kill(pid, signal.SIGKILL)
                    if chance.random() < 0.5:
                        tool.until(functools.partial(is_reaped, descriptor))
                    expected[name] = pid
                else:
                    alive[name] = pid
                register(tool, name, pid, descriptor, generation=number)
        elif action == "kill" and alive:
            name, pid = alive.popitem()
            os.kill(pid, signal.SIGKILL)
            expected[name] = pid
        elif action == "service":
            victim = tool.service("victim")["pid"]
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim or 2**22, signal.SIGKILL)
        elif action == "subscriber":
            subscriber.socket.close()
            subscriber = holding.tool()
            subscriber.ask("subscribe")
    tool.until(lambda: len(tool.ask("exits", after=0)["exits"]) == len(expected))
    exits = tool.ask("exits", after=0)["exits"]
    assert [exit_["seq"] for exit_ in exits] == list(range(1, len(expected) + 1))
    assert {exit_["name"]: exit_["pid"] for exit_ in exits} == expected
    assert {exit_["signal"] for exit_ in exits} <= {9}
    assert {child["name"]: child["pid"] for child in tool.ask("children")["children"]} == alive
