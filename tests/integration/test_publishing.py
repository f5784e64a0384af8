"""Publishing to real hubs in processes of their own (docs/spec/publish.md): resumed, atomic, owned, in order."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import errno
import hashlib
import http.client
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from blake3 import blake3
from msgspec.structs import replace

from flist.hub import publishing as publishing_module
from flist.hub.endpoints import CHUNK_BYTES, COMMIT, ChunkQuery, Committed, LookupQuery, Revision
from flist.hub.errors import ImageTooLarge, RevisionIncomplete, StoreUnwritable
from flist.hub.publishing import Intent, Publishing, Step
from flist.hub.staging import HUB_META_MAX, Staging
from flist.locator import Entry, Locator
from flist.manifest import Manifest, SignedManifest, encode_manifest
from flist.names import NameRecord, fetch_manifest, read_record, sign_record
from flist.publish import publish as publish_image
from flist.sign import sign_manifest
from flist.store import DirectoryStore
from tests.integration.hub_kit import HubProcess, Wire, kill, objects, staged
from tests.zos_tool import Zos
from zos_core.base.client import Client
from zos_core.base.document import decode_msgpack, encode_msgpack
from zos_core.base.errors import DiskFull, RequestTimeout, ServerBusy
from zos_core.base.keyring import Keyring
from zos_core.base.request_signature import Signer
from zos_core.base.server import Caller

BIG_BYTES = 9 << 20  # three requests of 4 MiB


def home(path: Path, name: str) -> Zos:
    (path / name).mkdir()
    return Zos(path / name)


@pytest.fixture
def jane(tmp_path: Path) -> Zos:
    return home(tmp_path, "jane")


@pytest.fixture
def hub(tmp_path: Path) -> Iterator[HubProcess]:
    made = HubProcess(home(tmp_path, "operator"), tmp_path / "served")
    yield made
    made.kill()


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "tree"
    root.mkdir()
    (root / "big").write_bytes(os.urandom(BIG_BYTES))
    for number in range(20):
        (root / f"small-{number}").write_bytes(b"x" * number * 100)
    return root


def build(zos: Zos, tree: Path, name: str = "jane/web", *options: str) -> dict[str, Any]:
    return zos.json("flist", "build", tree, "--name", name, *options)


def publish(zos: Zos, url: str, name: str = "jane/web", status: int = 0) -> dict[str, Any]:
    return zos.json("flist", "publish", name, "--hub", url, status=status)


def trust(reader: Zos, zos: Zos, publisher: str = "jane") -> None:
    reader.json("trust", "add", publisher, zos.json("key", "show")["key"])


def as_jane(zos: Zos) -> Zos:
    """Publishes as jane: the own key is trusted for that name."""
    trust(zos, zos)
    return zos


# --- The way -------------------------------------------------------------------------------------------------------


def test_only_what_is_lacking_is_sent(jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path) -> None:
    as_jane(jane)
    build(jane, tree)
    reader = home(tmp_path, "reader")
    with hub.running() as url:
        plan = jane.json("flist", "publish", "jane/web", "--hub", url, "--plan")
        assert plan["revision"] == 1
        assert objects(hub.root) == set()
        first = publish(jane, url)
        assert first["bytes_sent"] > BIG_BYTES
        assert (first["objects_sent"], first["objects"], first["index"]) == (5, 5, 0)
        again = publish(jane, url)
        assert (again["objects_sent"], again["bytes_sent"], again["index"]) == (0, 0, 0)
        (tree / "small-3").write_bytes(b"changed")
        build(jane, tree)
        second = publish(jane, url)
        assert 0 < second["bytes_sent"] < 100_000
        assert (second["revision"], second["index"]) == (2, 1)
        trust(reader, jane)
        assert reader.json("flist", "verify", "jane/web", "--store", url)["revision"] == 2
        by_name = f"{url.removeprefix('http://')}/jane/web"
        assert reader.json("flist", "verify", by_name)["revision"] == 2
        assert reader.json("flist", "verify", by_name, "--store", url)["revision"] == 2
        error = reader.json("flist", "verify", by_name, "--store", tmp_path, status=2)["error"]
        assert error["message"].endswith(f"and --store {tmp_path}")
        assert objects(hub.root) == objects(jane.store)
        assert staged(hub.root) == set()


def test_progress_is_shown(jane: Zos, hub: HubProcess, tree: Path) -> None:
    as_jane(jane)
    build(jane, tree)
    with hub.running() as url:
        status, out, err = jane.run("flist", "publish", "jane/web", "--hub", url)
        assert status == 0, err
        assert "publishing: 9.4 MB in" in err
        assert "revision 1 is at http://" in out
        assert "leaf 0" in out


def test_what_cannot_be_published(jane: Zos, hub: HubProcess, tree: Path) -> None:
    as_jane(jane)
    build(jane, tree, "jane/web", "-o", str(jane.home / "web.flist"))
    for argv, status, code in [
        (("jane/none", "--hub", "http://127.0.0.1:1"), 35, "flist.name-unknown"),
        (("jane/web", "--hub", "http://127.0.0.1:1"), 16, "http.unreachable"),
        (("jane/web", "--hub", "http://"), 16, "http.unreachable"),
        (("jane/web", "--hub", "http://127.0.0.1:77777"), 16, "http.unreachable"),
        (("jane/web", "--hub", "hub.example"), 2, "cli.usage"),
        (("web.flist", "--hub", "http://127.0.0.1:1"), 2, "cli.usage"),
        ((f"jane/web@{'0' * 64}", "--hub", "http://127.0.0.1:1"), 2, "cli.usage"),
        (("jane/web", "--store", "http://127.0.0.1:1"), 2, "cli.usage"),
    ]:
        assert jane.json("flist", "publish", *argv, status=status)["error"]["code"] == code
    hub.options = ("--read-only",)
    with hub.running() as url:
        assert publish(jane, url, status=1)["error"]["code"] == "http.404"
        assert not (hub.root / "hub").exists()


def test_a_new_key_signs_and_publishes_its_own(jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path) -> None:
    other = home(tmp_path, "laptop")
    build(jane, tree, "web")
    publisher = jane.json("key", "show")["publisher"]
    other.json("key", "show")
    other.json("key", "export", tmp_path / "other.json")
    jane.json("key", "import", tmp_path / "other.json", "--replace")
    with hub.running() as url:
        error = publish(jane, url, "web", status=39)["error"]
        assert error["hint"] == "zos flist sign web"
        jane.json("flist", "sign", "web")
        assert publish(jane, url, "web")["revision"] == 1
        shown = other.json("flist", "inspect", f"{publisher}/web", "--store", url)
        assert sorted(each["trusted"] for each in shown["signatures"]) == [False, True]


# --- Killed ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("share", [0.0001, 0.01, 0.5, 0.9, 0.999], ids=str)
def test_a_publisher_killed_at_any_byte_leaves_nothing_visible(
    jane: Zos, hub: HubProcess, tree: Path, share: float
) -> None:
    as_jane(jane)
    build(jane, tree)
    victims: list[subprocess.Popen[str]] = []
    wire = Wire(hub, after=int(share * BIG_BYTES), act=lambda: kill(victims[0])())
    with hub.running() as url:
        victims.append(jane.start("flist", "publish", "jane/web", "--hub", wire.url))
        out, err = victims[0].communicate(timeout=60)
        assert victims[0].returncode == -9, (out, err)
        wire.close()
        assert objects(hub.root) == set()
        lookup = jane.run("flist", "inspect", "jane/web", "--store", url)
        assert (lookup[0], "is not there" in lookup[2]) == (35, True)
        published = publish(jane, url)
        if share > 0.8:
            assert published["bytes_sent"] < BIG_BYTES // 2
        assert objects(hub.root) == objects(jane.store)
        assert jane.json("flist", "verify", "jane/web", "--store", url)["revision"] == 1


def test_a_hub_killed_in_an_upload_goes_on_after_its_restart(jane: Zos, hub: HubProcess, tree: Path) -> None:
    as_jane(jane)
    build(jane, tree)
    wire = Wire(hub, after=6 << 20, act=hub.kill)
    hub.start()
    assert publish(jane, wire.url, status=16)["error"]["retryable"]
    wire.close()
    assert objects(hub.root) == set()
    with hub.running() as url:
        assert publish(jane, url)["bytes_sent"] < 7 << 20
        assert jane.json("flist", "verify", "jane/web", "--store", url)["revision"] == 1


KILLED_AT = """
import asyncio, os, signal, sys
from pathlib import Path
from flist.hub.endpoints import Revision
from flist.hub.publishing import Publishing
from zos_core.base.document import decode_msgpack
from zos_core.base.server import Caller

