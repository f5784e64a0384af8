"""Uploads under way: offsets, hashes, limits, collection (PUB-4, PUB-5, PUB-8); who owns a name (PUB-2)."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3
from nacl.signing import SigningKey

from flist.hub import staging as staging_module
from flist.hub.errors import ImageTooLarge, NotOwner, ObjectWrong, StoreUnwritable, UploadConflict, UploadLimit
from flist.hub.owners import Owners
from flist.hub.staging import HUB_META_MAX, Staging, writing
from flist.names import NameRecord, sign_record
from flist.store import ObjectInvalid
from zos_core.base.atomic_file import make_directories
from zos_core.base.errors import DiskFull, DocumentInvalid
from zos_core.base.keyring import Key

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32
DATA = bytes(range(200))
PACK = f"pack/{blake3(DATA).hexdigest()}"
KEY = Key("jane", SigningKey(bytes(32)))


def send(staging: Staging, path: str, data: bytes, *, public: bytes = ONE, step: int = 64) -> int:
    came = 0
    for offset in range(0, len(data), step):
        came = staging.append(public, path, offset=offset, size=len(data), data=data[offset : offset + step])
    return came


def test_an_object_comes_in_pieces_and_is_verified(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    assert staging.offset(ONE, PACK) == 0
    staging.append(ONE, PACK, offset=0, size=200, data=DATA[:150])
    assert not (staging.place(ONE) / PACK).exists()
    assert Staging(tmp_path).offset(ONE, PACK) == 150
    for offset in (0, 149, 151):
        with pytest.raises(UploadConflict) as caught:
            staging.append(ONE, PACK, offset=offset, size=200, data=b"x")
        assert caught.value.context["offset"] == 150
    assert staging.append(ONE, PACK, offset=150, size=200, data=DATA[150:]) == 200
    assert (staging.place(ONE) / PACK).read_bytes() == DATA
    assert staging.offset(ONE, PACK) is None
    assert staging.append(ONE, PACK, offset=7, size=200, data=b"again") == 200
    assert staging.offset(TWO, PACK) == 0, "another key has a place of its own"


def test_a_wrong_object_is_thrown_away(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    with pytest.raises(ObjectWrong):
        send(staging, PACK, DATA[:-1] + b"x")
    assert staging.offset(ONE, PACK) == 0
    assert send(staging, PACK, DATA) == 200


def test_metadata_is_named_by_its_plain_bytes(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    path = f"meta/{blake3(DATA).hexdigest()}"
    stored = zstandard.ZstdCompressor().compress(DATA)
    assert send(staging, path, stored) == len(stored)
    for bad in (DATA, stored[:-1], zstandard.ZstdCompressor().compress(DATA[:-1])):
        with pytest.raises(ObjectWrong):
            send(staging, path, bad, public=TWO)


def test_metadata_that_unpacks_to_more_than_a_hub_takes_is_refused(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    for size, taken in ((HUB_META_MAX, True), (HUB_META_MAX + 1, False)):
        plain = bytes(size)
        path, stored = f"meta/{blake3(plain).hexdigest()}", zstandard.ZstdCompressor().compress(plain)
        if taken:
            assert staging.append(ONE, path, offset=0, size=len(stored), data=stored) == len(stored) < 10_000
            continue
        with pytest.raises(ImageTooLarge) as caught:
            staging.append(ONE, path, offset=0, size=len(stored), data=stored)
        assert (caught.value.retryable, "64 MiB" in str(caught.value.hint)) == (False, True)
        assert staging.offset(ONE, path) == 0


def test_the_collector_may_take_an_empty_directory_before_a_file_is_in_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    staging = Staging(tmp_path)
    taken = set[Path]()

    def made_and_taken(path: Path, *, mode: int) -> None:
        make_directories(path, mode=mode)
        if path not in taken:
            taken.add(path)
            staging.idle(now_s=0)

    monkeypatch.setattr(staging_module, "make_directories", made_and_taken)
    assert send(staging, PACK, DATA) == 200
    assert taken == {staging.place(ONE) / "part", staging.place(ONE) / "pack"}


def test_what_cannot_be_written_is_told_as_what_it_is() -> None:
    for number, kind in [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EFBIG, DiskFull),
        (errno.EROFS, StoreUnwritable),
        (errno.EMFILE, OSError),
        (errno.ENFILE, OSError),
    ]:
        with pytest.raises(kind), writing("a pack"):
            raise OSError(number, os.strerror(number))


def test_what_cannot_be_an_upload(tmp_path: Path) -> None:
    staging = Staging(tmp_path)
    for path in (f"manifest/{'0' * 64}", "name/a/b/c", "pack/../x", "pack/short", "hub/key.json"):
        with pytest.raises(ObjectInvalid):
            staging.append(ONE, path, offset=0, size=1, data=b"x")
    for offset, size, data in [(0, 2, b""), (0, 2, b"abc"), (2, 2, b"a"), (0, 1 << 31, b"a")]:
        with pytest.raises(ObjectInvalid):
            staging.append(ONE, PACK, offset=offset, size=size, data=data)
    assert list(tmp_path.rglob("*")) == []


def test_limits_of_a_key_and_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    staging = Staging(tmp_path, bytes_max=400)
    staging.append(ONE, PACK, offset=0, size=200, data=DATA[:100])
    with pytest.raises(UploadLimit):
        staging.append(ONE, PACK, offset=100, size=200, data=DATA[100:101])
    for public in (TWO, bytes([3]) * 32, bytes([4]) * 32):
        staging.append(public, PACK, offset=0, size=200, data=DATA[:100])
    again = Staging(tmp_path, bytes_max=400)
    with pytest.raises(UploadLimit):
        again.append(bytes([5]) * 32, PACK, offset=0, size=200, data=b"x")
    again.moved(TWO, 100)
    again.append(bytes([5]) * 32, PACK, offset=0, size=200, data=b"x")
    monkeypatch.setattr(staging_module, "STAGED_OBJECTS_MAX", 1)
    with pytest.raises(UploadLimit):
        again.append(bytes([5]) * 32, f"pack/{'1' * 64}", offset=0, size=2, data=b"x")


def test_what_is_idle_is_collected(tmp_path: Path) -> None:
    staging = Staging(tmp_path, bytes_max=800)
    staging.append(ONE, PACK, offset=0, size=200, data=DATA[:100])
    send(staging, PACK, DATA, public=TWO)
    for file in tmp_path.rglob("*"):
        if file.is_file():
            os.utime(file, (1000, 1000))
    assert staging.idle(now_s=1000 + 86_399) == []
    idle = staging.idle(now_s=1000 + 86_400)
    assert len(idle) == 2
    assert staging.offset(TWO, PACK) is None  # which keeps it
    assert staging.discard(idle, now_s=1000 + 86_400) == 1
    assert staging.offset(ONE, PACK) == 0
    assert not staging.place(ONE).exists()
    assert (staging.place(TWO) / PACK).read_bytes() == DATA
    assert staging.discard(staging.idle(now_s=1e12), now_s=1e12, keep=TWO) == 0
    assert staging.discard(staging.idle(now_s=1e12), now_s=1e12) == 1
    assert list(tmp_path.iterdir()) == []
    (tmp_path / TWO.hex() / "part").mkdir(parents=True)
    assert staging.idle(now_s=1e12) == []
    assert list(tmp_path.iterdir()) == []


# --- Owners --------------------------------------------------------------------------------------------------------


def test_the_first_claim_counts(tmp_path: Path) -> None:
    owners = Owners(tmp_path / "owner", tmp_path)
    assert owners.known(ONE)
    owners.check("jane", ONE)
    owners.check("jane", TWO)
    owners.claim("jane", ONE)
    owners.claim("jane", TWO)
    owners.check("jane", ONE)
    with pytest.raises(NotOwner):
        owners.check("jane", TWO)
    owners.check("joe", TWO)


def test_whoever_signed_what_is_there_owns_it(tmp_path: Path) -> None:
    record = NameRecord(name="jane/web", tag="latest", digest=bytes(32), revision=1)
    (tmp_path / "name/jane/web").mkdir(parents=True)
    (tmp_path / "name/jane/web/latest").write_bytes(sign_record(record, KEY))
    (tmp_path / "name/jane/web/broken").write_bytes(b"no record")
    owners = Owners(tmp_path / "owner", tmp_path)
    owners.check("jane", KEY.public)
    with pytest.raises(NotOwner):
        owners.check("jane", ONE)


def test_the_operators_file_decides_and_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "who.json"
    path.write_text(json.dumps({"version": 1, "publishers": {"jane": [KEY.id]}}))
    owners = Owners(tmp_path / "owner", tmp_path, allowed=path)
    assert (owners.known(KEY.public), owners.known(ONE)) == (True, False)
    owners.check("jane", KEY.public)
    for publisher, public in (("jane", ONE), ("joe", KEY.public)):
        with pytest.raises(NotOwner):
            owners.check(publisher, public)
    owners.claim("jane", ONE)
    assert not (tmp_path / "owner").exists()
    path.write_text(json.dumps({"version": 1, "publishers": {}}))
    assert not owners.known(KEY.public)
    path.write_text("nonsense")
    assert not owners.known(KEY.public), "as it was before"
    with pytest.raises(DocumentInvalid):
        Owners(tmp_path / "owner", tmp_path, allowed=path)
