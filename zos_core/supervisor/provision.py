"""What a container is given by this machine, and gives back: cgroup, namespace, link, ports, layers, output.

All of it goes by the container's name alone, so that it can be given back at any time and again, by whoever finds it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from zos_core.base.frame import RemoteError
from zos_core.base.groups import plain_group
from zos_core.base.peer import Requester
from zos_core.base.programs import (
    Added,
    AddPort,
    Attach,
    Descriptors,
    Dropped,
    Named,
    Names,
    Nothing,
    Prefix,
    Remove,
)
from zos_core.base.threads import in_thread
from zos_core.containers.document import LimitRecord, NetworkState, PortState, Resources
from zos_core.containers.errors import PortUnavailable
from zos_core.host import CgroupGroup, CgroupTree, Limits
from zos_core.network import Network, PublishedPort, limitations
from zos_core.supervisor.launcher import REQUEST_TIMEOUT_S, closing
from zos_core.supervisor.tasks import Tasks

__all__ = ["Programs", "Provision", "Provisioner"]

LOG_FILE_BYTES_MAX = 16 * 1024 * 1024
LOG_FILES_MAX = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Connections to the native programs of the tree."""

    hold: Requester
    spawn: Requester
    logd: Requester
    forward: Requester


@dataclass(frozen=True, slots=True, kw_only=True)
class Provision:
    """What a container has been given, as its document tells it."""

    cgroup: str
    limits: list[LimitRecord]
    network: NetworkState


class Provisioner:
    """Gives to containers, and takes back."""

    def __init__(
        self, *, programs: Programs, network: Network, cgroups: CgroupTree, state_dir: Path, tasks: Tasks
    ) -> None:
        self._programs = programs
        self._network = network
        self._cgroups = cgroups
        self._state_dir = state_dir
        self._tasks = tasks

    async def provide(self, name: str, resources: Resources, ports: Sequence[PublishedPort]) -> Provision:
        """Make everything but the image and the process; what was made when it fails is for `release` and `remove`."""
        async with plain_group() as group:
            grouping = group.create_task(self._cgroups.create(name, _limits(resources)), name="cgroup")
            connecting = group.create_task(self._connect(name, ports), name="network")
            group.create_task(self._make_layers(name), name="layers")
        cgroup = grouping.result()
        return Provision(cgroup=str(cgroup.path), limits=_limit_records(cgroup), network=connecting.result())

    async def _connect(self, name: str, ports: Sequence[PublishedPort]) -> NetworkState:
        """Give the container its namespace, its link and its published ports."""
        _, descriptors = await self._tasks.to_its_end(
            self._programs.spawn.request("netns", Named(name=name), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
        )
        with closing(descriptors):
            attachment = await self._network.attach(name, descriptors[0], descriptors[1])
        published = []
        for number, port in enumerate(ports):
            target = port.connect(attachment.address)
            try:
                bound, _ = await self._programs.forward.request(
                    "add",
                    AddPort(name=f"{name}/{number}", listen=port.listen, connect=target),
                    reply=Added,
                    timeout_s=REQUEST_TIMEOUT_S,
                )
            except RemoteError as error:
                if error.remote_code not in ("forward.port-in-use", "forward.no-such-address"):
                    raise
                raise PortUnavailable(
                    f"port {port.listen} of this machine cannot be published: {_reason(error)}",
                    hint="choose another one, or leave it to the system: -p :PORT",
                    name=name,
                    listen=port.listen,
                ) from error
            published.append(PortState(listen=bound.listen, connect=target))
        return NetworkState(
            address=str(attachment.address),
            gateway=str(attachment.host_address),
            link=attachment.link,
            ports=published,
            missing=[limitation.text for limitation in limitations()],
        )

    async def _make_layers(self, name: str) -> None:
        """Make the directories of the writable layer; only root may pass through their parent."""

        def make() -> None:
            directory = self._state_dir / "containers" / name
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            for layer in ("upper", "work"):
                (directory / layer).mkdir(mode=0o755, exist_ok=True)

        await in_thread(make)

    async def attach_log(self, name: str, *, may_lack: bool = False) -> None:
        """Have logd drain what a process prints; `may_lack`: it may have failed before it became a program."""
        try:
            await self._programs.logd.request(
                "attach",
                Attach(name=name, file_bytes_max=LOG_FILE_BYTES_MAX, files_max=LOG_FILES_MAX),
                reply=Nothing,
                timeout_s=REQUEST_TIMEOUT_S,
            )
        except RemoteError as error:
            if not (may_lack and error.remote_code == "logd.unknown-name"):
                raise

    async def kill(self, name: str) -> None:
        """End everything in a container's cgroup."""
        await self._cgroups.group(name).kill()

    async def release(self, name: str) -> None:
        """Give back what a running container holds; by its name alone, so that it may be called again at any time."""
        hold, forward = self._programs.hold, self._programs.forward
        rules, _ = await hold.request(
            "list", Prefix(prefix=f"rule/port/{name}/"), reply=Descriptors, timeout_s=REQUEST_TIMEOUT_S
        )
        for rule in rules.names:
            await forward.request(
                "remove", Named(name=rule.removeprefix("rule/port/")), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S
            )
        async with plain_group() as group:
            group.create_task(self._cgroups.group(name).end(), name="cgroup")
            group.create_task(self._network.detach(name), name="network")
        await hold.request(
            "drop",
            Names(names=[f"netns/{name}", f"rtnl/{name}", f"pidfd/{name}"]),
            reply=Dropped,
            timeout_s=REQUEST_TIMEOUT_S,
        )

    async def remove(self, name: str) -> None:
        """Forget the output of a container and of its execs, and its layers."""
        await self.remove_log(name)
        await self._programs.spawn.request(
            "remove", Remove(path=f"containers/{name}"), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S
        )

    async def remove_log(self, process: str) -> None:
        """Forget what a process has printed."""
        await self._programs.logd.request("remove", Named(name=process), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)

    async def given(self) -> set[str]:
        """Names of containers that have layers, a namespace or a port."""
        layers = self._state_dir / "containers"
        found = set(os.listdir(layers)) if layers.is_dir() else set()
        for prefix in ("netns/", "rule/port/"):
            kept, _ = await self._programs.hold.request(
                "list", Prefix(prefix=prefix), reply=Descriptors, timeout_s=REQUEST_TIMEOUT_S
            )
            found |= {name.removeprefix(prefix).partition("/")[0] for name in kept.names}
        return found

    async def keep_only(self, running: Sequence[str]) -> None:
        """Take the cgroups and links of all other containers back."""
        await self._cgroups.reconcile(running)
        await self._network.reconcile(running)


def _reason(error: RemoteError) -> str:
    return str(error) if error.errno is None else os.strerror(error.errno)


def _limits(resources: Resources) -> Limits:
    return Limits(memory_bytes=resources.memory_bytes, cpu_milli=resources.cpus_milli, pids=resources.pids)


def _limit_records(group: CgroupGroup) -> list[LimitRecord]:
    return [
        LimitRecord(
            name=limit.name,
            requested=str(limit.requested),
            enforced=None if limit.enforced is None else str(limit.enforced),
            reason=limit.reason,
        )
        for limit in group.limits
        if limit.requested is not None
    ]
