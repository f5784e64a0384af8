"""Hubs that drip, redirect for ever, answer errors or send without end: each read is EIO in time, with a code that says
why, and blockd grows by no more than it may.
"""

from __future__ import annotations

import contextlib
import errno
import os
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.hold_tool import Starter
from tests.integration.blockd_kit import Image, Tree, make_image, mixed_sizes, read_all, running

pytestmark = pytest.mark.root

DEADLINE_MS = 1500
LATEST_S = 12.0
GROWTH_KIB_MAX = 48 * 1024
BLOCK = bytes(65_536)
CODES = ("fetch.deadline", "fetch.status", "fetch.long", "fetch.short", "fetch.unreachable", "fetch.corrupt")

Behaviour = Callable[["BadHub", socket.socket, int], None]


class BadHub:
    """Serves everything but packs as it should; a request for a pack is answered by `behave`, over a bare socket."""

    def __init__(self, store: Path, behave: Behaviour) -> None:
        self.store, self.behave, self.bad = store, behave, True
        self.ending = threading.Event()
        self.asked = 0
        self._connections: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(connection)
            thread = threading.Thread(target=self._converse, args=(connection,))
            self._threads.append(thread)
            thread.start()

    def _converse(self, connection: socket.socket) -> None:
        with connection, contextlib.suppress(OSError), connection.makefile("rb") as lines:
            while request := lines.readline():
                path = request.split()[1].decode()
                head = b"".join(iter(lines.readline, b"\r\n")).decode()
                asked = re.search(r"(?i)range: bytes=(\d+)-(\d+)", head)
                if self.bad and path.startswith("/pack/"):
                    self.asked += 1
                    assert asked is not None
                    self.behave(self, connection, int(asked[2]) - int(asked[1]) + 1)
                    return
                data = (self.store / path.lstrip("/")).read_bytes()
                status, total = "200 OK", len(data)
                more = ""
                if asked:
                    first, last = int(asked[1]), min(int(asked[2]), total - 1)
                    data, status = data[first : last + 1], "206 Partial Content"
                    more = f"Content-Range: bytes {first}-{last}/{total}\r\n"
                connection.sendall(f"HTTP/1.1 {status}\r\n{more}Content-Length: {len(data)}\r\n\r\n".encode() + data)

    @property
    def source(self) -> dict[str, str]:
        return {"kind": "http", "url": f"http://127.0.0.1:{self.port}"}

    def close(self) -> None:
        self.ending.set()
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()


def redirects(hub: BadHub, connection: socket.socket, length: int) -> None:
    where = f"http://127.0.0.1:{hub.port}/pack/{'0' * 64}?{hub.asked}"
    connection.sendall(f"HTTP/1.1 302 Found\r\nLocation: {where}\r\nContent-Length: 0\r\n\r\n".encode())


def drips(hub: BadHub, connection: socket.socket, length: int) -> None:
    connection.sendall(f"HTTP/1.1 206 P\r\nContent-Range: bytes 0-{length - 1}/*\r\n".encode())
    connection.sendall(f"Content-Length: {length}\r\n\r\n".encode())
    while not hub.ending.wait(0.5):
        connection.sendall(b"x")


def never_ends(hub: BadHub, connection: socket.socket, length: int) -> None:
    connection.sendall(b"HTTP/1.1 206 P\r\nContent-Range: bytes 0-99999999/*\r\n\r\n")
    while not hub.ending.is_set():
        connection.sendall(BLOCK)


def chunks_without_end(hub: BadHub, connection: socket.socket, length: int) -> None:
    connection.sendall(b"HTTP/1.1 206 P\r\nTransfer-Encoding: chunked\r\n\r\n")
    while not hub.ending.is_set():
        connection.sendall(b"10000\r\n" + BLOCK + b"\r\n")


def heads_without_end(hub: BadHub, connection: socket.socket, length: int) -> None:
    connection.sendall(b"HTTP/1.1 206 P\r\n")
    while not hub.ending.is_set():
        connection.sendall(b"X-More: " + b"x" * 1000 + b"\r\n")


def answers_500(hub: BadHub, connection: socket.socket, length: int) -> None:
    connection.sendall(b"HTTP/1.1 500 No\r\nContent-Length: 1000000000\r\n\r\n")
    while not hub.ending.is_set():
        connection.sendall(BLOCK)


def says_nothing(hub: BadHub, connection: socket.socket, length: int) -> None:
    hub.ending.wait(60)


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Image:
    return make_image(tmp_path_factory.mktemp("hubs") / "store", mixed_sizes(60))


@pytest.fixture
def tree(start_hold: Starter, tmp_path: Path) -> Iterator[Tree]:
    with running(start_hold, tmp_path) as tree:
        yield tree


def peak_kib(pid: int) -> int:
    """The most memory that a process ever had, proc_pid_status(5)."""
    found = re.search(r"VmHWM:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1])


@pytest.mark.parametrize(
    "behave", [redirects, drips, never_ends, chunks_without_end, heads_without_end, answers_500, says_nothing]
)
def test_a_bad_hub_costs_a_read_and_no_more(tree: Tree, image: Image, behave: Behaviour) -> None:
    hub = BadHub(image.store, behave)
    try:
        fd = tree.serve(image, hub.source, read_deadline_ms=DEADLINE_MS, fetch_timeout_ms=1000)
        tree.blockd.ask("subscribe")
        before, began = peak_kib(tree.pid()), time.monotonic()
        with pytest.raises(OSError) as caught:
            os.pread(fd, 4096, 0)
        assert caught.value.errno == errno.EIO
        assert time.monotonic() - began < LATEST_S
        code = tree.blockd.event("unit_error")["code"]
        assert code in CODES, code
        assert peak_kib(tree.pid()) - before < GROWTH_KIB_MAX
        assert hub.asked < 200
        hub.bad = False
        assert read_all(fd, len(image.blob)) == image.blob
    finally:
        hub.close()
