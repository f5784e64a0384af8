"""A process of the node that has no descriptor left says so at once, keeps what it has, and recovers (FRAME-10)."""

from __future__ import annotations

import contextlib
import os
import resource
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
import pytest

from tests.hold_tool import HoldTool, Refused, Starter
from tests.integration import spawn_kit
from tests.integration.blockd_kit import IMAGE, make_image, mixed_sizes, read_all, running
from tests.service_tool import Output, Service, output, read_log, write_all
from zos_core.base import frame

LOG_LIMITS = {"file_bytes_max": 1 << 24, "files_max": 4}
# An answer in more than this is no answer: the bound of what used to take minutes.
AT_ONCE_S = 5.0


@contextmanager
def limited(pid: int, *, more: int) -> Iterator[int]:
    """Let a process have only so many descriptors more than the highest that it has; back at the end."""
    numbers = [int(name) for name in os.listdir(f"/proc/{pid}/fd")]
    soft, hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    limit = max(numbers) + 1 + more
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield limit
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def crowd(connect: Callable[[], HoldTool], ask: Callable[[HoldTool], object]) -> tuple[list[HoldTool], Refused]:
    """Clients until one is refused, each of whom has been answered; how the last one was told."""
    clients: list[HoldTool] = []
    while True:
        began = time.monotonic()
        client = connect()
        clients.append(client)
        try:
            ask(client)
        except Refused as refused:
            assert time.monotonic() - began < AT_ONCE_S
            return clients, refused
        assert len(clients) < 300, "nobody was refused"


def check_told(refused: Refused, *, process: str, limit: int) -> None:
    """The error says of whom, and which limit."""
    assert refused.code == "frame.no-descriptors"
    assert str(refused).startswith(f"{process} has no descriptor left")
    assert f"(RLIMIT_NOFILE) is {limit}" in str(refused)


def is_idle(pid: int) -> bool:
    """Whether a process that nobody asks for anything does not go round: it runs less than half of the time."""

    def ticks() -> int:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return int(fields[11]) + int(fields[12])

    before = ticks()
    threading.Event().wait(0.5)
    return ticks() - before < 25


@pytest.mark.root
def test_logd_refuses_a_client_too_many(start_hold: Starter, tmp_path: Path) -> None:
    service = Service(start_hold, "logd", ["log", "--dir", str(tmp_path / "logs")])
    logd = service.tool()
    one = Output(service, "c")
    logd.ask("attach", name="c", **LOG_LIMITS)
    with limited(service.pid, more=24) as limit:
        clients, refused = crowd(service.tool, lambda client: client.ask("position", name="c"))
        check_told(refused, process="logd", limit=limit)
        write_all(one.stdout, b"still written\n")
        logd.ask("watch", name="c")
        while logd.ask("position", name="c")["offset"] == 0:
            logd.event("grown", name="c")
        for client in clients:
            client.socket.close()
        service.tool().ask("position", name="c")
    one.close()
    logd.event("closed", name="c")
    assert output(read_log(tmp_path / "logs" / "c")) == {1: b"still written\n"}


@pytest.mark.root
def test_logd_takes_no_more_logs_than_it_can_turn(start_hold: Starter, tmp_path: Path) -> None:
    service = Service(start_hold, "logd", ["log", "--dir", str(tmp_path / "logs")])
    logd = service.tool()
    first = Output(service, "c")
    logd.ask("attach", name="c", file_bytes_max=131_072, files_max=64)
    with limited(service.pid, more=40) as limit:
        outputs: list[Output] = []
        refused: Refused | None = None
        while refused is None:
            outputs.append(Output(service, f"d{len(outputs)}", pipe_bytes=1 << 16))
            try:
                logd.ask("attach", name=outputs[-1].name, **LOG_LIMITS)
            except Refused as error:
                refused = error
            assert len(outputs) < 100
        check_told(refused, process="logd", limit=limit)
        data = os.urandom(600_000)  # several files: turning needs a descriptor
        write_all(first.stdout, data)
        logd.ask("remove", name="d0")
        logd.ask("attach", name=outputs[-1].name, **LOG_LIMITS)
    first.close()
    logd.ask("watch", name="c")
    logd.event("closed", name="c")
    assert output(read_log(tmp_path / "logs" / "c")) == {1: data}
    for one in outputs:
        one.close()


