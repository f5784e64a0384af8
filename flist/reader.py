"""Reading an image from a store, with nothing believed: metadata, index and units, each checked against its hash."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import zstandard
from blake3 import blake3

from flist.bundles import UNIT_MAX
from flist.erofs_reader import MetaImage, read_meta
from flist.errors import MetaInvalid
from flist.index import IndexedUnit, Page, PageList
from flist.locator import ENTRY_SIZE, PACKS_MAX, Entry, Locator, header_size
from flist.manifest import Manifest
from flist.store import ObjectInvalid, Store
from native.errors import ZosError
from zos_core.base.errors import zos_error_in
from zos_core.base.threads import in_thread

__all__ = ["ImageReader", "UnitInvalid", "UnitSink"]

RUN_BYTES_MAX = 4 << 20  # of one request: large enough that round trips do not count
GAP_BYTES_MAX = 64 << 10  # bytes between wanted units that are fetched along rather than asked around
REQUESTS_IN_FLIGHT = 4

UnitSink = Callable[[int, bytes], None]
"""Gets the number and the plain, verified bytes of a unit; called in a thread, for several units at a time."""


class UnitInvalid(ZosError):
    """The bytes of a unit are not those that the index names (FLIST-BLOB-2)."""

    code, http_status, exit_status = "flist.unit-invalid", 502, 42


@dataclass(frozen=True, slots=True)
class _Run:
    """Units that are fetched with one request."""

    pack: bytes
    offset: int
    length: int
    units: tuple[int, ...]


class ImageReader:
    """Objects of one image in one store. Methods may be called in any order; the index is read once."""

    def __init__(self, store: Store, manifest: Manifest) -> None:
        self._store = store
        self._manifest = manifest
        self._units: list[IndexedUnit] | None = None

    async def tree(self) -> MetaImage:
        """The tree, read out of the metadata image.

        Raises:
            MetaInvalid: the store has something else under that hash, or it is no image of version 1.
        """
        meta = await in_thread(read_meta, await self.meta())
        if meta.blob_blocks != self._manifest.index.blocks:
            raise MetaInvalid("the metadata image has a blob of another size than the index", blocks=meta.blob_blocks)
        return meta

    async def meta(self) -> bytes:
        """The metadata image, plain.

        Raises:
            MetaInvalid: the store has something else under that hash.
        """
        ref = self._manifest.meta
        most = ref.size + (ref.size >> 7) + 1024  # a zstd frame of incompressible bytes is hardly longer than they are
        stored = await self._store.get(f"meta/{ref.blake3.hex()}", limit=most)
        plain = await in_thread(_plain, stored, ref.size)
        if plain is None or blake3(plain).digest() != ref.blake3:
            raise MetaInvalid("the metadata image has another hash than the manifest says", meta=ref.blake3.hex())
        return plain

    async def units(self) -> list[IndexedUnit]:
        """Every unit of the blob, in the order of addresses.

        Raises:
            IndexInvalid: the index is not the one that the manifest names.
        """
        if self._units is None:
            root = self._manifest.index.root
            page_list = PageList.decode(await self._store.get(f"index/{root.hex()}"), root)
            units: list[IndexedUnit] = []
            for ref in page_list.pages:
                units += Page.decode(await self._store.get(f"index/{ref.hash.hex()}"), ref).units()
            index = self._manifest.index
            if (len(units), page_list.blocks, len(page_list.pages)) != (index.units, index.blocks, index.pages):
                raise MetaInvalid("the index has other numbers than the manifest says", root=root.hex())
            self._units = units
        return self._units

    async def read(self, wanted: Sequence[int], sink: UnitSink) -> None:
        """Fetch and verify units, in an order that suits the packs, and hand each to `sink`.

        Raises:
            UnitInvalid: wrong bytes, or a pack that ends early.
            LocatorInvalid: the store does not know where its units are.
            ObjectMissing, StoreUnavailable: as `Store.get`.
        """
        units = await self.units()
        locator = await self._locator(units)
        runs = iter(_runs(locator, wanted))

        async def work() -> None:
            for run in runs:
                data = await self._fetch(run)
                await in_thread(_deliver, run, data, locator, units, sink)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(REQUESTS_IN_FLIGHT):
                    group.create_task(work(), name=f"read units {number}")
        except BaseExceptionGroup as group_error:  # all workers fail for one reason: the first says it
            raise zos_error_in(group_error) or group_error from group_error

    async def _locator(self, units: Sequence[IndexedUnit]) -> Locator:
        path = f"locator/{self._manifest.index.root.hex()}"
        limit = header_size(PACKS_MAX) + ENTRY_SIZE * len(units)
        return Locator.decode(await self._store.get(path, limit=limit), [unit.length for unit in units])

    async def _fetch(self, run: _Run) -> bytes:
        try:
            return await self._store.get_range(f"pack/{run.pack.hex()}", run.offset, run.length)
        except ObjectInvalid as error:
            raise UnitInvalid(
                f"a pack of {self._store.name} is cut off: {error}", pack=run.pack.hex(), unit=run.units[0]
            ) from error


def _runs(locator: Locator, wanted: Sequence[int]) -> Iterator[_Run]:
    entries = locator.entries
    order = sorted(set(wanted), key=lambda number: (entries[number].pack, entries[number].offset))
    group: list[int] = []
    for number in order:
        if group and not _joins(entries[group[0]], entries[group[-1]], entries[number]):
            yield _run(locator, group)
            group = []
        group.append(number)
    if group:
        yield _run(locator, group)


def _joins(first: Entry, last: Entry, entry: Entry) -> bool:
    end = last.offset + last.stored
    return (
        entry.pack == first.pack
        and entry.offset - end <= GAP_BYTES_MAX
        and entry.offset + entry.stored - first.offset <= RUN_BYTES_MAX
    )


def _run(locator: Locator, group: Sequence[int]) -> _Run:
    entries = [locator.entries[number] for number in group]
    start = entries[0].offset
    end = max(entry.offset + entry.stored for entry in entries)
    return _Run(locator.packs[entries[0].pack], start, end - start, tuple(group))


def _deliver(run: _Run, data: bytes, locator: Locator, units: Sequence[IndexedUnit], sink: UnitSink) -> None:
    view = memoryview(data)
    for number in run.units:
        entry, unit = locator.entries[number], units[number]
        start = entry.offset - run.offset
        stored = view[start : start + entry.stored]
        plain = bytes(stored) if entry.raw else _plain(stored, unit.length)
        if plain is None or len(plain) != unit.length or blake3(plain).digest() != unit.hash:
            raise UnitInvalid(
                f"unit {number} has wrong bytes",
                hint="the store is damaged: build or publish the image again, or use another store",
                unit=number,
                pack=run.pack.hex(),
                offset=entry.offset,
            )
        sink(number, plain)


def _plain(stored: bytes | memoryview, size: int) -> bytes | None:
    """The contents of one zstd frame, or None if it is none or is not of `size`; never allocates more than that."""
    try:
        said = zstandard.frame_content_size(stored)
        if said not in (-1, size):
            return None
        window = max(UNIT_MAX, 1 << 27)
        plain = zstandard.ZstdDecompressor(max_window_size=window).decompress(stored, max_output_size=size)
    except zstandard.ZstdError:
        return None
    return plain if len(plain) == size else None
