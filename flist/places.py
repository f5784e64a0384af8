"""Where the data of a file lies on the blob. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from flist.bundles import BLOCK
from flist.erofs_reader import HOLE, MetaImage

__all__ = ["Place", "places_of"]


@dataclass(frozen=True, slots=True)
class Place:
    """`length` bytes of the blob from `address` on belong at `offset` of the file at `path`."""

    address: int
    length: int
    path: bytes
    offset: int


def places_of(meta: MetaImage, number: int, *, most: int) -> Iterator[Place]:
    """Where the data of an inode lies, in the order of the file, in pieces of at most `most` bytes, without holes."""
    chunks = meta.chunks.get(number)
    if chunks is None:
        return
    inode = meta.tree.inodes[number]
    last: Place | None = None
    for position, block in enumerate(chunks.blocks):
        if block == HOLE:
            continue
        offset = position * chunks.size
        length = min(chunks.size, inode.size - offset)
        for at in range(0, length, most):
            place = Place(block * BLOCK + at, min(most, length - at), inode.path, offset + at)
            if last is not None and _follows(last, place) and last.length + place.length <= most:
                last = replace(last, length=last.length + place.length)
                continue
            if last is not None:
                yield last
            last = place
    if last is not None:
        yield last


def _follows(last: Place, place: Place) -> bool:
    return (place.address, place.offset) == (last.address + last.length, last.offset + last.length)
