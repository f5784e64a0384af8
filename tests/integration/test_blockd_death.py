"""blockd killed while it works, and what stands in for it when it does not come back."""

from __future__ import annotations

import errno
import os
import random
import signal
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.hold_tool import Refused, Starter, pidfd, wait_exit
from tests.integration.blockd_kit import IMAGE, Image, StoreServer, Tree, make_image, mixed_sizes, running, serving

pytestmark = pytest.mark.root

READERS = 8
KILLS = 8


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "store", mixed_sizes(400))


@pytest.fixture
def server(image: Image) -> Iterator[StoreServer]:
    with serving(image.store) as server:
        yield server


@pytest.fixture
def tree(start_hold: Starter, tmp_path: Path) -> Iterator[Tree]:
    with running(start_hold, tmp_path) as tree:
        yield tree


def test_killed_under_readers(tree: Tree, server: StoreServer, image: Image) -> None:
    """Eight readers read everything in their own order while blockd is killed again and again: no wrong byte."""
    fd = tree.serve(image, server.source, read_deadline_ms=60_000)
    blob = image.blob
    wrong: list[int] = []
    errors: list[OSError] = []
    finished = threading.Barrier(READERS + 1)

    def read(seed: int) -> None:
        order = list(range(0, len(blob), 64 << 10))
        random.Random(seed).shuffle(order)
        try:
            for at in order:
                if os.pread(fd, 64 << 10, at) != blob[at : at + (64 << 10)]:
                    wrong.append(at)
        except OSError as error:
            errors.append(error)
        finished.wait()

    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(READERS)]
    for reader in readers:
        reader.start()
    killed, last = 0, 0
    while killed < KILLS and any(reader.is_alive() for reader in readers):
        service = tree.hold.service("blockd")
        if service["state"] == "ready" and service["pid"] not in (None, last):
            last = service["pid"]
            wait_requests(tree, server, 3, finished)
            if finished.n_waiting == READERS:
                break
            with pidfd(last) as ended:
                os.kill(last, signal.SIGKILL)
                wait_exit(ended)
            killed += 1
    finished.wait()
    assert not wrong
    assert not errors
    assert killed >= 3


def wait_requests(tree: Tree, server: StoreServer, more: int, finished: threading.Barrier) -> None:
    seen = server.requests("/pack/") + more
    tree.hold.until(lambda: server.requests("/pack/") >= seen or finished.n_waiting == READERS)


def test_killed_with_a_request_taken(tree: Tree, server: StoreServer, image: Image) -> None:
    """The request that the dead one had read lies in its slot; the successor answers it."""
    fd = tree.serve(image, server.source, read_deadline_ms=30_000)
    assert os.pread(fd, 10, 0) == image.blob[:10]
    server.gate.clear()
    got: list[bytes] = []
    at = image.address(150)
    reader = threading.Thread(target=lambda: got.append(os.pread(fd, 8192, at)))
    reader.start()
    tree.hold.until(lambda: server.requests("/pack/") >= 2)
    generation = tree.hold.service("blockd")["generation"]
    tree.kill(tree.pid())
    tree.hold.until(lambda: tree.hold.service("blockd")["generation"] > generation)
    server.gate.set()
    reader.join()
    assert got == [image.blob[at : at + 8192]]


def test_terminated_with_a_request_taken(tree: Tree, server: StoreServer, image: Image) -> None:
    """SIGTERM leaves to the successor what it could not answer, and marks the presence file clean."""
    fd = tree.serve(image, server.source, read_deadline_ms=30_000)
    assert os.pread(fd, 10, 0) == image.blob[:10]
    server.gate.clear()
    got: list[bytes] = []
    at = image.address(150)
    reader = threading.Thread(target=lambda: got.append(os.pread(fd, 8192, at)))
    reader.start()
    tree.hold.until(lambda: server.requests("/pack/") >= 2)
    with pidfd(tree.pid()) as ended:
        os.kill(tree.pid(), signal.SIGTERM)
        wait_exit(ended)
    server.gate.set()
    reader.join()
    assert got == [image.blob[at : at + 8192]]


def test_killed_loses_little(tree: Tree, server: StoreServer, image: Image) -> None:
    """What was recorded before the kill is hashed again, not fetched again."""
    fd = tree.serve(image, server.source)
    blob = image.blob
    for at in range(0, len(blob), 1 << 20):
        os.pread(fd, 1 << 20, at)
    presence = tree.directory / "image/presence"
    tree.hold.until(lambda: sum(byte.bit_count() for byte in presence.read_bytes()[48:]) == 400)
    tree.kill(tree.pid())
    before = server.requests("/pack/")
    assert b"".join(os.pread(fd, 1 << 20, at) for at in range(0, len(blob), 1 << 20)) == blob
    assert server.requests("/pack/") == before


def test_a_killed_reader_ends(tree: Tree, server: StoreServer, image: Image) -> None:
    """A reader whose bytes do not come can be killed at once, long before the deadline of its read."""
    fd = tree.serve(image, server.source, read_deadline_ms=600_000, fetch_timeout_ms=600_000)
    assert os.pread(fd, 10, 0) == image.blob[:10]
    server.gate.clear()
    child = os.fork()
    if child == 0:
        os.pread(fd, 10, image.address(200))
        os._exit(0)
    tree.hold.until(lambda: server.requests("/pack/") >= 2)
    with pidfd(child) as ended:
        os.kill(child, signal.SIGKILL)
        wait_exit(ended)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL


