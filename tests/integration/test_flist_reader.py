"""Images read out of stores by `native.fetch`: what is fetched, which errors come, how waiting ends; `cat`."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from flist import reader as reader_module
from flist.build import build
from flist.cat import NotInImage, find, write_contents
from flist.erofs_reader import MetaImage
from flist.errors import IndexInvalid, LocatorInvalid
from flist.extract import extract
from flist.manifest import SignedManifest
from flist.reader import ImageReader, UnitInvalid
from flist.store import Addresses, DirectoryStore, HttpStore, ObjectMissing, StoreUnavailable
from flist.verify import verify
from tests.images import pattern
from tests.integration.blockd_kit import StoreServer, serving
from zos_core.base.errors import DiskFull, UsageError
from zos_core.base.verbs import Entry, run

LARGE = 9_000_001


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    (root / "usr" / "lib").mkdir(parents=True)
    (root / "usr" / "lib" / "os-release").write_bytes(b"NAME=zos\n")
    (root / "etc").mkdir()
    (root / "etc" / "os-release").symlink_to("../usr/lib/os-release")
    (root / "lib").symlink_to("/usr/lib")
    (root / "loop").symlink_to("loop")
    (root / "up").symlink_to("../../usr/lib/os-release")
    (root / "empty").touch()
    (root / "large").write_bytes(os.urandom(LARGE))
    with open(root / "sparse", "wb") as file:
        file.seek(3_000_000)
        file.write(pattern(100_000, 5))
        file.truncate(5_000_001)
    for number in range(40):
        (root / f"small-{number}").write_bytes(pattern(9000, number))
    return root


@pytest.fixture
def server(tmp_path: Path) -> Iterator[StoreServer]:
    (tmp_path / "store").mkdir()
    with serving(tmp_path / "store") as server:
        yield server


class Hold(threading.Event):
    """A gate that holds up one kind of request, and says when it does."""

    def __init__(self, server: StoreServer, prefix: str) -> None:
        super().__init__()
        self.server, self.prefix = server, prefix
        self.reached = threading.Event()

    def wait(self, timeout: float | None = None) -> bool:
        if not self.server.paths[-1].startswith(self.prefix):
            return True
        self.reached.set()
        return super().wait(timeout)


async def made(tmp_path: Path, tree: Path) -> SignedManifest:
    return (await build(tree, DirectoryStore(tmp_path / "store"), name="jane/tree", revision=1)).signed


async def contents(reader: ImageReader, meta: MetaImage, path: str) -> bytes:
    out = io.BytesIO()
    await write_contents(reader, meta, find(meta.tree, path.encode()), out)
    return out.getvalue()


async def test_cat(tmp_path: Path, tree: Path, server: StoreServer) -> None:
    """Each file is what it was, and a small one costs one unit and its neighbours."""
    signed = await made(tmp_path, tree)
    async with HttpStore(server.source["url"]) as store, ImageReader(store, signed.manifest) as reader:
        meta = await reader.tree()
        server.bytes_sent = 0
        assert await contents(reader, meta, "/etc/os-release") == b"NAME=zos\n"
        assert 0 < server.bytes_sent < LARGE / 10
        for path in ("large", "/sparse", "empty", "small-7", "usr/./lib//os-release"):
            assert await contents(reader, meta, path) == (tree / path.lstrip("/")).read_bytes(), path
        for path in ("lib/os-release", "up", "../../lib/../lib/os-release"):
            assert await contents(reader, meta, path) == b"NAME=zos\n", path
        for path in ("absent", "", "/", "usr/lib", "loop", "large/x", "lib/absent"):
            with pytest.raises(NotInImage):
                find(meta.tree, path.encode())


def test_cat_by_hand(
    tmp_path: Path, tree: Path, monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    for name in ("CONFIG", "DATA"):
        monkeypatch.setenv(f"XDG_{name}_HOME", str(tmp_path / name))

    def zos(*argv: str) -> tuple[int, bytes]:
        status = run(["flist", *argv], [Entry("flist", "flist.cli:FLIST")])
        return status, capfdbinary.readouterr().out

    assert zos("build", str(tree), "--name", "web")[0] == 0
    assert zos("cat", "web", "etc/os-release") == (0, b"NAME=zos\n")
    assert zos("cat", "web", "small-7") == (0, pattern(9000, 7))
    assert zos("cat", "web", "nothing") == (NotInImage.exit_status, b"")
    assert zos("cat", "web", "empty", "--json")[0] == UsageError.exit_status


async def test_a_wrong_unit_is_named(tmp_path: Path, tree: Path) -> None:
    signed = await made(tmp_path, tree)
    (pack,) = (tmp_path / "store" / "pack").iterdir()
    data = bytearray(pack.read_bytes())
    data[len(data) // 2] ^= 1
    pack.write_bytes(data)
    with pytest.raises(UnitInvalid, match=r"unit [0-9]+ has wrong bytes") as caught:
        await verify(DirectoryStore(tmp_path / "store"), signed, trusted=None)
    context = caught.value.context
    assert context["pack"] == pack.name
    assert isinstance(context["unit"], int)
    assert isinstance(context["offset"], int)
    assert context["offset"] <= len(data) // 2 < context["offset"] + 262_144
    assert caught.value.hint is not None


async def test_wrong_indexes_are_named(tmp_path: Path, tree: Path) -> None:
    signed = await made(tmp_path, tree)
    store = DirectoryStore(tmp_path / "store")
    root = signed.manifest.index.root.hex()
    for path in (tmp_path / "store" / "index").iterdir():
        good = path.read_bytes()
        for wrong in (b"", good[:-1], good + b"x", bytes(len(good))):
            path.write_bytes(wrong)
            with pytest.raises(IndexInvalid):
                await verify(store, signed, trusted=None)
        path.unlink()
        with pytest.raises(ObjectMissing):
            await verify(store, signed, trusted=None)
        path.write_bytes(good)
    (locator,) = (tmp_path / "store" / "locator").iterdir()
    assert locator.name == root
    locator.write_bytes(locator.read_bytes() + b"x")
    with pytest.raises(LocatorInvalid):
        await verify(store, signed, trusted=None)


async def test_of_several_stores_each_may_be_wrong(tmp_path: Path, tree: Path) -> None:
    """The next store is asked for what the first has wrong; only what none has is an error."""
    signed = await made(tmp_path, tree)
    shutil.copytree(tmp_path / "store", tmp_path / "second")
    for kind in ("pack", "meta", "locator"):
        (path,) = (tmp_path / "store" / kind).iterdir()
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    stores = Addresses([str(tmp_path / name) for name in ("absent", "store", "second")])
    result = await verify(stores, signed, trusted=None)
    assert result.units == signed.manifest.index.units
    (path,) = (tmp_path / "second" / "pack").iterdir()
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises((UnitInvalid, LocatorInvalid)):
        await verify(stores, signed, trusted=None)


async def test_waiting_ends_when_it_is_cancelled(tmp_path: Path, tree: Path, server: StoreServer) -> None:
    """A hub that says nothing does not hold up Ctrl-C, whatever is being waited for; and nothing is left."""
    signed = await made(tmp_path, tree)
    for prefix in ("/index/", "/meta/", "/locator/", "/pack/"):
        hold = Hold(server, prefix)
        server.gate = hold
        async with HttpStore(server.source["url"]) as store, asyncio.TaskGroup() as group:
            extracting = group.create_task(extract(store, signed, tmp_path / "out"))
            assert await asyncio.to_thread(hold.reached.wait, 20)
            extracting.cancel()
            done, _ = await asyncio.wait([extracting], timeout=5)
            assert done == {extracting}
            assert extracting.cancelled()
        assert not (tmp_path / "out").exists()
        hold.set()


async def test_a_store_that_goes_away_is_not_waited_for_for_ever(
    tmp_path: Path, tree: Path, server: StoreServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    signed = await made(tmp_path, tree)
    monkeypatch.setattr(reader_module, "PATIENCE_S", 0.2)
    async with HttpStore(server.source["url"]) as store, ImageReader(store, signed.manifest) as reader:
        server.close()
        with pytest.raises(StoreUnavailable) as caught:
            await reader.read(0, 1)
        assert caught.value.retryable
        assert caught.value.hint is not None


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    place = tmp_path / "disk"
    place.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "zos-test", place], check=False)
    if mounted.returncode:
        pytest.skip("cannot mount a tmpfs here")
    yield place
    subprocess.run(["umount", place], check=True)


@pytest.mark.root
async def test_a_full_disk_is_said(tmp_path: Path, tree: Path, small_disk: Path) -> None:
    signed = await made(tmp_path, tree)
    with pytest.raises(DiskFull, match="are free there") as caught:
        await extract(DirectoryStore(tmp_path / "store"), signed, small_disk)
    assert caught.value.context["path"] == str(small_disk)
    assert os.listdir(small_disk) == []


@pytest.mark.root
async def test_a_disk_that_fills_up_meanwhile_is_said(tmp_path: Path, small_disk: Path) -> None:
    tree = tmp_path / "many"
    tree.mkdir()
    for number in range(300):
        (tree / str(number)).write_bytes(b"x")  # a byte each, and a page each on the disk
    signed = await made(tmp_path, tree)
    with pytest.raises(DiskFull, match="the disk is full") as caught:
        await extract(DirectoryStore(tmp_path / "store"), signed, small_disk)
    assert caught.value.context["path"] == str(small_disk)
    assert os.listdir(small_disk) == []
