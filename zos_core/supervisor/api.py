"""The node's API on its unix socket: hands each call of the table to the lifecycle."""

from __future__ import annotations

import importlib.metadata
import os
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flist.mount import ImageMounts
from flist.providers import choose
from zos_core.base.endpoint import Endpoint
from zos_core.base.errors import Forbidden
from zos_core.base.peer import Requester
from zos_core.base.programs import Empty, Nothing, Services
from zos_core.base.server import Caller, Handler, Server
from zos_core.containers.document import ContainerState, ExecRequest, ExecState, RunRequest
from zos_core.host import CgroupTree
from zos_core.supervisor.endpoints import (
    DOWN,
    EXEC,
    EXEC_LOGS,
    EXEC_WAIT,
    INSPECT,
    LOGS,
    NODE,
    PS,
    REMOVE,
    RUN,
    SIGNAL,
    STOP,
    WAIT,
    ContainerList,
    DownRequest,
    LogQuery,
    NodeInfo,
    ProcessInfo,
    RemoveQuery,
    SignalRequest,
    StopRequest,
    WaitQuery,
)
from zos_core.supervisor.lifecycle import Lifecycle
from zos_core.supervisor.logs import LogStreams

__all__ = ["Api", "serve_api"]

REQUEST_TIMEOUT_S = 20.0
PAGE_KIB = os.sysconf("SC_PAGE_SIZE") // 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """The handlers, one for each endpoint."""

    lifecycle: Lifecycle
    images: ImageMounts
    logs: LogStreams
    hold: Requester
    cgroups: CgroupTree
    instance: str
    state_dir: Path
    owner_uid: int

    def authorize(self, caller: Caller, endpoint: Endpoint[Any]) -> None:
        """Root, and the user who ran `zos up`, by SO_PEERCRED."""
        if caller.uid not in (0, self.owner_uid):
            raise Forbidden(
                f"uid {caller.uid} may not use the node of instance {self.instance!r}",
                hint="the user who ran zos up may, and root; or start your own with --instance",
            )

    async def node(self) -> NodeInfo:
        """The node, its processes and their memory."""
        services, _ = await self.hold.request("services", Empty(), reply=Services, timeout_s=REQUEST_TIMEOUT_S)
        probe = await self.images.probe()
        choice = choose(probe, full=False, forced=None)
        processes = [
            ProcessInfo(
                name="hold",
                pid=os.getppid(),
                generation=1,
                restarts=0,
                state="ready",
                rss_kib=_rss_kib(os.getppid()),
            )
        ]
        processes += [
            ProcessInfo(
                name=service.name,
                pid=service.pid,
                generation=service.generation,
                restarts=service.restarts,
                state=service.state,
                rss_kib=None if service.pid is None else _rss_kib(service.pid),
            )
            for service in services.services
        ]
        return NodeInfo(
            instance=self.instance,
            version=importlib.metadata.version("zos"),
            state_dir=str(self.state_dir),
            owner_uid=self.owner_uid,
            kernel=probe.kernel,
            provider=choice.provider,
            provider_reason=choice.reason,
            cgroup=str(self.cgroups.path),
            cgroup_layout=str(self.cgroups.layout),
            controllers=sorted(self.cgroups.controllers),
            processes=processes,
        )

    async def down(self, *, body: DownRequest) -> None:
        """End every container, then the whole tree; the answer leaves before this process does."""
        await self.lifecycle.shut_down(grace_s=body.grace_s)
        await self.hold.request("shutdown", Empty(), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)

    async def ps(self) -> ContainerList:
        """All containers."""
        return ContainerList(containers=await self.lifecycle.containers())

    async def run(self, *, caller: Caller, body: RunRequest) -> ContainerState:
        """Create and start a container for the caller."""
        return await self.lifecycle.run(body, owner_uid=caller.uid or 0)

    async def inspect(self, *, name: str) -> ContainerState:
        """One container, with its image's counters."""
        return await self.lifecycle.inspect(name)

    async def wait(self, *, name: str, query: WaitQuery) -> ContainerState:
        """Long poll for the end of a container."""
        return await self.lifecycle.wait(name, timeout_s=query.timeout_s)

    async def stop(self, *, name: str, body: StopRequest) -> ContainerState:
        """End a container with grace."""
        return await self.lifecycle.stop(name, grace_s=body.grace_s)

    async def signal(self, *, name: str, body: SignalRequest) -> None:
        """Pass a signal on."""
        await self.lifecycle.signal(name, body.signal)

    async def remove(self, *, name: str, query: RemoveQuery) -> None:
        """Forget a container, or whatever one request made of that name."""
        if query.request_id is not None:
            await self.lifecycle.call_off(name, query.request_id)
        else:
            await self.lifecycle.remove(name, force=query.force)

    async def container_logs(self, *, name: str, query: LogQuery) -> AsyncIterator[bytes]:
        """Output of a container as a stream of log frames."""
        await self.lifecycle.inspect(name)
        return self.logs.stream(name, seq=query.seq, offset=query.offset, follow=query.follow)

    async def exec(self, *, name: str, body: ExecRequest) -> ExecState:
        """Run one more program."""
        return await self.lifecycle.exec(name, body)

    async def exec_wait(self, *, name: str, number: str, query: WaitQuery) -> ExecState:
        """Long poll for the end of an exec."""
        return await self.lifecycle.wait_exec(name, number, timeout_s=query.timeout_s)

    async def exec_logs(self, *, name: str, number: str, query: LogQuery) -> AsyncIterator[bytes]:
        """Output of an exec as a stream of log frames."""
        known = self.lifecycle.get_exec(name, number)
        return self.logs.stream(f"{name}/exec-{known.id}", seq=query.seq, offset=query.offset, follow=query.follow)


@asynccontextmanager
async def serve_api(api: Api, listener: socket.socket) -> AsyncIterator[None]:
    """Serve the API on a listening socket that hold keeps."""
    handlers: dict[Endpoint[Any], Handler] = {
        NODE: api.node,
        DOWN: api.down,
        PS: api.ps,
        RUN: api.run,
        INSPECT: api.inspect,
        WAIT: api.wait,
        STOP: api.stop,
        SIGNAL: api.signal,
        REMOVE: api.remove,
        LOGS: api.container_logs,
        EXEC: api.exec,
        EXEC_WAIT: api.exec_wait,
        EXEC_LOGS: api.exec_logs,
    }
    async with Server(handlers, title="zos node", authorize=api.authorize) as server:
        await server.listen(listener)
        yield


def _rss_kib(pid: int) -> int | None:
    """Resident memory from /proc/PID/statm, proc_pid_statm(5)."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * PAGE_KIB
    except OSError:
        return None
