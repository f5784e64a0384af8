"""Packing the files of a tree: read, BLAKE3, drop duplicates, zstd, write packs.

`Packer` is the Rust kernel of `native/crates/pack`, or its twin in plain Python when `ZOS_NATIVE=reference`; what the
methods do is said there, in `native/reference/pack.py`. Arrays are flat and little-endian, so that a call costs the
same for one unit and for ten thousand:

    files    FILE     `<QqII`      size, seconds and nanoseconds of mtime, length of the path (end to end in `paths`)
    parts    PART     `<IIQ`       index into files, length, offset in the file
    units    UNIT     `<II`        number of parts (taken in order), 1 if a piece of a large file (may be a hole) or 0
    emitted  EMITTED  `<32sIIII`   BLAKE3 of the plain bytes, plain length, pack, offset, stored length | RAW
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from native._choice import REFERENCE

if TYPE_CHECKING or not REFERENCE:
    import native._main_only  # noqa: F401  # refuses other interpreters
    from native._rust import Packer
else:
    from native.reference.pack import Packer

__all__ = ["EMITTED", "FILE", "HOLE", "KNOWN_PACK", "PACK_MAX", "PART", "RAW", "THREADS_MAX", "UNIT", "Packer"]

FILE = struct.Struct("<QqII")
PART = struct.Struct("<IIQ")
UNIT = struct.Struct("<II")
EMITTED = struct.Struct("<32sIIII")

HOLE = 0xFFFFFFFF
"""Address of an all-zero piece."""
KNOWN_PACK = 0xFFFFFFFF
"""Pack of a unit that was in `known`, and therefore was not written."""
RAW = 1 << 31
"""Bit of the stored length: the unit lies raw in its pack."""
PACK_MAX = 1 << 30
THREADS_MAX = 64
