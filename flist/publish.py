"""Publish an image from a directory store to a hub: ask what it lacks, send that, commit (docs/spec/publish.md).

All of it may be broken off and begun again at any point: the hub says what it has, and goes on from there.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from blake3 import blake3

from flist.hub.endpoints import (
    CHUNK_BYTES,
    COMMIT,
    OBJECTS_PER_OFFER,
    OFFER,
    UPLOAD,
    ChunkQuery,
    Committed,
    Offer,
    Revision,
    WantedObject,
)
from flist.index import Page, PageList
from flist.locator import Locator
from flist.manifest import SignedManifest
from flist.names import NameRecord
from flist.store import DirectoryStore
from flist.store.paths import object_paths
from zos_core.base.client import Client
from zos_core.base.document import Record
from zos_core.base.endpoint import RemoteProblem
from zos_core.base.errors import DocumentInvalid, RequestTimeout, ServerBusy, Unreachable, zos_error_in
from zos_core.base.progress import SILENT, Progress, Task
from zos_core.base.threads import in_thread

__all__ = ["Published", "publish"]

UPLOADS_AT_ONCE = 4
ATTEMPTS_MAX = 3
"""After so many breaks without an end the caller hears of it; what was sent is not sent again."""
BACKOFF_S = 0.5
BUSY_MAX_S = 600.0
"""A hub that has enough to verify says so, and has room when an image or two are done."""
BUSY_PAUSE_S = 0.5
BUSY_PAUSE_MAX_S = 15.0
ANSWER_TIMEOUT_S = 60.0
QUEUE_TIMEOUT_S = 600.0
"""A commit may wait until the hub has verified others, of which nobody here knows how large they are."""
SLOWEST_BYTES_S = 64 << 10
COMMIT_SLOWEST_BYTES_S = 8 << 20
"""The hub reads all of the image from its own disk before it commits."""


class Published(Record, frozen=True, kw_only=True):
    """What was published. `bytes_sent` are those of objects; `objects` of them were sent, the hub had the others."""

    name: str
    tag: str
    digest: str
    revision: int
    index: int
    objects: int
    objects_sent: int
    bytes_sent: int


@dataclass(slots=True)
class _Sent:
    """Counts, over all attempts."""

    objects: set[str] = field(default_factory=set)
    bytes: int = 0


async def publish(
    store: DirectoryStore,
    image: SignedManifest,
    record: NameRecord,
    signed_record: bytes,
    client: Client,
    *,
    progress: Progress = SILENT,
) -> Published:
    """Publish a revision.

    Args:
        store: has the whole image.
        image: its manifest, signed by the key with which the client signs.
        record: the name record.
        signed_record: its signed bytes.
        client: of the hub, with a signer.
        progress: where progress is shown, in bytes.

    Raises:
        RemoteProblem: the hub refuses, or is busy for `BUSY_MAX_S`; `code` says why.
        Unreachable, RequestTimeout: it does not answer, after several attempts.
        ZosError: the store does not have the image.
    """
    sent = _Sent()
    publication = _Publication(store, image, record, signed_record, client, sent)
    await publication.read()
    breaks, pause_s, busy_until_s = 0, BUSY_PAUSE_S, math.inf
    while True:
        try:
            committed = await publication.run(progress, whole=breaks > 0)
            break
        except (RemoteProblem, Unreachable, RequestTimeout) as error:
            if error.code == ServerBusy.code:
                now_s = asyncio.get_running_loop().time()
                if now_s > busy_until_s:
                    raise
                busy_until_s = min(busy_until_s, now_s + BUSY_MAX_S)
                with progress.task("the hub is busy: asking again"):
                    await asyncio.sleep(pause_s)
                pause_s = min(2 * pause_s, BUSY_PAUSE_MAX_S)
                continue
            breaks += 1
            absent = isinstance(error, Unreachable) and error.absent and not sent.bytes
            if breaks == ATTEMPTS_MAX or not error.retryable or absent:
                raise
            await asyncio.sleep(BACKOFF_S * breaks)
    return Published(
        name=committed.name,
        tag=committed.tag,
        digest=committed.digest,
        revision=committed.revision,
        index=committed.index,
        objects=publication.count,
        objects_sent=len(sent.objects),
        bytes_sent=sent.bytes,
    )


class _Publication:
    def __init__(
        self,
        store: DirectoryStore,
        image: SignedManifest,
        record: NameRecord,
        signed_record: bytes,
        client: Client,
        sent: _Sent,
    ) -> None:
        self._store, self._image, self._record, self._signed_record = store, image, record, signed_record
        self._client, self._sent = client, sent
        self._locator_path = f"locator/{image.manifest.index.root.hex()}"
        self._objects: dict[str, int] = {}
        self._packs: dict[str, int] = {}
        self._locator = b""

    @property
    def count(self) -> int:
        """Objects of the image, manifest and name record not counted."""
        return len(self._objects) + len(self._packs) + 1

    async def read(self) -> None:
        """Find every object of the image in the store, and its size."""
        manifest = self._image.manifest
        index = manifest.index.root
        pages = PageList.decode(await self._store.get(f"index/{index.hex()}"), index).pages
        lengths: list[int] = []
        for ref in pages:
            lengths += Page.decode(await self._store.get(f"index/{ref.hash.hex()}"), ref).lengths
        self._locator = await self._store.get(self._locator_path)
        self._objects = await in_thread(self._sizes, object_paths(manifest, pages))
        packs = [f"pack/{digest.hex()}" for digest in Locator.decode(self._locator, lengths).packs]
        self._packs = await in_thread(self._sizes, packs)

    async def run(self, progress: Progress, *, whole: bool) -> Committed:
        """One attempt: ask, send, commit. `whole`: also send where units are, though the hub knows a place already."""
        with progress.task("publishing", unit="bytes") as task:
            send_packs = whole or bool(await self._ask([self._locator_path]))
            objects = {**self._objects, **(self._packs if send_packs else {})}
            wanted = await self._ask(list(objects))
            locator: bytes | None = None
            if send_packs:
                locator = blake3(self._locator).digest()
                objects[f"locator/{locator.hex()}"] = len(self._locator)
                wanted += await self._ask([f"locator/{locator.hex()}"])
            task.expect(sum(objects[each.path] - each.offset for each in wanted))
            await self._send_all(wanted, objects, task)
        body = Revision(manifest=self._image.encode(), record=self._signed_record, locator=locator)
        plain_bytes = self._image.manifest.index.blocks * 4096 + self._image.manifest.meta.size
        timeout_s = QUEUE_TIMEOUT_S + plain_bytes / COMMIT_SLOWEST_BYTES_S
        with progress.task("committing"):
            return await self._client.call(COMMIT, body=body, timeout_s=timeout_s)

    async def _ask(self, paths: Sequence[str]) -> list[WantedObject]:
        wanted: list[WantedObject] = []
        for at in range(0, len(paths), OBJECTS_PER_OFFER):
            offer = Offer(
                name=self._record.name,
                tag=self._record.tag,
                revision=self._record.revision,
                digest=self._record.digest,
                objects=list(paths[at : at + OBJECTS_PER_OFFER]),
            )
            answer = await self._client.call(OFFER, body=offer, timeout_s=ANSWER_TIMEOUT_S)
            asked = set(offer.objects)
            wanted += [each for each in answer.objects if each.path in asked]
        return wanted

    async def _send_all(self, wanted: Sequence[WantedObject], sizes: dict[str, int], task: Task) -> None:
        waiting = iter(wanted)

        async def work() -> None:
            for each in waiting:
                await self._send(each, sizes[each.path], task)

        try:
            async with asyncio.TaskGroup() as group:
                for number in range(UPLOADS_AT_ONCE):
                    group.create_task(work(), name=f"upload {number}")
        except BaseExceptionGroup as failures:
            raise zos_error_in(failures) or failures from failures

    async def _send(self, wanted: WantedObject, size: int, task: Task) -> None:
        kind, _, name = wanted.path.partition("/")
        if not 0 <= wanted.offset < size:
            raise DocumentInvalid(f"the hub says that it has {wanted.offset} bytes of {wanted.path}, of {size}")
        for offset in range(wanted.offset, size, CHUNK_BYTES):
            length = min(CHUNK_BYTES, size - offset)
            answer = await self._client.call(
                UPLOAD,
                path={"kind": kind, "hash": name},
                query=ChunkQuery(offset=offset, size=size),
                body=await in_thread(self._read, wanted.path, offset, length),
                timeout_s=ANSWER_TIMEOUT_S + CHUNK_BYTES / SLOWEST_BYTES_S,
            )
            self._sent.objects.add(wanted.path)
            self._sent.bytes += length
            task.advance(length)
            if answer.offset == size:
                return

    def _read(self, path: str, offset: int, length: int) -> bytes:
        """Bytes of an object, or of the locator under the hash of its bytes."""
        if path.startswith("locator/"):
            return self._locator[offset : offset + length]
        found = self._store.open(path)
        try:
            return found.read(offset, length)
        finally:
            found.close()

    def _sizes(self, paths: Sequence[str]) -> dict[str, int]:
        sizes: dict[str, int] = {}
        for path in paths:
            found = self._store.open(path)
            sizes[path] = found.size
            found.close()
        return sizes
