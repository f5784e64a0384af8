"""blockd as readers meet it: every byte right, every doubt an EIO with a reason (docs/spec/blockd.md)."""

from __future__ import annotations

import ctypes
import errno
import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.hold_tool import Refused, Starter
from tests.integration.blockd_kit import (
    IMAGE,
    Image,
    StoreServer,
    Tree,
    make_image,
    mixed_sizes,
    read_all,
    running,
    serving,
)

pytestmark = pytest.mark.root


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "store", mixed_sizes(300))


@pytest.fixture
def tree(start_hold: Starter, tmp_path: Path) -> Iterator[Tree]:
    with running(start_hold, tmp_path) as tree:
        yield tree


@pytest.fixture
def server(image: Image) -> Iterator[StoreServer]:
    with serving(image.store) as server:
        yield server


def test_every_byte_from_a_directory(tree: Tree, image: Image) -> None:
    fd = tree.serve(image)
    blob = image.blob
    assert os.fstat(fd).st_size == len(blob)
    assert read_all(fd, len(blob)) == blob
    assert os.pread(fd, 100, len(blob)) == b"", "behind the end"
    assert os.pread(fd, 100, len(blob) - 3) == blob[-3:]
    assert os.pread(fd, 5000, 4090) == blob[4090:9090], "across blocks and units"
    status = tree.status()
    assert status["units"] == status["units_present"] == 300
    assert status["errors"] == 0


def test_every_byte_over_http(tree: Tree, image: Image, server: StoreServer) -> None:
    fd = tree.serve(image, server.source)
    assert read_all(fd, len(image.blob), step=1 << 20) == image.blob
    assert tree.status()["bytes_fetched"] < image.wire_size() * 1.1
    packs = server.requests("/pack/")
    assert packs < 100, "neighbours come in one request"
    assert read_all(fd, len(image.blob)) == image.blob
    assert server.requests("/pack/") == packs, "what is there is not fetched again"


def test_one_read_fetches_little(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source)
    assert os.pread(fd, 10, image.address(150)) == image.units[150][:10]
    assert tree.status()["bytes_fetched"] < 512 << 10


def test_many_readers_one_fetch(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source)
    server.gate.clear()
    address, unit = image.address(40), image.units[40]
    got: list[bytes] = []
    threads = [threading.Thread(target=lambda: got.append(os.pread(fd, 4096, address))) for _ in range(8)]
    for thread in threads:
        thread.start()
    server.gate.set()
    for thread in threads:
        thread.join()
    assert got == [(unit + bytes(-len(unit) % 4096))[:4096]] * 8
    assert server.requests("/pack/") == 1


def test_wrong_bytes_are_eio_and_say_why(tree: Tree, image: Image) -> None:
    fd = tree.serve(image)
    tree.blockd.ask("subscribe")
    good = image.damage(7)
    with pytest.raises(OSError) as caught:
        os.pread(fd, 4096, image.address(7))
    assert caught.value.errno == errno.EIO
    event = tree.blockd.event("unit_error", unit=7)
    assert event["code"] == "fetch.corrupt"
    assert event["image"] == IMAGE
    assert event["address"] == image.address(7)
    assert event["source"] == str(image.store)
    assert os.pread(fd, 3000, image.address(9)) == image.units[9][:3000], "its neighbours are not touched by it"
    assert tree.status()["errors"] == 1
    image.pack_of(7).write_bytes(good)
    assert os.pread(fd, len(image.units[7]), image.address(7)) == image.units[7], "the next read after the repair"


def test_second_source_heals(tree: Tree, image: Image, tmp_path: Path) -> None:
    other = make_image(tmp_path / "other", mixed_sizes(300), units_of_pack=50)
    image.damage(7)
    fd = tree.serve(image, {"kind": "dir", "path": str(image.store)}, {"kind": "dir", "path": str(other.store)})
    assert read_all(fd, len(image.blob)) == image.blob, "though the other store has other packs"


def test_truncated_pack(tree: Tree, server: StoreServer, image: Image) -> None:
    tree.blockd.ask("subscribe")
    fd = tree.serve(image, server.source)
    pack = image.pack_of(60)
    good = pack.read_bytes()
    pack.write_bytes(good[: image.places[60][1] + 10])
    with pytest.raises(OSError) as caught:
        os.pread(fd, 4096, image.address(60))
    assert caught.value.errno == errno.EIO
    assert tree.blockd.event("unit_error")["code"] == "fetch.short"
    pack.write_bytes(good)
    assert os.pread(fd, 4096, image.address(60)) == image.blob[image.address(60) :][:4096]