root, number, request = Path(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]).read_bytes()
done = 0
def run(step):
    global done
    if done == number:
        os.kill(os.getpid(), signal.SIGKILL)
    step.work()
    done += 1
async def main():
    hub = Publishing(root, run=run)
    await hub.commit(caller=Caller(public=request[:32]), body=decode_msgpack(request[32:], Revision, what="request"))
    print(done)
asyncio.run(main())
"""


@pytest.mark.timeout(300)
def test_a_hub_killed_at_any_step_of_a_commit_shows_the_old_or_the_new(
    jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path
) -> None:
    """The commit of revision 2, over and over, killed before step n for every n; then a new hub takes the store."""
    as_jane(jane)
    build(jane, tree)
    wire = Wire(hub)
    hub.start()
    publish(jane, hub.url)
    (tree / "more").write_bytes(os.urandom(300_000))
    second = build(jane, tree)
    # Everything of revision 2 is uploaded; the commit itself is cut off.
    request = _upload_only(jane, hub, wire)
    wire.close()
    hub.kill()
    before = objects(hub.root)
    old = _digest_of(hub.root)
    number = 0
    while True:
        copy = tmp_path / f"copy-{number}"
        subprocess.run(["cp", "-a", "--reflink=auto", hub.root, copy], check=True)
        ended = subprocess.run(
            [sys.executable, "-c", KILLED_AT, str(copy), str(number), str(request)],
            capture_output=True,
            text=True,
            env=jane.environ,
            timeout=60,
        )
        shown = _digest_of(copy)
        if ended.returncode == 0:
            assert shown == second["digest"]
            assert number == int(ended.stdout) > 10
            break
        assert ended.returncode == -9, ended.stderr
        assert shown in (old, second["digest"])
        # A reader of what lies there, as a hub would serve it, sees a whole revision at every step.
        assert jane.json("flist", "verify", f"jane/web@{shown}", "--store", copy)["digest"] == shown
        restarted = Publishing(copy)
        assert (restarted.log.size, staged(copy), (copy / "hub" / "intent").exists()) == (2, set(), False)
        restarted.close()
        assert _digest_of(copy) == second["digest"]
        assert objects(copy) == before | objects(jane.store)
        subprocess.run(["rm", "-rf", copy], check=True)
        number += 1


def _digest_of(root: Path) -> str:
    return read_record((root / "name" / "jane" / "web" / "latest").read_bytes(), trusted=None).record.digest.hex()


def _upload_only(jane: Zos, hub: HubProcess, wire: Wire) -> Path:
    """Publish by hand up to the commit, whose request is left in a file: the key, then the body."""
    key = Keyring(jane.home / "config" / "zos").own_key()
    kept = jane.home / "request"

    class UpToTheCommit(Client):
        async def call(self, endpoint: Any, **options: Any) -> Any:
            if endpoint is COMMIT:
                kept.write_bytes(key.public + encode_msgpack(options["body"]))
                raise KeyboardInterrupt
            return await super().call(endpoint, **options)

    async def main() -> None:
        store = DirectoryStore(jane.store)
        data = (jane.store / "name" / "jane" / "web" / "latest").read_bytes()
        record = read_record(data, trusted=None).record
        image = await fetch_manifest(store, record.digest)
        async with UpToTheCommit(wire.url, signer=Signer(key)) as client:
            await publish_image(store, image, record, data, client)

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(main())
    return kept


def _all_but_the_commit(jane: Zos, hub: HubProcess, tree: Path) -> tuple[Caller, Revision]:
    """Everything of jane/web, built from `tree`, has come, and the hub is dead; who commits, and what."""
    as_jane(jane)
    build(jane, tree)
    wire = Wire(hub)
    hub.start()
    request = _upload_only(jane, hub, wire).read_bytes()
    wire.close()
    hub.kill()
    return Caller(public=request[:32]), decode_msgpack(request[32:], Revision, what="request")


async def _send(taken: Publishing, caller: Caller, jane: Zos, pack: str) -> None:
    """Upload a pack once more."""
    data = (jane.store / "pack" / pack).read_bytes()
    for at in range(0, len(data), CHUNK_BYTES):
        query = ChunkQuery(offset=at, size=len(data))
        await taken.upload(caller=caller, kind="pack", hash=pack, query=query, body=data[at : at + CHUNK_BYTES])


# --- Owners and races -----------------------------------------------------------------------------------------------


def test_the_first_key_owns_a_name(jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path) -> None:
    as_jane(jane)
    eve = as_jane(home(tmp_path, "eve"))
    build(jane, tree)
    build(eve, tree)
    with hub.running() as url:
        publish(jane, url)
        error = publish(eve, url, status=32)["error"]
        assert error["code"] == "hub.not-owner"
        assert jane.json("key", "show")["key"] in error["message"]
        build(eve, tree, "jane/other")
        assert publish(eve, url, "jane/other", status=32)["error"]["code"] == "hub.not-owner"
        assert staged(hub.root) == set()


def test_the_operator_says_who_may(jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path) -> None:
    as_jane(jane)
    eve = as_jane(home(tmp_path, "eve"))
    trust(eve, eve, "eve")
    build(jane, tree)
    build(eve, tree)
    build(eve, tree, "eve/web")
    who = tmp_path / "who.json"
    allowed = {"jane": [jane.json("key", "show")["key"]]}
    who.write_text(json.dumps({"version": 1, "publishers": allowed}))
    hub.options = ("--publishers", who)
    with hub.running() as url:
        assert publish(eve, url, status=16)["error"]["code"] == "request.key-unknown"
        publish(jane, url)
        who.write_text(json.dumps({"version": 1, "publishers": {**allowed, "eve": [eve.json("key", "show")["key"]]}}))
        publish(eve, url, "eve/web")
        assert publish(eve, url, status=32)["error"]["code"] == "hub.not-owner"
    who.write_text("{}")
    error = jane.json("hub", "serve", "--store", hub.root, "--publishers", who, status=10)["error"]
    assert error["code"] == "document.invalid"


def test_the_operators_file_is_kept_in_mind_while_it_cannot_be_read(
    jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path
) -> None:
    as_jane(jane)
    build(jane, tree)
    who = tmp_path / "publishers.json"
    allowed = json.dumps({"version": 1, "publishers": {"jane": [jane.json("key", "show")["key"]]}})
    who.write_text(allowed)
    hub.options = ("--publishers", who)
    url = hub.start()
    publish(jane, url)

    def gone() -> None:
        who.unlink()

    def half() -> None:
        who.write_text(allowed[:20])

    def a_pipe() -> None:
        who.unlink()
        os.mkfifo(who)

    for number, happens in enumerate((gone, half, a_pipe), start=2):
        happens()
        build(jane, tree, "jane/web", "--revision", str(number))
        assert publish(jane, url)["revision"] == number
    who.unlink()
    who.write_text(json.dumps({"version": 1, "publishers": {}}))
    assert publish(jane, url, status=16)["error"]["code"] == "request.key-unknown"
    said = hub.kill()
    assert [line for line in said.splitlines() if "still may" not in line] == []
    assert len(said.splitlines()) == 3, said


@pytest.mark.parametrize("text", ["", "\n", "nobody\n"])
def test_an_owners_file_that_is_damaged_gives_the_name_to_nobody(
    jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path, text: str
) -> None:
    as_jane(jane)
    eve = as_jane(home(tmp_path, "eve"))
    build(jane, tree)
    build(eve, tree, "jane/web", "--revision", "5")
    with hub.running() as url:
        publish(jane, url)
        (hub.root / "hub/owner/jane").write_text(text)
        error = publish(eve, url, status=32)["error"]
        assert (error["code"], "hub/owner/jane" in error["hint"]) == ("hub.not-owner", True)


def test_images_built_into_the_store_belong_to_their_signer(
    jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path
) -> None:
    as_jane(jane)
    eve = as_jane(home(tmp_path, "eve"))
    jane.json("flist", "build", tree, "--name", "jane/web", "--store", hub.root)
    build(eve, tree)
    with hub.running() as url:
        assert publish(eve, url, status=32)["error"]["code"] == "hub.not-owner"
        assert jane.json("flist", "verify", "jane/web", "--store", url)["revision"] == 1


def test_of_two_racing_publishers_one_wins(jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path) -> None:
    as_jane(jane)
    eve = as_jane(home(tmp_path, "eve"))
    build(jane, tree)
    (tree / "evil").write_bytes(b"evil")
    build(eve, tree)
    with hub.running() as url:
        running = [each.start("flist", "publish", "jane/web", "--hub", url, "--json") for each in (jane, eve)]
        ended = [(each.communicate(timeout=60)[0], each.returncode) for each in running]
        assert sorted(status for _, status in ended) == [0, 32]
        won = next(json.loads(out) for out, status in ended if status == 0)
        lost = next(json.loads(out) for out, status in ended if status)
        assert lost["error"]["code"] == "hub.not-owner"
        assert _digest_of(hub.root) == won["digest"]
        reader = home(tmp_path, "reader")
        trust(reader, jane)
        trust(reader, eve)
        assert reader.json("flist", "verify", "jane/web", "--store", url)["digest"] == won["digest"]


def test_one_key_racing_with_itself_publishes_one_image_of_a_revision(
    jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path
) -> None:
    as_jane(jane)
    twin = home(tmp_path, "twin")
    jane.json("key", "export", tmp_path / "key.json")
    twin.json("key", "import", tmp_path / "key.json")
    as_jane(twin)
    build(jane, tree)
    (tree / "more").write_bytes(b"more")
    build(twin, tree)
    with hub.running() as url:
        running = [each.start("flist", "publish", "jane/web", "--hub", url, "--json") for each in (jane, twin)]
        ended = [(each.communicate(timeout=60)[0], each.returncode) for each in running]
        assert sorted(status for _, status in ended) == [0, 45]
        lost = next(json.loads(out) for out, status in ended if status)
        assert lost["error"]["code"] == "flist.revision-not-new"
        assert "--revision 2" in lost["error"]["hint"]


def test_two_commits_of_one_key_at_once_do_not_meet(jane: Zos, hub: HubProcess, tree: Path) -> None:
    """What each of them verifies lies in a directory of its own: neither takes it from under the other."""
    caller, body = _all_but_the_commit(jane, hub, tree)
    both, views = threading.Barrier(2, timeout=30), set[Path]()

    class Slow(Publishing):
        def _make_view(self, view: Path, public: bytes, manifest: Manifest, locator: bytes | None) -> None:
            super()._make_view(view, public, manifest, locator)
            views.add(view)
            both.wait()

    async def main() -> list[Committed]:
        taken = Slow(hub.root)
        async with asyncio.TaskGroup() as group:
            commits = [group.create_task(taken.commit(caller=caller, body=body)) for _ in range(2)]
        taken.close()
        return [commit.result() for commit in commits]

    first, second = asyncio.run(main())
    assert first == second
    assert len(views) == 2
    assert not any(view.exists() for view in views)
    assert staged(hub.root) == set()


def test_a_locator_is_verified_for_the_commit_that_brings_it(jane: Zos, hub: HubProcess, tree: Path) -> None:
    """Two images of the same content, at once: the locator of one leads to wrong bytes, and must not get in by the
    other's."""
    caller, good = _all_but_the_commit(jane, hub, tree)
    build(jane, tree, "jane/other")
    store = DirectoryStore(jane.store)
    name = (jane.store / "name/jane/other/latest").read_bytes()
    image = asyncio.run(fetch_manifest(store, read_record(name, trusted=None).record.digest))
    index = SignedManifest.parse(good.manifest).manifest.index.root
    assert image.manifest.index.root == index
    true = asyncio.run(store.get(f"locator/{index.hex()}"))
    false = bytearray(true)
    false[-8] ^= 1  # the offset of the last unit: 12 bytes, pack first
    wrong = Revision(manifest=image.encode(), record=name, locator=blake3(false).digest())
    both = threading.Barrier(2, timeout=30)

    class Together(Publishing):
        def _make_view(self, view: Path, public: bytes, manifest: Manifest, locator: bytes | None) -> None:
            both.wait()
            super()._make_view(view, public, manifest, locator)
            both.wait()

    async def main() -> list[Committed | BaseException]:
        taken = Together(hub.root)
        query = ChunkQuery(offset=0, size=len(false))
        digest = blake3(false).hexdigest()
        await taken.upload(caller=caller, kind="locator", hash=digest, query=query, body=bytes(false))
        commits = [taken.commit(caller=caller, body=body) for body in (wrong, good)]
        answers = await asyncio.gather(*commits, return_exceptions=True)
        taken.close()
        return answers

    refused, committed = asyncio.run(main())
    assert isinstance(refused, RevisionIncomplete), refused
    assert isinstance(committed, Committed), committed
    assert (hub.root / "locator" / index.hex()).read_bytes() == true

    async def afterwards() -> None:
        """Nor does the right one, which the store has by now, stand in for what it leads to."""
        taken = Publishing(hub.root)
        with pytest.raises(RevisionIncomplete, match="wrong bytes"):
            await taken.commit(caller=caller, body=wrong)
        taken.close()

    asyncio.run(afterwards())
    assert (hub.root / "locator" / index.hex()).read_bytes() == true


