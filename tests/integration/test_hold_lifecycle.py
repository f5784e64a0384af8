"""hold's own life: one for a directory, taken over when dead, and gone without a trace (HOLD-TAKEOVER)."""

from __future__ import annotations

import fcntl
import os
import signal
import socket
import stat
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from tests.hold_tool import (
    DEADLINE_S,
    SAY_READY,
    WAIT,
    HoldTool,
    NotStarted,
    Refused,
    Starter,
    descendants,
    is_reaped,
    pidfd,
    shell_service,
)

LISTENERS: list[dict[str, object]] = [
    {"name": "spawn", "path": "spawn.sock"},
    {"name": "api", "path": "api.sock", "stream": True},
]


def test_listeners_are_private_and_kept(start_hold: Starter) -> None:
    holding = start_hold(listeners=LISTENERS)
    tool = holding.tool()
    assert tool.names() == ["listen/api", "listen/spawn"]
    for name in ("hold.sock", "spawn.sock", "api.sock"):
        meta = (holding.run_dir / name).stat()
        assert stat.S_ISSOCK(meta.st_mode)
        assert stat.S_IMODE(meta.st_mode) == 0o600
    (listener,) = tool.get("listen/api")
    with socket.socket(fileno=listener) as api, socket.socket(socket.AF_UNIX) as client:
        assert api.type == socket.SOCK_STREAM
        client.connect(str(holding.run_dir / "api.sock"))
        accepted, _ = api.accept()
        accepted.close()


def test_shutdown_leaves_nothing(start_hold: Starter) -> None:
    services = [shell_service(name, f"sleep 1000 & {SAY_READY}; {WAIT}") for name in ("one", "two")]
    holding = start_hold(*services, listeners=LISTENERS, launcher=True)
    tool = holding.tool()
    pids = [holding.launch("trap '' TERM INT HUP; exec sleep 1000", tool) for _ in range(3)]
    with pidfd(pids[0]) as descriptor:
        tool.call("register", {"name": "web", "generation": 1, "pid": pids[0], "keep": []}, [descriptor])
    tool.until(lambda: all(row["state"] == "ready" for row in tool.ask("services")["services"]))
    below = descendants(holding.pid)
    assert set(pids) < set(below)
    opened = [os.pidfd_open(pid) for pid in below]
    assert tool.ask("shutdown") == {}
    tool.wait_end()
    assert list(holding.run_dir.iterdir()) == [], "gone before hold's end is seen"
    assert holding.process.wait(DEADLINE_S) == 0
    assert all(is_reaped(descriptor) for descriptor in opened)
    for descriptor in opened:
        os.close(descriptor)


