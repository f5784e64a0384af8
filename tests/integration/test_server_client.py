"""Server and client of one endpoint table over real sockets, unix and TCP, under both loops."""

from __future__ import annotations

import asyncio
import json
import os
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

import msgspec
import pytest
import uvloop

from native.errors import ZosError
from zos_core.base import server as server_module
from zos_core.base.client import Client
from zos_core.base.document import Document, Record
from zos_core.base.endpoint import Endpoint, Problem, RemoteProblem
from zos_core.base.errors import AddressInUse, DocumentInvalid, Forbidden, RequestTimeout, Unreachable, UsageError
from zos_core.base.openapi import openapi
from zos_core.base.server import Caller, HandlerMismatch, Server, listen_tcp

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "stock": asyncio.new_event_loop,
}
Run = Callable[[Coroutine[Any, Any, None]], None]


class Want(Document, frozen=True, kw_only=True):
    memory_mib: Annotated[int, msgspec.Meta(ge=64)]


class Lines(Document, frozen=True, kw_only=True):
    count: int
    follow: bool = False
    since: str | None = None


class Echo(Record, frozen=True, kw_only=True):
    name: str
    memory_mib: int = 0
    uid: int | None = None


class TeapotError(ZosError):
    """Only of this test."""

    code, http_status, exit_status, retryable = "test.teapot", 418, 61, True


ECHO = Endpoint("GET", "/v1/echo/{name}", response=Echo, summary="Echo a name", errors=(TeapotError,))
MAKE = Endpoint("PUT", "/v1/echo/{name}", request=Want, response=Echo, summary="Make", request_bytes_max=1000)
LINES: Endpoint[None] = Endpoint("GET", "/v1/lines/{name}", query=Lines, stream=True, summary="Stream lines")
DROP: Endpoint[None] = Endpoint("DELETE", "/v1/echo/{name}", summary="Drop")


class Api:
    """Handlers, and what they saw."""

    def __init__(self) -> None:
        self.dropped: list[str] = []
        self.drop_may_end = asyncio.Event()
        self.stream_ended = asyncio.Event()
        self.drop_began = asyncio.Event()

    async def echo(self, *, caller: Caller, name: str) -> Echo:
        if name == "teapot":
            raise TeapotError("short and stout", hint="pour", lid=True)
        if name == "group":
            raise ExceptionGroup("of a task group", [TeapotError("inside")])
        if name == "bug":
            raise ZeroDivisionError("secret")
        if name == "slow":
            await asyncio.Event().wait()
        return Echo(name=name, uid=caller.uid)

    async def make(self, *, name: str, body: Want) -> Echo:
        return Echo(name=name, memory_mib=body.memory_mib)

    async def lines(self, *, name: str, query: Lines) -> AsyncIterator[bytes]:
        try:
            if name == "teapot":
                raise TeapotError("before the first chunk")
            for n in range(query.count):
                yield f"{name} {n}\n".encode()
            if name == "breaks":
                raise TeapotError("in the middle")
            if query.follow:
                yield b""
                await asyncio.Event().wait()
        finally:
            self.stream_ended.set()

    async def drop(self, *, name: str) -> None:
        self.drop_began.set()
        await self.drop_may_end.wait()
        self.dropped.append(name)

    def table(self) -> dict[Endpoint[Any], Callable[..., Any]]:
        return {ECHO: self.echo, MAKE: self.make, LINES: self.lines, DROP: self.drop}


def anyone(caller: Caller, endpoint: Endpoint[Any]) -> None:
    """Everybody may do everything."""


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    def run_(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main)

    return run_