def test_a_locator_of_another_index_is_refused_where_nothing_is_read_by_it(
    jane: Zos, hub: HubProcess, tmp_path: Path
) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    caller, body = _all_but_the_commit(jane, hub, empty)
    index = SignedManifest.parse(body.manifest).manifest.index
    assert index.units == 0
    false = Locator(packs=(bytes(32),), entries=(Entry(0, 0, 1, True),)).encode()
    wrong = Revision(manifest=body.manifest, record=body.record, locator=blake3(false).digest())

    async def main() -> None:
        taken = Publishing(hub.root)
        query = ChunkQuery(offset=0, size=len(false))
        await taken.upload(caller=caller, kind="locator", hash=blake3(false).hexdigest(), query=query, body=false)
        with pytest.raises(RevisionIncomplete, match="another number of units"):
            await taken.commit(caller=caller, body=wrong)
        assert (await taken.commit(caller=caller, body=body)).revision == 1
        taken.close()

    asyncio.run(main())


def test_what_a_hub_was_about_to_commit_is_committed_when_it_is_published_again(
    jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path
) -> None:
    """Everything had come and was verified; then the hub died, or its disk was full."""
    caller, body = _all_but_the_commit(jane, hub, tree)

    class Broken(Publishing):
        def _intent(self, public: bytes, image: SignedManifest, body: Revision) -> Intent:
            raise DiskFull("the test's disk is full")

    async def main() -> None:
        taken = Broken(hub.root)
        with pytest.raises(DiskFull):
            await taken.commit(caller=caller, body=body)
        taken.close()

    asyncio.run(main())
    reader = home(tmp_path, "reader")
    trust(reader, jane)
    with hub.running() as url:
        assert publish(jane, url)["objects_sent"] == 0
        assert reader.json("flist", "verify", "jane/web", "--store", url)["revision"] == 1
    assert objects(hub.root) == objects(jane.store)
    assert staged(hub.root) == set()


