"""The golden log of docs/spec/hub-log.md against our log, checkpoints and proofs; and what is no checkpoint."""

from __future__ import annotations

import errno
import json
import os
import runpy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from flist.hub.checkpoint import open_checkpoint, origin_of, sign_checkpoint
from flist.hub.errors import CheckpointInvalid, LogDamaged, StoreUnwritable
from flist.hub.log import RevisionLog
from flist.names import NameRecord, read_record, sign_record
from native.merkle import hash_leaf, verify_consistency, verify_inclusion
from zos_core.base.keyring import Key

VECTORS = Path(__file__).resolve().parents[1] / "vectors" / "hub_log.json"
GOLDEN: dict[str, Any] = json.loads(VECTORS.read_text())
KEY = Key("hub", SigningKey(bytes.fromhex(GOLDEN["seed"])))
PUBLISHER = Key("jane", SigningKey(bytes(range(32))))
RECORDS = [bytes.fromhex(each) for each in GOLDEN["records"]]
ROOTS = [bytes.fromhex(each) for each in GOLDEN["roots"]]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[RevisionLog]:
    made = RevisionLog(tmp_path, KEY)
    yield made
    made.close()


def test_vectors_are_what_the_independent_script_makes() -> None:
    assert runpy.run_path(str(VECTORS.with_suffix(".py")))["vectors"]() == GOLDEN


def test_records_are_ours() -> None:
    for number, data in enumerate(RECORDS, 1):
        record = NameRecord(name="jane/web", tag="latest", digest=bytes([number]) * 32, revision=number)
        assert sign_record(record, PUBLISHER) == data
        assert read_record(data, trusted=None).record == record


def test_the_log_grows_as_the_golden_one(log: RevisionLog, tmp_path: Path) -> None:
    for size, data in enumerate([*RECORDS, b""]):
        assert (log.size, log.root(size), log.checkpoint) == (size, ROOTS[size], GOLDEN["checkpoints"][size])
        assert (tmp_path / "checkpoint").read_text() == GOLDEN["checkpoints"][size]
        if data:
            assert log.append(data).index == size
            assert log.append(data).index == size
    assert (tmp_path / "log").read_bytes().hex() == GOLDEN["log"]
    assert log.entry(1) == RECORDS[1]
    assert log.inclusion(0, 3).hex() == GOLDEN["inclusion of leaf 0 in 3"]
    assert log.consistency(1, 3).hex() == GOLDEN["consistency of 1 and 3"]
    assert log.consistency(2, 3).hex() == GOLDEN["consistency of 2 and 3"]
    verify_inclusion(ROOTS[3], 3, 0, hash_leaf(RECORDS[0]), log.inclusion(0, 3))
    verify_consistency(ROOTS[2], 2, ROOTS[3], 3, log.consistency(2, 3))


def test_checkpoints_are_read() -> None:
    for size, text in enumerate(GOLDEN["checkpoints"]):
        found = open_checkpoint(text)
        assert (found.public, found.size, found.root) == (KEY.public, size, ROOTS[size])
        assert sign_checkpoint(KEY, size, ROOTS[size]) == text
    witness = GOLDEN["checkpoints"][3] + "\N{EM DASH} example.com/witness AAAAAAAA\n"
    assert open_checkpoint(witness).size == 3


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("\n3\n", "\n4\n"),
        ("\n3\n", "\n03\n"),
        ("\n3\n", "\n-3\n"),
        ("\n3\n", "\n3 \n"),
        ("zos-hub/", "other/"),
        ("\n\n", "\n"),
        ("\n\n", "\nmore\n\n"),
        ("\N{EM DASH} ", "- "),
        ("=\n", "\n"),
        (f"\N{EM DASH} {origin_of(KEY.public)}", "\N{EM DASH} somebody"),
    ],
)
def test_what_is_no_checkpoint(old: str, new: str) -> None:
    text = GOLDEN["checkpoints"][3]
    assert old in text
    with pytest.raises(CheckpointInvalid):
        open_checkpoint(text.replace(old, new, 1))


