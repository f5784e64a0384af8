"""Reading an image from a store, with nothing believed: `native.fetch` brings and verifies, errors become ours.

Metadata, index and units come from the store as it is now: nothing that an earlier reader kept is used.
"""

from __future__ import annotations

import asyncio
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from flist.bundles import BLOCK
from flist.erofs_reader import MetaImage, read_meta
from flist.errors import IndexInvalid, LocatorInvalid, MetaInvalid
from flist.manifest import Manifest
from flist.store import Addressed, ObjectMissing, StoreUnavailable
from flist.store.protocol import SLOWEST_BYTES_S
from native import fetch
from native.errors import ZosError
from zos_core.base.errors import zos_error_in
from zos_core.base.threads import in_stoppable_thread, in_thread

__all__ = ["RUN_BYTES_MAX", "ImageReader", "Range", "RangeSink", "UnitInvalid"]

RUN_BYTES_MAX = 4 << 20  # of the blob, of one read: large enough that calls and round trips do not count
GAP_BYTES_MAX = 64 << 10  # between wanted ranges that is read along rather than asked around
READS_IN_FLIGHT = 2  # one is fetched while the other is written; the fetcher works on several units of each
KEEP_BYTES_MAX = 32 << 20  # of plain units in memory
FETCH_TIMEOUT_S = 20.0  # of one request
PATIENCE_S = 10.0  # with a store that fails
OBJECT_TIMEOUT_S = 30.0

T = TypeVar("T")

Range = tuple[int, int]
"""First byte and length, on the blob."""
RangeSink = Callable[[int, memoryview], None]
"""Gets the number of a range and its bytes; called in a thread, for several ranges at a time."""


class UnitInvalid(ZosError):
    """The bytes of a unit are not those that the index names (FLIST-BLOB-2). Context: `unit`, `pack`, `offset`."""

    code, http_status, exit_status = "flist.unit-invalid", 502, 42


