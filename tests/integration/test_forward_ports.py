"""forward publishes ports: docs/spec/forward.md against the real program, under a real hold."""

from __future__ import annotations

import hashlib
import os
import random
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import msgspec
import pytest

from tests.hold_tool import HoldTool, Refused, Starter, pidfd, wait_exit
from tests.service_tool import Service

TIMEOUT_S = 20.0
Handler = Callable[[socket.socket], None]


class Target:
    """A server that stands for a container's; each connection has a thread."""

    def __init__(self, handler: Handler, host: str = "127.0.0.1") -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.listener = socket.create_server((host, 0), family=family, backlog=1024)
        self.handler = handler
        self.address = text_of(self.listener)
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            connection.settimeout(TIMEOUT_S)
            threading.Thread(target=self._serve, args=[connection], daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            try:
                self.handler(connection)
            except OSError:
                return

    def close(self) -> None:
        # Wakes the thread in accept, which close alone does not.
        self.listener.shutdown(socket.SHUT_RDWR)
        self.listener.close()


def text_of(listener: socket.socket) -> str:
    host, port = listener.getsockname()[:2]
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def dial(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host.strip("[]"), int(port)), timeout=TIMEOUT_S)


def receive_all(connection: socket.socket) -> bytes:
    data = bytearray()
    while part := connection.recv(1 << 16):
        data += part
    return bytes(data)


def echo(connection: socket.socket) -> None:
    while part := connection.recv(1 << 16):
        connection.sendall(part)


def digest(connection: socket.socket) -> None:
    """Answers only when the other side has finished sending."""
    connection.sendall(hashlib.sha256(receive_all(connection)).hexdigest().encode())


def exchange(address: str, data: bytes) -> bytes:
    """Send all, say so, and take the whole answer meanwhile."""
    with dial(address) as connection, ThreadPoolExecutor(1) as pool:
        answer = pool.submit(receive_all, connection)
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        return answer.result()


@pytest.fixture
def service(start_hold: Starter) -> Service:
    return Service(start_hold, "forward", ["forward"])


@pytest.fixture
def forward(service: Service) -> HoldTool:
    return service.tool()


@pytest.fixture
def target() -> Iterator[Callable[..., Target]]:
    made: list[Target] = []

    def make(handler: Handler, host: str = "127.0.0.1") -> Target:
        made.append(Target(handler, host))
        return made[-1]

    yield make
    for one in made:
        one.close()


def add(forward: HoldTool, name: str, connect: str, listen: str = "127.0.0.1:0") -> str:
    bound: str = forward.ask("add", name=name, listen=listen, connect=connect)["listen"]
    return bound


def test_big_transfers_at_once(forward: HoldTool, target: Callable[..., Target]) -> None:
    address = add(forward, "c/0", target(echo).address)
    inputs = [random.Random(number).randbytes(4_000_000 + number) for number in range(8)]
    with ThreadPoolExecutor(len(inputs)) as pool:
        answers = list(pool.map(lambda data: exchange(address, data), inputs))
    assert [hashlib.sha256(answer).digest() for answer in answers] == [hashlib.sha256(data).digest() for data in inputs]
    (row,) = forward.ask("list")["rules"]
    total = sum(map(len, inputs))
    assert row | {"connections": 0} == {
        "name": "c/0",
        "listen": address,
        "connect": row["connect"],
        "connections": 0,
        "bytes_in": total,
        "bytes_out": total,
    }


def test_half_close_is_passed_on(forward: HoldTool, target: Callable[..., Target]) -> None:
    address = add(forward, "c/0", target(digest).address)
    for size in (0, 1, 3_000_000):
        data = random.Random(size).randbytes(size)
        assert exchange(address, data) == hashlib.sha256(data).hexdigest().encode()


def test_the_end_of_the_container_is_passed_on(forward: HoldTool, target: Callable[..., Target]) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"hello")

    address = add(forward, "c/0", target(greet).address)
    with dial(address) as connection:
        assert receive_all(connection) == b"hello"


def test_a_reset_is_passed_on(forward: HoldTool, target: Callable[..., Target]) -> None:
    def abort(connection: socket.socket) -> None:
        connection.recv(1)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")

    address = add(forward, "c/0", target(abort).address)
    with dial(address) as connection:
        connection.sendall(b"x")
        with pytest.raises(ConnectionResetError):
            receive_all(connection)


@pytest.mark.parametrize(("listen", "inside"), [("[::1]:0", "::1"), ("[::1]:0", "127.0.0.1"), ("127.0.0.1:0", "::1")])
def test_ipv6_on_either_side(forward: HoldTool, target: Callable[..., Target], listen: str, inside: str) -> None:
    try:
        server = target(echo, inside)
    except OSError as error:
        pytest.skip(f"no address {inside} here: {error}")
    address = add(forward, "c/0", server.address, listen)
    assert exchange(address, b"hello") == b"hello"


