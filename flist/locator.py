"""Where a store keeps the units of an index: in which pack, at which offset, how long. Pure.

A locator is not signed: units are verified against the index, so a wrong locator costs a refused fetch, never a wrong
byte. Each store keeps its own.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass

from flist.bundles import UNIT_MAX
from flist.errors import LocatorInvalid
from flist.index import UNITS_MAX

__all__ = ["ENTRY_SIZE", "PACK_MAX", "PACKS_MAX", "Entry", "Locator", "header_size", "packs_of"]

PACK_MAX = 1 << 30
"""Largest pack in bytes: offsets stay far from bit 31, and a lost upload costs at most this."""
PACKS_MAX = 65_536
"""Packs of one locator; a repack is due long before."""
ENTRY_SIZE = 12
_MAGIC = b"ZOSLOCAT"
_HEADER = struct.Struct("<8sHHIII")
_ENTRY = struct.Struct("<III")
_VERSION = 1
_RAW = 1 << 31


@dataclass(frozen=True, slots=True)
class Entry:
    """Where one unit lies: `stored` bytes at `offset` of pack number `pack`, one zstd frame unless `raw`."""

    pack: int
    offset: int
    stored: int
    raw: bool


def header_size(packs: int) -> int:
    """Offset of the first entry: the entry of unit u lies at `header_size(packs) + u * ENTRY_SIZE` (FLIST-LOC-2)."""
    return _HEADER.size + 32 * packs


@dataclass(frozen=True, slots=True)
class Locator:
    """Digests of packs, and an entry for each unit in the order of the index."""

    packs: tuple[bytes, ...]
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        """Refuse what cannot be a locator, whether it was read or is about to be written."""
        if len(self.packs) > PACKS_MAX or len(self.entries) > UNITS_MAX:
            raise LocatorInvalid("a locator has too many packs or units")
        for number, entry in enumerate(self.entries):
            if not (0 <= entry.pack < len(self.packs) and 1 <= entry.stored <= UNIT_MAX):
                raise LocatorInvalid("a locator names a pack or a length that cannot be", unit=number)
            if not 0 <= entry.offset <= PACK_MAX - entry.stored:
                raise LocatorInvalid("a locator points behind the end of a pack", unit=number)

    def encode(self) -> bytes:
        """The bytes of the locator (FLIST-LOC-1)."""
        header = _HEADER.pack(_MAGIC, _VERSION, 0, len(self.packs), len(self.entries), 0)
        entries = (_ENTRY.pack(e.pack, e.offset, e.stored | (_RAW if e.raw else 0)) for e in self.entries)
        return header + b"".join(self.packs) + b"".join(entries)

    @classmethod
    def decode(cls, data: bytes, lengths: Sequence[int]) -> Locator:
        """A locator for the units of an index, whose plain `lengths` are known.

        Raises:
            LocatorInvalid: not a locator, or not of this index.
        """
        packs = packs_of(data)
        start = header_size(len(packs))
        units = (len(data) - start) // ENTRY_SIZE
        if units != len(lengths):
            raise LocatorInvalid("a locator has another number of units than the index", units=units)
        locator = cls(
            packs=packs,
            entries=tuple(
                Entry(pack, offset, stored & ~_RAW, bool(stored & _RAW))
                for pack, offset, stored in _ENTRY.iter_unpack(data[start:])
            ),
        )
        for number, (entry, length) in enumerate(zip(locator.entries, lengths, strict=True)):
            if entry.stored != length if entry.raw else entry.stored >= length:
                raise LocatorInvalid("a locator stores a unit in more bytes than it has", unit=number)
        return locator


def packs_of(data: bytes) -> tuple[bytes, ...]:
    """Digests of the packs that an encoded locator names; its entries are not looked at.

    Raises:
        LocatorInvalid: not a locator.
    """
    if len(data) < _HEADER.size:
        raise LocatorInvalid("a locator is too short")
    magic, version, zero, packs, units, zero2 = _HEADER.unpack_from(data)
    start = header_size(packs)
    known = (magic, version, zero, zero2) == (_MAGIC, _VERSION, 0, 0)
    if not known or packs > PACKS_MAX or len(data) != start + ENTRY_SIZE * units:
        raise LocatorInvalid("a locator has a wrong header")
    return tuple(data[at : at + 32] for at in range(_HEADER.size, start, 32))
