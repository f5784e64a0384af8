"""`native.fetch`: the fetcher without FUSE, as tools use it."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from native.fetch import FetchCorrupt, FetchMissing, FetchUnavailable, ImageReader, fetch_object
from tests.integration.blockd_kit import Image, StoreServer, make_image, mixed_sizes, serving


@pytest.fixture
def image(tmp_path: Path) -> Image:
    return make_image(tmp_path / "store", mixed_sizes(280))


@pytest.fixture
def server(image: Image) -> Iterator[StoreServer]:
    with serving(image.store) as server:
        yield server


def reader(
    image: Image, *sources: str, keep_bytes_max: int = 0, patience_s: float = 60, stop: threading.Event | None = None
) -> ImageReader:
    return ImageReader(
        image.root,
        pages=image.pages,
        units=len(image.units),
        blocks=image.blocks,
        sources=sources or [str(image.store)],
        fetch_timeout_s=5,
        patience_s=patience_s,
        keep_bytes_max=keep_bytes_max,
        stop=stop,
    )


def test_reads_everything(image: Image, server: StoreServer) -> None:
    blob = image.blob
    for source in (str(image.store), server.source["url"]):
        open_image = reader(image, source)
        assert open_image.size_bytes == len(blob)
        assert open_image.content_bytes() == sum(len(unit) for unit in image.units)
        assert open_image.read(0, len(blob), timeout_s=20) == blob
        assert open_image.read(5000, 0, timeout_s=20) == b""
        assert open_image.read(4095, 70_000, timeout_s=20) == blob[4095:74_095]
        open_image.close()


def test_small_memory(image: Image) -> None:
    open_image = reader(image, keep_bytes_max=2 << 20)
    assert open_image.read(0, len(image.blob), timeout_s=20) == image.blob


def test_errors_are_typed(image: Image, server: StoreServer) -> None:
    url = server.source["url"]
    with pytest.raises(FetchUnavailable) as unavailable:
        reader(image, "http://127.0.0.1:1")
    assert unavailable.value.retryable
    assert unavailable.value.context["source"] == "http://127.0.0.1:1"
    with pytest.raises(FetchMissing):
        reader(image)  # the store is asked for an index that it has; the next one not
        reader(image, str(image.store / "pack"))
    open_image = reader(image, url)
    with pytest.raises(ValueError, match="no 2 bytes"):
        open_image.read(open_image.size_bytes - 1, 2, timeout_s=1)
    with pytest.raises(ValueError, match="positive"):
        open_image.read(0, 1, timeout_s=0)
    image.damage(9)
    with pytest.raises(FetchCorrupt) as corrupt:
        open_image.read(image.address(9), 1, timeout_s=5)
    pack, offset, _ = image.places[9]
    assert corrupt.value.context == {
        "reason": "fetch.corrupt",
        "source": url,
        "unit": 9,
        "pack": image.packs[pack],
        "offset": offset,
    }
    server.gate.clear()
    with pytest.raises(FetchUnavailable) as late:
        open_image.read(image.address(200), 1, timeout_s=0.2)
    assert late.value.context["reason"] == "fetch.deadline"
    open_image.close()
    with pytest.raises(ValueError, match="closed"):
        open_image.read(image.address(200), 1, timeout_s=1)


def test_ctrl_c_is_heard(image: Image, server: StoreServer) -> None:
    open_image = reader(image, server.source["url"])
    server.gate.clear()
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    interrupt = threading.Timer(0.1, signal.raise_signal, [signal.SIGINT])
    try:
        interrupt.start()
        with pytest.raises(KeyboardInterrupt):
            open_image.read(0, 1, timeout_s=20)
    finally:
        interrupt.join()
        signal.signal(signal.SIGINT, handler)


def test_stop_is_heard_in_any_thread(image: Image, server: StoreServer, tmp_path: Path) -> None:
    url = server.source["url"]
    stop = threading.Event()
    open_image = reader(image, url, stop=stop)
    wanted = store_object(image.store, b"plain")
    server.gate.clear()
    interrupt = threading.Timer(0.1, stop.set)
    interrupt.start()
    with pytest.raises(ValueError, match="closed"):
        open_image.read(0, 1, timeout_s=20)
    interrupt.join()
    for call in (
        lambda: reader(image, url, stop=stop),
        lambda: get(url, wanted, tmp_path / "object", stop=stop),
        open_image.content_bytes,
    ):
        with pytest.raises(ValueError, match="closed"):
            call()


def test_patience_ends(image: Image) -> None:
    """A store that goes away while an image is read costs what the caller allows, and says so."""
    with serving(image.store) as server:
        open_image = reader(image, server.source["url"], patience_s=0.2)
        open_image.read(0, 1, timeout_s=20)
    with pytest.raises(FetchUnavailable) as caught:
        open_image.read(image.address(200), 1, timeout_s=20)
    assert caught.value.context["reason"] == "fetch.unreachable"


def store_object(store: Path, plain: bytes, *, stored: bytes | None = None) -> dict[str, object]:
    digest = blake3(plain).digest()
    (store / "meta" / digest.hex()).write_bytes(zstandard.compress(plain) if stored is None else stored)
    return {"object": f"meta/{digest.hex()}", "hash": digest, "size": len(plain)}


def get(
    source: str | Path,
    wanted: dict[str, object],
    to: Path,
    *,
    zstd: bool = True,
    size: int | None = None,
    stop: threading.Event | None = None,
) -> int:
    name, digest, said = wanted["object"], wanted["hash"], wanted["size"]
    assert isinstance(name, str)
    assert isinstance(digest, bytes)
    assert isinstance(said, int)
    said = said if size is None else size
    return fetch_object([str(source)], name, hash=digest, size=said, zstd=zstd, to=str(to), timeout_s=10, stop=stop)


@pytest.mark.parametrize("size", [0, 1, 3_000_000])
def test_object(image: Image, server: StoreServer, tmp_path: Path, size: int) -> None:
    plain = os.urandom(size)
    wanted = store_object(image.store, plain)
    to = tmp_path / "object"
    to.write_bytes(b"what was there before")
    assert get(server.source["url"], wanted, to) == (image.store / str(wanted["object"])).stat().st_size
    assert to.read_bytes() == plain
    raw = store_object(image.store, plain + b".", stored=plain + b".")
    get(image.store, raw, to, zstd=False)
    assert to.read_bytes() == plain + b"."
    assert sorted(path.name for path in tmp_path.iterdir()) == ["object", "store"]


@pytest.mark.parametrize(
    ("stored", "size", "zstd"),
    [
        (zstandard.compress(b"other"), None, True),
        (zstandard.compress(bytes(100_000)), None, True),
        (zstandard.compress(b"plain")[:-1], None, True),
        (zstandard.compress(b"plain") + b"more", None, True),
        (b"not a frame", None, True),
        (b"", None, True),
        (b"plainly", None, False),
        (b"plai", None, False),
        (zstandard.compress(b"plain"), 6, True),
        (zstandard.compress(b"plain"), 4, True),
        (zstandard.compress(bytes(50_000_000)), None, True),
    ],
)
def test_wrong_objects_leave_nothing(image: Image, tmp_path: Path, stored: bytes, size: int | None, zstd: bool) -> None:
    wanted = store_object(image.store, b"plain", stored=stored)
    to = tmp_path / "object"
    with pytest.raises(FetchCorrupt):
        get(image.store, wanted, to, size=size, zstd=zstd)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["store"]


def test_object_takes_over_what_a_dead_one_left(image: Image, tmp_path: Path) -> None:
    wanted = store_object(image.store, b"plain")
    (tmp_path / ".object.partial").write_bytes(b"x" * 100_000)
    get(image.store, wanted, tmp_path / "object")
    assert (tmp_path / "object").read_bytes() == b"plain"
    assert not (tmp_path / ".object.partial").exists()


def test_object_by_two_at_once(image: Image, server: StoreServer, tmp_path: Path) -> None:
    wanted = store_object(image.store, os.urandom(500_000))
    server.gate.clear()
    threads = [threading.Thread(target=get, args=(server.source["url"], wanted, tmp_path / "object")) for _ in range(3)]
    for thread in threads:
        thread.start()
    server.gate.set()
    for thread in threads:
        thread.join()
    assert blake3((tmp_path / "object").read_bytes()).digest() == wanted["hash"]
    assert not (tmp_path / ".object.partial").exists()


def test_object_paths_stay_inside(image: Image, tmp_path: Path) -> None:
    for path in ("../store/meta/x", "/etc/passwd", "", "meta//x", "meta/."):
        with pytest.raises(ValueError, match="no such object"):
            fetch_object(
                [str(image.store)], path, hash=bytes(32), size=1, zstd=False, to=str(tmp_path / "x"), timeout_s=1
            )