def test_both_families_may_have_one_port(forward: HoldTool, target: Callable[..., Target]) -> None:
    server = target(echo)
    four = add(forward, "c/0", server.address, "0.0.0.0:0")
    port = four.rpartition(":")[2]
    assert add(forward, "c/1", server.address, f"[::]:{port}") == f"[::]:{port}"
    assert exchange(f"127.0.0.1:{port}", b"4") == b"4"
    assert exchange(f"[::1]:{port}", b"6") == b"6"


def test_a_port_in_use(forward: HoldTool, target: Callable[..., Target]) -> None:
    server = target(echo)
    with pytest.raises(Refused, match=server.address) as refused:
        add(forward, "c/0", "127.0.0.1:9", server.address)
    assert refused.value.code == "forward.port-in-use"
    address = add(forward, "c/1", server.address)
    with pytest.raises(Refused) as refused:
        add(forward, "c/2", server.address, address)
    assert refused.value.code == "forward.port-in-use"
    assert [row["name"] for row in forward.ask("list")["rules"]] == ["c/1"]


def test_adding_again(service: Service, forward: HoldTool, target: Callable[..., Target]) -> None:
    server = target(echo)
    address = add(forward, "c/0", server.address)
    assert add(forward, "c/0", server.address) == address
    service.kill()
    forward = service.tool()
    assert add(forward, "c/0", server.address) == address
    with pytest.raises(Refused) as refused:
        add(forward, "c/0", server.address, "127.0.0.1:1")
    assert refused.value.code == "forward.exists"


@pytest.mark.parametrize(
    ("body", "code"),
    [
        ({"name": "c/0", "listen": "localhost:80", "connect": "127.0.0.1:80"}, "forward.bad-address"),
        ({"name": "c/0", "listen": "127.0.0.1:0", "connect": "127.0.0.1:0"}, "forward.bad-address"),
        ({"name": "c/0", "listen": "192.0.2.1:0", "connect": "127.0.0.1:80"}, "forward.no-such-address"),
        ({"name": "", "listen": "127.0.0.1:0", "connect": "127.0.0.1:80"}, "forward.bad-name"),
        ({"name": "c/0", "listen": "127.0.0.1:0"}, "frame.bad-body"),
    ],
)
def test_refusals(service: Service, forward: HoldTool, body: dict[str, object], code: str) -> None:
    with pytest.raises(Refused) as refused:
        forward.call("add", body)
    assert refused.value.code == code
    assert service.hold.names("listen/port/") == service.hold.names("rule/port/") == []


def test_remove_cuts_and_frees_the_port(service: Service, forward: HoldTool, target: Callable[..., Target]) -> None:
    server = target(echo)
    address = add(forward, "c/0", server.address)
    other = add(forward, "c/1", server.address)
    with dial(address) as connection, dial(other) as kept:
        for one in (connection, kept):
            one.sendall(b"x")
            assert one.recv(1) == b"x"
        forward.ask("remove", name="c/0")
        forward.ask("remove", name="c/0")
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
        kept.sendall(b"y")
        assert kept.recv(1) == b"y"
    assert service.hold.names("listen/port/") == ["listen/port/c/1"]
    assert service.hold.names("rule/port/") == ["rule/port/c/1"]
    with pytest.raises(ConnectionRefusedError):
        dial(address)
    assert add(forward, "c/2", server.address, address) == address


def test_kills_lose_no_listener(service: Service, forward: HoldTool, target: Callable[..., Target]) -> None:
    server = target(echo)
    addresses = [add(forward, f"c/{number}", server.address) for number in range(5)]
    for _ in range(20):
        pid = service.pid
        with pidfd(pid) as descriptor:
            signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            # While nobody accepts, the connections wait in the backlog.
            waiting = [dial(address) for address in addresses]
            wait_exit(descriptor)
        for connection in waiting:
            # One that the old process had accepted is reset; it is new connections that must not be lost.
            connection.close()
        assert all(exchange(address, b"hello") == b"hello" for address in addresses)
    assert [row["listen"] for row in service.tool().ask("list")["rules"]] == addresses


def test_connections_wait_while_there_is_no_process(
    service: Service, forward: HoldTool, target: Callable[..., Target]
) -> None:
    address = add(forward, "c/0", target(echo).address)
    pid = service.pid
    os.kill(pid, signal.SIGSTOP)
    waiting = [dial(address) for _ in range(50)]
    for connection in waiting:
        connection.sendall(b"hello")
    os.kill(pid, signal.SIGKILL)
    for connection in waiting:
        with connection:
            assert connection.recv(5, socket.MSG_WAITALL) == b"hello"


