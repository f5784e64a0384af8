"""hold starts services and keeps them alive (HOLD-RESTART, HOLD-EOF)."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import pytest

from tests.hold_tool import (
    SAY_READY,
    WAIT,
    NotStarted,
    Starter,
    is_reaped,
    pidfd,
    shell_service,
    wait_exit,
)


def test_a_service_gets_its_environment_channel_and_log(start_hold: Starter) -> None:
    script = 'echo "$ZOS_INSTANCE $ZOS_SERVICE $ZOS_GENERATION $MINE"; echo oops >&2; readlink /proc/$$/fd/0; env'
    script = f"{script}; {SAY_READY}; {WAIT}"
    holding = start_hold(shell_service("one", script, env={"PATH": os.environ["PATH"], "MINE": "mine"}))
    tool = holding.tool()
    tool.ask("subscribe")
    tool.until(lambda: tool.service("one")["state"] == "ready")
    row = tool.service("one")
    assert (row["generation"], row["restarts"]) == (1, 0)
    lines = holding.log("one").splitlines()
    assert lines[:3] == ["t-hold one 1 mine", "oops", "/dev/null"]
    names = {line.split("=")[0] for line in lines[3:]}
    assert names <= {"ZOS_INSTANCE", "ZOS_SERVICE", "ZOS_GENERATION", "MINE", "PATH", "PWD", "SHLVL", "_", "OLDPWD"}
    pid = row["pid"]
    assert os.getsid(pid) == pid
    # For a moment the loader of cat has a library open.
    tool.until(lambda: {int(fd) for fd in os.listdir(f"/proc/{pid}/fd")} <= {0, 1, 2, 3})
    status = dict(line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    assert int(status["SigBlk"], 16) == 0
    assert int(status["SigIgn"], 16) == 0
    assert status["Umask"] == "0022"


def test_a_killed_service_comes_back_with_the_next_generation(start_hold: Starter) -> None:
    holding = start_hold(shell_service("one", f"{SAY_READY}; {WAIT}"))
    tool = holding.tool()
    tool.ask("subscribe")
    tool.until(lambda: tool.service("one")["state"] == "ready")
    for generation in (2, 3, 4):
        pid = tool.service("one")["pid"]
        os.kill(pid, signal.SIGKILL)
        assert tool.event("service", state="ended")["pid"] == pid
        started = tool.event("service", name="one", state="started")
        assert started["generation"] == generation
        assert tool.event("service", state="ready")["pid"] == started["pid"]
        row = tool.service("one")
        assert (row["generation"], row["restarts"], row["pid"]) == (generation, generation - 1, started["pid"])
    assert "Signaled(9)" in holding.log()


def test_the_fallback_runs_for_a_window_then_the_service_is_tried_again(start_hold: Starter, tmp_path: Path) -> None:
    good = tmp_path / "good"
    row = shell_service(
        "one",
        f"test -e {good} || exit 3; {SAY_READY}; {WAIT}",
        restarts_max=2,
        restart_window_ms=1_500,
        fallback=["/bin/sh", "-c", f"echo fallback; {WAIT}"],
    )
    holding = start_hold(row)
    tool = holding.tool()
    tool.ask("subscribe")
    tool.until(lambda: tool.service("one")["state"] == "fallback")
    fallback = tool.service("one")
    assert fallback["generation"] == 4, "one start, two restarts, then the fallback"
    tool.until(lambda: holding.log("one") == "fallback\n")
    good.touch()
    assert tool.event("service", state="ended", generation=4)["pid"] == fallback["pid"]
    assert tool.event("service", state="ready")["generation"] == 5


def test_a_fallback_that_ends_is_started_again(start_hold: Starter) -> None:
    row = shell_service("one", "exit 3", restarts_max=0, restart_window_ms=60_000, fallback=["/bin/false"])
    tool = start_hold(row).tool()
    tool.ask("subscribe")
    for _ in range(3):
        tool.event("service", state="fallback")


def test_without_fallback_the_service_waits_for_the_window(start_hold: Starter) -> None:
    tool = start_hold(shell_service("one", "exit 3", restarts_max=1, restart_window_ms=1_000)).tool()
    tool.until(lambda: tool.service("one")["generation"] == 2 and tool.service("one")["pid"] is None)
    tool.until(lambda: tool.service("one")["generation"] >= 3)


def test_a_service_that_is_not_ready_in_time_is_killed(start_hold: Starter) -> None:
    holding = start_hold(
        shell_service("one", "trap '' TERM; exec sleep 1000", ready_timeout_ms=100, stop_timeout_ms=100)
    )
    tool = holding.tool()
    tool.ask("subscribe")
    ended = tool.event("service", state="ended")
    assert tool.event("service", state="started")["generation"] > ended["generation"]
    assert "did not get ready" in holding.log()


def test_garbage_on_the_channel_ends_the_channel(start_hold: Starter, tmp_path: Path) -> None:
    first = f"test -e {tmp_path}/seen || {{ touch {tmp_path}/seen; printf garbage >&3; {WAIT}; }}"
    tool = start_hold(shell_service("one", f"{first}; {SAY_READY}; {WAIT}")).tool()
    tool.ask("subscribe")
    tool.until(lambda: tool.service("one")["state"] == "ready")
    assert tool.service("one")["generation"] == 2


def test_only_a_service_is_ready(start_hold: Starter) -> None:
    with pytest.raises(Exception, match="only a service"):
        start_hold().tool().ask("ready")


def test_program_self_is_a_sealed_copy(start_hold: Starter) -> None:
    row = shell_service("one", "", argv=["zos-one", "--version"], program="self", ready_timeout_ms=0)
    holding = start_hold(row)
    tool = holding.tool()
    tool.until(lambda: tool.service("one")["generation"] > 1)
    assert holding.log("one").startswith("zos-init 0.")
    descriptors = []
    for fd in Path(f"/proc/{holding.pid}/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):  # the service goes on restarting, and its descriptors change
            descriptors.append(os.readlink(fd))
    assert "/memfd:zos-init (deleted)" in descriptors


def test_path_gives_the_file_and_argv_the_title(start_hold: Starter) -> None:
    row = shell_service("one", "", argv=["zos-one", "-c", f"{SAY_READY}; read line <&3; read line <&3"], path="/bin/sh")
    tool = start_hold(row).tool()
    tool.until(lambda: tool.service("one")["state"] == "ready")
    pid = tool.service("one")["pid"]
    assert Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"zos-one\0-c\0")


def test_a_program_that_does_not_exist_is_said_at_the_start(start_hold: Starter, tmp_path: Path) -> None:
    good = shell_service("good", f"echo $$; {SAY_READY}; {WAIT}")
    bad = shell_service("bad", "", argv=[str(tmp_path / "absent")])
    with pytest.raises(NotStarted, match=r"service bad.*No such file") as failed:
        start_hold(good, bad)
    assert failed.value.args[1] == 91
    assert list((tmp_path / "run").iterdir()) == []


def test_services_end_when_hold_is_killed(start_hold: Starter) -> None:
    holding = start_hold(shell_service("one", f"{SAY_READY}; {WAIT}"))
    tool = holding.tool()
    with pidfd(tool.service("one")["pid"]) as service:
        holding.process.kill()
        wait_exit(service)
    holding.process.wait()


def test_logs_are_moved_aside_when_a_service_starts(start_hold: Starter, tmp_path: Path) -> None:
    (tmp_path / "log").mkdir(mode=0o700)
    (tmp_path / "log/one.log").write_bytes(b"x" * (1 << 20))
    holding = start_hold(shell_service("one", f"echo new; {SAY_READY}; {WAIT}"))
    tool = holding.tool()
    tool.until(lambda: tool.service("one")["state"] == "ready")
    assert holding.log("one") == "new\n"
    assert (tmp_path / "log/one.log.1").stat().st_size == 1 << 20


def test_requests_of_a_service_that_has_ended_still_count(start_hold: Starter) -> None:
    """What was sent on descriptor 3 before the end is done: nothing is lost between send and exit."""
    tool = start_hold(shell_service("one", f"{SAY_READY}; exit 0", restarts_max=0)).tool()
    tool.until(lambda: tool.service("one")["pid"] is None)
    assert tool.service("one")["state"] == "ended"


def test_stopped_service_ends_with_its_pidfd(start_hold: Starter) -> None:
    """SIGTERM, then SIGKILL after stop_timeout_ms."""
    stubborn = shell_service("one", f"trap '' TERM; {SAY_READY}; exec sleep 1000", stop_timeout_ms=200)
    holding = start_hold(stubborn)
    tool = holding.tool()
    tool.until(lambda: tool.service("one")["state"] == "ready")
    with pidfd(tool.service("one")["pid"]) as service:
        assert holding.end() == 0
        assert is_reaped(service)
