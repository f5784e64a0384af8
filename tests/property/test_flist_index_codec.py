"""Index and locator: what is written is read again, what is broken is refused, with a typed error and nothing else."""

from __future__ import annotations

import pytest
from blake3 import blake3
from hypothesis import given, settings
from hypothesis import strategies as st

from flist.bundles import BLOCK, pad
from flist.errors import IndexInvalid, LocatorInvalid
from flist.index import Page, PageList, PageRef, build_index
from flist.locator import Entry, Locator

lengths = st.lists(st.integers(1, 262_144), max_size=700)


def numbered(found: list[int]) -> list[tuple[bytes, int]]:
    return [(blake3(b"%d" % number).digest(), length) for number, length in enumerate(found)]


@settings(max_examples=60)
@given(lengths)
def test_an_index_is_read_again(found: list[int]) -> None:
    page_list, pages = build_index(numbered(found))
    assert PageList.decode(page_list.encode(), page_list.root) == page_list
    block = 0
    read = []
    for ref, page in zip(page_list.pages, pages, strict=True):
        assert Page.decode(page.encode(), ref) == page
        read += page.units()
    for unit, (digest, length) in zip(read, numbered(found), strict=True):
        assert (unit.hash, unit.length, unit.block) == (digest, length, block)
        block += pad(length) // BLOCK
    assert block == page_list.blocks


@settings(max_examples=200)
@given(lengths, st.data())
def test_a_changed_page_list_or_page_is_refused(found: list[int], data: st.DataObject) -> None:
    page_list, pages = build_index(numbered(found))
    whole = page_list.encode()
    bad = bytearray(whole)
    bad[data.draw(st.integers(0, len(bad) - 1))] ^= data.draw(st.integers(1, 255))
    with pytest.raises(IndexInvalid):
        PageList.decode(bytes(bad), page_list.root)
    try:  # with a hash that fits, as a publisher with bad intent would have it
        PageList.decode(bytes(bad), blake3(bad).digest())
    except IndexInvalid:
        pass
    if pages:
        broken = bytearray(pages[0].encode())
        broken[data.draw(st.integers(0, len(broken) - 1))] ^= data.draw(st.integers(1, 255))
        with pytest.raises(IndexInvalid):
            Page.decode(bytes(broken), page_list.pages[0])
        try:
            Page.decode(bytes(broken), PageRef(blake3(broken).digest(), 0))
        except IndexInvalid:
            pass


@settings(max_examples=300)
@given(st.binary(max_size=200), st.booleans())
def test_any_bytes_are_a_typed_error(data: bytes, framed: bool) -> None:
    if framed:
        data = b"ZOSPLIST\x01\0\0\0" + data
    try:
        PageList.decode(data, blake3(data).digest())
    except IndexInvalid:
        pass
    page = b"FZI1" + data if framed else data
    try:
        Page.decode(page, PageRef(blake3(page).digest(), 0))
    except IndexInvalid:
        pass
    try:
        Locator.decode(b"ZOSLOCAT\x01\0\0\0" + data if framed else data, [1])
    except LocatorInvalid:
        pass


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(2, 262_144), st.booleans(), st.integers(0, 2)), max_size=50), st.data())
def test_a_locator_is_read_again(found: list[tuple[int, bool, int]], data: st.DataObject) -> None:
    packs = tuple(blake3(b"%d" % number).digest() for number in range(3))
    entries = tuple(
        Entry(pack, data.draw(st.integers(0, 2**30 - length)), length if raw else length - 1, raw)
        for length, raw, pack in found
    )
    locator = Locator(packs, entries)
    plain = [length for length, _, _ in found]
    assert Locator.decode(locator.encode(), plain) == locator
    with pytest.raises(LocatorInvalid):
        Locator.decode(locator.encode(), [*plain, 1])
    with pytest.raises(LocatorInvalid):
        Locator.decode(locator.encode() + b"\0", plain)