def test_services_end_in_reverse_order_and_requests_are_still_answered(start_hold: Starter, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    os.mkfifo(gate)
    slow = shell_service("slow", f"trap 'read line < {gate}; exit 0' TERM; {SAY_READY}; while :; do sleep 0.1; done")
    holding = start_hold(shell_service("first", f"{SAY_READY}; {WAIT}"), slow)
    tool = holding.tool()
    tool.until(lambda: all(row["state"] == "ready" for row in tool.ask("services")["services"]))
    tool.ask("subscribe")
    tool.ask("shutdown")
    with pytest.raises(Refused, match="shutting down"):
        tool.put("a", 0)
    gate.write_text("go\n")
    assert tool.event("service", state="ended")["name"] == "slow"
    assert tool.event("service", state="ended")["name"] == "first"
    tool.wait_end()
    assert holding.process.wait(DEADLINE_S) == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_shut_down(start_hold: Starter, number: signal.Signals) -> None:
    holding = start_hold(shell_service("one", f"{SAY_READY}; {WAIT}"))
    os.kill(holding.pid, signal.SIGHUP)
    assert holding.tool().names() == []
    os.kill(holding.pid, number)
    assert holding.process.wait(DEADLINE_S) == 0
    assert list(holding.run_dir.iterdir()) == []


def test_only_one_hold(start_hold: Starter) -> None:
    holding = start_hold()
    assert (holding.run_dir / "lock").read_text() == f"{holding.pid}\n"
    with pytest.raises(NotStarted, match=f"held by process {holding.pid}"):
        start_hold()
    assert holding.tool().names() == [], "the first is untouched"


def test_sockets_of_a_killed_hold_are_taken_over(start_hold: Starter) -> None:
    first = start_hold(listeners=LISTENERS)
    first.process.kill()
    first.process.wait()
    assert {path.name for path in first.run_dir.iterdir()} == {"lock", "hold.sock", "spawn.sock", "api.sock"}
    second = start_hold(listeners=LISTENERS)
    assert second.tool().names() == ["listen/api", "listen/spawn"]


def test_a_glance_at_the_lock_does_not_keep_hold_from_starting(start_hold: Starter, tmp_path: Path) -> None:
    """`zos ps` asks whether a hold lives by trying the lock; it has it for a moment."""
    (tmp_path / "run").mkdir(mode=0o700)
    lock = tmp_path / "run/lock"
    holder = subprocess.Popen(["flock", str(lock), "sh", "-c", "echo; exec sleep 0.05"], stdout=subprocess.PIPE)
    assert holder.stdout is not None
    holder.stdout.readline()
    start_hold()
    holder.communicate()
    with open(lock) as file, pytest.raises(BlockingIOError):
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_a_file_in_the_way_is_not_removed(start_hold: Starter, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir(mode=0o700)
    (tmp_path / "run/spawn.sock").write_text("precious")
    with pytest.raises(NotStarted, match="no socket"):
        start_hold(listeners=LISTENERS)
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["spawn.sock"]
    assert (tmp_path / "run/spawn.sock").read_text() == "precious"


def test_a_directory_that_others_can_write_to(start_hold: Starter, tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run").chmod(0o777)
    with pytest.raises(NotStarted, match="nobody else can write"):
        start_hold()


@pytest.mark.parametrize(
    "table",
    [
        b"",
        b"\xc1",
        b"\x80",
        msgspec.msgpack.encode({"instance": "t"}),
        msgspec.msgpack.encode(
            {"instance": "t", "run_dir": "r", "log_dir": "/tmp", "listeners": [], "services": []},
        ),
        b"\x81\xa1a" + b"\x91" * 100_000,
        b"\x00" * (1024 * 1024 + 1),
    ],
)
def test_bad_tables_are_said(start_hold: Starter, table: bytes) -> None:
    with pytest.raises(NotStarted, match="service table"):
        start_hold.start(table)


def test_wrong_arguments(zos_init: Path) -> None:
    for arguments in ([], ["what"], ["hold"], ["hold", "--table", "99", "--ready", "98"], ["hold", "--table"]):
        done = subprocess.run([zos_init, *arguments], capture_output=True, check=False)
        assert (done.returncode, done.stdout) == (90, b"")
        assert b"usage" in done.stderr
    done = subprocess.run([zos_init, "--version"], capture_output=True, check=True)
    assert done.stdout.startswith(b"zos-init ")


def test_other_users_are_turned_away(start_hold: Starter) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    holding = start_hold()
    # The directory keeps others out by itself; here they got in by a descriptor of it.
    script = (
        "import os, socket, sys; os.setuid(65534);"
        "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1])"
    )
    for path in (holding.run_dir, *holding.run_dir.parents):
        if path.stat().st_uid == 0 and path != Path("/") and path != Path("/tmp"):
            path.chmod(0o711)
    os.chmod(holding.run_dir / "hold.sock", 0o666)
    script += "; assert s.recv(10) == b''"
    done = subprocess.run([sys.executable, "-c", script, holding.run_dir / "hold.sock"], check=False)
    assert done.returncode == 0
    assert "user 65534 was turned away" in holding.log()


def test_too_many_tools_are_turned_away(start_hold: Starter) -> None:
    holding = start_hold()
    tools = [holding.tool() for _ in range(64)]
    for tool in tools:
        tool.names()
    assert not _is_welcome(holding.run_dir / "hold.sock")
    tools[0].socket.close()
    tools[1].until(lambda: _is_welcome(holding.run_dir / "hold.sock"))


def _is_welcome(path: Path) -> bool:
    with HoldTool(path) as tool:
        try:
            tool.names()
        except Refused as refused:
            return refused.code != "frame.too-many-clients"
    return True
