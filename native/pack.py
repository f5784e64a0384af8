"""Packing the files of a tree: read, BLAKE3, drop duplicates, zstd, write packs.

`Packer` is the Rust kernel of `native/crates/pack`, or its twin in plain Python when `ZOS_NATIVE=reference`. Arrays
are flat and little-endian, so that a call costs the same for one unit and for ten thousand:

    files  FILE  `<QqII`   size, seconds and nanoseconds of mtime, length of the path; paths lie end to end in `paths`
    parts  PART  `<IIQ`    index into files, length, offset in the file
    units  UNIT  `<II`     number of parts (taken in order), 1 if a piece of a large file (may be a hole) or 0
    emitted  EMITTED `<32sIIII`  BLAKE3 of the plain bytes, plain length, pack, offset, stored length (RAW: not compressed)
"""

from __future__ import annotations

import os
import struct
from typing import TYPE_CHECKING, Protocol

__all__ = ["EMITTED", "FILE", "HOLE", "KNOWN_PACK", "PACK_MAX", "PART", "RAW", "THREADS_MAX", "UNIT", "Packer", "PackerLike"]

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


class PackerLike(Protocol):
    """What both implementations offer. After an error a packer is of no more use."""

    def __init__(self, directory: bytes, *, level: int, threads: int, known: bytes, pack_max: int) -> None:
        """Pack into `directory`, which exists and is private to this packer.

        Args:
            level: of zstd.
            threads: 1 to THREADS_MAX; the result does not depend on it.
            known: digests (32 bytes each) of units that need not be written.
            pack_max: a new pack begins when this many bytes would be exceeded; 256 KiB to PACK_MAX.
        """

    def add(self, root: bytes, paths: bytes, files: bytes, parts: bytes, units: bytes) -> bytes:
        """Pack `units`; the answer is the first block of each (u32), or HOLE. `root`: the path of the tree.

        Raises:
            FileChanged: a file is not what `files` says.
            FileUnreadable: a file cannot be opened or read.
            BlobTooLarge: more than 2^32 - 2 blocks.
            OSError: a pack cannot be written.
            ValueError: the arrays contradict each other or the limits.
        """

    def finish(self) -> tuple[bytes, bytes, int]:
        """Digests of the packs (each is now the file DIRECTORY/HEX), EMITTED of every unit of the blob, its blocks."""


if TYPE_CHECKING:

    class Packer(PackerLike):
        """See `PackerLike`."""

elif os.environ.get("ZOS_NATIVE", "rust") == "reference":
    from native.reference.pack import Packer
else:
    from native._rust import Packer
