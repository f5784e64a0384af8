"""The highest revision seen (REV-1, REV-2, REV-4)."""

from __future__ import annotations

import stat
from collections.abc import Sequence
from pathlib import Path

import pytest

from flist.errors import RevisionWentBack
from flist.names import NameRecord, SignedRecord
from flist.revisions import Revisions
from zos_core.base.errors import DocumentInvalid

ONE, TWO = bytes([1]) * 32, bytes([2]) * 32


def seen(
    revision: int, digest: int = 0, public: bytes = ONE, name: str = "jane/web", tag: str = "latest"
) -> SignedRecord:
    record = NameRecord(name=name, tag=tag, digest=bytes([digest]) * 32, revision=revision)
    return SignedRecord(record, public)


def both(publisher: str) -> Sequence[bytes]:
    return [ONE, TWO]


def first(publisher: str) -> Sequence[bytes]:
    return [ONE]


def second(publisher: str) -> Sequence[bytes]:
    return [TWO]


def test_a_revision_never_goes_back_over_restarts(tmp_path: Path) -> None:
    revisions = Revisions(tmp_path / "seen")
    revisions.check(seen(1), trusted=both, where="x")
    assert not (tmp_path / "seen").exists(), "checking leaves nothing behind"
    revisions.raise_to(seen(5))
    again = Revisions(tmp_path / "seen")
    again.check(seen(5), trusted=both, where="x")
    again.check(seen(6), trusted=both, where="x")
    for record in (seen(4), seen(1), seen(5, digest=9)):
        with pytest.raises(RevisionWentBack) as caught:
            again.check(record, trusted=both, where="http://hub")
        assert caught.value.context["floor"] == 5
        assert "http://hub" in str(caught.value)
    again.raise_to(seen(3))
    again.raise_to(seen(5, digest=9))
    floor = again.floor("jane/web", "latest", trusted=both)
    assert floor is not None
    assert (floor.revision, floor.digest) == (5, "00" * 32)
    file = tmp_path / "seen" / "jane" / "web" / "latest"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


def test_names_and_tags_are_apart(tmp_path: Path) -> None:
    revisions = Revisions(tmp_path)
    revisions.raise_to(seen(5))
    revisions.check(seen(1, name="jane/other"), trusted=both, where="x")
    revisions.check(seen(1, tag="1.2"), trusted=both, where="x")
    assert revisions.floor("jane/other", "latest", trusted=both) is None


def test_a_key_that_is_trusted_no_more_blocks_nobody(tmp_path: Path) -> None:
    revisions = Revisions(tmp_path)
    revisions.raise_to(seen(3, public=ONE))
    revisions.raise_to(seen(2**63 - 1, public=TWO))
    with pytest.raises(RevisionWentBack):
        revisions.check(seen(4, public=ONE), trusted=both, where="x")
    revisions.check(seen(4, public=ONE), trusted=first, where="x")
    with pytest.raises(RevisionWentBack):
        revisions.check(seen(2, public=ONE), trusted=first, where="x")
    with pytest.raises(RevisionWentBack):
        revisions.check(seen(4, public=ONE), trusted=second, where="x")


def test_the_file_is_bounded(tmp_path: Path) -> None:
    revisions = Revisions(tmp_path)
    for number in range(1, 21):
        revisions.raise_to(seen(number, public=bytes([number]) * 32))
    floor = revisions.floor("jane/web", "latest", trusted=lambda publisher: [bytes([n]) * 32 for n in range(1, 21)])
    assert floor is not None
    assert floor.revision == 20
    assert (tmp_path / "jane" / "web" / "latest").stat().st_size < 4096


@pytest.mark.parametrize("data", [b"", b"{}", b'{"version":2,"seen":[]}', b'{"version":1,"seen":[{"key":"x"}]}'])
def test_a_damaged_file_is_no_floor_of_zero(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "jane" / "web").mkdir(parents=True)
    (tmp_path / "jane" / "web" / "latest").write_bytes(data)
    with pytest.raises(DocumentInvalid):
        Revisions(tmp_path).check(seen(1), trusted=both, where="x")