def test_commits_under_way_are_bounded_and_timed(
    jane: Zos, hub: HubProcess, tree: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each is verified, which takes memory and time; whoever is refused may come again."""
    caller, body = _all_but_the_commit(jane, hub, tree)

    async def main() -> list[Committed | BaseException]:
        refused = asyncio.Event()

        class Slow(Publishing):
            async def _verify(self, public: bytes, image: SignedManifest, locator: bytes | None) -> None:
                await refused.wait()
                await super()._verify(public, image, locator)

        taken = Slow(hub.root)

        async def commit() -> Committed | BaseException:
            try:
                return await taken.commit(caller=caller, body=body)
            except ServerBusy as error:
                refused.set()
                return error

        answers = await asyncio.gather(*(commit() for _ in range(5)))
        monkeypatch.setattr(publishing_module, "VERIFY_TIMEOUT_S", 0.0)
        with pytest.raises(RequestTimeout, match="not verified within"):
            await taken.commit(caller=caller, body=body)
        taken.close()
        return answers

    kinds = [type(answer) for answer in asyncio.run(main())]
    assert sorted(kinds, key=str) == sorted([ServerBusy, *[Committed] * 4], key=str)


def test_metadata_of_any_size_is_refused_before_it_is_unpacked(jane: Zos, hub: HubProcess, tree: Path) -> None:
    caller, body = _all_but_the_commit(jane, hub, tree)
    key = Keyring(jane.home / "config" / "zos").own_key()
    manifest = SignedManifest.parse(body.manifest).manifest
    ref = replace(manifest.meta, size=HUB_META_MAX + 1)

    async def main() -> None:
        taken = Publishing(hub.root)
        image = sign_manifest(SignedManifest(encode_manifest(replace(manifest, meta=ref))), key)
        record = NameRecord(name=manifest.name, tag="latest", digest=image.digest, revision=manifest.revision)
        revision = Revision(manifest=image.encode(), record=sign_record(record, key), locator=body.locator)
        with pytest.raises(ImageTooLarge, match="64 MiB"):
            await taken.commit(caller=caller, body=revision)
        taken.close()

    asyncio.run(main())


def test_a_hub_verifies_on_its_own_disk(
    jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not in /tmp, which is memory on many machines."""
    caller, body = _all_but_the_commit(jane, hub, tree)

    async def main() -> None:
        taken = Publishing(hub.root)
        await taken.commit(caller=caller, body=body)
        taken.close()

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "nowhere"))
    asyncio.run(main())


