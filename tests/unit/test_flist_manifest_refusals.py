"""What a manifest, an .flist file, an index and a locator must not be."""

from __future__ import annotations

import struct
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from blake3 import blake3

from flist.errors import IndexInvalid, LocatorInvalid, ManifestInvalid
from flist.index import Page, PageList, PageRef, build_index
from flist.locator import PACK_MAX, PACKS_MAX, Entry, Locator, header_size, packs_of
from flist.manifest import (
    IndexRef,
    Manifest,
    ObjectRef,
    Signature,
    SignedManifest,
    decode_manifest,
    encode_manifest,
    signing_input,
)

META = ObjectRef(blake3=bytes(32), size=4096)
INDEX = IndexRef(root=bytes(32), pages=1, units=1, blocks=1)


def manifest(**changes: Any) -> Manifest:
    fields: dict[str, Any] = {
        "name": "zos/test",
        "architecture": "x86_64",
        "revision": 1,
        "meta": META,
        "index": INDEX,
        **changes,
    }
    return Manifest(**fields)


def framed(body: bytes, version: int = 1) -> bytes:
    return b"ZOSFLIST" + version.to_bytes(2, "little") + len(body).to_bytes(4, "little") + body


@pytest.mark.parametrize(
    "changes",
    [
        {"name": "zos"},
        {"name": "zos/"},
        {"name": "/zos"},
        {"name": "zos/../etc"},
        {"name": "../etc"},
        {"name": "zos/.."},
        {"name": "zos/a\0b"},
        {"name": "zos/a\n"},
        {"name": "zos/A"},
        {"name": "zos/" + "a" * 65},
        {"name": "a" * 300 + "/b"},
        {"name": "zos/a/b"},
        {"architecture": "riscv64"},
        {"revision": 0},
        {"revision": -1},
        {"revision": 2**63},
        {"expires_s": -1},
        {"prev": bytes(31)},
        {"meta": ObjectRef(blake3=bytes(33), size=1)},
        {"meta": ObjectRef(blake3=bytes(32), size=0)},
        {"meta": ObjectRef(blake3=bytes(32), size=2**32 + 1)},
        {"trace": ObjectRef(blake3=bytes(32), size=2**24 + 1)},
        {"index": IndexRef(root=bytes(32), pages=0, units=1, blocks=1)},
        {"index": IndexRef(root=bytes(32), pages=1, units=2, blocks=1)},
        {"index": IndexRef(root=bytes(32), pages=1, units=1, blocks=65)},
        {"index": IndexRef(root=bytes(32), pages=65_537, units=2**24 + 1, blocks=2**25)},
    ],
)
def test_a_field_out_of_its_limits_is_neither_written_nor_read(changes: dict[str, Any]) -> None:
    bad = manifest(**changes)
    with pytest.raises(ManifestInvalid):
        encode_manifest(bad)
    with pytest.raises(ManifestInvalid):
        decode_manifest(framed(msgspec.msgpack.encode(bad)))


def test_unknown_missing_and_repeated_keys_are_refused() -> None:
    fields = msgspec.to_builtins(manifest(), builtin_types=(bytes,))
    body = msgspec.msgpack.encode(fields)
    assert decode_manifest(framed(body)) == manifest()
    with pytest.raises(ManifestInvalid):
        decode_manifest(framed(msgspec.msgpack.encode({**fields, "size": 1})))
    for key in fields:
        less = {name: value for name, value in fields.items() if name != key}
        with pytest.raises(ManifestInvalid):
            decode_manifest(framed(msgspec.msgpack.encode(less)))
    with pytest.raises(ManifestInvalid):
        decode_manifest(framed(bytes([body[0] + 1]) + body[1:] + msgspec.msgpack.encode("revision") + b"\x02"))


def test_longer_encodings_of_the_same_values_are_refused() -> None:
    body = msgspec.msgpack.encode(manifest())
    key = msgspec.msgpack.encode("revision")
    assert body.count(key + b"\x01") == 1
    for longer in (b"\xcc\x01", b"\xcd\x00\x01", b"\xd0\x01"):
        with pytest.raises(ManifestInvalid, match="canonical"):
            decode_manifest(framed(body.replace(key + b"\x01", key + longer)))
    with pytest.raises(ManifestInvalid, match="canonical"):
        decode_manifest(framed(b"\xde\x00" + bytes([body[0] & 15]) + body[1:]))


def test_magic_version_and_length_are_refused_by_name() -> None:
    data = encode_manifest(manifest())
    body = data[14:]
    with pytest.raises(ManifestInvalid, match="magic"):
        decode_manifest(b"ZOSFLISX" + data[8:])
    with pytest.raises(ManifestInvalid, match="version 2"):
        decode_manifest(framed(body, version=2))
    with pytest.raises(ManifestInvalid, match="too long"):
        decode_manifest(data[:10] + (65_537).to_bytes(4, "little") + bytes(70_000))
    for end in range(len(data)):
        with pytest.raises(ManifestInvalid):
            decode_manifest(data[:end])
    with pytest.raises(ManifestInvalid, match="signature block"):
        SignedManifest.parse(data)


