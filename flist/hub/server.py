"""Serve a directory store over HTTP: objects with ranges, what was sent (docs/spec/hub.md), publishing and the log."""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from collections import Counter
from collections.abc import AsyncIterator, Collection
from contextlib import AsyncExitStack, asynccontextmanager

from aiohttp import hdrs, web

from flist.hub.endpoints import (
    COMMIT,
    ENTRIES_PER_ANSWER,
    LOG_CHECKPOINT,
    LOG_CONSISTENCY,
    LOG_ENTRIES,
    LOG_INCLUSION,
    LOG_LOOKUP,
    OFFER,
    STATISTICS,
    UPLOAD,
    ConsistencyQuery,
    EntriesQuery,
    HubStatistics,
    InclusionQuery,
    KindStatistics,
    LogEntries,
    LogEntry,
    LogProof,
)
from flist.hub.log import RevisionLog
from flist.hub.publishing import Publishing
from flist.hub.ranges import Span, Unsatisfiable, span_of
from flist.store.directory import DirectoryStore, OpenObject
from flist.store.paths import KINDS, MUTABLE_KINDS
from native.errors import ZosError
from zos_core.base.endpoint import Endpoint
from zos_core.base.errors import DocumentInvalid
from zos_core.base.nonces import NonceStore
from zos_core.base.server import Caller, Handler, Server, Verifier, cut_off
from zos_core.base.threads import in_thread

__all__ = ["serve_hub"]

CHUNK_BYTES = 256 << 10
INLINE_BYTES = 64 << 10  # such a read costs less than handing it to a thread
WRITE_TIMEOUT_S = 20.0  # for one chunk: a slower client is cut off
CONNECTIONS_MAX = 512
COLLECT_INTERVAL_S = 3600.0
FOREVER = "public, max-age=31536000, immutable"

_log = logging.getLogger(__name__)


@asynccontextmanager
async def serve_hub(
    store: DirectoryStore,
    sock: socket.socket,
    *,
    publishing: Publishing | None = None,
    names: Collection[str] = (),
) -> AsyncIterator[None]:
    """Serve `store` on a listening socket while the block runs.

    Args:
        store: what is served.
        sock: where.
        publishing: takes publications into that very store; None serves for reading only, and has no log.
        names: `HOST[:PORT]` by which publishers call this hub, beside the socket's own address.
    """
    hub = _Hub(store)
    paths = [f"/{kind}/{{hash}}" for kind in KINDS if kind != "name"] + ["/name/{publisher}/{name}/{tag}"]
    handlers: dict[Endpoint[object], Handler] = {STATISTICS: hub.statistics}
    async with AsyncExitStack() as stack:
        verifier = None
        if publishing is not None:
            nonces = NonceStore(publishing.nonces)
            stack.callback(nonces.close)
            verifier = Verifier(
                known=publishing.owners.known, nonces=nonces, names=frozenset(name.lower() for name in names)
            )
            handlers |= _published(publishing)
        server = Server(
            handlers,
            title="zos hub",
            authorize=_everybody,
            routes=[web.get(path, hub.object) for path in paths],
            connections_max=CONNECTIONS_MAX,
            verifier=verifier,
        )
        if publishing is not None:
            group = await stack.enter_async_context(asyncio.TaskGroup())
            collector = group.create_task(_collect(publishing), name="collect idle uploads")
            stack.callback(collector.cancel)
        await stack.enter_async_context(server)
        await server.listen(sock)
        yield


def _published(publishing: Publishing) -> dict[Endpoint[object], Handler]:
    log = _Log(publishing.log)
    return {
        OFFER: publishing.offer,
        UPLOAD: publishing.upload,
        COMMIT: publishing.commit,
        LOG_LOOKUP: publishing.lookup,
        LOG_CHECKPOINT: log.checkpoint,
        LOG_INCLUSION: log.inclusion,
        LOG_CONSISTENCY: log.consistency,
        LOG_ENTRIES: log.entries,
    }


async def _collect(publishing: Publishing) -> None:
    while True:
        try:
            await publishing.collect(now_s=time.time_ns() / 1e9)
        except (ZosError, OSError) as error:  # readers are served whatever the disk does; the next time is another try
            _log.warning("idle uploads were not all thrown away: %s", error)
        await asyncio.sleep(COLLECT_INTERVAL_S)