def test_pack_gone_and_store_repacked(tree: Tree, server: StoreServer, image: Image) -> None:
    """A locator that was fetched before the store was packed anew is asked for again."""
    fd = tree.serve(image, server.source)
    assert os.pread(fd, 10, 0) == image.blob[:10]
    for pack in (image.store / "pack").iterdir():
        pack.unlink()
    make_image(image.store, mixed_sizes(300), units_of_pack=100)
    assert read_all(fd, len(image.blob)) == image.blob


def test_hub_down_then_up(tree: Tree, image: Image) -> None:
    server = StoreServer(image.store)
    port, source = server.port, server.source
    fd = tree.serve(image, source, read_deadline_ms=20_000)
    server.close()
    tree.blockd.ask("subscribe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.pread(fd, 4096, image.address(100))))
    reader.start()
    assert tree.blockd.event("source_error")["code"] == "fetch.unreachable"
    server = StoreServer(image.store, port)
    reader.join()
    server.close()
    assert got == [image.blob[image.address(100) :][:4096]]
    assert tree.status()["errors"] == 0


def test_deadline_of_a_read(tree: Tree, server: StoreServer, image: Image) -> None:
    """A hub that accepts and says nothing: EIO in time, and the reason is told."""
    fd = tree.serve(image, server.source, fetch_timeout_ms=300, read_deadline_ms=700)
    tree.blockd.ask("subscribe")
    server.gate.clear()
    with pytest.raises(OSError) as caught:
        os.pread(fd, 4096, 0)
    assert caught.value.errno == errno.EIO
    event = tree.blockd.event("unit_error")
    assert event["code"] == "fetch.deadline"
    assert event["source"] == server.source["url"]
    server.gate.set()
    assert os.pread(fd, 1, 0) == image.blob[:1]


def test_status_500_is_waited_out(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source)
    server.fail = 503
    tree.blockd.ask("subscribe")
    got: list[bytes] = []
    reader = threading.Thread(target=lambda: got.append(os.pread(fd, 10, 0)))
    reader.start()
    assert tree.blockd.event("source_error")["code"] == "fetch.status"
    server.fail = 0
    reader.join()
    assert got == [image.blob[:10]]


def test_connections_that_break(tree: Tree, server: StoreServer, image: Image) -> None:
    """Answers that are cut on the way are asked for again until the read's time is over."""
    fd = tree.serve(image, server.source, read_deadline_ms=1000)
    tree.blockd.ask("subscribe")
    server.cut_packs = True
    with pytest.raises(OSError) as caught:
        os.pread(fd, 4096, image.address(36))
    assert caught.value.errno == errno.EIO
    event = tree.blockd.event("unit_error", unit=36)
    assert event["code"] == "fetch.deadline"
    assert "the connection ended within the answer" in event["message"]
    server.cut_packs = False
    assert read_all(fd, len(image.blob)) == image.blob


def test_fill_and_full(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source)
    tree.blockd.ask("subscribe")
    tree.blockd.ask("fill", image=IMAGE)
    tree.blockd.event("full", image=IMAGE)
    status = tree.status()
    assert status["full"]
    assert status["units_present"] == 300
    presence = (tree.directory / "image/presence").read_bytes()
    assert presence[:12] == b"ZOSPRES1\x01\0\x02\0"
    assert (tree.directory / "image/blob").read_bytes() == image.blob
    server.close()
    assert read_all(fd, len(image.blob)) == image.blob


def test_remove_answers_and_forgets(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source)
    assert os.pread(fd, 10, 0) == image.blob[:10]
    assert tree.hold.names("plan/") == [f"plan/{IMAGE}"]
    server.gate.clear()
    errors: list[int | None] = []

    def read() -> None:
        try:
            os.pread(fd, 10, image.address(200))
        except OSError as error:
            errors.append(error.errno)

    reader = threading.Thread(target=read)
    reader.start()
    tree.hold.until(lambda: server.requests("/pack/") >= 2)
    tree.blockd.ask("remove", image=IMAGE)
    reader.join()
    assert errors == [errno.EIO]
    assert tree.hold.names("plan/") == []
    with pytest.raises(Refused) as caught:
        tree.status()
    assert caught.value.code == "blockd.unknown-image"
    server.gate.set()
    tree.blockd.ask("remove", image=IMAGE)


def test_presence_survives_a_clean_stop(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source)
    assert read_all(fd, len(image.blob)) == image.blob
    tree.blockd.ask("remove", image=IMAGE)
    assert (tree.directory / "image/presence").read_bytes()[10:12] in (b"\0\0", b"\2\0")
    before = server.requests("/pack/")
    tree.add(image.plan(tree.directory / "image", server.source))
    assert read_all(fd, len(image.blob)) == image.blob
    assert server.requests("/pack/") == before


def test_a_flipped_and_a_cut_blob_are_found(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source)
    assert read_all(fd, len(image.blob)) == image.blob
    tree.blockd.ask("remove", image=IMAGE)
    blob = tree.directory / "image/blob"
    with open(blob, "r+b") as file:
        file.seek(image.address(33) + 5)
        file.write(b"flipped")
        file.truncate(image.address(290) + 10)
    tree.add(image.plan(tree.directory / "image", server.source))
    assert read_all(fd, len(image.blob)) == image.blob


def test_the_cache_keeps_its_limit(tree: Tree, server: StoreServer, image: Image) -> None:
    fd = tree.serve(image, server.source, cache_bytes_max=2 << 20)
    for _ in range(2):
        assert read_all(fd, len(image.blob)) == image.blob
    blob = tree.directory / "image/blob"
    assert blob.stat().st_blocks * 512 < (3 << 20)
    with pytest.raises(Refused):
        tree.blockd.ask("fill", image=IMAGE)


def test_add_twice_and_other_sources(tree: Tree, image: Image, server: StoreServer) -> None:
    tree.fuse_open()
    plan = image.plan(tree.directory / "image")
    assert tree.add(plan) == tree.add(plan)
    file = tree.file()
    assert os.pread(file, 10, 0) == image.blob[:10]
    tree.add(image.plan(tree.directory / "image", server.source))
    assert read_all(file, len(image.blob)) == image.blob
    assert server.requests("/pack/") > 0
    with pytest.raises(Refused) as caught:
        tree.add(image.plan(tree.directory / "elsewhere"))
    assert caught.value.code == "blockd.bad-plan"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"image": "../etc"}, "blockd.bad-plan"),
        ({"image": "B1" * 32}, "blockd.bad-plan"),
        ({"dir": "relative"}, "blockd.bad-plan"),
        ({"fetch_timeout_ms": 0}, "blockd.bad-plan"),
        ({"sources": [{"kind": "http", "url": "file:///etc"}]}, "fetch.bad-plan"),
        ({"sources": []}, "fetch.missing"),
        ({"sources": [{"kind": "ftp", "url": "x"}]}, "frame.bad-body"),
        ({"index": {"root": b"short", "pages": 2, "units": 300, "blocks": 1}}, "blockd.bad-plan"),
        ({"surplus": 1}, "frame.bad-body"),
    ],
)
def test_plans_that_are_refused(tree: Tree, image: Image, change: dict[str, object], code: str) -> None:
    with pytest.raises(Refused) as caught:
        tree.add(image.plan(tree.directory / "image") | change)
    assert caught.value.code == code
    assert tree.hold.names("plan/") == []


