"""Hubs that go back, cut or fork their log, or serve old names, over real sockets (REV-1..4, LOGHUB-3..6)."""

from __future__ import annotations

import errno
import os
import shutil
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest
from nacl.signing import SigningKey

from flist.build import build
from flist.errors import RevisionWentBack
from flist.guard import RevisionGuard
from flist.hub import serve_hub
from flist.hub.checkpoint import open_checkpoint
from flist.hub.endpoints import (
    LOG_CONSISTENCY,
    LOG_ENTRIES,
    LOG_INCLUSION,
    LOG_LOOKUP,
    ConsistencyQuery,
    EntriesQuery,
    InclusionQuery,
    LookupQuery,
)
from flist.hub.errors import LogForked, LogKeyChanged, LogMissing, LogWentBack
from flist.hub.publishing import Publishing, Step
from flist.manifest import SignedManifest
from flist.names import ImageName, NameRecord, resolve, sign_record
from flist.publish import Published, publish
from flist.sign import sign_manifest
from flist.store import DirectoryStore, HttpStore, StoreUnavailable
from native.merkle import hash_leaf, verify_inclusion
from zos_core.base.client import Client
from zos_core.base.endpoint import RemoteProblem
from zos_core.base.keyring import Key
from zos_core.base.request_signature import Signer
from zos_core.base.server import listen_tcp

KEY = Key("jane", SigningKey(bytes(range(32))))
OTHER = Key("jane", SigningKey(bytes(range(1, 33))))
NAME = ImageName.parse("jane/web")
NOW_S = 1_790_000_000


def trusted(publisher: str) -> Sequence[bytes]:
    return [KEY.public] if publisher == "jane" else []


