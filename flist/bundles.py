"""How the files of a tree are cut into units: pure, from names and sizes alone (FLIST-UNIT).

The rule decides where an edit is felt: bundles end where a name says so, so that an added file shifts at most the
rest of its bundle, and planning needs no reads.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from blake3 import blake3

__all__ = ["BLOCK", "BUNDLE_CUT", "BUNDLE_MAX", "LARGE_MIN", "UNIT_MAX", "Part", "Unit", "chunk_bits", "pad", "plan"]

BLOCK = 4096
"""Granularity of the blob's addresses."""
BUNDLE_MAX = 65_536
"""A bundle never grows past this (FLIST-UNIT-3)."""
BUNDLE_CUT = 16_384
"""From this size on, the name of the last file may end a bundle."""
LARGE_MIN = 65_536
"""A file of this size or more is cut into pieces of its own."""
UNIT_MAX = 262_144
"""Length of a piece of a large file, and so of the largest unit."""
_CUT_MASK = 3


@dataclass(frozen=True, slots=True)
class Part:
    """A run of bytes of one file; `file` is the index that the caller gave it."""

    file: int
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class Unit:
    """What is hashed, compressed and fetched as one: `parts` of small files, or a single piece of a large one."""

    parts: tuple[Part, ...]
    piece: bool

    @property
    def length(self) -> int:
        """Bytes: every part but the last is padded to BLOCK (FLIST-UNIT-4)."""
        return sum(pad(part.length) for part in self.parts[:-1]) + self.parts[-1].length


def pad(length: int) -> int:
    """`length` rounded up to whole blocks."""
    return -(-length // BLOCK) * BLOCK


def chunk_bits(size: int) -> int:
    """Chunk size of a file as a power of two: for small files the smallest that holds the file (FLIST-META-6)."""
    if size >= LARGE_MIN:
        return UNIT_MAX.bit_length() - 1
    return max(BLOCK.bit_length() - 1, (size - 1).bit_length())


def plan(files: Sequence[tuple[bytes, int]]) -> list[Unit]:
    """The units of one directory.

    Args:
        files: name and size of each regular file that owns its data, in any order; names differ. Sub-directories are
            planned after their parent, in the order of their names (FLIST-UNIT-1). Empty files take part in no unit.

    Returns:
        Units in the order of their addresses; a part's `file` is an index into `files`.
    """
    order = sorted((name, size, index) for index, (name, size) in enumerate(files) if size)
    units: list[Unit] = []
    bundle: list[Part] = []
    filled = 0
    for name, size, index in order:
        if size >= LARGE_MIN:
            continue
        if bundle and filled + pad(size) > BUNDLE_MAX:
            units.append(Unit(tuple(bundle), piece=False))
            bundle, filled = [], 0
        bundle.append(Part(index, 0, size))
        filled += pad(size)
        if filled >= BUNDLE_CUT and _ends_bundle(name):
            units.append(Unit(tuple(bundle), piece=False))
            bundle, filled = [], 0
    if bundle:
        units.append(Unit(tuple(bundle), piece=False))
    for _, size, index in order:
        if size >= LARGE_MIN:
            units.extend(
                Unit((Part(index, offset, min(UNIT_MAX, size - offset)),), piece=True)
                for offset in range(0, size, UNIT_MAX)
            )
    return units


def _ends_bundle(name: bytes) -> bool:
    """One name in four ends its bundle: the name decides, not the content, so that an edit moves no edge."""
    return int.from_bytes(blake3(name).digest()[:8], "little") & _CUT_MASK == 0
