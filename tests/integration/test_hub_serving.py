"""The hub over real sockets: objects, ranges, validators, counts, bounds (HUB-1..6)."""

from __future__ import annotations

import asyncio
import json
import select
import socket
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from flist.hub import STATISTICS, KindStatistics, serve_hub
from flist.hub import server as hub_module
from flist.hub.ranges import Span, Unsatisfiable, span_of
from flist.store import DirectoryStore, HttpStore
from zos_core.base import server as server_module
from zos_core.base.client import Client
from zos_core.base.server import listen_tcp

HASH = "ab" * 32
PACK = f"pack/{HASH}"
NAME = "name/jane/web/latest"
DATA = bytes(range(256)) * 4096


@asynccontextmanager
async def hub(root: Path) -> AsyncIterator[str]:
    store = DirectoryStore(root)
    await store.put(PACK, DATA)
    await store.put(NAME, b"a record")
    with listen_tcp("127.0.0.1:0") as sock:
        async with serve_hub(store, sock):
            yield f"http://127.0.0.1:{sock.getsockname()[1]}"


async def ask(url: str, method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str], bytes]:
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    async with aiohttp.ClientSession() as session, session.request(method, url, headers=names) as response:
        return response.status, response.headers, await response.read()


async def test_objects_come_whole_and_in_ranges(tmp_path: Path) -> None:
    async with hub(tmp_path) as url, HttpStore(url) as store:
        assert await store.get(PACK) == DATA
        for first, last in ((1000, 70_999), (len(DATA) - 1, len(DATA) - 1)):
            assert (await ask(f"{url}/{PACK}", Range=f"bytes={first}-{last}"))[2] == DATA[first : last + 1]
        assert await store.get(NAME) == b"a record"
        assert await store.has(PACK)
        assert not await store.has("pack/" + "0" * 64)


async def test_what_a_range_header_means(tmp_path: Path) -> None:
    async with hub(tmp_path) as url:
        for header, status, said, body in [
            ("bytes=0-9", 206, f"bytes 0-9/{len(DATA)}", DATA[:10]),
            ("bytes=1048570-", 206, f"bytes 1048570-1048575/{len(DATA)}", DATA[-6:]),
            ("bytes=-5", 206, f"bytes 1048571-1048575/{len(DATA)}", DATA[-5:]),
            ("bytes=1048570-99999999", 206, f"bytes 1048570-1048575/{len(DATA)}", DATA[-6:]),
            ("bytes=1048576-", 416, f"bytes */{len(DATA)}", b""),
            ("bytes=5-2", 200, None, DATA),
            ("bytes=0-1,4-5", 200, None, DATA),
            ("lines=0-1", 200, None, DATA),
        ]:
            found_status, headers, found = await ask(f"{url}/{PACK}", Range=header)
            assert (header, found_status, headers.get("Content-Range")) == (header, status, said)
            assert found == body


def test_ranges_of_an_empty_object() -> None:
    assert span_of(None, 0) == Span(0, 0, False)
    assert span_of("bytes=-", 5) == Span(0, 5, False)
    for header in ("bytes=0-", "bytes=0-0", "bytes=-1"):
        with pytest.raises(Unsatisfiable):
            span_of(header, 0)


async def test_validators(tmp_path: Path) -> None:
    async with hub(tmp_path) as url:
        _, headers, _ = await ask(f"{url}/{PACK}")
        assert headers["ETag"] == f'"{HASH}"'
        assert "immutable" in headers["Cache-Control"]
        status, _, body = await ask(f"{url}/{PACK}", If_None_Match=f'"{HASH}"')
        assert (status, body) == (304, b"")
        _, headers, _ = await ask(f"{url}/{NAME}")
        assert headers["Cache-Control"] == "no-cache"
        before = headers["ETag"]
        await DirectoryStore(tmp_path).put(NAME, b"another record")
        status, headers, _ = await ask(f"{url}/{NAME}", If_None_Match=before)
        assert status == 200
        assert headers["ETag"] != before
        status, _, body = await ask(f"{url}/{NAME}", Range="bytes=0-3", If_Range=before)
        assert (status, body) == (200, b"another record")


async def test_head_has_no_body(tmp_path: Path) -> None:
    async with hub(tmp_path) as url:
        status, headers, body = await ask(f"{url}/{PACK}", "HEAD")
        assert (status, headers["Content-Length"], body) == (200, str(len(DATA)), b"")


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/", 404),
        ("/etc/passwd", 404),
        ("/pack/" + "0" * 64, 404),
        ("/pack/short", 422),
        ("/pack/..%2f..%2fetc", 422),
        ("/pack/%2e%2e", 422),
        ("/pack/../../../../etc/passwd", 404),
        ("/name/jane/web/..", 422),
        ("/name/jane/%00/x", 422),
        ("/tmp/x", 404),
    ],
)
async def test_nothing_else_is_served(tmp_path: Path, target: str, status: int) -> None:
    async with hub(tmp_path) as url:
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(f"GET {target} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        head, _, body = (await reader.read()).partition(b"\r\n\r\n")
        writer.close()
        assert int(head.split()[1]) == status
        assert b"application/problem+json" in head
        assert json.loads(body)["code"]


async def test_writing_is_refused(tmp_path: Path) -> None:
    async with hub(tmp_path) as url:
        for method in ("PUT", "POST", "DELETE"):
            assert (await ask(f"{url}/{PACK}", method))[0] == 405


async def test_what_was_sent_is_counted(tmp_path: Path) -> None:
    async with hub(tmp_path) as url, HttpStore(url) as store, Client(url) as client:
        assert (await client.call(STATISTICS)).requests == 0
        await store.get(PACK)
        await ask(f"{url}/{PACK}", Range="bytes=0-99")
        await store.has(PACK)
        await store.get(NAME)
        found = await client.call(STATISTICS)
        assert found.requests == 4
        assert found.bytes_sent == len(DATA) + 108
        assert found.by_kind == {
            "name": KindStatistics(requests=1, bytes_sent=8),
            "pack": KindStatistics(requests=3, bytes_sent=len(DATA) + 100),
        }


async def test_a_client_that_does_not_read_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_module, "WRITE_TIMEOUT_S", 0.2)
    big = "pack/" + "1" * 64
    await DirectoryStore(tmp_path).put(big, bytes(64 << 20))
    async with hub(tmp_path) as url, Client(url) as client:
        with socket.create_connection(("127.0.0.1", int(url.rpartition(":")[2]))) as sock:
            sock.sendall(f"GET /{big} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
            poll = select.poll()
            poll.register(sock, 0)  # no reading: only the end of the connection is seen
            events = await asyncio.to_thread(poll.poll, 20_000)
            assert [event & select.POLLHUP for _, event in events] == [select.POLLHUP]
        assert (await client.call(STATISTICS)).bytes_sent < 64 << 20


async def test_a_silent_client_is_cut_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_module, "HEAD_TIMEOUT_S", 0.1)
    async with hub(tmp_path) as url, asyncio.timeout(20):
        reader, writer = await asyncio.open_connection("127.0.0.1", int(url.rpartition(":")[2]))
        writer.write(b"GET /")
        assert await reader.read() == b""
        writer.close()
