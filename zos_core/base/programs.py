"""What the supervisor and the tools say to the native programs, and what these answer.

One class for each body of `docs/spec/{hold,spawn,blockd,logd,forward}.md`, under the same names. Requests are
`Document`s (unknown keys refused by the peer), answers `Record`s (unknown keys ignored, so that versions can roll).
"""

from __future__ import annotations

from typing import Literal

from zos_core.base.document import Document, Record

__all__ = [
    "AddPort",
    "Added",
    "After",
    "Attach",
    "BlockAdded",
    "BlockStatus",
    "Child",
    "Children",
    "Descriptors",
    "Dropped",
    "Empty",
    "ErrorEvent",
    "Exec",
    "ExitRecord",
    "Exits",
    "FetchObject",
    "Fetched",
    "ImageName",
    "Index",
    "Kill",
    "Launch",
    "Launched",
    "Mount",
    "Mounted",
    "Named",
    "Names",
    "Nothing",
    "Plan",
    "Position",
    "Prefix",
    "Probe",
    "Remove",
    "Rlimit",
    "Seq",
    "Service",
    "Services",
    "Source",
    "User",
]


class Empty(Document, frozen=True, kw_only=True):
    """A request without a body."""


class Nothing(Record, frozen=True, kw_only=True):
    """An answer without a body."""


# --- hold ---------------------------------------------------------------------------------------------------------


class Names(Document, frozen=True, kw_only=True):
    """Descriptors to get or drop, by name."""

    names: list[str]


class Prefix(Document, frozen=True, kw_only=True):
    """Names that begin with `prefix`."""

    prefix: str


class Descriptors(Record, frozen=True, kw_only=True):
    """Sorted names of kept descriptors."""

    names: list[str]


class Dropped(Record, frozen=True, kw_only=True):
    """How many descriptors were closed."""

    dropped: int


class Child(Record, frozen=True, kw_only=True):
    """A registered process that has not been reaped."""

    name: str
    generation: int
    pid: int
    start_ns: int = 0


class Children(Record, frozen=True, kw_only=True):
    """All registered processes that live."""

    children: list[Child]


class After(Document, frozen=True, kw_only=True):
    """Exits with a sequence number above `after`."""

    after: int


class Seq(Document, frozen=True, kw_only=True):
    """Exits up to `seq` may be forgotten."""

    seq: int


class ExitRecord(Record, frozen=True, kw_only=True):
    """The end of one registered process: `code` or `signal`."""

    seq: int
    name: str
    generation: int
    pid: int
    code: int | None = None
    signal: int | None = None
    time_ns: int = 0


class Exits(Record, frozen=True, kw_only=True):
    """Ends that were not acknowledged."""

    exits: list[ExitRecord]


class Kill(Document, frozen=True, kw_only=True):
    """A signal for a registered process, delivered by its pidfd."""

    name: str
    signal: int


class Service(Record, frozen=True, kw_only=True):
    """A service process of the tree."""

    name: str
    pid: int | None = None
    generation: int = 0
    restarts: int = 0
    state: str = ""


class Services(Record, frozen=True, kw_only=True):
    """All service processes."""

    services: list[Service]


# --- spawn --------------------------------------------------------------------------------------------------------


class ImageName(Document, frozen=True, kw_only=True):
    """An image, by the hexadecimal digest of its manifest."""

    image: str


class Named(Document, frozen=True, kw_only=True):
    """Something by its name."""

    name: str


class Probe(Record, frozen=True, kw_only=True):
    """What spawn found by trying; `reasons` explains each False."""

    kernel: str
    fuse: bool
    erofs: bool
    erofs_file_backed: bool
    loop_control: bool
    detached_layers: bool
    overlay: bool
    reasons: dict[str, str] = {}


class Mount(Document, frozen=True, kw_only=True):
    """Which mount to make of an image; paths below the state directory."""

    image: str
    provider: Literal["file", "loop", "full", "extract"]
    meta: str | None = None
    blob: str | None = None
    tree: str | None = None