def test_a_pack_that_was_lost_and_sent_again_is_kept_whoever_commits(jane: Zos, hub: HubProcess, tree: Path) -> None:
    """It was sent, the publisher was stopped; the next commit brings no locator, as the store has it."""
    caller, body = _all_but_the_commit(jane, hub, tree)

    async def main() -> None:
        taken = Publishing(hub.root)
        await taken.commit(caller=caller, body=body)
        (pack,) = (hub.root / "pack").iterdir()
        pack.unlink()
        without = Revision(manifest=body.manifest, record=body.record)
        with pytest.raises(RevisionIncomplete, match=pack.name):
            await taken.commit(caller=caller, body=without)
        await _send(taken, caller, jane, pack.name)
        await taken.commit(caller=caller, body=without)
        taken.close()

    asyncio.run(main())
    assert objects(hub.root) == objects(jane.store)
    assert staged(hub.root) == set()


@pytest.mark.parametrize("kind", ["pack", "locator", "index", "meta"])
def test_what_a_store_has_lost_is_sent_again(jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path, kind: str) -> None:
    as_jane(jane)
    build(jane, tree)
    with hub.running() as url:
        publish(jane, url)
        for path in (hub.root / kind).iterdir():
            path.unlink()
        assert publish(jane, url)["index"] == 0
    assert objects(hub.root) == objects(jane.store)
    assert staged(hub.root) == set()


