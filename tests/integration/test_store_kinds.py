"""Stores: a directory, a web server of every temper (STORE-1..7)."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from flist.store import (
    DirectoryStore,
    HttpStore,
    ObjectInvalid,
    ObjectMissing,
    StoreReadOnly,
    StoreUnavailable,
    addresses_of,
    open_store,
)
from flist.store import http as http_module
from zos_core.base.programs import Source

PACK = "pack/" + "a" * 64
NAME = "name/jane/web/latest"
Respond = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def test_a_directory_keeps_objects(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    assert not await store.has(PACK)
    with pytest.raises(ObjectMissing):
        await store.get(PACK)
    await store.put(PACK, b"damaged")
    await store.put(PACK, b"0123456789")
    assert await store.get(PACK) == b"0123456789"
    with pytest.raises(ObjectInvalid, match="longer than 9"):
        await store.get(PACK, limit=9)
    await store.put(NAME, b"one")
    await store.put(NAME, b"two")
    assert await store.get(NAME) == b"two"


async def test_a_finished_file_is_moved(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "store")
    scratch = store.scratch
    assert scratch is not None
    for number, folder in enumerate((scratch, Path("/dev/shm"))):
        source = folder / f"zos-test-{os.getpid()}"
        source.write_bytes(b"pack")
        path = f"pack/{number:064}"
        await store.put_file(path, source)
        assert not source.exists()
        assert await store.get(path) == b"pack"


@pytest.mark.parametrize("what", ["link", "fifo", "directory"])
async def test_only_files_are_objects(tmp_path: Path, what: str) -> None:
    target = tmp_path / PACK
    target.parent.mkdir()
    if what == "link":
        target.symlink_to("/etc/passwd")
    elif what == "fifo":
        os.mkfifo(target)
    else:
        target.mkdir()
    with pytest.raises((ObjectMissing, StoreUnavailable)):
        await DirectoryStore(tmp_path).get(PACK)


@pytest.mark.parametrize("path", ["../x", "pack/x", "/etc/passwd", "pack/../../" + "a" * 64, "name/a/b", ""])
async def test_paths_are_checked_first(tmp_path: Path, path: str) -> None:
    async with HttpStore("http://127.0.0.1:1") as http:
        for store in (DirectoryStore(tmp_path), http):
            with pytest.raises(ObjectInvalid):
                await store.get(path)
            with pytest.raises(ObjectInvalid):
                await store.has(path)


@pytest.mark.root
async def test_what_is_put_belongs_to_the_owner(tmp_path: Path) -> None:
    store = DirectoryStore(tmp_path / "a" / "store", owner=(4242, 4243))
    await store.put(PACK, b"x")
    for path in (tmp_path / "a", tmp_path / "a" / "store" / PACK):
        assert path.stat().st_uid == 4242


@asynccontextmanager
async def server(respond: Respond) -> AsyncIterator[str]:
    """A web server that reads one request and lets `respond` do its worst."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        try:
            await respond(reader, writer)
        except ConnectionError:
            pass
        finally:
            writer.close()

    listening = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with listening:
        yield f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"


def saying(text: bytes) -> Respond:
    async def respond(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(text)
        await writer.drain()

    return respond


OK = b"HTTP/1.1 200 OK\r\nConnection: close\r\n"
BAD_ANSWERS: dict[str, tuple[bytes, type[Exception]]] = {
    "nothing": (b"", StoreUnavailable),
    "no HTTP": (b"SSH-2.0-OpenSSH\r\n\r\n", StoreUnavailable),
    "500": (b"HTTP/1.1 500 Oops\r\nContent-Length: 0\r\n\r\n", StoreUnavailable),
    "404": (b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n", ObjectMissing),
    "cut": (OK + b"Content-Length: 10\r\n\r\n12345", StoreUnavailable),
    "too long": (OK + b"Content-Length: 100000\r\n\r\n", ObjectInvalid),
    "too long, unannounced": (OK + b"\r\n" + bytes(5000), ObjectInvalid),
    "redirects for ever": (
        b"HTTP/1.1 302 Found\r\nLocation: /" + PACK.encode() + b"\r\nContent-Length: 0\r\n\r\n",
        StoreUnavailable,
    ),
    "redirect to a file": (
        b"HTTP/1.1 302 Found\r\nLocation: file:///etc/passwd\r\nContent-Length: 0\r\n\r\n",
        StoreUnavailable,
    ),
    "huge head": (b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", StoreUnavailable),
    "bad chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n", StoreUnavailable),
}


@pytest.mark.parametrize("case", sorted(BAD_ANSWERS))
async def test_a_bad_server_is_an_error_and_no_more(case: str) -> None:
    text, expected = BAD_ANSWERS[case]
    async with server(saying(text)) as url, HttpStore(url) as store:
        with pytest.raises(expected):
            await store.get(PACK, limit=1000)


async def test_a_silent_and_a_dripping_server_are_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    released = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await released.wait()

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(OK + b"Content-Length: 1000\r\n\r\n")
        while not released.is_set():
            writer.write(b"x")
            await writer.drain()
            await asyncio.sleep(0.01)

    monkeypatch.setattr(http_module, "HEAD_TIMEOUT_S", 0.2)
    monkeypatch.setattr(http_module, "SLOWEST_BYTES_S", 1 << 20)
    for respond in (silent, drip):
        released.clear()
        async with server(respond) as url, HttpStore(url) as store:
            with pytest.raises(StoreUnavailable, match="too slow"):
                await store.get(PACK)
            released.set()


async def test_nobody_listens() -> None:
    async with HttpStore("http://127.0.0.1:1") as store:
        with pytest.raises(StoreUnavailable, match="Connection refused") as caught:
            await store.get(PACK)
        assert caught.value.hint
        with pytest.raises(StoreReadOnly):
            await store.put(PACK, b"")


async def test_opening_by_what_a_person_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    monkeypatch.delenv("SUDO_UID", raising=False)  # or it is the store of who called sudo
    assert open_store(None).name == str(tmp_path / "zos" / "store")
    assert open_store("https://hub.example/").name == "https://hub.example"
    assert isinstance(open_store("http:"), DirectoryStore)
    found = addresses_of([Source(kind="http", url="http://x/"), Source(kind="dir", path="/y")])
    assert found.addresses == ["http://x", "/y"]
    for wrong in ([], [Source(kind="http")], [Source(kind="dir")]):
        with pytest.raises(StoreUnavailable):
            addresses_of(wrong)
