"""Nothing that a client sends stops hold: garbage, half frames, floods, silence."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.hold_tool import Gone, Holding, HoldTool, Refused, Starter, pidfd
from zos_core.base import frame

OPS = ["ready", "put", "get", "list", "drop", "register", "children", "exits", "ack", "subscribe", "services", "kill"]
KEYS = ["name", "names", "prefix", "replace", "generation", "pid", "keep", "after", "seq", "signal", "x"]


@pytest.fixture(scope="module")
def holding(zos_init: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Holding]:
    starter = Starter(zos_init, tmp_path_factory.mktemp("hostile"))
    yield starter()
    starter.close()


def still_works(holding: Holding) -> None:
    assert holding.process.poll() is None
    with HoldTool(holding.run_dir / "hold.sock") as tool:
        tool.names("x")


@given(st.binary(max_size=300), st.integers(0, 3))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_datagram(holding: Holding, data: bytes, fds: int) -> None:
    with HoldTool(holding.run_dir / "hold.sock") as tool:
        with contextlib.suppress(BrokenPipeError):
            tool.send_raw(data or b"\0", [0] * fds)
            tool.send_raw(data or b"\0")
        with contextlib.suppress(Gone):
            tool.receive()
    still_works(holding)


@given(st.binary(min_size=1, max_size=300))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_map_in_a_good_frame(holding: Holding, data: bytes) -> None:
    with HoldTool(holding.run_dir / "hold.sock") as tool:
        tool.send_map(data)
        with contextlib.suppress(Gone):
            tool.receive()
    still_works(holding)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.text(max_size=20) | st.binary(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=10,
)


@given(st.sampled_from(OPS), st.dictionaries(st.sampled_from(KEYS), values, max_size=5), st.integers(0, 3))
@settings(max_examples=300, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_body_of_any_operation_is_answered(holding: Holding, op: str, body: dict[str, object], fds: int) -> None:
    with HoldTool(holding.run_dir / "hold.sock") as tool:
        tool.send_map(frame.encode_request(1, op, body), [0] * fds)
        answer, received = tool.receive()
        frame.close_all(received)
    assert isinstance(answer, (frame.Reply, frame.Failure))
    if isinstance(answer, frame.Failure):
        assert answer.error.remote_code.startswith(("frame.", "hold."))


def test_replies_and_events_are_no_requests(holding: Holding) -> None:
    for data in (frame.encode_reply(1, {}), frame.encode_event("exit", {}), frame.encode_error(1, "a", "b")):
        with HoldTool(holding.run_dir / "hold.sock") as tool:
            tool.send_map(data)
            with pytest.raises(Gone):
                tool.receive()
    still_works(holding)


def test_an_unknown_key_beside_the_body_ends_the_connection(holding: Holding) -> None:
    with HoldTool(holding.run_dir / "hold.sock") as tool:
        tool.send_map(b"\x84\xa2id\x01\xa2op\xa4list\xa4body\x81\xa6prefix\xa0\xa1z\x01")
        with pytest.raises(Gone):
            tool.receive()


def test_descriptors_of_refused_frames_are_closed(holding: Holding) -> None:
    read, write = os.pipe()
    with HoldTool(holding.run_dir / "hold.sock") as tool:
        with pytest.raises(Refused):
            tool.call("list", {"prefix": ""}, [write] * 8)
        with pytest.raises(Refused):
            tool.call("put", {"name": "bad name"}, [write])
        tool.send_raw(b"garbage", [write] * 64)
        with pytest.raises(Gone):
            tool.receive()
    os.close(write)
    assert os.read(read, 1) == b"", "nobody has the write end any more"


def test_a_client_that_takes_no_answers_is_not_listened_to(holding: Holding) -> None:
    """It blocks itself and nobody else, and hold's memory does not grow."""
    with HoldTool(holding.run_dir / "hold.sock") as tool:
        tool.socket.setblocking(False)
        sent = 0
        with contextlib.suppress(BlockingIOError):
            while sent < 100_000:
                tool.send_map(frame.encode_request(sent, "services", {}))
                sent += 1
        assert sent < 100_000
        still_works(holding)
        tool.socket.settimeout(20)
        for number in range(sent):
            message, _ = tool.receive()
            assert isinstance(message, frame.Reply)
            assert message.id == number


@pytest.mark.timeout(300)  # some thousand processes, one after the other
def test_a_slow_subscriber_is_cut_off_and_nobody_waits(start_hold: Starter) -> None:
    holding = start_hold(launcher=True)
    slow, quick = holding.tool(), holding.tool()
    slow.ask("subscribe")
    quick.ask("subscribe")
    rounds = 0
    while "does not take its events" not in holding.log():
        rounds += 1
        assert rounds < 20_000
        pid = holding.launch("exec sleep 1000", quick)
        with pidfd(pid) as descriptor:
            quick.call("register", {"name": "c" * 240, "generation": 1, "pid": pid, "keep": []}, [descriptor])
        os.kill(pid, signal.SIGKILL)
        quick.event("exit", pid=pid)
    slow.wait_end()
    assert len(quick.ask("exits", after=0)["exits"]) == rounds, "and nothing is lost"


def test_connections_that_come_and_go(holding: Holding) -> None:
    before = len(os.listdir(f"/proc/{holding.pid}/fd"))
    for _ in range(200):
        with HoldTool(holding.run_dir / "hold.sock") as tool:
            tool.send_map(frame.encode_request(1, "list", {"prefix": ""}))
    still_works(holding)
    with HoldTool(holding.run_dir / "hold.sock") as tool:
        tool.until(lambda: len(os.listdir(f"/proc/{holding.pid}/fd")) <= before + 1)