def test_two_hubs_do_not_publish_into_one_store(jane: Zos, hub: HubProcess) -> None:
    with hub.running():
        error = jane.json("hub", "serve", "--store", hub.root, "--listen", "127.0.0.1:0", status=33)["error"]
        assert error["code"] == "hub.store-busy"


# --- Replays, wrong bytes, full disks ------------------------------------------------------------------------------


def _answer(port: int, request: bytes) -> tuple[int, dict[str, Any]]:
    with socket.create_connection(("127.0.0.1", port), timeout=20) as sock:
        sock.sendall(request)
        data = b""
        while b"\r\n\r\n" not in data or len(data.partition(b"\r\n\r\n")[2]) < _length(data):
            piece = sock.recv(65536)
            assert piece, data
            data += piece
    head, _, body = data.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)


def _length(data: bytes) -> int:
    head = data.partition(b"\r\n\r\n")[0].lower()
    return int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])


def test_a_replay_is_refused_after_a_restart_of_the_hub(jane: Zos, hub: HubProcess, tree: Path) -> None:
    as_jane(jane)
    (tree / "big").unlink()
    build(jane, tree)
    wire = Wire(hub)
    with hub.running():
        publish(jane, wire.url)
    wire.close()
    replay = b"POST /v1/revisions" + bytes(wire.sent).partition(b"POST /v1/revisions")[2]
    replay = replay[: replay.index(b"\r\n\r\n") + 4 + _length(replay)]
    with hub.running():
        assert _answer(hub.port, replay)[1]["code"] == "request.replayed"
        other = replay.replace(b"POST /v1/revisions", b"POST /v1/offers", 1)
        assert _answer(hub.port, other)[1]["code"] == "request.signature-wrong"
        assert _answer(hub.port, replay[:-1] + b"]")[1]["code"] == "request.replayed"


def test_a_damaged_store_publishes_nothing(jane: Zos, hub: HubProcess, tree: Path) -> None:
    as_jane(jane)
    build(jane, tree)
    pack = next((jane.store / "pack").iterdir())
    good = pack.read_bytes()
    pack.write_bytes(good[:1000] + bytes([good[1000] ^ 1]) + good[1001:])
    with hub.running() as url:
        assert publish(jane, url, status=32)["error"]["code"] == "hub.object-wrong"
        assert objects(hub.root) == set()
        pack.write_bytes(good)
        publish(jane, url)
        assert jane.json("flist", "verify", "jane/web", "--store", url)["revision"] == 1


@pytest.mark.root
def test_a_full_disk_of_the_hub_is_said_and_survived(jane: Zos, hub: HubProcess, tree: Path) -> None:
    as_jane(jane)
    build(jane, tree)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=6m", "zos-test", hub.root], check=True)
    try:
        with hub.running() as url:
            error = publish(jane, url, status=10)["error"]
            assert (error["code"], error["retryable"]) == ("disk.full", True)
            assert objects(hub.root) == set()
            subprocess.run(["mount", "-o", "remount,size=64m", hub.root], check=True)
            assert publish(jane, url)["bytes_sent"] < BIG_BYTES
            assert jane.json("flist", "verify", "jane/web", "--store", url)["revision"] == 1
            fill = hub.root / "filler"
            with open(fill, "wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(bytes(1 << 16))
            build(jane, tree)
            # Unlinked names leave no room: the nonce, or the offer's object, cannot be kept.
            assert publish(jane, url, status=10)["error"]["code"] == "disk.full"
            assert jane.json("flist", "verify", "jane/web", "--store", jane.store)["revision"] == 2
            assert jane.run("flist", "verify", "jane/web@" + _digest_of(hub.root), "--store", url)[0] == 0
            fill.unlink()
            assert publish(jane, url)["revision"] == 2
    finally:
        hub.kill()
        subprocess.run(["umount", hub.root], check=True)


@pytest.mark.root
def test_a_disk_that_is_full_when_an_image_is_verified_is_said(jane: Zos, hub: HubProcess, tree: Path) -> None:
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "zos-test", hub.root], check=True)

    async def main(body: Revision, caller: Caller) -> None:
        with contextlib.closing(Publishing(hub.root)) as taken:
            fill = hub.root / "filler"
            with open(fill, "wb", buffering=0) as file, pytest.raises(OSError):
                while True:
                    file.write(bytes(1 << 16))
            with pytest.raises(DiskFull, match="what is verified"):
                await taken.commit(caller=caller, body=body)
            fill.unlink()
            assert (await taken.commit(caller=caller, body=body)).revision == 1

    try:
        caller, body = _all_but_the_commit(jane, hub, tree)
        asyncio.run(main(body, caller))
    finally:
        hub.kill()
        subprocess.run(["umount", hub.root], check=True)


