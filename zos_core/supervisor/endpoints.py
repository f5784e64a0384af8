"""The node's API: one table from which routes, client and OpenAPI document come (docs/spec/api.md)."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from zos_core.base.document import Document, Record
from zos_core.base.endpoint import Endpoint
from zos_core.containers.document import (
    REQUEST_ID_PATTERN,
    RUN_BYTES_MAX,
    ContainerState,
    ExecRequest,
    ExecState,
    RunRequest,
)
from zos_core.containers.errors import (
    CommandNotExecutable,
    CommandNotFound,
    ContainerBusy,
    ContainerExists,
    ContainerNotRunning,
    DirectoryUnusable,
    LaunchFailed,
    NoSuchContainer,
    NoSuchExec,
    RequestChanged,
)

__all__ = [
    "DOWN",
    "EXEC",
    "EXEC_LOGS",
    "EXEC_WAIT",
    "GRACE_S_MAX",
    "INSPECT",
    "LOGS",
    "NODE",
    "PS",
    "REMOVE",
    "RUN",
    "SIGNAL",
    "STOP",
    "WAIT",
    "ContainerList",
    "DownRequest",
    "LogQuery",
    "NodeInfo",
    "RemoveQuery",
    "SignalRequest",
    "StopRequest",
    "WaitQuery",
]

WAIT_S_MAX = 60.0
GRACE_S_MAX = 3600.0
# Files of a log are numbered by 32 bits and have at most 1 GiB (LOG-FILE-1, LOG-LIMIT).
LOG_SEQ_MAX = 2**32 - 1
LOG_OFFSET_MAX = 1 << 30


class ProcessInfo(Record, frozen=True, kw_only=True):
    """One process of the tree: resident memory in KiB, None when it is not running."""

    name: str
    pid: int | None
    generation: int
    restarts: int
    state: str
    rss_kib: int | None


class NodeInfo(Record, frozen=True, kw_only=True):
    """The node: its processes and what its machine can do."""

    instance: str
    version: str
    state_dir: str
    owner_uid: int
    kernel: str
    provider: str
    provider_reason: str
    cgroup: str
    cgroup_layout: str
    controllers: list[str]
    processes: list[ProcessInfo]


class ContainerList(Record, frozen=True, kw_only=True):
    """All known containers, oldest first."""

    containers: list[ContainerState]


class WaitQuery(Document, frozen=True, kw_only=True):
    """How long an answer may take, in seconds."""

    timeout_s: Annotated[float, Meta(ge=0, le=WAIT_S_MAX)] = 30.0


class StopRequest(Document, frozen=True, kw_only=True):
    """Seconds between SIGTERM and cgroup.kill."""

    grace_s: Annotated[float, Meta(ge=0, le=GRACE_S_MAX)] = 10.0


class DownRequest(Document, frozen=True, kw_only=True):
    """Stop every container with this grace, then the node."""

    grace_s: Annotated[float, Meta(ge=0, le=GRACE_S_MAX)] = 10.0


class SignalRequest(Document, frozen=True, kw_only=True):
    """A signal number for the container's program."""

    signal: Annotated[int, Meta(ge=1, le=64)]


class RemoveQuery(Document, frozen=True, kw_only=True):
    """`force` ends a running container first, or calls off one that is being started.

    With a `request_id` only what that request made, or is making, is removed, by force: so a caller calls its own start
    off (API-CALL-OFF).
    """

    force: bool = False
    request_id: Annotated[str, Meta(pattern=REQUEST_ID_PATTERN)] | None = None


class LogQuery(Document, frozen=True, kw_only=True):
    """Where to begin, as the stream's position frames say, and whether to go on until the process has ended."""

    seq: Annotated[int, Meta(ge=0, le=LOG_SEQ_MAX)] = 0
    offset: Annotated[int, Meta(ge=0, le=LOG_OFFSET_MAX)] = 0
    follow: bool = False


NODE = Endpoint("GET", "/v1/node", response=NodeInfo, summary="The node and its processes")
DOWN: Endpoint[None] = Endpoint("POST", "/v1/node/down", request=DownRequest, summary="Stop everything and end")
PS = Endpoint("GET", "/v1/containers", response=ContainerList, summary="List containers")
RUN = Endpoint(
    "POST",
    "/v1/containers",
    request=RunRequest,
    response=ContainerState,
    summary="Create and start a container",
    errors=(ContainerExists, RequestChanged, CommandNotFound, CommandNotExecutable, DirectoryUnusable, LaunchFailed),
    request_bytes_max=RUN_BYTES_MAX,
)
INSPECT = Endpoint(
    "GET", "/v1/containers/{name}", response=ContainerState, summary="One container", errors=(NoSuchContainer,)
)
WAIT = Endpoint(
    "GET",
    "/v1/containers/{name}/wait",
    query=WaitQuery,
    response=ContainerState,
    summary="One container, when it has ended or the time is over",
    errors=(NoSuchContainer,),
)
STOP = Endpoint(
    "POST",
    "/v1/containers/{name}/stop",
    request=StopRequest,
    response=ContainerState,
    summary="End a container with grace",
    errors=(NoSuchContainer,),
)
SIGNAL: Endpoint[None] = Endpoint(
    "POST",
    "/v1/containers/{name}/signal",
    request=SignalRequest,
    summary="Send a signal to a container's program",
    errors=(NoSuchContainer, ContainerNotRunning),
)
REMOVE: Endpoint[None] = Endpoint(
    "DELETE",
    "/v1/containers/{name}",
    query=RemoveQuery,
    summary="Forget a container, its layer and its output",
    errors=(NoSuchContainer, ContainerBusy),
)
LOGS: Endpoint[None] = Endpoint(
    "GET",
    "/v1/containers/{name}/logs",
    query=LogQuery,
    stream=True,
    media_type="application/vnd.zos.log",
    summary="Output of a container",
    errors=(NoSuchContainer,),
)
EXEC = Endpoint(
    "POST",
    "/v1/containers/{name}/exec",
    request=ExecRequest,
    response=ExecState,
    summary="Run one more program in a container",
    errors=(
        NoSuchContainer,
        ContainerNotRunning,
        RequestChanged,
        CommandNotFound,
        CommandNotExecutable,
        DirectoryUnusable,
        LaunchFailed,
    ),
    request_bytes_max=RUN_BYTES_MAX,
)
EXEC_WAIT = Endpoint(
    "GET",
    "/v1/containers/{name}/exec/{number}/wait",
    query=WaitQuery,
    response=ExecState,
    summary="One exec, when it has ended or the time is over",
    errors=(NoSuchContainer, NoSuchExec),
)
EXEC_LOGS: Endpoint[None] = Endpoint(
    "GET",
    "/v1/containers/{name}/exec/{number}/logs",
    query=LogQuery,
    stream=True,
    media_type="application/vnd.zos.log",
    summary="Output of an exec",
    errors=(NoSuchContainer, NoSuchExec),
)
