"""Names of images and paths of stores: what passes stays inside, everything else is a typed error (NAME-1, STORE-1)."""

from __future__ import annotations

import os.path
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from nacl.signing import SigningKey

from flist.names import ImageName, NameInvalid, NameRecord, parse_record, sign_record
from flist.sign import SignatureInvalid, UntrustedPublisher
from flist.store import ObjectInvalid
from flist.store.paths import KINDS, check_path, size_max
from native.errors import ZosError
from zos_core.base.keyring import PUBLISHER_PATTERN, Key

part = st.from_regex(PUBLISHER_PATTERN, fullmatch=True).filter(lambda text: "\n" not in text)
tag = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}", fullmatch=True)
digest = st.binary(min_size=32, max_size=32)
hub = st.sampled_from(["localhost", "hub.example:7080", "127.0.0.1:1"])
image_names = st.builds(ImageName, publisher=part, name=part, tag=tag, digest=st.none() | digest, hub=st.none() | hub)
KEY = Key("jane", SigningKey(bytes(range(32))))


@given(image_names)
def test_a_name_comes_back_from_its_text(name: ImageName) -> None:
    assert ImageName.parse(str(name)) == name


@given(image_names)
def test_a_name_stays_in_its_directory(name: ImageName) -> None:
    assert check_path(name.path) == "name"
    assert os.path.normpath(name.path) == name.path
    assert name.path.count("/") == 3


@given(st.text(max_size=100) | st.text(alphabet="ab./:@-_\0\n ", max_size=30))
@example("..")
@example("../x")
@example("a/../b")
@example("a//b")
@example("/a/b")
@example("a/b/")
@example("a/b\n")
@example("a/b:t\n")
@example("a/b\0")
@example("a/.")
@example("a/.hidden")
@example("x" * 300)
@example("a/" + "x" * 300)
@example("a/b:" + "x" * 65)
@example("a/b@" + "0" * 63)
@example("a/b@" + "A" * 64)
@example("A/b")
@example("a/b/c/d")
@example("h_st/a/b")
def test_any_text_is_a_safe_name_or_is_refused(text: str) -> None:
    try:
        name = ImageName.parse(text)
    except NameInvalid:
        return
    assert re.fullmatch(r"[A-Za-z0-9._:/@-]+", text)
    assert os.path.normpath(name.path) == name.path


def test_a_refusal_is_short_and_has_a_hint() -> None:
    with pytest.raises(NameInvalid) as caught:
        ImageName.parse("a/" + "x" * 300)
    assert caught.value.hint
    assert len(caught.value.message) < 300


def test_a_bare_name_takes_the_given_publisher() -> None:
    assert ImageName.parse("web", publisher="jane") == ImageName(publisher="jane", name="web")
    with pytest.raises(NameInvalid):
        ImageName.parse("web")


parts = st.lists(st.sampled_from([*KINDS, "..", ".", "", "a", "0" * 64]), max_size=5)


@given(st.text(max_size=100) | parts.map("/".join))
@example("pack/" + "0" * 64 + "\n")
@example("name/a/b/..")
@example("name/a/b/.x")
@example("../pack/" + "0" * 64)
def test_any_path_is_safe_or_is_refused(path: str) -> None:
    try:
        kind = check_path(path)
    except ObjectInvalid:
        return
    assert kind in KINDS
    assert size_max(path) > 0
    assert os.path.normpath(path) == path
    assert not path.startswith(("/", ".."))


records = st.builds(
    NameRecord,
    name=st.tuples(part, part).map("/".join),
    tag=tag,
    digest=digest,
    revision=st.integers(1, 2**63 - 1),
)


@given(records)
def test_a_record_comes_back(record: NameRecord) -> None:
    assert parse_record(sign_record(record, KEY), trusted=lambda publisher: [KEY.public]) == record


@given(records, st.data())
def test_a_changed_record_is_refused(record: NameRecord, data: st.DataObject) -> None:
    signed = bytearray(sign_record(record, KEY))
    at = data.draw(st.integers(0, len(signed) - 1))
    signed[at] ^= data.draw(st.integers(1, 255))
    with pytest.raises((NameInvalid, SignatureInvalid, UntrustedPublisher)):
        parse_record(bytes(signed), trusted=lambda publisher: [KEY.public])


@given(records, st.binary(min_size=1, max_size=10))
def test_trailing_and_missing_bytes_are_refused(record: NameRecord, more: bytes) -> None:
    signed = sign_record(record, KEY)
    for wrong in (signed + more, signed[: -len(more)], b""):
        with pytest.raises(NameInvalid):
            parse_record(wrong, trusted=lambda publisher: [KEY.public])


@given(records)
def test_a_key_counts_for_its_publisher_only(record: NameRecord) -> None:
    asked: list[str] = []

    def trusted(publisher: str) -> list[bytes]:
        asked.append(publisher)
        return []

    with pytest.raises(UntrustedPublisher):
        parse_record(sign_record(record, KEY), trusted=trusted)
    assert asked == [record.name.partition("/")[0]]


@given(st.binary(max_size=300))
def test_any_bytes_are_no_record(data: bytes) -> None:
    with pytest.raises(ZosError):
        parse_record(data, trusted=lambda publisher: [KEY.public])
