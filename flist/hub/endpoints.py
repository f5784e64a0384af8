"""The hub's table of typed endpoints; objects are raw routes beside it."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from flist.errors import RevisionNotNew
from flist.hub.errors import (
    ImageTooLarge,
    NotOwner,
    ObjectWrong,
    RevisionIncomplete,
    StoreUnwritable,
    UploadConflict,
    UploadLimit,
)
from flist.manifest import FILE_MAX, NAME_PATTERN, REVISION_MAX
from flist.names import TAG_PATTERN
from flist.store.paths import NAME_FILE_MAX
from zos_core.base.document import Document, Record
from zos_core.base.endpoint import Endpoint
from zos_core.base.errors import DiskFull, RequestTimeout, ServerBusy
from zos_core.base.request_signature import KeyUnknown, RequestReplayed, SignatureExpired, SignatureWrong

__all__ = [
    "CHUNK_BYTES",
    "COMMIT",
    "ENTRIES_PER_ANSWER",
    "LOG_CHECKPOINT",
    "LOG_CONSISTENCY",
    "LOG_ENTRIES",
    "LOG_INCLUSION",
    "LOG_LOOKUP",
    "OBJECTS_PER_OFFER",
    "OFFER",
    "STATISTICS",
    "UPLOAD",
    "ChunkQuery",
    "Committed",
    "ConsistencyQuery",
    "EntriesQuery",
    "HubStatistics",
    "InclusionQuery",
    "KindStatistics",
    "LogEntries",
    "LogEntry",
    "LogLookup",
    "LogProof",
    "LookupQuery",
    "Offer",
    "Revision",
    "Uploaded",
    "Wanted",
    "WantedObject",
]

CHUNK_BYTES = 4 << 20
"""Of one request of an upload: so much is sent again, at most, after a break, and held in memory meanwhile."""
OBJECTS_PER_OFFER = 2048
ENTRIES_PER_ANSWER = 1024
SIZE_MAX = 1 << 48

Name = Annotated[str, Meta(pattern=NAME_PATTERN)]
Tag = Annotated[str, Meta(pattern=TAG_PATTERN)]
Hash = Annotated[bytes, Meta(min_length=32, max_length=32)]
Count = Annotated[int, Meta(ge=0, le=SIZE_MAX)]


class KindStatistics(Record, frozen=True, kw_only=True):
    """Requests for one kind of object, and bytes of bodies sent, since the hub started."""

    requests: int = 0
    bytes_sent: int = 0


class HubStatistics(Record, frozen=True, kw_only=True):
    """Sums, and the same for each kind of object that was asked for. Headers are not counted."""

    requests: int
    bytes_sent: int
    by_kind: dict[str, KindStatistics]


STATISTICS = Endpoint("GET", "/v1/statistics", response=HubStatistics, summary="Requests and bytes by kind of object")


# --- Publishing ----------------------------------------------------------------------------------------------------


class Offer(Document, frozen=True, kw_only=True):
    """A revision that is to be published, and some of its objects by path; all of them take several offers."""

    name: Name
    tag: Tag
    revision: Annotated[int, Meta(ge=1, le=REVISION_MAX)]
    digest: Hash
    objects: Annotated[list[Annotated[str, Meta(max_length=80)]], Meta(max_length=OBJECTS_PER_OFFER)]


class WantedObject(Record, frozen=True, kw_only=True):
    """An object that the hub lacks; its first `offset` bytes have come."""

    path: str
    offset: int


class Wanted(Record, frozen=True, kw_only=True):
    """What the hub lacks of an offer."""

    objects: list[WantedObject]


class ChunkQuery(Document, frozen=True, kw_only=True):
    """Where the bytes of an upload belong, and how many there are in all."""

    offset: Annotated[int, Meta(ge=0, le=1 << 33)]
    size: Annotated[int, Meta(ge=1, le=1 << 33)]


class Uploaded(Record, frozen=True, kw_only=True):
    """So many bytes of the object have come; `size` of them: it is whole, and its hash is right."""

    offset: int


class Revision(Document, frozen=True, kw_only=True):
    """A revision whose objects the hub has: the .flist file, the signed name record, hash of an uploaded locator."""

    manifest: Annotated[bytes, Meta(max_length=FILE_MAX)]
    record: Annotated[bytes, Meta(max_length=NAME_FILE_MAX)]
    locator: Hash | None = None


class Committed(Record, frozen=True, kw_only=True):
    """The revision is published: readers see it, and it is leaf `index` of the log."""

    name: str
    tag: str
    digest: str
    revision: int
    index: int


SIGNED = (SignatureWrong, SignatureExpired, RequestReplayed, KeyUnknown)

OFFER = Endpoint(
    "POST",
    "/v1/offers",
    request=Offer,
    response=Wanted,
    signed=True,
    errors=(NotOwner, RevisionNotNew, *SIGNED),
    summary="Which objects of a revision the hub lacks",
)
UPLOAD = Endpoint(
    "PUT",
    "/v1/uploads/{kind}/{hash}",
    request=bytes,
    query=ChunkQuery,
    response=Uploaded,
    signed=True,
    request_bytes_max=CHUNK_BYTES,
    errors=(UploadConflict, UploadLimit, ObjectWrong, ImageTooLarge, DiskFull, StoreUnwritable, *SIGNED),
    summary="Send bytes of an object",
)
COMMIT = Endpoint(
    "POST",
    "/v1/revisions",
    request=Revision,
    response=Committed,
    signed=True,
    errors=(
        NotOwner,
        RevisionNotNew,
        RevisionIncomplete,
        ImageTooLarge,
        ServerBusy,
        RequestTimeout,
        DiskFull,
        StoreUnwritable,
        *SIGNED,
    ),
    summary="Publish a revision whose objects are there",
)


# --- The log -------------------------------------------------------------------------------------------------------


class LookupQuery(Document, frozen=True, kw_only=True):
    """A name."""

    name: Name
    tag: Tag


class LogLookup(Record, frozen=True, kw_only=True):
    """The checkpoint, and the last leaf of a name in that very tree with its audit path; None if it has none."""

    checkpoint: str
    index: int | None = None
    entry: bytes | None = None
    proof: bytes = b""


class InclusionQuery(Document, frozen=True, kw_only=True):
    """A leaf, and the size of a tree that holds it."""

    index: Count
    size: Count


class LogEntry(Record, frozen=True, kw_only=True):
    """A leaf and its audit path, 32 bytes for each step."""

    entry: bytes
    proof: bytes


class ConsistencyQuery(Document, frozen=True, kw_only=True):
    """Two sizes of the tree."""

    old: Count
    new: Count


class LogProof(Record, frozen=True, kw_only=True):
    """A proof, 32 bytes for each step."""

    proof: bytes


class EntriesQuery(Document, frozen=True, kw_only=True):
    """Leaves from `start` on."""

    start: Count
    count: Annotated[int, Meta(ge=1, le=ENTRIES_PER_ANSWER)] = ENTRIES_PER_ANSWER


class LogEntries(Record, frozen=True, kw_only=True):
    """Leaves in order; fewer than asked for at the end."""

    entries: list[bytes]


LOG_CHECKPOINT: Endpoint[None] = Endpoint(
    "GET", "/v1/log/checkpoint", stream=True, media_type="text/plain", summary="The signed checkpoint (C2SP)"
)
LOG_LOOKUP = Endpoint(
    "GET", "/v1/log/lookup", query=LookupQuery, response=LogLookup, summary="The last revision of a name, with proof"
)
LOG_INCLUSION = Endpoint(
    "GET", "/v1/log/inclusion", query=InclusionQuery, response=LogEntry, summary="A leaf with its audit path"
)
LOG_CONSISTENCY = Endpoint(
    "GET", "/v1/log/consistency", query=ConsistencyQuery, response=LogProof, summary="That the log only grew"
)
LOG_ENTRIES = Endpoint("GET", "/v1/log/entries", query=EntriesQuery, response=LogEntries, summary="Leaves in order")
