"""The index of an image: length and hash of every unit, in pages of 256 that are fetched and verified alone.

Pure. Addresses are not stored: unit i begins where the padded end of unit i - 1 is (FLIST-IDX-4). The page list holds
each page's hash and first block, so that one small object finds the page of any address.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from blake3 import blake3

from flist.bundles import BLOCK, UNIT_MAX, pad
from flist.errors import IndexInvalid

__all__ = ["BLOCKS_MAX", "PAGE_UNITS", "UNITS_MAX", "IndexedUnit", "Page", "PageList", "PageRef", "build_index"]

PAGE_UNITS = 256
"""Units of every page but the last: a page is 9 KiB, one request covers 64 MiB at most."""
BLOCKS_MAX = 0xFFFF_FFFE
"""Addresses are u32, and the last one is the mark of a hole."""
UNITS_MAX = 1 << 24
"""4 TiB of full units; keeps a page list below 2.4 MiB and a locator below 200 MiB."""

_LIST_MAGIC = b"ZOSPLIST"
_LIST = struct.Struct("<8sHHIII")
_REF = struct.Struct("<32sI")
_PAGE_MAGIC = 0x3149_5A46
_PAGE = struct.Struct("<IIII")
_VERSION = 1


@dataclass(frozen=True, slots=True)
class IndexedUnit:
    """Identity and place of one unit: `block` is its first block in the blob."""

    hash: bytes
    length: int
    block: int


@dataclass(frozen=True, slots=True)
class PageRef:
    """One entry of the page list."""

    hash: bytes
    block: int


@dataclass(frozen=True, slots=True)
class Page:
    """A page: units whose addresses follow each other from `block` on."""

    block: int
    lengths: tuple[int, ...]
    hashes: tuple[bytes, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be a page, whether it was read or is about to be written."""
        if not 1 <= len(self.lengths) <= PAGE_UNITS or len(self.hashes) != len(self.lengths):
            raise IndexInvalid("an index page has 1 to 256 units", units=len(self.lengths))
        if min(self.lengths) < 1 or max(self.lengths) > UNIT_MAX:
            raise IndexInvalid("a unit has 1 to 262,144 bytes")
        if self.end > BLOCKS_MAX:
            raise IndexInvalid("the units end behind the last address", block=self.block)

    @property
    def end(self) -> int:
        """The first block behind the page."""
        return self.block + sum(pad(length) for length in self.lengths) // BLOCK

    def units(self) -> list[IndexedUnit]:
        """The units with their addresses (FLIST-IDX-4)."""
        units, block = [], self.block
        for length, digest in zip(self.lengths, self.hashes, strict=True):
            units.append(IndexedUnit(digest, length, block))
            block += pad(length) // BLOCK
        return units

    def encode(self) -> bytes:
        """The bytes of the page (FLIST-IDX-3)."""
        count = len(self.lengths)
        header = _PAGE.pack(_PAGE_MAGIC, count, self.block, 0)
        return header + struct.pack(f"<{count}I", *self.lengths) + b"".join(self.hashes)

    @classmethod
    def decode(cls, data: bytes, ref: PageRef) -> Page:
        """The page that `ref` names.

        Raises:
            IndexInvalid: another hash, or not a page.
        """
        if blake3(data).digest() != ref.hash:
            raise IndexInvalid("an index page has another hash than the page list says", page=ref.hash.hex())
        if len(data) < _PAGE.size:
            raise IndexInvalid("an index page is too short", page=ref.hash.hex())
        magic, count, block, zero = _PAGE.unpack_from(data)
        if magic != _PAGE_MAGIC or zero or not 1 <= count <= PAGE_UNITS or len(data) != _PAGE.size + 36 * count:
            raise IndexInvalid("an index page has a wrong header", page=ref.hash.hex())
        if block != ref.block:
            raise IndexInvalid("an index page lies elsewhere than the page list says", page=ref.hash.hex())
        hashes_at = _PAGE.size + 4 * count
        return cls(
            block=block,
            lengths=struct.unpack_from(f"<{count}I", data, _PAGE.size),
            hashes=tuple(data[at : at + 32] for at in range(hashes_at, len(data), 32)),
        )


@dataclass(frozen=True, slots=True)
class PageList:
    """The list of pages; its BLAKE3 is the index root in the manifest."""

    units: int
    blocks: int
    pages: tuple[PageRef, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be a page list."""
        if not 0 <= self.units <= UNITS_MAX or len(self.pages) != -(-self.units // PAGE_UNITS):
            raise IndexInvalid("the page list has a wrong number of pages or units", units=self.units)
        if not self.units <= self.blocks <= min(BLOCKS_MAX, self.units * (UNIT_MAX // BLOCK)):
            raise IndexInvalid("the page list has a wrong number of blocks", blocks=self.blocks)
        starts = [ref.block for ref in self.pages] + [self.blocks]
        if starts[0] != 0 or any(before >= after for before, after in pairwise(starts)):
            raise IndexInvalid("the pages of a page list must follow each other from block 0 on")

    @property
    def root(self) -> bytes:
        """BLAKE3 of the bytes (FLIST-IDX-2)."""
        return blake3(self.encode()).digest()

    def encode(self) -> bytes:
        """The bytes of the page list (FLIST-IDX-1)."""
        header = _LIST.pack(_LIST_MAGIC, _VERSION, 0, len(self.pages), self.units, self.blocks)
        return header + b"".join(_REF.pack(ref.hash, ref.block) for ref in self.pages)

    @classmethod
    def decode(cls, data: bytes, root: bytes) -> PageList:
        """The page list whose hash is `root`.

        Raises:
            IndexInvalid: another hash, or not a page list.
        """
        if blake3(data).digest() != root:
            raise IndexInvalid("the page list has another hash than the manifest says", root=root.hex())
        if len(data) < _LIST.size:
            raise IndexInvalid("the page list is too short", root=root.hex())
        magic, version, zero, pages, units, blocks = _LIST.unpack_from(data)
        if magic != _LIST_MAGIC or version != _VERSION or zero or len(data) != _LIST.size + _REF.size * pages:
            raise IndexInvalid("the page list has a wrong header", root=root.hex())
        refs = tuple(PageRef(digest, block) for digest, block in _REF.iter_unpack(data[_LIST.size :]))
        return cls(units=units, blocks=blocks, pages=refs)


def build_index(units: Sequence[tuple[bytes, int]]) -> tuple[PageList, list[Page]]:
    """The index of a blob from hash and length of its units in order."""
    pages: list[Page] = []
    block = 0
    for at in range(0, len(units), PAGE_UNITS):
        part = units[at : at + PAGE_UNITS]
        page = Page(block, tuple(length for _, length in part), tuple(digest for digest, _ in part))
        pages.append(page)
        block = page.end
    refs = tuple(PageRef(blake3(page.encode()).digest(), page.block) for page in pages)
    return PageList(units=len(units), blocks=block, pages=refs), pages