def test_a_signal_that_does_not_kill_changes_nothing(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source, read_deadline_ms=30_000)
    assert os.pread(fd, 10, 0) == image.blob[:10]
    server.gate.clear()
    at = image.address(200)
    good, bad = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGUSR1, lambda *_: None)
        data = os.pread(fd, 4096, at)
        os.write(bad, b"1" if data == image.blob[at : at + 4096] else b"0")
        os._exit(0)
    tree.hold.until(lambda: server.requests("/pack/") >= 2)
    os.kill(child, signal.SIGUSR1)
    tree.hold.until(
        lambda: f"SigPnd:\t{1 << (signal.SIGUSR1 - 1):016x}" not in Path(f"/proc/{child}/status").read_text()
    )
    server.gate.set()
    assert os.read(good, 1) == b"1"
    os.waitpid(child, 0)


def test_refuse_answers_eio(start_hold: Starter, tmp_path: Path, image: Image, server: StoreServer) -> None:
    """A blockd that fails too often is replaced by one that says no; readers do not wait for ever."""
    with running(start_hold, tmp_path, restarts_max=1, restart_window_ms=4000) as tree:
        fd = tree.serve(image, server.source, read_deadline_ms=60_000)
        assert os.pread(fd, 10, 0) == image.blob[:10]
        server.gate.clear()
        failed: list[int | None] = []

        def read() -> None:
            try:
                os.pread(fd, 10, image.address(200))
            except OSError as error:
                failed.append(error.errno)

        reader = threading.Thread(target=read)
        reader.start()
        tree.hold.until(lambda: server.requests("/pack/") >= 2)
        while (service := tree.hold.service("blockd"))["state"] != "fallback":
            if service["pid"] is not None:
                tree.kill(service["pid"])
        reader.join()
        assert failed == [errno.EIO]
        assert os.fstat(fd).st_size == len(image.blob)
        tree.reconnect()
        with pytest.raises(Refused) as caught:
            tree.status()
        assert caught.value.code == "blockd.refusing"
        server.gate.set()
        tree.hold.until(lambda: tree.hold.service("blockd")["state"] == "ready")
        at = image.address(200)
        assert os.pread(fd, 10, at) == image.blob[at : at + 10], "the real one is back"
        tree.reconnect()
        assert tree.status()["units"] == 400
        assert tree.hold.names("plan/") == [f"plan/{IMAGE}"]


def open_paths(pid: int) -> list[str]:
    """What the descriptors of a process point to; some may be closed meanwhile."""
    paths = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):
            paths.append(os.readlink(link))
    return paths


def test_mount_gone_while_serving(tree: Tree, image: Image) -> None:
    """The device of a file system that is gone is let go, and the image can be served anew."""
    fd = tree.serve(image)
    assert os.pread(fd, 10, 0) == image.blob[:10]
    os.close(fd)
    tree.open_files.clear()
    tree.spawn.ask("forget_image", image=IMAGE)
    pid = tree.pid()
    tree.hold.until(lambda: "/dev/fuse" not in open_paths(pid))
    fd = tree.serve(image)
    assert os.pread(fd, 10, 0) == image.blob[:10]


def test_mount_made_anew_at_once(tree: Tree, image: Image) -> None:
    """A new device is served although the end of the old one may not have been heard of."""
    for _ in range(5):
        fd = tree.serve(image)
        assert os.pread(fd, 10, 0) == image.blob[:10]
        os.close(fd)
        tree.open_files.clear()
        tree.spawn.ask("forget_image", image=IMAGE)


def test_hold_killed_while_somebody_reads(tree: Tree, server: StoreServer, image: Image) -> None:
    """HOLD-EOF: who reads does not notice the end of hold; blockd ends when nobody can read any more."""
    fd = tree.serve(image, server.source)
    assert os.pread(fd, 10, 0) == image.blob[:10]
    with pidfd(tree.pid()) as blockd, pidfd(tree.hold.service("spawn")["pid"]) as spawn:
        tree.holding.process.kill()
        wait_exit(spawn)
        for unit in range(100, 200):
            at = image.address(unit)
            assert os.pread(fd, 4096, at) == image.blob[at : at + 4096]
        os.close(fd)
        tree.open_files.clear()
        wait_exit(blockd)
    tree.holding.process.wait()
    assert (tree.directory / "image/presence").read_bytes()[10:12] == b"\0\0", "ended in order"


def test_one_hub_that_hangs_stops_no_other_image(tree: Tree, server: StoreServer, image: Image, tmp_path: Path) -> None:
    other = make_image(tmp_path / "other", mixed_sizes(50))
    name = "b2" * 32
    fd = tree.serve(image, server.source, read_deadline_ms=60_000, fetch_timeout_ms=60_000)
    tree.fuse_open(name)
    tree.add(other.plan(tree.directory / "image2", image=name))
    second = tree.file(name)
    server.gate.clear()
    waiting = [threading.Thread(target=os.pread, args=(fd, 10, image.address(unit))) for unit in range(0, 400, 8)]
    for thread in waiting:
        thread.start()
    tree.hold.until(lambda: len(server.paths) >= 2)
    assert b"".join(os.pread(second, 1 << 20, at) for at in range(0, len(other.blob), 1 << 20)) == other.blob
    server.gate.set()
    for thread in waiting:
        thread.join()
