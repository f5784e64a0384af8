"""A hub that has enough to verify is asked again, for longer than one that breaks off."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest

from flist import publish as publish_module
from flist.build import build
from flist.hub.endpoints import COMMIT
from flist.hub.publishing import Publishing
from flist.hub.server import serve_hub
from flist.names import NameRecord, sign_record
from flist.publish import Published, publish
from flist.sign import sign_manifest
from flist.store import DirectoryStore
from zos_core.base.client import Client
from zos_core.base.endpoint import Problem, RemoteProblem
from zos_core.base.errors import ServerBusy
from zos_core.base.keyring import Keyring
from zos_core.base.request_signature import Signer
from zos_core.base.server import listen_tcp

REFUSALS = 9  # three times as many as there are attempts after a break


class Refused(Client):
    """Is told a few times that the hub is busy, when everything has been sent."""

    refusals = 0

    async def call(self, endpoint: Any, **options: Any) -> Any:
        if endpoint is COMMIT and self.refusals < REFUSALS:
            self.refusals += 1
            busy = Problem(code=ServerBusy.code, message="enough to verify", exit_status=16, retryable=True)
            raise RemoteProblem.from_problem(busy, 503)
        return await super().call(endpoint, **options)


async def publish_one(path: Path) -> Published | RemoteProblem:
    """What comes of it; an error would be the hub's group's, were it raised in its block."""
    key = Keyring(path / "keys", publisher="jane").own_key()
    (path / "tree").mkdir()
    (path / "tree" / "file").write_bytes(os.urandom(4096))
    store = DirectoryStore(path / "store")
    made = await build(
        path / "tree", store, name="jane/web", revision=1, sign=lambda signed: sign_manifest(signed, key)
    )
    record = NameRecord(name="jane/web", tag="latest", digest=made.digest, revision=1)
    (path / "hub").mkdir()
    publishing = Publishing(path / "hub")
    try:
        with listen_tcp("127.0.0.1:0") as sock:
            url = f"http://127.0.0.1:{sock.getsockname()[1]}"
            async with (
                serve_hub(DirectoryStore(path / "hub"), sock, publishing=publishing),
                Refused(url, signer=Signer(key)) as client,
            ):
                try:
                    return await publish(store, made.signed, record, sign_record(record, key), client)
                except RemoteProblem as error:
                    return error
    finally:
        publishing.close()


async def test_a_busy_hub_is_asked_again_until_it_has_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_module, "BUSY_PAUSE_MAX_S", 0.0)
    monkeypatch.setattr(publish_module, "BUSY_PAUSE_S", 0.0)
    published = await publish_one(tmp_path)
    assert isinstance(published, Published), published
    assert (published.revision, published.objects_sent) == (1, published.objects)


async def test_a_hub_that_stays_busy_is_an_error_in_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publish_module, "BUSY_MAX_S", 0.0)
    monkeypatch.setattr(publish_module, "BUSY_PAUSE_S", 0.0)
    refused = await publish_one(tmp_path)
    assert isinstance(refused, RemoteProblem)
    assert refused.code == ServerBusy.code
