"""What a tenant asks for and what the node keeps of a container."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from zos_core.base.document import Document, Record
from zos_core.host.limits import (
    CPU_MILLI_MAX,
    CPU_MILLI_MIN,
    MEMORY_BYTES_MAX,
    MEMORY_BYTES_MIN,
    PIDS_MAX,
    PIDS_MIN,
)

__all__ = [
    "ARGUMENTS_MAX",
    "ARGUMENT_BYTES_MAX",
    "REQUEST_ID_PATTERN",
    "RUN_BYTES_MAX",
    "ContainerName",
    "ContainerState",
    "ExecRequest",
    "ExecState",
    "Failure",
    "ImageRequest",
    "ImageState",
    "LimitRecord",
    "NetworkState",
    "PortState",
    "Resources",
    "RunRequest",
    "Status",
    "TrustedKey",
    "shown",
]

# Names reach file names, cgroups and link names. Python's "$" is also before a last line
# feed, which `(?!\n)` refuses; the patterns stand in the OpenAPI document as well, so they are of both dialects.
ContainerName = Annotated[str, Meta(pattern=r"^[a-zA-Z0-9_][a-zA-Z0-9_.+-]*$(?!\n)", min_length=1, max_length=63)]
REQUEST_ID_PATTERN = r"^[0-9a-f]{32}$(?!\n)"
# execve(2): a single string is at most 128 KiB, all of them a quarter of the stack limit; a frame carries 16 MiB.
ARGUMENTS_MAX = 4096
ARGUMENT_BYTES_MAX = 131_071
RUN_BYTES_MAX = 32 * 1024 * 1024
"""Of a request to start something; a .flist file travels inside, in base64."""
SHOWN_CHARACTERS_MAX = 1024
"""Of an exec's arguments in the document of its container: there may be many execs."""

Argument = Annotated[str, Meta(pattern=r"^[^\x00]*$", max_length=ARGUMENT_BYTES_MAX)]
Directory = Annotated[str, Meta(pattern=r"^/[^\x00]*$", max_length=4095)]
Variable = Annotated[str, Meta(pattern=r"^[^=\x00]+=[^\x00]*$", max_length=ARGUMENT_BYTES_MAX)]
Status = Literal["starting", "running", "stopping", "exited"]


class TrustedKey(Document, frozen=True, kw_only=True):
    """A publisher's name and the 32-byte Ed25519 key that the caller trusts for it."""

    publisher: str
    key: Annotated[bytes, Meta(min_length=32, max_length=32)]


class ImageRequest(Document, frozen=True, kw_only=True):
    """Which image to run: a name to be resolved in `store`, or the bytes of a .flist file."""

    store: Annotated[str, Meta(pattern=r"^(https?://|/)[^\x00]*$", max_length=4095)]
    reference: str | None = None
    flist: bytes | None = None
    unsigned: bool = False
    trusted: list[TrustedKey] = []
    provider: Literal["file", "loop", "full", "extract"] | None = None


class Resources(Document, frozen=True, kw_only=True):
    """Limits: memory in bytes, CPU time in thousandths of one CPU, number of processes."""

    memory_bytes: Annotated[int, Meta(ge=MEMORY_BYTES_MIN, le=MEMORY_BYTES_MAX)] | None = None
    cpus_milli: Annotated[int, Meta(ge=CPU_MILLI_MIN, le=CPU_MILLI_MAX)] | None = None
    pids: Annotated[int, Meta(ge=PIDS_MIN, le=PIDS_MAX)] | None = 4096


class RunRequest(Document, frozen=True, kw_only=True):
    """Create and start a container.

    The same `request_id` again returns the same container, so a lost answer may be asked for again. `attached`: the
    caller follows the output and removes the container itself; should it vanish, the node does so after a while.
    """

    request_id: Annotated[str, Meta(pattern=REQUEST_ID_PATTERN)]
    name: ContainerName
    image: ImageRequest
    args: Annotated[list[Argument], Meta(max_length=ARGUMENTS_MAX)]
    env: Annotated[list[Variable], Meta(max_length=ARGUMENTS_MAX)] = []
    cwd: Directory = "/"
    ports: Annotated[list[str], Meta(max_length=64)] = []
    resources: Resources = msgspec.field(default_factory=Resources)
    remove_on_exit: bool = False
    attached: bool = False


