"""The units of a tree, planned and packed: from inodes to packs, addresses and the chunks of each file."""

from __future__ import annotations

import os
import stat
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from flist.bundles import BLOCK, Part, Unit, pad, plan
from flist.tree import Tree
from native.pack import EMITTED, FILE, PACK_MAX, PART, THREADS_MAX, UNIT, Packer
from zos_core.base.progress import Progress
from zos_core.base.threads import in_thread

__all__ = ["Packed", "pack_tree", "plan_tree"]

BATCH_BYTES = 64 << 20
"""Plain bytes given to the packer at a time: progress and Ctrl-C in between, threads idle only at its ends."""
BATCH_UNITS = 4096


@dataclass(frozen=True, slots=True)
class Packed:
    """What the packer made.

    Attributes:
        packs: digests of new packs.
        emitted: fields of `native.pack.EMITTED` for each unit in the order of the blob.
        blocks: of the blob.
        chunks: of each regular file that is not empty, by inode number: the first block of each chunk, or HOLE.
    """

    packs: tuple[bytes, ...]
    emitted: Sequence[tuple[bytes, int, int, int, int]]
    blocks: int
    chunks: Mapping[int, Sequence[int]]


def plan_tree(tree: Tree) -> list[Unit]:
    """All units of a tree in the order of the blob; a part's `file` is an inode number. Pure (FLIST-UNIT-1)."""
    units: list[Unit] = []
    planned: set[int] = set()
    for folder in tree.directories():
        # A file with several names belongs to the first one; it may stand twice in one directory.
        own: list[tuple[bytes, int]] = []
        for name, number in folder.entries:
            if stat.S_ISREG(tree.inodes[number].mode) and number not in planned:
                planned.add(number)
                own.append((name, number))
        local = plan([(name, tree.inodes[number].size) for name, number in own])
        units += [_renumbered(unit, own) for unit in local]
    return units


def _renumbered(unit: Unit, own: Sequence[tuple[bytes, int]]) -> Unit:
    parts = tuple(Part(own[part.file][1], part.offset, part.length) for part in unit.parts)
    return Unit(parts, unit.piece)


async def pack_tree(
    tree: Tree,
    root_fd: int,
    scratch: Path,
    *,
    known: Collection[bytes],
    level: int,
    threads: int | None,
    progress: Progress,
) -> Packed:
    """Read, hash, compress and write every unit of a tree.

    Args:
        tree: as the walk of `root_fd` saw it.
        root_fd: the open root of the tree.
        scratch: a private directory; packs lie there under their hexadecimal digest afterwards.
        known: digests of units that need not be written.
        level: of zstd.
        threads: as many as processors by default.
        progress: in bytes.

    Raises:
        FileChanged, FileUnreadable, BlobTooLarge: from the packer.
        OSError: a pack cannot be written.
    """
    units = plan_tree(tree)
    packer = Packer(
        os.fsencode(scratch),
        level=level,
        threads=max(1, min(threads or len(os.sched_getaffinity(0)), THREADS_MAX)),
        known=b"".join(known),
        pack_max=PACK_MAX,
    )
    root = b"/proc/self/fd/%d" % root_fd
    chunks: dict[int, list[int]] = {}
    total = sum(part.length for unit in units for part in unit.parts)
    with progress.task("packing", total=total, unit="bytes") as task:
        for batch in _batches(units):
            answer = await in_thread(packer.add, root, *_arrays(tree, batch))
            for unit, first in zip(batch, memoryview(answer).cast("I"), strict=True):
                block = first
                for part in unit.parts:
                    chunks.setdefault(part.file, []).append(block)
                    block += pad(part.length) // BLOCK
            task.advance(sum(part.length for unit in batch for part in unit.parts))
        packs, emitted, blocks = await in_thread(packer.finish)
    digests = tuple(packs[at : at + 32] for at in range(0, len(packs), 32))
    return Packed(digests, list(EMITTED.iter_unpack(emitted)), blocks, chunks)


def _batches(units: Sequence[Unit]) -> Iterator[Sequence[Unit]]:
    start = size = 0
    for end, unit in enumerate(units, 1):
        size += unit.length
        if size >= BATCH_BYTES or end - start >= BATCH_UNITS or end == len(units):
            yield units[start:end]
            start, size = end, 0


def _arrays(tree: Tree, units: Sequence[Unit]) -> tuple[bytes, bytes, bytes, bytes]:
    """The flat arrays of `native.pack`: paths, files, parts, units."""
    numbers: dict[int, int] = {}
    paths, files, parts, heads = bytearray(), bytearray(), bytearray(), bytearray()
    for unit in units:
        heads += UNIT.pack(len(unit.parts), unit.piece)
        for part in unit.parts:
            index = numbers.get(part.file)
            if index is None:
                index = numbers[part.file] = len(numbers)
                inode = tree.inodes[part.file]
                seconds, nanoseconds = divmod(inode.mtime_ns, 1_000_000_000)
                paths += inode.path
                files += FILE.pack(inode.size, seconds, nanoseconds, len(inode.path))
            parts += PART.pack(index, part.length, part.offset)
    return bytes(paths), bytes(files), bytes(parts), bytes(heads)