def _read_only(path: Path) -> None:
    """As the operator's mount, or the kernel after an error of the disk, makes it; root is refused as well."""
    subprocess.run(["mount", "--bind", path, path], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", path], check=True)


@pytest.mark.root
def test_a_store_that_cannot_be_written_is_said_and_read(jane: Zos, hub: HubProcess, tree: Path) -> None:
    as_jane(jane)
    build(jane, tree)
    with hub.running() as url:
        publish(jane, url)
        (tree / "small-3").write_bytes(b"changed")
        build(jane, tree)
        _read_only(hub.root / "manifest")
        try:
            error = publish(jane, url, status=33)["error"]
            assert error["code"] == "hub.store-unwritable"
            assert str(hub.root / "manifest") in error["hint"]
            assert not (hub.root / "hub/intent").exists(), "it was found out before anything was decided"
            assert jane.json("flist", "verify", f"jane/web@{_digest_of(hub.root)}", "--store", url)["revision"] == 1
        finally:
            subprocess.run(["umount", hub.root / "manifest"], check=True)
        assert publish(jane, url)["revision"] == 2


@pytest.mark.root
def test_an_intent_that_cannot_be_carried_out_waits_and_loses_nothing(
    jane: Zos, hub: HubProcess, tree: Path, tmp_path: Path
) -> None:
    """The hub starts and is read; for as long as it lasts, those who publish are told; no upload is thrown away."""
    eve = as_jane(home(tmp_path, "eve"))
    build(eve, tree, "eve/web")
    trust(eve, eve, "eve")
    caller, body = _all_but_the_commit(jane, hub, tree)

    def until_the_manifest(step: Step) -> None:
        if step.name == "manifest":
            raise OSError(errno.EIO, "the disk is broken")
        step.work()

    async def main() -> None:
        broken = Publishing(hub.root, run=until_the_manifest)
        with pytest.raises(StoreUnwritable, match="the disk is broken"):
            await broken.commit(caller=caller, body=body)
        before = staged(hub.root)
        await broken.collect(now_s=1e12)
        assert staged(hub.root) == before
        broken.close()

    asyncio.run(main())
    (hub.root / "manifest").mkdir(exist_ok=True)
    _read_only(hub.root / "manifest")
    try:
        url = hub.start()
        for zos, name in ((eve, "eve/web"), (jane, "jane/web")):
            assert publish(zos, url, name, status=33)["error"]["code"] == "hub.store-unwritable"
    finally:
        hub.kill()
        subprocess.run(["umount", hub.root / "manifest"], check=True)
    with hub.running() as url:
        assert jane.json("flist", "verify", "jane/web", "--store", url)["revision"] == 1, "carried out at the start"
        assert publish(eve, url, "eve/web")["index"] == 1


def test_what_an_intent_is_to_move_and_is_gone_is_told_to_the_operator(
    jane: Zos, hub: HubProcess, tree: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caller, body = _all_but_the_commit(jane, hub, tree)

    def not_the_pack(step: Step) -> None:
        if step.name.startswith("move pack/"):
            raise OSError(errno.EIO, "the disk is broken")
        step.work()

    async def main() -> None:
        broken = Publishing(hub.root, run=not_the_pack)
        with pytest.raises(StoreUnwritable, match="the disk is broken"):
            await broken.commit(caller=caller, body=body)
        broken.close()
        (pack,) = (hub.root / "hub/staged").glob("*/pack/*")
        pack.unlink()
        taken = Publishing(hub.root)
        with pytest.raises(StoreUnwritable, match="and is gone") as caught:
            taken._carry_out()  # as for whoever publishes next
        assert (caught.value.retryable, "intent" in str(caught.value.hint)) == (False, False)
        await _send(taken, caller, jane, pack.name)
        assert (await taken.commit(caller=caller, body=body)).revision == 1
        taken.close()

    asyncio.run(main())
    assert str(hub.root / "hub/intent") in caplog.text
    assert objects(hub.root) == objects(jane.store)


def test_looking_for_idle_uploads_keeps_nobody_waiting(jane: Zos, hub: HubProcess, tree: Path) -> None:
    _all_but_the_commit(jane, hub, tree)
    answered = threading.Event()

    class Slow(Staging):
        def idle(self, *, now_s: float) -> list[Path]:
            assert answered.wait(30)
            return super().idle(now_s=now_s)

    async def main() -> None:
        taken = Publishing(hub.root)
        taken.staging = Slow(hub.root / "hub/staged")
        async with asyncio.TaskGroup() as group:
            group.create_task(taken.collect(now_s=1e12))
            async with asyncio.timeout(20):
                await taken.lookup(query=LookupQuery(name="jane/web", tag="latest"))
            answered.set()
        taken.close()

    asyncio.run(main())
    assert staged(hub.root) == set()


@pytest.mark.root
def test_a_disk_that_became_read_only_ends_no_hub(jane: Zos, hub: HubProcess, tree: Path) -> None:
    _all_but_the_commit(jane, hub, tree)
    before = staged(hub.root)
    for file in (hub.root / "hub/staged").rglob("*"):
        os.utime(file, (1000, 1000))
    _read_only(hub.root / "hub/staged")
    try:
        url = hub.start()
        assert hub.process is not None
        assert hub.process.stderr is not None
        assert "idle uploads were not all thrown away" in hub.process.stderr.readline()
        assert "is not there" in jane.run("flist", "inspect", "jane/web", "--store", url)[2]
        assert staged(hub.root) == before
        assert hub.kill() == ""
    finally:
        hub.kill()
        subprocess.run(["umount", hub.root / "hub/staged"], check=True)
    _read_only(hub.root)
    try:
        serve = ("hub", "serve", "--store", hub.root, "--listen", "127.0.0.1:0")
        error = jane.json(*serve, status=41)["error"]
        assert (error["code"], "--read-only" in error["hint"]) == ("store.read-only", True)
    finally:
        subprocess.run(["umount", hub.root], check=True)


# --- What anybody can send -----------------------------------------------------------------------------------------


def _signed_by(key: str, host: str, port: int) -> tuple[int, dict[str, Any]]:
    """An offer with a signature of zeros, which holds for every message under a key of small order."""
    offer = {"name": "free/forall", "tag": "latest", "revision": 1, "digest": "A" * 43 + "=", "objects": []}
    body = json.dumps(offer).encode()
    now_s = int(time.time())
    covered = '("@method" "@authority" "@path" "@query" "content-digest")'
    nonce = secrets.token_urlsafe(16)
    parameters = f'created={now_s};expires={now_s + 60};nonce="{nonce}";keyid="{key}";alg="ed25519";tag="zos-request"'
    headers = {
        "Host": host,
        "Content-Type": "application/json",
        "Content-Digest": f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:",
        "Signature-Input": f"zos={covered};{parameters}",
        "Signature": f"zos=:{base64.b64encode(bytes(64)).decode()}:",
    }
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port, timeout=20)) as connection:
        connection.request("POST", "/v1/offers", body, headers)
        answer = connection.getresponse()
        return answer.status, json.loads(answer.read())