def test_a_container_that_refuses(forward: HoldTool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as closed:
        free = text_of(closed)
    address = add(forward, "c/0", free)
    with pytest.raises(ConnectionResetError), dial(address) as connection:  # it may be reset before connect(2) returns
        connection.recv(1)


def test_a_container_that_does_not_answer(forward: HoldTool) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = text_of(full)
        # A backlog of one is full with one connection; what comes then gets no answer at all.
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:
            filler.setblocking(False)
            filler.connect_ex(full.getsockname())
        published = add(forward, "c/0", address)
        with dial(published) as connection, pytest.raises(ConnectionResetError):
            connection.recv(1)
        for filler in fillers:
            filler.close()


def test_the_limit_leaves_others_in_the_backlog(start_hold: Starter, target: Callable[..., Target]) -> None:
    service = Service(start_hold, "forward", ["forward"], limit_nofile=2 * 4 * 6)
    assert service.pid
    assert "room for 4 connections" in service.log()
    forward = service.tool()
    address = add(forward, "c/0", target(echo).address)
    connections = [dial(address) for _ in range(6)]
    for connection in connections:
        connection.sendall(b"x")
    for connection in connections[:4]:
        assert connection.recv(1) == b"x"
    assert forward.ask("list")["rules"][0]["connections"] == 4
    for first, second in ((0, 4), (1, 5)):
        connections[first].close()
        assert connections[second].recv(1) == b"x"
    for connection in connections:
        connection.close()


def test_what_a_kill_left_unfinished_is_dropped(
    service: Service, forward: HoldTool, target: Callable[..., Target]
) -> None:
    address = add(forward, "c/0", target(echo).address)
    memory = os.memfd_create("rule", os.MFD_ALLOW_SEALING)
    os.write(memory, msgspec.msgpack.encode({"listen": "127.0.0.1:0", "connect": "127.0.0.1:80"}))
    service.hold.put("rule/port/c/1", memory)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        service.hold.put("listen/port/c/2", listener.fileno())
    service.kill()
    assert service.hold.names("rule/port/") == ["rule/port/c/0"]
    assert service.hold.names("listen/port/") == ["listen/port/c/0"]
    assert exchange(address, b"hello") == b"hello"


def test_a_dead_hold_ends_no_port_and_no_connection(
    service: Service, forward: HoldTool, target: Callable[..., Target]
) -> None:
    address = add(forward, "c/0", target(echo).address)
    with dial(address) as connection, pidfd(service.pid) as descriptor:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        os.kill(service.holding.pid, signal.SIGKILL)
        service.holding.process.wait()
        # It hears of it when it looks at its channel; from then on it changes nothing that hold would have to keep.
        with pytest.raises(Refused) as refused:
            while True:
                add(forward, "c/1", target(echo).address)
                forward.ask("remove", name="c/1")
        assert refused.value.code == "hold.gone"
        connection.sendall(b"y")
        assert connection.recv(1) == b"y"
        assert exchange(address, b"hello") == b"hello"
        signal.pidfd_send_signal(descriptor, signal.SIGTERM)
        wait_exit(descriptor)
    with pytest.raises(ConnectionRefusedError):
        dial(address)


def test_what_a_dying_hold_had_withdrawn_is_no_port_any_more(
    start_hold: Starter, target: Callable[..., Target]
) -> None:
    """hold carries a removal out and dies before it says so: whoever asks its successor finds no rule to remove."""
    service = Service(start_hold, "forward", ["forward"], survives=True)
    forward = service.tool()
    addresses = [add(forward, f"c/{number}", target(echo).address) for number in range(3)]
    with dial(addresses[2]) as connection:
        connection.sendall(b"x")
        assert connection.recv(1) == b"x"
        pid = service.pid
        service.hold.ask("drop", names=["listen/port/c/1"])
        service.hold.ask("drop", names=["listen/port/c/2", "rule/port/c/2"])
        service.lose_hold(pid)
        assert [row["name"] for row in forward.ask("list")["rules"]] == ["c/0"]
        with pytest.raises(ConnectionResetError):
            connection.recv(1)
    assert exchange(addresses[0], b"hello") == b"hello"
    for address in addresses[1:]:
        with pytest.raises(ConnectionRefusedError):
            dial(address)
    assert service.hold.names("rule/port/") == ["rule/port/c/0"]
    assert service.hold.names("listen/port/") == ["listen/port/c/0"]
    assert add(forward, "c/1", target(echo).address, addresses[1]) == addresses[1], "the address is free again"
    assert service.holding.end() == 0


def test_sigterm_is_clean(service: Service, forward: HoldTool, target: Callable[..., Target]) -> None:
    address = add(forward, "c/0", target(echo).address)
    service.kill(signal.SIGTERM)
    assert exchange(address, b"hello") == b"hello"
    assert service.holding.end() == 0