class Mounted(Record, frozen=True, kw_only=True):
    """An image was mounted; the detached mount comes as the first descriptor."""

    provider: str
    detached: bool


class User(Document, frozen=True, kw_only=True):
    """Numeric credentials inside the container."""

    uid: int = 0
    gid: int = 0
    groups: list[int] = []


class Rlimit(Document, frozen=True, kw_only=True):
    """setrlimit(2): resource number, soft and hard value."""

    resource: int
    soft: int
    hard: int


class Launch(Document, frozen=True, kw_only=True):
    """One container to start (spawn.md)."""

    name: str
    generation: int
    image: str
    upper: str
    work: str
    args: list[bytes]
    env: list[bytes]
    cwd: bytes
    user: User
    hostname: str
    netns: str | None
    cgroup: str
    readonly_root: bool
    rlimits: list[Rlimit]
    capabilities: list[int]
    no_new_privileges: bool
    seccomp: Literal["default", "unconfined"]
    masked: list[bytes]
    readonly: list[bytes]
    init: bool
    shm_bytes: int
    volatile: bool = False


class Exec(Document, frozen=True, kw_only=True):
    """One more process in a running container."""

    name: str
    generation: int
    target: str
    args: list[bytes]
    env: list[bytes]
    cwd: bytes
    user: User
    capabilities: list[int]
    cgroup: str


class Launched(Record, frozen=True, kw_only=True):
    """The process runs; its pidfd comes as the first descriptor."""

    pid: int
    generation: int


class Remove(Document, frozen=True, kw_only=True):
    """A directory tree below the state directory."""

    path: str


# --- blockd -------------------------------------------------------------------------------------------------------


class Source(Document, frozen=True, kw_only=True, omit_defaults=True):
    """Where bytes come from: a hub's URL or a store's directory."""

    kind: Literal["http", "dir"]
    url: str | None = None
    path: str | None = None


class Index(Document, frozen=True, kw_only=True):
    """Identity of an image's units (FLIST index)."""

    root: bytes
    pages: int
    units: int
    blocks: int


class Plan(Document, frozen=True, kw_only=True):
    """How blockd serves one image."""

    image: str
    index: Index
    dir: str
    sources: list[Source]
    fetch_timeout_ms: int
    read_deadline_ms: int
    cache_bytes_max: int
    serve: bool


class BlockAdded(Record, frozen=True, kw_only=True):
    """What of the image is here already."""

    units: int
    units_present: int
    blob_bytes: int


class FetchObject(Document, frozen=True, kw_only=True):
    """One whole object, verified, written to an absolute path."""

    sources: list[Source]
    object: str
    blake3: bytes
    size: int
    zstd: bool
    to: str
    deadline_ms: int


class Fetched(Record, frozen=True, kw_only=True):
    """Bytes that came over the wire."""

    bytes: int


class BlockStatus(Record, frozen=True, kw_only=True):
    """Counters of one image since blockd took it on."""

    units: int
    units_present: int
    blob_bytes: int
    bytes_fetched: int
    requests: int
    reads: int
    errors: int
    full: bool


class ErrorEvent(Record, frozen=True, kw_only=True):
    """Why a read was answered with EIO."""

    image: str
    code: str
    message: str
    unit: int | None = None
    address: int | None = None
    source: str | None = None


# --- logd ---------------------------------------------------------------------------------------------------------


class Attach(Document, frozen=True, kw_only=True):
    """Drain the pipes of a process into at most `files_max` files."""

    name: str
    file_bytes_max: int
    files_max: int


class Position(Record, frozen=True, kw_only=True):
    """How far the log of a process is written."""

    seq: int
    offset: int
    open: bool
    dropped_bytes: int = 0


# --- forward ------------------------------------------------------------------------------------------------------


class AddPort(Document, frozen=True, kw_only=True):
    """Listen on one address, connect to another (ADDR:PORT)."""

    name: str
    listen: str
    connect: str


class Added(Record, frozen=True, kw_only=True):
    """The address as bound."""

    listen: str