class ImageReader:
    """One image in one store (or several as one). An async context manager; entering it reads the page list."""

    def __init__(
        self, store: Addressed, manifest: Manifest, *, scratch: Path | None = None, paths_bytes_max: int | None = None
    ) -> None:
        """What is read, and how.

        Args:
            store: where the objects are.
            manifest: of the image.
            scratch: a directory for the metadata while it is read; None for the system's one.
            paths_bytes_max: as of `read_meta`.
        """
        self._scratch = scratch
        self._paths_bytes_max = paths_bytes_max
        self._store = store
        self._manifest = manifest
        self._stop = threading.Event()
        self._blob: fetch.ImageReader | None = None

    async def __aenter__(self) -> Self:
        """Open the image.

        Raises:
            IndexInvalid: the page list is not the one that the manifest names.
            ObjectMissing, StoreUnavailable: the store lacks it, or cannot be read.
        """
        index = self._manifest.index
        self._blob = await self._native(
            lambda: fetch.ImageReader(
                index.root,
                pages=index.pages,
                units=index.units,
                blocks=index.blocks,
                sources=self._store.addresses,
                fetch_timeout_s=FETCH_TIMEOUT_S,
                patience_s=PATIENCE_S,
                keep_bytes_max=KEEP_BYTES_MAX,
                stop=self._stop,
            )
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End what is under way."""
        self._stop.set()
        if self._blob is not None:
            await in_thread(self._blob.close)

    async def tree(self) -> MetaImage:
        """The tree, read out of the metadata image.

        Raises:
            MetaInvalid: the store has something else under that hash, or it is no image of version 1.
            ObjectMissing, StoreUnavailable: the store lacks it, or cannot be read.
        """
        meta = await in_thread(partial(read_meta, await self._meta(), paths_bytes_max=self._paths_bytes_max))
        if meta.blob_blocks != self._manifest.index.blocks:
            raise MetaInvalid("the metadata image has a blob of another size than the index", blocks=meta.blob_blocks)
        return meta

    async def content_bytes(self) -> int:
        """Plain bytes of all units; reads the whole index.

        Raises:
            IndexInvalid: it is not the one that the manifest names.
            ObjectMissing, StoreUnavailable: the store lacks some of it, or cannot be read.
        """
        return await self._native(self._open_blob().content_bytes)

    @property
    def size_bytes(self) -> int:
        """Size of the blob."""
        return self._manifest.index.blocks * BLOCK

    async def read(self, start: int, length: int) -> bytes:
        """Bytes of the blob, at most `RUN_BYTES_MAX`; what lies between units is zeros.

        Raises:
            UnitInvalid: wrong bytes, or a pack that ends early.
            LocatorInvalid: the store does not know where its units are.
            IndexInvalid, ObjectMissing, StoreUnavailable: as of `content_bytes`.
        """
        return await self._native(partial(self._read, start, length))

    async def read_many(self, ranges: Sequence[Range], sink: RangeSink) -> None:
        """Read ranges that ascend and that `RUN_BYTES_MAX` holds, and hand each to `sink`; errors as of `read`."""
        runs = _runs(ranges)

        def deliver(run: Sequence[int]) -> None:
            start, end = ranges[run[0]][0], max(sum(ranges[number]) for number in run)
            view = memoryview(self._read(start, end - start))
            for number in run:
                at, length = ranges[number]
                sink(number, view[at - start : at - start + length])

        async def work() -> None:
            for run in runs:
                await self._native(partial(deliver, run))

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(READS_IN_FLIGHT):
                    group.create_task(work(), name=f"read image {number}")
        except BaseExceptionGroup as group_error:  # all workers fail for one reason: the first says it
            raise zos_error_in(group_error) or group_error.exceptions[0] from group_error

    def _open_blob(self) -> fetch.ImageReader:
        if self._blob is None:
            raise RuntimeError("ImageReader is used outside of its `async with`")
        return self._blob

    def _read(self, start: int, length: int) -> bytes:
        timeout_s = FETCH_TIMEOUT_S + length / SLOWEST_BYTES_S
        return self._open_blob().read(start, length, timeout_s=timeout_s)

    async def _meta(self) -> bytes:
        """The metadata image, plain."""
        ref = self._manifest.meta
        with tempfile.TemporaryDirectory(prefix="zos-meta-", dir=self._scratch) as scratch:
            to = Path(scratch, "meta")

            def bring() -> bytes:
                try:
                    fetch.fetch_object(
                        self._store.addresses,
                        f"meta/{ref.blake3.hex()}",
                        hash=ref.blake3,
                        size=ref.size,
                        zstd=True,
                        to=str(to),
                        timeout_s=OBJECT_TIMEOUT_S + ref.size / SLOWEST_BYTES_S,
                        stop=self._stop,
                    )
                except fetch.FetchCorrupt as error:
                    raise MetaInvalid(f"the metadata image is wrong: {error}", meta=ref.blake3.hex()) from error
                return to.read_bytes()

            return await self._native(bring)

    async def _native(self, work: Callable[[], T]) -> T:
        with _our_errors():
            return await in_stoppable_thread(self._stop.set, work)


@contextmanager
def _our_errors() -> Iterator[None]:
    """Errors of the fetcher as those of images and stores."""
    try:
        yield
    except fetch.FetchUnavailable as error:
        raise StoreUnavailable(str(error), hint="is the hub reachable?", **_facts(error)) from error
    except fetch.FetchMissing as error:
        raise ObjectMissing(str(error), **_facts(error)) from error
    except fetch.FetchCorrupt as error:
        raise _invalid(error) from error


def _invalid(error: fetch.FetchCorrupt) -> ZosError:
    facts = _facts(error)
    if facts["reason"] == "fetch.bad-locator":
        return LocatorInvalid(f"the locator is wrong: {error}", **facts)
    if "unit" not in facts:
        return IndexInvalid(f"the index is wrong: {error}", **facts)
    return UnitInvalid(
        f"unit {facts['unit']} has wrong bytes: {error}",
        hint="the store is damaged: `zos flist build --anew` into it mends it; or use another one",
        **facts,
    )


def _facts(error: ZosError) -> dict[str, Any]:
    return dict(error.context)


def _runs(ranges: Sequence[Range]) -> Iterator[list[int]]:
    """Numbers of ranges that are read together."""
    run: list[int] = []
    begin = end = 0
    for number, (start, length) in enumerate(ranges):
        if run and (start - end > GAP_BYTES_MAX or max(end, start + length) - begin > RUN_BYTES_MAX):
            yield run
            run = []
        if not run:
            begin = end = start
        run.append(number)
        end = max(end, start + length)
    if run:
        yield run