def _everybody(caller: Caller, endpoint: Endpoint[object]) -> None:
    """Reading is free: whoever gets wrong bytes notices. Who may publish what is for `Publishing` to say."""


class _Log:
    """Reading the log (docs/spec/hub-log.md). All of it is in memory, but for the leaves."""

    def __init__(self, log: RevisionLog) -> None:
        self._log = log

    async def checkpoint(self) -> AsyncIterator[bytes]:
        """The signed note."""
        yield self._log.checkpoint.encode()

    async def inclusion(self, *, query: InclusionQuery) -> LogEntry:
        """A leaf with its audit path."""
        if not query.index < query.size <= self._log.signed_size:
            raise DocumentInvalid(f"there is no leaf {query.index} in a tree of {query.size} leaves here")
        return LogEntry(entry=self._log.entry(query.index), proof=self._log.inclusion(query.index, query.size))

    async def consistency(self, *, query: ConsistencyQuery) -> LogProof:
        """A proof that the log only grew."""
        if not query.old <= query.new <= self._log.signed_size:
            raise DocumentInvalid(f"there are no trees of {query.old} and {query.new} leaves here")
        return LogProof(proof=self._log.consistency(query.old, query.new))

    async def entries(self, *, query: EntriesQuery) -> LogEntries:
        """Leaves in order."""
        end = min(query.start + query.count, query.start + ENTRIES_PER_ANSWER, self._log.signed_size)
        return LogEntries(entries=[self._log.entry(index) for index in range(query.start, end)])


class _Hub:
    def __init__(self, store: DirectoryStore) -> None:
        self._store = store
        self._requests: Counter[str] = Counter()
        self._bytes_sent: Counter[str] = Counter()

    async def statistics(self) -> HubStatistics:
        """What was sent since the start."""
        return HubStatistics(
            requests=self._requests.total(),
            bytes_sent=self._bytes_sent.total(),
            by_kind={
                kind: KindStatistics(requests=self._requests[kind], bytes_sent=self._bytes_sent[kind])
                for kind in sorted(self._requests)
            },
        )

    async def object(self, request: web.Request) -> web.StreamResponse:
        """GET and HEAD of one object (HUB-1..4)."""
        path = request.path.removeprefix("/")
        kind = path.partition("/")[0]
        self._requests[kind] += 1
        found = self._store.open(path)
        try:
            return await self._answer(request, path, kind, found)
        finally:
            found.close()

    async def _answer(self, request: web.Request, path: str, kind: str, found: OpenObject) -> web.StreamResponse:
        tag = f'"{found.changed_ns:x}-{found.size:x}"' if kind in MUTABLE_KINDS else f'"{path.partition("/")[2]}"'
        headers = {
            hdrs.ETAG: tag,
            hdrs.ACCEPT_RANGES: "bytes",
            hdrs.CACHE_CONTROL: "no-cache" if kind in MUTABLE_KINDS else FOREVER,
        }
        if tag in request.headers.get(hdrs.IF_NONE_MATCH, ""):
            return web.Response(status=304, headers=headers)
        wanted = request.headers.get(hdrs.RANGE)
        if request.headers.get(hdrs.IF_RANGE, tag) != tag:
            wanted = None
        try:
            span = span_of(wanted, found.size)
        except Unsatisfiable:
            return web.Response(status=416, headers={**headers, hdrs.CONTENT_RANGE: f"bytes */{found.size}"})
        if span.partial:
            last = span.start + span.length - 1
            headers[hdrs.CONTENT_RANGE] = f"bytes {span.start}-{last}/{found.size}"
        response = web.StreamResponse(status=206 if span.partial else 200, headers=headers)
        response.content_type = "application/octet-stream"
        response.content_length = span.length
        await response.prepare(request)
        if request.method != "HEAD":
            await self._send(request, response, kind, found, span)
        return response

    async def _send(
        self, request: web.Request, response: web.StreamResponse, kind: str, found: OpenObject, span: Span
    ) -> None:
        at, end = span.start, span.start + span.length
        try:
            while at < end:
                length = min(CHUNK_BYTES, end - at)
                inline = length <= INLINE_BYTES
                data = found.read(at, length) if inline else await in_thread(found.read, at, length)
                if not data:
                    raise ConnectionResetError("the object became shorter")
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await response.write(data)
                at += len(data)
                self._bytes_sent[kind] += len(data)
        except (TimeoutError, ConnectionError) as error:
            cut_off(request, reset=isinstance(error, TimeoutError))