def test_a_cut_or_long_checkpoint() -> None:
    text = GOLDEN["checkpoints"][3]
    for end in range(len(text)):
        with pytest.raises(CheckpointInvalid):
            open_checkpoint(text[:end])
    with pytest.raises(CheckpointInvalid):
        open_checkpoint(text + "\N{EM DASH} a AAAAAAAA\n" * 500)
    other = Key("hub", SigningKey(bytes(32)))
    forged = text.replace(text.rpartition(" ")[2], sign_checkpoint(other, 3, ROOTS[3]).rpartition(" ")[2])
    with pytest.raises(CheckpointInvalid):
        open_checkpoint(forged)


# --- On disk -------------------------------------------------------------------------------------------------------


def written(path: Path, count: int = 3) -> None:
    log = RevisionLog(path, KEY)
    for data in RECORDS[:count]:
        log.append(data)
    log.close()


def test_a_leaf_cut_at_every_byte_is_taken_away(tmp_path: Path) -> None:
    written(tmp_path, 2)
    whole = (tmp_path / "log").read_bytes()
    leaf = len(RECORDS[2]).to_bytes(4, "little") + RECORDS[2]
    for cut in (1, 3, 4, 5, len(leaf) // 2, len(leaf) - 1):
        (tmp_path / "log").write_bytes(whole + leaf[:cut])
        log = RevisionLog(tmp_path, KEY)
        assert (log.size, log.checkpoint) == (2, GOLDEN["checkpoints"][2])
        assert (tmp_path / "log").read_bytes() == whole
        log.close()


def test_a_disk_that_fails_is_told_and_the_next_leaf_is_whole(
    log: RevisionLog, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fdatasync", fails)
        patch.setattr(os, "ftruncate", fails)
        with pytest.raises(StoreUnwritable):
            log.append(RECORDS[0])
    assert log.size == 0
    for record in RECORDS:
        log.append(record)
    again = RevisionLog(tmp_path, KEY)
    assert [again.entry(index) for index in range(again.size)] == list(RECORDS)
    again.close()


def test_a_whole_leaf_behind_the_checkpoint_is_signed(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "checkpoint").write_text(GOLDEN["checkpoints"][2])
    log = RevisionLog(tmp_path, KEY)
    assert log.checkpoint == GOLDEN["checkpoints"][3]
    latest = log.latest("jane/web", "latest")
    assert latest is not None
    assert (latest.index, latest.record.revision) == (2, 3)
    log.close()


@pytest.mark.parametrize("damage", ["short", "cut", "flipped", "length", "gone", "header", "no note", "another note"])
def test_a_damaged_log_is_not_served(tmp_path: Path, damage: str) -> None:
    written(tmp_path)
    path, note = tmp_path / "log", tmp_path / "checkpoint"
    data = path.read_bytes()
    leaf = 4 + len(RECORDS[0])
    match damage:
        case "short":
            path.write_bytes(data[:-leaf])
        case "cut":
            path.write_bytes(data[:-1])
        case "flipped":
            path.write_bytes(data[:60] + bytes([data[60] ^ 1]) + data[61:])
        case "length":
            path.write_bytes(data[:12] + b"\xff\xff\xff\xff" + data[16:])
        case "gone":
            path.unlink()
        case "header":
            path.write_bytes(b"X" + data[1:])
        case "no note":
            note.unlink()
        case "another note":
            note.write_text(sign_checkpoint(Key("hub", SigningKey(bytes(32))), 3, ROOTS[3]))
    kept = path.read_bytes() if path.exists() else None
    with pytest.raises(LogDamaged):
        RevisionLog(tmp_path, KEY)
    assert (path.read_bytes() if path.exists() else None) == kept, "what is damaged is evidence, and is left alone"
