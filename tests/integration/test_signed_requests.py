"""Signed endpoints over real sockets: who calls is known by key; replays are refused, over a restart too."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from zos_core.base.client import Client
from zos_core.base.document import Document, Record
from zos_core.base.endpoint import Endpoint, RemoteProblem
from zos_core.base.keyring import Key
from zos_core.base.nonces import NonceStore
from zos_core.base.openapi import openapi
from zos_core.base.request_signature import Message, Signer
from zos_core.base.server import Caller, HandlerMismatch, Server, Verifier, listen_tcp

KEY = Key("jane", SigningKey(bytes(range(32))))
STRANGER = Key("eve", SigningKey(bytes(32)))


class Where(Document, frozen=True, kw_only=True):
    offset: int
    name: str | None = None


class Seen(Record, frozen=True, kw_only=True):
    public: bytes | None
    body: bytes
    item: str


PUT = Endpoint(
    "PUT", "/v1/things/{item}", request=bytes, query=Where, response=Seen, signed=True, summary="Put",
    request_bytes_max=100_000,
)  # fmt: skip
DROP: Endpoint[None] = Endpoint("DELETE", "/v1/things/{item}", signed=True, summary="Drop")


class Api:
    def __init__(self) -> None:
        self.calls: list[str] = []

    async def put(self, *, caller: Caller, item: str, query: Where, body: bytes) -> Seen:
        self.calls.append(item)
        return Seen(public=caller.public, body=body, item=item)

    async def drop(self, *, item: str) -> None:
        self.calls.append(item)


def anyone(caller: Caller, endpoint: Endpoint[Any]) -> None:
    assert caller.public is not None


@asynccontextmanager
async def served(api: Api, sock: socket.socket, path: Path, **options: Any) -> AsyncIterator[None]:
    nonces = NonceStore(path / "nonces")
    verifier = Verifier(known=lambda public: public == KEY.public, nonces=nonces, **options)
    try:
        async with Server({PUT: api.put, DROP: api.drop}, title="t", authorize=anyone, verifier=verifier) as server:
            await server.listen(sock)
            yield
    finally:
        nonces.close()


def url_of(sock: socket.socket, host: str = "127.0.0.1") -> str:
    return f"http://{host}:{sock.getsockname()[1]}"


@pytest.mark.parametrize("kind", ["unix", "tcp", "localhost", "ipv6"])
async def test_the_caller_is_known_by_its_key(kind: str, tmp_path: Path) -> None:
    address: Path | str = tmp_path / "api.sock"
    if kind == "unix":
        sock = socket.create_server(str(tmp_path / "api.sock"), family=socket.AF_UNIX)
    else:
        sock = listen_tcp("[::1]:0" if kind == "ipv6" else "127.0.0.1:0")
        address = url_of(sock, {"ipv6": "[::1]", "localhost": "localhost"}.get(kind, "127.0.0.1"))
    api = Api()
    async with served(api, sock, tmp_path), Client(address, signer=Signer(KEY)) as client:
        item = "ü /%2F?#"
        body = bytes(range(256)) * 300
        seen = await client.call(PUT, path={"item": item}, query=Where(offset=0, name="a b+&ü"), body=body)
        assert seen == Seen(public=KEY.public, body=body, item=item)
        await client.call(DROP, path={"item": "x"})
    assert api.calls == [item, "x"]


async def refused(client: Client, item: str = "x", body: bytes = b"abc") -> str:
    with pytest.raises(RemoteProblem) as caught:
        await client.call(PUT, path={"item": item}, query=Where(offset=0), body=body)
    return caught.value.code


async def test_strangers_wrong_clocks_and_other_servers(tmp_path: Path) -> None:
    api = Api()
    sock = listen_tcp("127.0.0.1:0")
    url = url_of(sock)
    async with served(api, sock, tmp_path):
        async with Client(url, signer=Signer(STRANGER)) as client:
            assert await refused(client) == "request.key-unknown"
        for shift_s, code in ((-3600, "request.expired"), (3600, "request.clock-skew")):

            def clock_ns(shift_s: int = shift_s) -> int:
                return time.time_ns() + shift_s * 1_000_000_000

            async with Client(url, signer=Signer(KEY), clock_ns=clock_ns) as client:
                assert await refused(client) == code
        async with Client(url, signer=Signer(KEY)) as client:
            assert await refused(client, body=bytes(100_001)) == "http.body-too-long"
    assert api.calls == []


def request(sock: socket.socket, body: bytes = b"abc", **changed: str) -> dict[str, Any]:
    """A signed request, of which the parts named in `changed` are then others."""
    message = Message(
        method="PUT",
        authority=changed.pop("signed_for", f"127.0.0.1:{sock.getsockname()[1]}"),
        path="/v1/things/x",
        query="offset=0",
        fields={},
    )
    fields = Signer(KEY).sign(message, body, now_s=time.time_ns() // 10**9, nonce=bytes(16))
    return {"method": "PUT", "host": message.authority, "target": "/v1/things/x?offset=0", **fields, **changed}


async def send(sock: socket.socket, parts: dict[str, Any], body: bytes = b"abc") -> tuple[int, str]:
    fields = {name: value for name, value in parts.items() if name not in ("method", "host", "target")}
    head = f"{parts['method']} {parts['target']} HTTP/1.1\r\nHost: {parts['host']}\r\nConnection: close\r\n"
    head += "".join(f"{name}: {value}\r\n" for name, value in fields.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", sock.getsockname()[1])
    writer.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    async with asyncio.timeout(20):
        answer = await reader.read()
    writer.close()
    head_bytes, _, data = answer.partition(b"\r\n\r\n")
    return int(head_bytes.split()[1]), json.loads(data).get("code", "")


async def test_what_a_man_in_the_middle_changes_is_refused(tmp_path: Path) -> None:
    api = Api()
    sock = listen_tcp("127.0.0.1:0")
    async with served(api, sock, tmp_path):
        for parts, body, code in [
            (request(sock, target="/v1/things/y?offset=0"), b"abc", "request.signature-wrong"),
            (request(sock, target="/v1/things/x?offset=1"), b"abc", "request.signature-wrong"),
            (request(sock, target="/v1/things/%78?offset=0"), b"abc", "request.signature-wrong"),
            (request(sock, method="DELETE"), b"abc", "request.signature-wrong"),
            (request(sock, host="localhost:1"), b"abc", "request.wrong-audience"),
            (request(sock, signed_for="hub.example"), b"abc", "request.wrong-audience"),
            (request(sock), b"abd", "request.body-changed"),
        ]:
            assert (await send(sock, parts, body))[1] == code
    assert api.calls == []


async def test_a_replay_is_refused_after_a_restart_too(tmp_path: Path) -> None:
    api = Api()
    sock = listen_tcp("127.0.0.1:0")
    again = socket.socket(fileno=os.dup(sock.fileno()))
    parts = request(sock)
    async with served(api, sock, tmp_path):
        assert (await send(sock, parts))[0] == 200
        assert await send(sock, parts) == (401, "request.replayed")
        at_once = await asyncio.wait_for(_both(sock, {**request(sock), **_fresh(sock)}), 20)
        assert sorted(at_once) == [200, 401]
    async with served(api, again, tmp_path):
        assert await send(again, parts) == (401, "request.replayed")
    assert api.calls == ["x", "x"]


def _fresh(sock: socket.socket) -> dict[str, str]:
    message = Message(
        method="PUT", authority=f"127.0.0.1:{sock.getsockname()[1]}", path="/v1/things/x", query="offset=0", fields={}
    )
    return Signer(KEY).sign(message, b"abc", now_s=time.time_ns() // 10**9, nonce=bytes([1] * 16))


async def _both(sock: socket.socket, parts: dict[str, Any]) -> list[int]:
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(send(sock, parts), name=f"send {n}") for n in range(2)]
    return [task.result()[0] for task in tasks]


def test_a_signed_endpoint_needs_a_verifier() -> None:
    with pytest.raises(HandlerMismatch):
        Server({PUT: Api().put}, title="t", authorize=anyone)


def test_the_document_says_what_is_signed() -> None:
    operation = openapi([PUT], title="t")["paths"]["/v1/things/{item}"]["put"]
    assert {"Content-Digest", "Signature-Input", "Signature"} <= {each["name"] for each in operation["parameters"]}
    assert list(operation["requestBody"]["content"]) == ["application/octet-stream"]