def test_signature_blocks_are_strict() -> None:
    data = encode_manifest(manifest())
    low, high = Signature(b"a" * 32, b"s" * 64), Signature(b"b" * 32, b"s" * 64)
    signed = SignedManifest(data).with_signature(high).with_signature(low)
    assert signed.signatures == (low, high)
    again = Signature(b"a" * 32, b"t" * 64)
    assert signed.with_signature(again).signatures == (again, high)
    whole = signed.encode()
    for bad in (
        data + b"\x02" + b"b" * 32 + b"s" * 64 + b"a" * 32 + b"s" * 64,
        data + b"\x02" + (b"a" * 32 + b"s" * 64) * 2,
        whole[:-1],
        whole + b"\0",
        data + b"\x01" + whole[len(data) + 1 :],
        data + b"\x11" + b"".join(bytes([number]) * 32 + b"s" * 64 for number in range(17)),
    ):
        with pytest.raises(ManifestInvalid):
            SignedManifest.parse(bad)
    with pytest.raises(ManifestInvalid):
        SignedManifest(data, (Signature(b"a", b"s" * 64),))


def test_what_is_signed_names_its_purpose() -> None:
    assert signing_input(bytes(32)) == b"zos/flist/manifest/v1\0" + bytes(32)
    with pytest.raises(ValueError):
        signing_input(bytes(31))


def index() -> tuple[PageList, list[Page]]:
    return build_index([(blake3(b"%d" % number).digest(), 5000) for number in range(600)])


def test_page_lists_that_contradict_themselves_are_refused() -> None:
    page_list, _ = index()
    for bad in (
        {"units": 601 * 256},
        {"units": 100},
        {"blocks": 599},
        {"blocks": 600 * 64 + 1},
        {"blocks": page_list.pages[-1].block},
        {"pages": page_list.pages[:2]},
        {"pages": (page_list.pages[1], page_list.pages[0], page_list.pages[2])},
        {"pages": (replace(page_list.pages[0], block=1), *page_list.pages[1:])},
    ):
        with pytest.raises(IndexInvalid):
            replace(page_list, **bad)
    whole = page_list.encode()
    for data in (
        whole[:-1],
        whole + b"\0",
        b"x" + whole[1:],
        whole[:8] + b"\x02" + whole[9:],
        whole[:10] + b"\1" + whole[11:],
    ):
        with pytest.raises(IndexInvalid, match="hash"):
            PageList.decode(data, page_list.root)
        with pytest.raises(IndexInvalid):
            PageList.decode(data, blake3(data).digest())


def test_pages_that_are_not_where_or_what_they_should_be_are_refused() -> None:
    page_list, pages = index()
    whole = pages[1].encode()
    ref = page_list.pages[1]
    with pytest.raises(IndexInvalid, match="hash"):
        Page.decode(whole, page_list.pages[0])
    with pytest.raises(IndexInvalid, match="elsewhere"):
        Page.decode(whole, PageRef(ref.hash, ref.block + 1))
    for data in (
        whole[:-1],
        whole + bytes(36),
        whole[:12] + b"\1" + whole[13:],
        whole[:16] + bytes(4) + whole[20:],
        whole[:16] + (262_145).to_bytes(4, "little") + whole[20:],
    ):
        with pytest.raises(IndexInvalid):
            Page.decode(data, PageRef(blake3(data).digest(), ref.block))
    with pytest.raises(IndexInvalid):
        Page(0xFFFF_FFFE, (1,), (bytes(32),))
    assert Page(0xFFFF_FFFD, (1,), (bytes(32),)).end == 0xFFFF_FFFE
    with pytest.raises(IndexInvalid):
        Page(0, (), ())


def test_locators_that_point_nowhere_are_refused() -> None:
    pack = (bytes(32),)
    for entry in (Entry(1, 0, 1, True), Entry(0, 0, 0, True), Entry(0, PACK_MAX, 1, True), Entry(0, 0, 262_145, True)):
        with pytest.raises(LocatorInvalid):
            Locator(pack, (entry,))
    good = Locator(pack, (Entry(0, PACK_MAX - 10, 10, False), Entry(0, 0, 7, True)))
    assert Locator.decode(good.encode(), [11, 7]) == good
    assert good.encode()[header_size(1) + 12 :] == bytes(8) + b"\x07\0\0\x80"
    for lengths in ([10, 7], [11, 8], [11], [11, 7, 1]):
        with pytest.raises(LocatorInvalid):
            Locator.decode(good.encode(), lengths)
    whole = good.encode()
    for data in (whole[:-1], whole + b"\0", b"x" + whole[1:], whole[:20] + b"\1" + whole[21:], b""):
        with pytest.raises(LocatorInvalid):
            Locator.decode(data, [11, 7])


def test_more_packs_than_a_locator_can_have_are_not_listed() -> None:
    for packs in (PACKS_MAX, PACKS_MAX + 1):
        data = b"ZOSLOCAT" + struct.pack("<HHIII", 1, 0, packs, 0, 0) + bytes(32 * packs)
        if packs == PACKS_MAX:
            assert len(packs_of(data)) == packs
            continue
        with pytest.raises(LocatorInvalid):
            packs_of(data)


def test_an_empty_image_has_an_index() -> None:
    page_list, pages = build_index([])
    assert (pages, page_list.blocks, page_list.units) == ([], 0, 0)
    assert PageList.decode(page_list.encode(), page_list.root) == page_list
    assert Locator.decode(Locator((), ()).encode(), []) == Locator((), ())
    encode_manifest(manifest(index=IndexRef(root=page_list.root, pages=0, units=0, blocks=0)))