@pytest.mark.parametrize("public", ["00" * 32, "01" + "00" * 31, "ec" + "ff" * 30 + "7f"])
def test_keys_under_which_anybody_signs_may_not_speak(hub: HubProcess, public: str, tmp_path: Path) -> None:
    with hub.running():
        status, said = _signed_by(f"ed25519:{public}", f"127.0.0.1:{hub.port}", hub.port)
        assert (status, said["code"]) == (401, "request.key-unknown"), said
        assert not (hub.root / "hub/staged" / public).exists()
        good = hub.zos.json("key", "show")["key"]
        assert _signed_by(good, f"127.0.0.1:{hub.port}", hub.port)[1]["code"] == "request.signature-wrong"
    allowed = tmp_path / "publishers.json"
    allowed.write_text(json.dumps({"version": 1, "publishers": {"free": [f"ed25519:{public}"]}}))
    serve = ("hub", "serve", "--store", hub.root, "--listen", "127.0.0.1:0", "--publishers", allowed)
    assert hub.zos.json(*serve, status=17)["error"]["code"] == "key.invalid"


def test_the_openapi_document_says_what_publishing_can_answer(hub: HubProcess) -> None:
    with hub.running(), contextlib.closing(http.client.HTTPConnection("127.0.0.1", hub.port, timeout=20)) as connection:
        connection.request("GET", "/openapi.json")
        paths = json.loads(connection.getresponse().read())["paths"]
    for answers, codes in [
        (paths["/v1/revisions"]["post"]["responses"], {"413": "hub.image-too-large", "504": "base.timeout"}),
        (paths["/v1/revisions"]["post"]["responses"], {"503": "http.busy, hub.store-unwritable", "507": "disk.full"}),
        (paths["/v1/uploads/{kind}/{hash}"]["put"]["responses"], {"413": "hub.image-too-large"}),
        (paths["/v1/uploads/{kind}/{hash}"]["put"]["responses"], {"503": "hub.store-unwritable"}),
    ]:
        assert {status: answers[status]["description"] for status in codes} == codes


def test_what_is_no_http_and_no_text_is_refused_and_fills_no_log(jane: Zos, hub: HubProcess) -> None:
    key = jane.json("key", "show")["key"]
    with hub.running():  # at its end it has said nothing on stderr
        status, said = _signed_by(key, "\xff", hub.port)
        assert (status, said["code"]) == (421, "request.wrong-audience"), said
        assert "\\udcff" in said["message"]
        for line in (b"POST /v1/offers?\xff HTTP/1.1", b"GET /meta/\xff HTTP/1.1", b"\xff\xfe", b"GET / HTTP/9.9"):
            with socket.create_connection(("127.0.0.1", hub.port), timeout=20) as sock:
                sock.sendall(line + b"\r\nHost: x\r\nConnection: close\r\n\r\n")
                assert sock.recv(65536).split()[1] in (b"400", b"404"), line