@pytest.fixture(params=["unix", "tcp"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[socket.socket, Path | str]:
    if request.param == "unix":
        return socket.create_server(str(tmp_path / "api.sock"), family=socket.AF_UNIX), tmp_path / "api.sock"
    sock = listen_tcp("127.0.0.1:0")
    return sock, f"http://127.0.0.1:{sock.getsockname()[1]}"


Address = tuple[socket.socket, Path | str]


def test_calls_are_typed_and_the_caller_is_known(run: Run, address: Address) -> None:
    async def main() -> None:
        api = Api()
        async with Server(api.table(), title="t", authorize=anyone) as server:
            await server.listen(address[0])
            async with Client(address[1]) as client:
                name = "ü /%2F?#"
                uid = os.geteuid() if isinstance(address[1], Path) else None
                assert await client.call(ECHO, path={"name": name}) == Echo(name=name, uid=uid)
                made = await client.call(MAKE, path={"name": "x"}, body=Want(memory_mib=100))
                assert made == Echo(name="x", memory_mib=100)
                api.drop_may_end.set()
                await client.call(DROP, path={"name": "y"})
                assert api.dropped == ["y"]

    run(main())


def test_the_socket_file_outlives_the_server(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        sock = socket.create_server(str(tmp_path / "api.sock"), family=socket.AF_UNIX)
        async with Server(Api().table(), title="t", authorize=anyone) as server:
            await server.listen(sock)
        assert (tmp_path / "api.sock").exists()

    run(main())


def test_errors_keep_their_attributes(run: Run, address: Address) -> None:
    async def main() -> None:
        async with Server(Api().table(), title="t", authorize=anyone) as server:
            await server.listen(address[0])
            async with Client(address[1]) as client:
                with pytest.raises(RemoteProblem, match="short and stout") as caught:
                    await client.call(ECHO, path={"name": "teapot"})
                error = caught.value
                assert (error.code, error.exit_status, error.http_status) == ("test.teapot", 61, 418)
                hint = "pour" if isinstance(address[1], Path) else f"{address[1]} says: pour"
                assert (error.retryable, error.hint, error.context) == (True, hint, {"lid": True})
                with pytest.raises(RemoteProblem, match="inside"):
                    await client.call(ECHO, path={"name": "group"})
                with pytest.raises(RemoteProblem) as caught:
                    await client.call(ECHO, path={"name": "bug"})
                assert caught.value.code == "base.internal"
                assert "secret" not in caught.value.message

    run(main())


def test_bad_requests_are_refused(run: Run, address: Address) -> None:
    async def main() -> None:
        async with Server(Api().table(), title="t", authorize=anyone) as server:
            await server.listen(address[0])
            for method, target, body, status in [
                ("GET", "/nothing", b"", 404),
                ("POST", "/v1/echo/x", b"", 405),
                ("PUT", "/v1/echo/x", b"{}", 400),
                ("PUT", "/v1/echo/x", b"", 400),
                ("PUT", "/v1/echo/x", b'{"memory_mib": 5}', 400),
                ("PUT", "/v1/echo/x", b'{"memory_mib": 100, "more": 1}', 400),
                ("PUT", "/v1/echo/x", b" " * 2000, 413),
                ("GET", "/v1/echo/x?y=1", b"", 400),
                ("GET", "/v1/echo/x", b"body", 400),
                ("GET", "/v1/lines/x?count=1&count=2", b"", 400),
                ("GET", "/v1/lines/x?count=one", b"", 400),
                ("GET", "/v1/lines/x", b"", 400),
            ]:
                got, problem = await raw(address, method, target, body)
                assert (method, target, got) == (method, target, status)
                assert problem.code

    run(main())


async def raw(address: Address, method: str, target: str, body: bytes) -> tuple[int, Problem]:
    if isinstance(address[1], Path):
        reader, writer = await asyncio.open_unix_connection(os.fspath(address[1]))
    else:
        reader, writer = await asyncio.open_connection(*address[0].getsockname())
    length = f"Content-Length: {len(body)}\r\n" if body else ""
    writer.write(f"{method} {target} HTTP/1.1\r\nHost: x\r\n{length}\r\n".encode() + body)
    answer = await reader.read()  # to the end: an error closes the connection
    writer.close()
    head, _, data = answer.partition(b"\r\n\r\n")
    assert b"application/problem+json" in head
    return int(head.split()[1]), msgspec.json.decode(data, type=Problem)


def test_streams_arrive_and_break_visibly(run: Run, address: Address) -> None:
    async def main() -> None:
        api = Api()
        async with Server(api.table(), title="t", authorize=anyone) as server:
            await server.listen(address[0])
            async with Client(address[1]) as client:
                assert await text(client, "x", Lines(count=3)) == "x 0\nx 1\nx 2\n"
                assert await text(client, "x", Lines(count=0)) == ""
                with pytest.raises(RemoteProblem, match="before the first chunk"):
                    await text(client, "teapot", Lines(count=3))
                with pytest.raises(Unreachable):
                    await text(client, "breaks", Lines(count=3))
                api.stream_ended.clear()
                async with client.stream(LINES, path={"name": "f"}, query=Lines(count=1, follow=True)) as chunks:
                    async for chunk in chunks:
                        assert chunk == b"f 0\n"
                        break
                async with asyncio.timeout(10):  # we left, so the handler is cancelled
                    await api.stream_ended.wait()

    async def text(client: Client, name: str, query: Lines) -> str:
        async with client.stream(LINES, path={"name": name}, query=query) as chunks:
            return b"".join([chunk async for chunk in chunks]).decode()

    run(main())


def test_a_change_runs_to_its_end_without_its_client(run: Run, address: Address) -> None:
    async def main() -> None:
        api = Api()
        async with Server(api.table(), title="t", authorize=anyone) as server:
            await server.listen(address[0])
            async with Client(address[1]) as client, asyncio.TaskGroup() as group:
                asked = group.create_task(client.call(DROP, path={"name": "y"}))
                await api.drop_began.wait()
                asked.cancel()
            api.drop_may_end.set()
        assert api.dropped == ["y"]

    run(main())


def test_deadlines_and_absence(run: Run, address: Address, tmp_path: Path) -> None:
    async def main() -> None:
        async with Server(Api().table(), title="t", authorize=anyone) as server:
            await server.listen(address[0])
            async with Client(address[1]) as client:
                with pytest.raises(RequestTimeout):
                    await client.call(ECHO, path={"name": "slow"}, timeout_s=0.05)
        async with Client(address[1]) as client:
            with pytest.raises(Unreachable):
                await client.call(ECHO, path={"name": "x"})
        async with Client(tmp_path / "none.sock") as client:
            with pytest.raises(Unreachable, match=r"none\.sock"):
                await client.call(ECHO, path={"name": "x"})

    run(main())


def test_who_may_not_is_refused(run: Run, address: Address) -> None:
    def nobody(caller: Caller, endpoint: Endpoint[Any]) -> None:
        raise Forbidden(f"{endpoint} is not for uid {caller.uid}")

    async def main() -> None:
        async with Server(Api().table(), title="t", authorize=nobody) as server:
            await server.listen(address[0])
            async with Client(address[1]) as client:
                with pytest.raises(RemoteProblem) as caught:
                    await client.call(ECHO, path={"name": "x"})
                assert caught.value.code == "http.forbidden"

    run(main())


def test_connections_are_bounded(run: Run, address: Address) -> None:
    async def main() -> None:
        async with Server(Api().table(), title="t", authorize=anyone, connections_max=1) as server:
            await server.listen(address[0])
            async with Client(address[1]) as first, asyncio.timeout(20):
                async with first.stream(LINES, path={"name": "f"}, query=Lines(count=1, follow=True)):
                    async with Client(address[1]) as second:
                        with pytest.raises(RemoteProblem) as caught:
                            await second.call(ECHO, path={"name": "x"})
                        assert caught.value.code == "http.busy"

    run(main())


def test_a_silent_client_is_cut_off(run: Run, address: Address, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_S", 0.1)

    async def main() -> None:
        async with Server(Api().table(), title="t", authorize=anyone) as server, asyncio.timeout(20):
            await server.listen(address[0])
            if isinstance(address[1], Path):
                reader, writer = await asyncio.open_unix_connection(os.fspath(address[1]))
            else:
                reader, writer = await asyncio.open_connection(*address[0].getsockname())
            writer.write(b"GET /v1/echo/x HTTP/1.1\r\nHost")
            assert await reader.read() == b""
            writer.close()

    run(main())


async def _wrong_name(*, nam: str) -> Echo:
    return Echo(name=nam)


async def _wrong_return(*, name: str) -> str:
    return name


async def _wrong_caller(*, caller: int, name: str) -> Echo:
    return Echo(name=name)


def _not_async(*, name: str) -> Echo:
    return Echo(name=name)


@pytest.mark.parametrize("handler", [_wrong_name, _wrong_return, _wrong_caller, _not_async])
def test_a_handler_that_does_not_fit_is_found_at_start(handler: Callable[..., Any]) -> None:
    with pytest.raises(HandlerMismatch, match="GET /v1/echo"):
        Server({ECHO: handler}, title="t", authorize=anyone)


def test_the_document_describes_the_table() -> None:
    document = openapi([ECHO, MAKE, LINES, DROP], title="t")
    assert set(document["paths"]) == {"/v1/echo/{name}", "/v1/lines/{name}"}
    operation = document["paths"]["/v1/echo/{name}"]["get"]
    assert set(operation["responses"]) == {"200", "418", "default"}
    names = [parameter["name"] for parameter in document["paths"]["/v1/lines/{name}"]["get"]["parameters"]]
    assert names == ["name", "count", "follow", "since"]
    json.dumps(document)


@pytest.mark.parametrize("text", ["7080", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:x", "nowhere.invalid.:80"])
def test_listen_addresses_are_checked(text: str) -> None:
    with pytest.raises(UsageError):
        listen_tcp(text)


def test_a_port_in_use_is_named() -> None:
    with listen_tcp("127.0.0.1:0") as sock:
        address = f"127.0.0.1:{sock.getsockname()[1]}"
        with pytest.raises(AddressInUse, match=address):
            listen_tcp(address)


@pytest.mark.parametrize("name", ["", ".", ".."])
def test_a_segment_that_would_be_resolved_away_is_refused(name: str) -> None:
    with pytest.raises(DocumentInvalid):
        ECHO.fill({"name": name})