@pytest.mark.root
def test_nobody_spins_where_not_even_a_refusal_goes_out(start_hold: Starter, tmp_path: Path) -> None:
    service = Service(start_hold, "logd", ["log", "--dir", str(tmp_path / "logs")])
    logd, pid = service.tool(), service.pid
    one = Output(service, "c")
    logd.ask("attach", name="c", **LOG_LIMITS)
    with limited(pid, more=-8):
        waiting = service.tool()
        waiting.send_map(b"\x83\xa2id\x01\xa2op\xa8position\xa4body\x81\xa4name\xa1c")
        assert logd.ask("position", name="c")["open"], "who is in is served"
        assert is_idle(pid)
    message, _ = waiting.receive()
    assert isinstance(message, frame.Reply), "let in once there is room"
    assert msgspec.msgpack.decode(message.body)["open"]
    one.close()


@pytest.mark.root
def test_forward_refuses_a_client_too_many(start_hold: Starter) -> None:
    service = Service(start_hold, "forward", ["forward"])
    with limited(service.pid, more=24) as limit:
        clients, refused = crowd(service.tool, lambda client: client.ask("list"))
        check_told(refused, process="forward", limit=limit)
        assert clients[0].ask("list") == {"rules": []}
        for client in clients:
            client.socket.close()
        service.tool().ask("list")


@pytest.mark.root
def test_hold_refuses_a_tool_and_a_descriptor_too_many(start_hold: Starter) -> None:
    holding = start_hold()
    tool = holding.tool()
    with limited(holding.pid, more=22) as limit:
        clients, refused = crowd(holding.tool, lambda client: client.ask("services"))
        check_told(refused, process="hold", limit=limit)
        with open(os.devnull) as null:
            kept = 0
            while True:
                try:
                    tool.put(f"x/{kept}", null.fileno())
                except Refused as error:
                    check_told(error, process="hold", limit=limit)
                    break
                kept += 1
                assert kept < 100
            assert len(tool.names("x/")) == kept, "its connection stands, and what was kept is kept"
            for client in clients:
                client.socket.close()
            tool.ask("drop", prefix="x/")
            tool.put("x/again", null.fileno())
    holding.tool().ask("services")


@pytest.mark.root
def test_hold_with_few_says_which_limit(start_hold: Starter) -> None:
    start_hold.limit_nofile = 230
    holding = start_hold()
    tool = holding.tool()
    with open(os.devnull) as null, pytest.raises(Refused) as refused:
        for number in range(200):
            tool.put(f"x/{number}", null.fileno())
    assert refused.value.code == "hold.full"
    assert "(RLIMIT_NOFILE) is 230" in str(refused.value)


@pytest.mark.root
def test_blockd_refuses_a_client_too_many_and_serves_on(start_hold: Starter, tmp_path: Path) -> None:
    image = make_image(tmp_path / "store", mixed_sizes(40))
    with running(start_hold, tmp_path) as tree:
        tree.serve(image)
        pid = int(tree.hold.service("blockd")["pid"])
        with limited(pid, more=24) as limit:
            clients, refused = crowd(
                lambda: HoldTool(tree.holding.run_dir / "blockd.sock"),
                lambda client: client.ask("status", image=IMAGE),
            )
            check_told(refused, process="blockd", limit=limit)
            assert read_all(tree.file(), len(image.blob)) == image.blob
            for client in clients:
                client.socket.close()
        with HoldTool(tree.holding.run_dir / "blockd.sock") as again:
            again.ask("status", image=IMAGE)


@pytest.mark.root
def test_spawn_refuses_a_client_too_many_and_makes_what_it_is_asked_in_turn(tmp_path: Path) -> None:
    with spawn_kit.running(tmp_path) as tree:
        tree.mount_extracted()
        tree.launch("first", "/bin/sleep", "100")
        pid = int(tree.service()["pid"])
        with limited(pid, more=40) as limit:
            clients, refused = crowd(lambda: HoldTool(tmp_path / "run/spawn.sock"), lambda client: client.ask("probe"))
            check_told(refused, process="spawn", limit=limit)
            for client in clients:
                client.socket.close()
            names = [f"many-{number}" for number in range(30)]
            bodies = [tree.launch_body(name, "/bin/true") for name in names]
            asked = [tree.spawn.send("launch", body) for body in bodies]
            for number in asked:  # more at once than there are descriptors for: they wait for each other
                _, [pidfd] = tree.spawn.answer(number)
                os.close(pidfd)
            for name in names:
                assert tree.finish(name)[0] == 0
        with limited(pid, more=2) as limit:
            body = tree.launch_body("none", "/bin/true")
            with pytest.raises(spawn_kit.Refused) as caught:
                tree.spawn.ask("launch", **body)
            assert caught.value.code == "frame.no-descriptors"
            assert f"spawn has no descriptor left to pipe: its limit (RLIMIT_NOFILE) is {limit}" in str(caught.value)
        assert tree.run("echo again") == (0, "again\n", "")
        tree.exec("first", 1, "/bin/true")