class World:
    """Jane's store, and a hub on one port whose directory may be another one at each start."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.store = DirectoryStore(path / "store")
        self.root = path / "hub"
        self.port = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @asynccontextmanager
    async def hub(
        self, root: Path | None = None, *, read_only: bool = False, run: Callable[[Step], None] | None = None
    ) -> AsyncIterator[str]:
        root = root or self.root
        root.mkdir(exist_ok=True)
        publishing = None if read_only else Publishing(root, run=run)
        try:
            with listen_tcp(f"127.0.0.1:{self.port}") as sock:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                self.port = sock.getsockname()[1]
                async with serve_hub(DirectoryStore(root), sock, publishing=publishing):
                    yield self.url
        finally:
            if publishing is not None:
                publishing.close()

    async def image(self, revision: int, content: bytes = b"", key: Key = KEY) -> tuple[SignedManifest, NameRecord]:
        tree = self.path / "tree"
        shutil.rmtree(tree, ignore_errors=True)
        tree.mkdir()
        (tree / "file").write_bytes(b"%d " % revision + content)
        for path in (tree / "file", tree):
            os.utime(path, ns=(0, 0))
        made = await build(
            tree, self.store, name="jane/web", revision=revision, sign=lambda signed: sign_manifest(signed, key)
        )
        return made.signed, NameRecord(name="jane/web", tag="latest", digest=made.digest, revision=revision)

    async def publish(self, revision: int, content: bytes = b"", key: Key = KEY) -> Published:
        image, record = await self.image(revision, content, key)
        async with Client(self.url, signer=Signer(key)) as client:
            return await publish(self.store, image, record, sign_record(record, key), client)

    def copy(self, name: str) -> Path:
        shutil.copytree(self.root, self.path / name)
        return self.path / name


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


class Reader:
    """A node with floors of its own."""

    def __init__(self, path: Path, name: str = "reader") -> None:
        self.guard = RevisionGuard(path / name)

    async def resolve(self, where: str | Path, text: str = "jane/web") -> int:
        store = HttpStore(where) if isinstance(where, str) else DirectoryStore(where)
        async with store:
            name = ImageName.parse(text)
            found = await resolve(store, name, trusted=trusted, now_s=NOW_S, floors=self.guard)
        return found.manifest.revision


async def test_the_log_proves_what_was_published(world: World, tmp_path: Path) -> None:
    async with world.hub() as url, Client(url) as client:
        for revision in range(1, 5):
            assert (await world.publish(revision)).index == revision - 1
        found = await client.call(LOG_LOOKUP, query=LookupQuery(name="jane/web", tag="latest"))
        checkpoint = open_checkpoint(found.checkpoint)
        assert (checkpoint.size, found.index) == (4, 3)
        async with aiohttp.ClientSession() as session, session.get(f"{url}/v1/log/checkpoint") as response:
            assert response.content_type == "text/plain"
            assert await response.text() == found.checkpoint
        entries = (await client.call(LOG_ENTRIES, query=EntriesQuery(start=0))).entries
        assert len(entries) == 4
        for index, entry in enumerate(entries):
            one = await client.call(LOG_INCLUSION, query=InclusionQuery(index=index, size=4))
            assert one.entry == entry
            verify_inclusion(checkpoint.root, 4, index, hash_leaf(entry), one.proof)
        nothing = await client.call(LOG_LOOKUP, query=LookupQuery(name="jane/none", tag="latest"))
        assert (nothing.index, nothing.entry) == (None, None)
        for query in (InclusionQuery(index=4, size=4), InclusionQuery(index=0, size=5)):
            with pytest.raises(RemoteProblem):
                await client.call(LOG_INCLUSION, query=query)
        with pytest.raises(RemoteProblem):
            await client.call(LOG_CONSISTENCY, query=ConsistencyQuery(old=3, new=2))


async def test_a_hub_that_was_set_back_is_refused_by_who_saw_more(world: World, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    async with world.hub() as url:
        await world.publish(1)
        assert await reader.resolve(url) == 1
    backup = world.copy("backup")
    async with world.hub() as url:
        await world.publish(2)
        assert await reader.resolve(url) == 2
    async with world.hub(backup) as url:
        with pytest.raises(LogWentBack):
            await reader.resolve(url)
        assert await Reader(tmp_path, "new").resolve(url) == 1
    # Without its log, too, and read from a directory.
    shutil.rmtree(backup / "hub")
    async with world.hub(backup, read_only=True) as url:
        with pytest.raises(LogMissing):
            await reader.resolve(url)
    with pytest.raises(RevisionWentBack) as caught:
        await reader.resolve(backup)
    assert (caught.value.context["revision"], caught.value.context["floor"]) == (1, 2)
    digest = (await world.image(1))[0].digest.hex()
    assert await reader.resolve(backup, f"jane/web@{digest}") == 1
    async with world.hub() as url:
        assert await reader.resolve(url) == 2


async def test_a_new_node_takes_the_floor_from_the_log(world: World, tmp_path: Path) -> None:
    async with world.hub() as url:
        await world.publish(1)
        old = (world.root / NAME.path).read_bytes()
        await world.publish(2)
        (world.root / NAME.path).write_bytes(old)
        with pytest.raises(RevisionWentBack):
            await Reader(tmp_path).resolve(url)


async def test_a_revision_whose_name_cannot_be_put_in_place_is_no_floor_yet(world: World, tmp_path: Path) -> None:
    """It is in the log, and the disk fails before the name: readers go on with the old one, until it is there."""
    reader, broken = Reader(tmp_path), ["name"]

    def run(step: Step) -> None:
        if step.name in broken:
            raise OSError(errno.EIO, "the disk is broken")
        step.work()

    async with world.hub(run=run) as url, Client(url) as client:
        with pytest.raises(RemoteProblem, match="the disk is broken"):
            await world.publish(1)
        query = LookupQuery(name="jane/web", tag="latest")
        found = await client.call(LOG_LOOKUP, query=query)
        assert (found.index, open_checkpoint(found.checkpoint).size) == (None, 1)
        broken.clear()
        assert (await world.publish(1)).index == 0
        assert await reader.resolve(url) == 1
        broken.append("name")
        with pytest.raises(RemoteProblem, match="the disk is broken"):
            await world.publish(2)
        for who in (reader, Reader(tmp_path, "new")):
            assert await who.resolve(url) == 1
        found = await client.call(LOG_LOOKUP, query=query)
        assert (found.index, open_checkpoint(found.checkpoint).size) == (0, 2)
        # Nor is it hidden when only the intent is left to be removed.
        broken[:] = ["done"]
        found = await client.call(LOG_LOOKUP, query=query)
        assert (found.index, open_checkpoint(found.checkpoint).size) == (1, 2)
        assert await reader.resolve(url) == 2
        broken.clear()
        assert (await client.call(LOG_LOOKUP, query=query)).index == 1
        assert not (world.root / "hub/intent").exists()
        assert (await world.publish(3)).index == 2
        assert await reader.resolve(url) == 3


async def test_a_name_that_cannot_be_logged_is_read(world: World, tmp_path: Path) -> None:
    _, record = await world.image(1)
    await world.store.put(NAME.path, sign_record(record, KEY))
    root = world.path / "store"
    async with world.hub(root) as url:
        assert await Reader(tmp_path).resolve(url) == 1
        _, second = await world.image(2)
        await world.store.put(NAME.path, sign_record(second, KEY))
        (root / "hub/checkpoint").unlink()
        (root / "hub/checkpoint").mkdir()  # which no file takes the place of
        assert await Reader(tmp_path).resolve(url) == 2


async def test_a_forked_log_is_found(world: World, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    async with world.hub():
        await world.publish(1)
    fork = world.copy("fork")
    async with world.hub() as url:
        await world.publish(2)
        await world.publish(3)
        assert await reader.resolve(url) == 3
    async with world.hub(fork) as url:
        for revision in (2, 3):
            await world.publish(revision, b"other")
        with pytest.raises(LogForked):
            await reader.resolve(url)
        for revision in (4, 5):
            await world.publish(revision, b"other")
        with pytest.raises(LogForked):
            await reader.resolve(url)
    async with world.hub() as url:
        await world.publish(4)
        assert await reader.resolve(url) == 4


async def test_another_log_key_is_refused(world: World, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    async with world.hub() as url:
        await world.publish(1)
        await reader.resolve(url)
    shutil.rmtree(world.root / "hub")
    async with world.hub() as url:
        with pytest.raises(LogKeyChanged) as caught:
            await reader.resolve(url)
    assert caught.value.hint is not None
    Path(caught.value.hint.rpartition(" ")[2]).unlink()
    async with world.hub() as url:
        assert await reader.resolve(url) == 1


async def test_the_same_revision_twice_is_refused(world: World, tmp_path: Path) -> None:
    reader = Reader(tmp_path)
    for content in (b"one", b"other"):
        _, record = await world.image(1, content)
        await world.store.put(NAME.path, sign_record(record, KEY))
        if content == b"one":
            assert await reader.resolve(world.path / "store") == 1
            assert await reader.resolve(world.path / "store") == 1
        else:
            with pytest.raises(RevisionWentBack):
                await reader.resolve(world.path / "store")


async def test_a_leaf_of_a_key_that_is_not_trusted_is_no_floor(world: World, tmp_path: Path) -> None:
    async with world.hub() as url:
        await world.publish(7, key=OTHER)
        owner = world.root / "hub" / "owner" / "jane"
        owner.write_text(f"{OTHER.id}\n{KEY.id}\n")
        await world.publish(8)
        image, record = await world.image(2)
        store = DirectoryStore(world.root)
        await publish_by_hand(store, world.store, image, record)
        # The last leaf, 8, is by the trusted key: 2 is old. With 8 gone from the log, 7 by a stranger would not count.
        with pytest.raises(RevisionWentBack):
            await Reader(tmp_path).resolve(url)


async def publish_by_hand(
    target: DirectoryStore, source: DirectoryStore, image: SignedManifest, record: NameRecord
) -> None:
    await target.put(f"manifest/{image.digest.hex()}", image.encode())
    await target.put(NAME.path, sign_record(record, KEY))


async def test_names_that_were_built_by_hand_are_logged(world: World, tmp_path: Path) -> None:
    _, record = await world.image(1)
    await world.store.put(NAME.path, sign_record(record, KEY))
    async with world.hub(world.path / "store") as url, Client(url) as client:
        found = await client.call(LOG_LOOKUP, query=LookupQuery(name="jane/web", tag="latest"))
        assert found.entry == sign_record(record, KEY)
        _, second = await world.image(2)
        await world.store.put(NAME.path, sign_record(second, KEY))
        found = await client.call(LOG_LOOKUP, query=LookupQuery(name="jane/web", tag="latest"))
        assert found.index == 1
        assert await Reader(tmp_path).resolve(url) == 2


async def test_a_hub_without_a_log_and_one_that_is_away(world: World, tmp_path: Path) -> None:
    _, record = await world.image(1)
    await world.store.put(NAME.path, sign_record(record, KEY))
    async with world.hub(world.path / "store", read_only=True) as url:
        assert await Reader(tmp_path).resolve(url) == 1
    with pytest.raises(StoreUnavailable):
        await Reader(tmp_path).resolve(world.url)