def test_add_before_fuse_open(tree: Tree, image: Image) -> None:
    with pytest.raises(Refused) as caught:
        tree.add(image.plan(tree.directory / "image"))
    assert caught.value.code == "blockd.no-device"
    fd = tree.serve(image)
    assert os.pread(fd, 10, 0) == image.blob[:10]


def test_unknown_operation(tree: Tree) -> None:
    with pytest.raises(Refused) as caught:
        tree.blockd.ask("frobnicate")
    assert caught.value.code == "frame.unknown-op"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 1 MiB."""
    place = tmp_path / "small"
    place.mkdir()
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"zos-test", bytes(place), b"tmpfs", 0, b"size=1m") != 0:
        pytest.skip(f"no tmpfs: {os.strerror(ctypes.get_errno())}")
    yield place
    libc.umount2(bytes(place), 2)


def test_disk_full_is_eio_and_never_zeros(tree: Tree, server: StoreServer, image: Image, small_disk: Path) -> None:
    tree.blockd.ask("subscribe")
    tree.fuse_open()
    tree.add(image.plan(small_disk / "image", server.source))
    fd = tree.file()
    codes = []
    for unit, plain in enumerate(image.units):
        try:
            assert os.pread(fd, len(plain), image.address(unit)) == plain
            codes.append(0)
        except OSError as error:
            codes.append(error.errno or 0)
    assert set(codes) == {0, errno.EIO}
    assert tree.blockd.event("unit_error")["code"] == "fetch.no-space"
    (small_disk / "image/blob").unlink()
    tree.blockd.ask("remove", image=IMAGE)
    tree.spawn.ask("forget_image", image=IMAGE)