class ExecRequest(Document, frozen=True, kw_only=True):
    """Run one more program inside a running container."""

    request_id: Annotated[str, Meta(pattern=REQUEST_ID_PATTERN)]
    args: Annotated[list[Argument], Meta(min_length=1, max_length=ARGUMENTS_MAX)]
    env: Annotated[list[Variable], Meta(max_length=ARGUMENTS_MAX)] = []
    cwd: Directory = "/"


class Failure(Record, frozen=True, kw_only=True):
    """Why something did not start: an error's code, message, hint and exit status."""

    code: str
    message: str
    hint: str | None = None
    exit_status: int = 125


class ImageState(Record, frozen=True, kw_only=True):
    """The image of a container: pinned digest, how it is mounted and why so."""

    digest: str
    name: str
    store: str
    provider: Literal["file", "loop", "full", "extract"]
    reason: str
    size_bytes: int
    units: int
    units_present: int | None = None
    bytes_fetched: int | None = None
    requests: int | None = None
    read_errors: int | None = None


class LimitRecord(Record, frozen=True, kw_only=True):
    """A limit as asked for and as the kernel reports it; not in force: `enforced` is None, and `reason` says why."""

    name: str
    requested: str
    enforced: str | None
    reason: str | None = None


class PortState(Record, frozen=True, kw_only=True):
    """A published port: where it listens and where it leads."""

    listen: str
    connect: str


class NetworkState(Record, frozen=True, kw_only=True):
    """The container's network and what it cannot do yet."""

    address: str
    gateway: str
    link: str
    ports: list[PortState] = []
    missing: list[str] = []


class ExecState(Record, frozen=True, kw_only=True):
    """One exec, running or ended; `args` are for people, cut where they are long (`shown`).

    `request_digest`: BLAKE3 of the whole request, by which one that comes again is known (API-AGAIN); None in documents
    of a zos that did not keep it.
    """

    id: int
    request_id: str
    request_digest: str | None = None
    generation: int
    args: list[str]
    pid: int | None = None
    running: bool = True
    exit_code: int | None = None
    exit_signal: int | None = None


def shown(args: Sequence[str]) -> list[str]:
    """Arguments as far as they have `SHOWN_CHARACTERS_MAX` characters in all; "..." stands for what does not fit."""
    kept: list[str] = []
    left = SHOWN_CHARACTERS_MAX
    for argument in args:
        if len(argument) > left or len(kept) >= SHOWN_CHARACTERS_MAX:
            return [*kept, argument[:left] + "..."]
        kept.append(argument)
        left -= len(argument)
    return kept


class ContainerState(Record, frozen=True, kw_only=True):
    """Everything the node keeps of a container; written to disk before each step that it describes."""

    version: int = 1
    name: str
    owner_uid: int
    request: RunRequest
    status: Status
    generation: int
    created_ns: int
    started_ns: int | None = None
    finished_ns: int | None = None
    pid: int | None = None
    exit_code: int | None = None
    exit_signal: int | None = None
    exit_unknown: bool = False
    failure: Failure | None = None
    image: ImageState | None = None
    limits: list[LimitRecord] = []
    network: NetworkState | None = None
    cgroup: str | None = None
    events: list[str] = []
    execs: list[ExecState] = []
    next_exec: int = 1

    @property
    def exit_status(self) -> int | None:
        """The status a shell would report: the code, 128 + signal, or that of the failure; None while it runs."""
        if self.failure is not None:
            return self.failure.exit_status
        if self.exit_signal is not None:
            return 128 + self.exit_signal
        return 125 if self.exit_unknown else self.exit_code
