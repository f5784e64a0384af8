"""The life of the containers of one node: start, stop, exec, remove, and what survives the supervisor.

State is in three places: documents on disk (`Registry`), descriptors and exits in hold, cgroups and links in the
kernel. The document precedes the launch, every release is idempotent and goes by the name alone; so `reconcile`, which
runs at each start, is all there is to recovery. Work on one container is ordered by its lock, containers run in
parallel.
"""

from __future__ import annotations

import asyncio
import logging
import os
import platform
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol
from weakref import WeakValueDictionary

import msgspec

from flist.manifest import SignedManifest
from flist.mount import ImageMounts, MountedImage, image_sources
from native.errors import ZosError
from zos_core.base.errors import DescriptorsExhausted, DiskFull, zos_error_in
from zos_core.base.frame import PeerGone, RemoteError
from zos_core.base.groups import plain_group
from zos_core.base.peer import Requester
from zos_core.base.programs import (
    Added,
    AddPort,
    Attach,
    BlockStatus,
    Descriptors,
    Dropped,
    ErrorEvent,
    ExitRecord,
    Named,
    Names,
    Nothing,
    Prefix,
    Remove,
    Seq,
)
from zos_core.base.threads import in_thread
from zos_core.containers.document import (
    ContainerState,
    ExecRequest,
    ExecState,
    Failure,
    ImageRequest,
    ImageState,
    LimitRecord,
    NetworkState,
    PortState,
    Resources,
    RunRequest,
)
from zos_core.containers.errors import (
    CommandNotFound,
    ContainerBusy,
    ContainerExists,
    ContainerNotRunning,
    ImageArchitecture,
    LaunchFailed,
    NoSuchContainer,
    NoSuchExec,
    PortUnavailable,
    StartCalledOff,
)
from zos_core.containers.launch import plan_exec, plan_launch
from zos_core.host import CgroupGroup, CgroupTree, Limits
from zos_core.network import Network, PublishedPort, limitations, parse_published
from zos_core.supervisor.exits import ExitLedger
from zos_core.supervisor.launcher import REQUEST_TIMEOUT_S, Identity, Launcher, closing
from zos_core.supervisor.registry import Registry
from zos_core.supervisor.tasks import SCARCE, Tasks

__all__ = ["Lifecycle", "Programs"]

log = logging.getLogger("zos.supervisor")

KILL_TIMEOUT_S = 10.0
STOP_GRACE_S = 10.0
# How long a container whose follower has vanished is kept for somebody to read its output.
ATTACH_GRACE_S = 60.0
# Requests that were called off are remembered, so that one that comes later than its calling off starts nothing.
CALLED_OFF_MAX = 1024
# Images that nothing uses stay mounted for the next start, this many.
IDLE_IMAGES_MAX = 4
# Ended execs and events kept of each container.
EXECS_KEPT_MAX = 16
EVENTS_KEPT_MAX = 20
EVENT_GRACE_NS = 5_000_000_000
LOG_FILE_BYTES_MAX = 16 * 1024 * 1024
LOG_FILES_MAX = 4


class ResolveImage(Protocol):
    """Turns what a caller asked for into a verified manifest (flist.names)."""

    async def __call__(self, request: ImageRequest) -> SignedManifest:
        """Resolve, fetch and verify."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Programs:
    """Connections to the native programs of the tree."""

    hold: Requester
    spawn: Requester
    logd: Requester
    forward: Requester


@dataclass(frozen=True, slots=True, kw_only=True)
class Start:
    """A start that is under way, and for whom."""

    request_id: str
    task: asyncio.Task[ContainerState | ZosError]


class Lifecycle:
    """All containers of one node."""

    def __init__(
        self,
        *,
        programs: Programs,
        images: ImageMounts,
        registry: Registry,
        network: Network,
        cgroups: CgroupTree,
        resolve: ResolveImage,
        state_dir: Path,
        clock_ns: Callable[[], int],
        group: asyncio.TaskGroup,
    ) -> None:
        self._programs = programs
        self._images = images
        self._registry = registry
        self._network = network
        self._cgroups = cgroups
        self._resolve = resolve
        self._state_dir = state_dir
        self._clock_ns = clock_ns
        self._tasks = Tasks(group)
        self._launcher = Launcher(hold=programs.hold, spawn=programs.spawn, images=images, tasks=self._tasks)
        self._states: dict[str, ContainerState] = {}
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._starting: dict[str, Start] = {}
        self._called_off: dict[str, None] = {}
        self._changed = asyncio.Condition()
        self._exits = ExitLedger()
        self._reconciled = False
        self._idle_images: list[str] = []
        # By container: what is about to be mounted, or is and not yet in its document.
        self._images_to_come: dict[str, str] = {}
        # By container that has ended: the generation of which this supervisor has released everything.
        self._released: dict[str, int] = {}
        self._closing = False
        self._generation = 0

    # --- reading -------------------------------------------------------------------------------------------------

    async def containers(self) -> list[ContainerState]:
        """Every known container, oldest first."""
        return sorted(self._states.values(), key=lambda state: state.created_ns)

    async def inspect(self, name: str) -> ContainerState:
        """One container with the current counters of its image.

        Raises:
            NoSuchContainer: it is not known here.
        """
        state = self._get(name)
        if state.image is None or state.status == "exited":
            return state
        return self._with_counters(state, await self._images.status(state.image.digest))

    async def wait(self, name: str, *, timeout_s: float) -> ContainerState:
        """The container as it is when it has ended, or after `timeout_s` seconds.

        Raises:
            NoSuchContainer: it is not known here, or was removed meanwhile.
        """
        return await self._ended(self._get(name), timeout_s=timeout_s)

    async def wait_exec(self, name: str, number: str, *, timeout_s: float) -> ExecState:
        """The exec as it is when it has ended, or after `timeout_s` seconds."""
        await self._wait_until(lambda: not self.get_exec(name, number).running, timeout_s=timeout_s)
        return self.get_exec(name, number)

    async def _wait_until(self, condition: Callable[[], bool], *, timeout_s: float) -> None:
        try:
            async with asyncio.timeout(timeout_s), self._changed:
                await self._changed.wait_for(condition)
        except TimeoutError:
            return

    async def _ended(self, state: ContainerState, *, timeout_s: float) -> ContainerState:
        """This very container when it has ended, or after `timeout_s` seconds: a later one of its name is another."""

        def has_ended() -> bool:
            known = self._current(state)
            return known is None or known.status == "exited"

        await self._wait_until(has_ended, timeout_s=timeout_s)
        known = self._current(state)
        if known is None:
            raise _unknown(state.name)
        return known

    def _current(self, state: ContainerState) -> ContainerState | None:
        """This very container as it now is; None when it was removed."""
        known = self._states.get(state.name)
        return known if known is not None and known.generation == state.generation else None

    def _get(self, name: str) -> ContainerState:
        try:
            return self._states[name]
        except KeyError:
            raise _unknown(name) from None

    def get_exec(self, name: str, number: str) -> ExecState:
        """One exec by its number as it stands in a path.

        Raises:
            NoSuchContainer, NoSuchExec: unknown.
        """
        for known in self._get(name).execs:
            if str(known.id) == number:
                return known
        raise NoSuchExec(f"container {name!r} has no exec {number}", name=name, number=number)

    def _with_counters(self, state: ContainerState, status: BlockStatus | None) -> ContainerState:
        if status is None or state.image is None:
            return state
        image = msgspec.structs.replace(
            state.image,
            units_present=status.units_present,
            bytes_fetched=status.bytes_fetched,
            requests=status.requests,
            read_errors=status.errors,
        )
        return msgspec.structs.replace(state, image=image)

    # --- starting ------------------------------------------------------------------------------------------------

    async def run(self, request: RunRequest, *, owner_uid: int) -> ContainerState:
        """Create and start a container; returns when its program runs.

        Raises:
            ContainerExists: the name is taken by another request's container.
            CommandNotFound, CommandNotExecutable, LaunchFailed: the launch failed; nothing of it is left.
            ZosError: whatever the image, the limits or the network raise; nothing is left either.
        """
        _check_command(request.args, request.name)
        ports = [parse_published(text) for text in request.ports]
        name = request.name
        while True:
            if self._closing:
                raise _going_down()
            if request.request_id in self._called_off:
                raise StartCalledOff(f"the start of {name!r} was called off", name=name)
            known, start = self._states.get(name), self._starting.get(name)
            if known is not None and known.request.request_id != request.request_id:
                raise ContainerExists(
                    f"there is already a container {name!r}",
                    hint=f"zos rm {name} removes it, or choose another --name",
                    name=name,
                )
            if start is None or start.request_id == request.request_id:
                break
            await asyncio.wait([start.task])  # another's, which is being undone
        if start is None:
            if known is not None and known.failure is None:
                return known
            state = ContainerState(
                name=name,
                owner_uid=owner_uid,
                request=request,
                status="starting",
                generation=self._next_generation(),
                created_ns=self._clock_ns(),
            )
            self._states[name] = state
            task = self._tasks.begin(self._start(state, ports, again=known is not None), f"start {name}")
            start = self._starting[name] = Start(request_id=request.request_id, task=task)
            task.add_done_callback(lambda _: self._start_done(name))
        # The start goes on when the caller goes away: whoever asks again with the same request_id joins it.
        await asyncio.wait([start.task])
        if start.task.cancelled():
            if start.request_id not in self._called_off:
                raise self._given_up()
            raise StartCalledOff(f"the start of {name!r} was called off", name=name)
        outcome = start.task.result()
        if isinstance(outcome, ZosError):
            raise outcome
        return outcome

    async def _start(
        self, state: ContainerState, ports: list[PublishedPort], *, again: bool
    ) -> ContainerState | ZosError:
        """Run every step of a start; on any failure undo all of them and forget the container.

        `again`: an earlier life of the supervisor had begun with it, which is undone first.
        """
        name = state.name
        try:
            async with self._lock(name):
                try:
                    if again:
                        await self._discard(name)
                        self._states[name] = state
                    running = await self._start_steps(state, ports)
                except BaseException as error:
                    await asyncio.shield(self._undo(state, error))
                    raise
            self._save_behind(name)
            return running
        except ZosError as error:
            return error
        except (ExceptionGroup, OSError, TimeoutError, ValueError) as error:
            log.exception("start of %s failed", name)
            return zos_error_in(error) or LaunchFailed(f"the start failed: {error}", name=name)
        finally:
            await self._notify()

    async def _undo(self, state: ContainerState, why: BaseException) -> None:
        """Take back what a start has made; what cannot be for want of room or descriptors, as soon as it can.

        Until then the container is there, and says why it failed.
        """
        name = state.name
        try:
            await self._discard(name)
        except SCARCE as scarce:
            known = zos_error_in(why) or scarce
            self._change(
                state,
                status="exited",
                finished_ns=self._clock_ns(),
                failure=Failure(code=known.code, message=str(known), hint=known.hint, exit_status=known.exit_status),
            )

            async def discard() -> None:
                async with self._lock(name):
                    if self._current(state) is not None:
                        await self._discard(name)
                await self._notify()

            self._tasks.background(self._tasks.in_the_end(discard, f"removal of {name}"), f"discard {name}")

    def _given_up(self) -> ZosError:
        """Why a start ended that nobody had called off."""
        return _going_down() if self._closing else PeerGone("the supervisor is ending", sent=False)

    def _start_done(self, name: str) -> None:
        self._starting.pop(name, None)
        self._images_to_come.pop(name, None)

    async def _start_steps(self, state: ContainerState, ports: list[PublishedPort]) -> ContainerState:
        """Make everything that the container needs, write down what it is, launch it.

        One document precedes the launch. What a supervisor that dies before it leaves behind is nobody's, and
        `reconcile` takes it away; after it, hold knows whether the launch came about.
        """
        name, request = state.name, state.request
        image = await self._resolve(request.image)
        machine = platform.machine()
        if image.manifest.architecture != machine:
            raise ImageArchitecture(
                f"the image {image.manifest.name} is for {image.manifest.architecture}, this machine is {machine}",
                hint="build it from a tree for this architecture, or run it on a node that has it",
                image=image.digest.hex(),
            )
        digest = image.digest.hex()
        in_use = digest in self._images_used()
        self._images_to_come[name] = digest
        async with plain_group() as group:
            mounting = group.create_task(
                self._images.ensure(
                    image, image_sources(request.image.store), forced=request.image.provider, in_use=in_use
                ),
                name="image",
            )
            grouping = group.create_task(self._cgroups.create(name, _limits(request.resources)), name="cgroup")
            connecting = group.create_task(self._connect(name, ports), name="network")
            group.create_task(self._make_layers(name), name="layers")
        mounted, cgroup, network = mounting.result(), grouping.result(), connecting.result()
        state = await self._save(
            state,
            image=_image_state(mounted, image, request.image.store),
            cgroup=str(cgroup.path),
            limits=_limit_records(cgroup),
            network=network,
        )
        launch = plan_launch(
            request,
            generation=state.generation,
            image=mounted.digest,
            upper=f"containers/{name}/upper",
            work=f"containers/{name}/work",
            netns=name,
            cgroup=str(cgroup.path),
        )
        pid = await self._launcher.start(
            "launch",
            launch,
            request.args[0] if request.args else "",
            name,
            image=image,
            read_error=partial(self._read_error, name),
        )
        await self._attach_log(name)
        return self._change(state, status="running", pid=pid, started_ns=self._clock_ns())

    async def _connect(self, name: str, ports: list[PublishedPort]) -> NetworkState:
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

    def _read_error(self, name: str) -> str | None:
        """Why a read of the container's image failed last."""
        state = self._states.get(name)
        return state.events[-1] if state is not None and state.events else None

    async def _attach_log(self, name: str, *, may_lack: bool = False) -> None:
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

    async def exec(self, name: str, request: ExecRequest) -> ExecState:
        """Run one more program in a running container.

        Raises:
            ContainerNotRunning: it has ended, or has not begun.
            CommandNotFound, CommandNotExecutable, LaunchFailed: the program did not start.
        """
        _check_command(request.args, name)
        async with self._lock(name):
            state = self._get(name)
            for known in state.execs:
                if known.request_id == request.request_id:
                    return known
            if state.status != "running" or state.cgroup is None:
                raise ContainerNotRunning(f"container {name!r} is {state.status}, not running", name=name)
            number = state.next_exec
            process = f"{name}/exec-{number}"
            started = ExecState(
                id=number, request_id=request.request_id, generation=state.generation, args=request.args
            )
            plan = plan_exec(state.request, request, name=process, generation=state.generation, cgroup=state.cgroup)
            state = await self._save(state, execs=[*state.execs, started], next_exec=number + 1)
            try:
                pid = await self._launcher.start(
                    "exec", plan, request.args[0], name, read_error=partial(self._read_error, name)
                )
            except PeerGone:
                raise  # hold's end: whether it was made, the next supervisor will know
            except ZosError:
                await self._note(state, execs=[known for known in state.execs if known.id != number])
                raise
            try:
                await self._attach_log(process)
            except DescriptorsExhausted:
                await self._launcher.kill(process, signal.SIGKILL)  # nobody would hear what it prints
                raise
            started = msgspec.structs.replace(started, pid=pid)
            self._change_exec(name, started)
        self._save_behind(name)
        return started

    # --- ending --------------------------------------------------------------------------------------------------

    async def signal(self, name: str, number: int) -> None:
        """Send a signal to a container's program; one that has ended is no error."""
        state = self._get(name)
        if state.status not in ("running", "stopping"):
            raise ContainerNotRunning(f"container {name!r} is {state.status}, not running", name=name)
        await self._launcher.kill(name, number)

    async def stop(self, name: str, *, grace_s: float) -> ContainerState:
        """SIGTERM, `grace_s` seconds, then cgroup.kill; returns when it has ended. Ended already is no error.

        A start that is under way is waited for. The container's lock is not: an exec has it for as long as its program
        is being loaded from a hub that does not answer.
        """
        while (start := self._starting.get(name)) is not None and not start.task.done():
            await asyncio.wait([start.task])
        state = self._get(name)
        if state.status == "running":
            self._change(state, status="stopping")  # no document: it is to end on a full disk too
            await self._launcher.kill(name, signal.SIGTERM)
        state = await self._ended(state, timeout_s=grace_s)
        return state if state.status == "exited" else await self._end(state)

    async def _end(self, state: ContainerState) -> ContainerState:
        """Kill everything in the container's cgroup and wait until its exit has been seen."""
        name = state.name
        await self._launcher.kill(name, signal.SIGKILL)
        if self._current(state) is not None:
            await self._cgroups.group(name).kill()
        state = await self._ended(state, timeout_s=KILL_TIMEOUT_S)
        if state.status != "exited":
            raise LaunchFailed(
                f"container {name!r} did not end within {KILL_TIMEOUT_S:.0f} s of being killed",
                hint="a process may be stuck in the kernel; zos inspect shows its cgroup",
                name=name,
            )
        return state

    async def remove(self, name: str, *, force: bool) -> None:
        """Forget a container: its writable layer, its output, its document.

        `force` ends it first, or calls off its start.

        Raises:
            ContainerBusy: it runs and `force` was not given.
        """
        state = self._get(name)
        if state.status != "exited" and not force:
            raise ContainerBusy(
                f"container {name!r} is {state.status}", hint=f"zos stop {name} first, or zos rm --force", name=name
            )
        await self._remove(state)

    async def call_off(self, name: str, request_id: str) -> None:
        """End and remove what a request made or is making; should it come only now, it makes nothing.

        Of a container of that name that another request made, nothing is touched.
        """
        self._remember_called_off(request_id)
        state = self._states.get(name)
        if state is not None and state.request.request_id == request_id:
            await self._remove(state)

    def _remember_called_off(self, request_id: str) -> None:
        self._called_off[request_id] = None
        while len(self._called_off) > CALLED_OFF_MAX:
            del self._called_off[next(iter(self._called_off))]

    async def _remove(self, state: ContainerState) -> None:
        """End and forget this very container, however far it has come."""
        name = state.name
        start = self._starting.get(name)
        if start is not None and start.request_id == state.request.request_id:
            self._remember_called_off(start.request_id)
            start.task.cancel()
            await asyncio.wait([start.task])
        known = self._current(state)
        if known is not None and known.status in ("running", "stopping"):
            with suppress(NoSuchContainer):  # somebody else has removed it first, or its --rm
                await self._end(known)
        async with self._lock(name):
            if self._current(state) is not None:
                await self._discard(name)
        await self._notify()

    async def _release(self, name: str) -> None:
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

    async def _discard(self, name: str) -> None:
        """Release a container and remove everything that was kept of it."""
        state = self._states.get(name)
        if self._released.pop(name, None) != (state.generation if state is not None else 0):
            await self._release(name)
        for known in state.execs if state is not None else []:
            await self._remove_log(f"{name}/exec-{known.id}")
        await self._remove_log(name)
        await self._programs.spawn.request(
            "remove", Remove(path=f"containers/{name}"), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S
        )
        await self._registry.delete(name)
        self._states.pop(name, None)
        await self._trim_images()

    async def _remove_log(self, process: str) -> None:
        await self._programs.logd.request("remove", Named(name=process), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)

    # --- images that nothing uses --------------------------------------------------------------------------------

    def _images_used(self) -> set[str]:
        """Digests of the images from which something runs, or is about to."""
        used = set(self._images_to_come.values())
        return used | {
            state.image.digest
            for state in self._states.values()
            if state.image is not None and state.status != "exited"
        }

    async def _trim_images(self) -> None:
        """Keep the mounts of the images used last, release the others."""
        used = self._images_used()
        for digest in await self._images.mounted():
            if digest not in used and digest not in self._idle_images:
                self._idle_images.append(digest)
        self._idle_images = [digest for digest in self._idle_images if digest not in used]
        while len(self._idle_images) > (0 if self._closing else IDLE_IMAGES_MAX):
            digest = self._idle_images.pop(0)
            if digest not in self._images_used():
                await self._images.release(digest)

    # --- exits ---------------------------------------------------------------------------------------------------

    def exited(self, record: ExitRecord) -> None:
        """Take note of an exit that hold reports; each is handled once, in the order of its container's work.

        One that comes before `reconcile` knows whose it is stays with hold, of whom `reconcile` asks it at its end.
        """
        if not self._reconciled or not self._exits.take(record.seq):
            return
        work = partial(self._handle_exit, record)
        self._tasks.background(self._tasks.in_the_end(work, f"the end of {record.name}"), f"exit {record.name}")

    async def _handle_exit(self, record: ExitRecord) -> None:
        name, _, exec_part = record.name.partition("/exec-")
        async with self._lock(name):
            state = self._states.get(name)
            if state is not None and state.generation == record.generation:
                if exec_part:
                    await self._exec_ended(name, int(exec_part), record)
                else:
                    await self._container_ended(state, record)
        if (upto := self._exits.close(record.seq)) is not None:
            await self._programs.hold.request("ack", Seq(seq=upto), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
        await self._notify()

    async def _container_ended(self, state: ContainerState, record: ExitRecord) -> None:
        """Tell it, keep it, release; a kill in between is made good by `reconcile`: hold keeps the exit until then."""
        counted = state
        if state.image is not None:
            counted = self._with_counters(state, await self._images.status(state.image.digest))
        state = self._change(
            state,
            image=counted.image,
            status="exited",
            finished_ns=record.time_ns or self._clock_ns(),
            pid=None,
            exit_code=record.code,
            exit_signal=record.signal,
            exit_unknown=record.code is None and record.signal is None,
        )
        await self._notify()
        try:
            await self._save(state, durable=True)
        finally:  # what it held is free even where there is no room to say so
            await self._release(state.name)
        self._released[state.name] = state.generation
        await self._trim_images()
        if state.request.remove_on_exit:
            self._remove_behind(state)

    def _remove_behind(self, state: ContainerState) -> None:
        work = partial(self._remove_ended, state)
        self._tasks.background(self._tasks.in_the_end(work, f"removal of {state.name}"), f"remove {state.name}")

    async def _remove_ended(self, state: ContainerState) -> None:
        """Carry out --rm: at once, or when the follower that was to do it has not for a while."""
        if state.request.attached:
            await self._wait_until(lambda: self._current(state) is None, timeout_s=ATTACH_GRACE_S)
        async with self._lock(state.name):
            if self._current(state) is not None:
                await self._discard(state.name)
        await self._notify()

    async def _exec_ended(self, name: str, number: int, record: ExitRecord) -> None:
        """Tell it first; hold keeps the exit until the document has it."""
        for known in self._get(name).execs:
            if known.id == number:
                state = self._change_exec(
                    name,
                    msgspec.structs.replace(
                        known, running=False, pid=None, exit_code=record.code, exit_signal=record.signal
                    ),
                )
                await self._notify()
                await self._save(state)
        await self._prune_execs(name)
        await self._programs.hold.request(
            "drop", Names(names=[f"pidfd/{record.name}"]), reply=Dropped, timeout_s=REQUEST_TIMEOUT_S
        )

    def _change_exec(self, name: str, changed: ExecState) -> ContainerState:
        state = self._get(name)
        return self._change(state, execs=[changed if known.id == changed.id else known for known in state.execs])

    async def _prune_execs(self, name: str) -> None:
        """Forget the oldest ended execs and their output."""
        state = self._get(name)
        ended = [known for known in state.execs if not known.running]
        for known in ended[: max(0, len(ended) - EXECS_KEPT_MAX)]:
            await self._remove_log(f"{name}/exec-{known.id}")
            state = await self._save(state, execs=[other for other in state.execs if other.id != known.id])

    def image_error(self, event: ErrorEvent) -> None:
        """Keep with each container of the image why a read of it failed."""
        line = f"{event.code}: {event.message}"
        log.warning("image %s: %s", event.image, line)
        since_ns = self._clock_ns() - EVENT_GRACE_NS
        for name, state in self._states.items():
            # The program may have ended by that very failure before we hear of it.
            concerned = state.status != "exited" or (state.finished_ns or 0) > since_ns
            if state.image is not None and state.image.digest == event.image and concerned:
                events = [*state.events, line][-EVENTS_KEPT_MAX:]
                self._states[name] = msgspec.structs.replace(state, events=events)

    # --- restart and end of the supervisor -----------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Bring documents, hold and the kernel together after a start of the supervisor.

        What runs is adopted, what ended meanwhile is reported by its exit, whether its launch was answered or not. What
        was being started and never came to its launch is given up, to be started again by whoever still asks. What
        nobody knows is ended and removed.
        """
        self._states = await self._registry.load()
        alive, ended = await self._launcher.made()
        for name, state in list(self._states.items()):
            if state.status == "exited":
                continue
            identity = (name, state.generation)
            if identity in alive or identity in ended:
                # One that was being stopped gets its SIGTERM again from whoever still asks for it.
                state = await self._note(
                    state,
                    status="running",
                    pid=alive.get(identity),
                    started_ns=state.started_ns or self._clock_ns(),
                )
                self._adopt(state)
                await self._attach_log(name, may_lack=identity in ended)
            elif state.status == "starting":
                state = await self._note(
                    state,
                    status="exited",
                    failure=Failure(
                        code="container.interrupted",
                        message="the supervisor was restarted while the container was being started",
                        hint="run it again",
                    ),
                )
            else:
                state = await self._note(
                    state, status="exited", exit_unknown=True, pid=None, finished_ns=self._clock_ns()
                )
            await self._adopt_execs(state, alive, ended)
        for (name, generation), _pid in alive.items():
            state_of = self._states.get(name.partition("/")[0])
            if state_of is None or state_of.generation != generation:
                await self._launcher.kill(name, signal.SIGKILL)
        running = [name for name, state in self._states.items() if state.status != "exited"]
        for name, state in self._states.items():
            if state.status == "exited":
                await self._release(name)
        for name in await self._strangers():
            await self._discard(name)
        await self._cgroups.reconcile(running)
        await self._network.reconcile(running)
        self._reconciled = True
        for record in await self._launcher.exits():
            self.exited(record)
        self._exits.complete()
        for state in list(self._states.values()):
            if state.status == "exited" and state.request.remove_on_exit:
                self._remove_behind(state)
        await self._trim_images()

    async def _strangers(self) -> set[str]:
        """Names of which something was made and no document: their start did not get so far."""
        found = set(os.listdir(self._state_dir / "containers")) if (self._state_dir / "containers").is_dir() else set()
        for prefix in ("netns/", "rule/port/"):
            kept, _ = await self._programs.hold.request(
                "list", Prefix(prefix=prefix), reply=Descriptors, timeout_s=REQUEST_TIMEOUT_S
            )
            found |= {name.removeprefix(prefix).partition("/")[0] for name in kept.names}
        return found - self._states.keys()

    def _adopt(self, state: ContainerState) -> None:
        if state.image is not None:
            self._images.adopt(
                MountedImage(
                    digest=state.image.digest,
                    provider=state.image.provider,
                    reason=state.image.reason,
                    size_bytes=state.image.size_bytes,
                    units=state.image.units,
                ),
                image_sources(state.image.store),
            )

    async def _adopt_execs(
        self, state: ContainerState, alive: Mapping[Identity, int], ended: Mapping[Identity, int]
    ) -> None:
        for known in state.execs:
            process = f"{state.name}/exec-{known.id}"
            identity = (process, known.generation)
            if not known.running:
                continue
            if identity in alive or identity in ended:
                await self._note(self._change_exec(state.name, msgspec.structs.replace(known, pid=alive.get(identity))))
                await self._attach_log(process, may_lack=identity in ended)
            elif known.pid is None:  # it never came to it: whoever still asks begins anew
                execs = [other for other in self._get(state.name).execs if other.id != known.id]
                await self._note(state, execs=execs)
            else:
                await self._note(self._change_exec(state.name, msgspec.structs.replace(known, running=False, pid=None)))

    async def shut_down(self, *, grace_s: float = STOP_GRACE_S) -> None:
        """Stop every container, with grace and all at once, and release every image; documents and layers stay.

        Raises:
            ZosError, ExceptionGroup: what kept one of them, or several, from ending; all others have.
        """
        self._closing = True
        starts = [start.task for start in self._starting.values()]
        for task in starts:
            task.cancel()
        if starts:
            await asyncio.wait(starts)
        failed: list[ZosError] = []

        async def stop(name: str) -> None:
            try:
                await self.stop(name, grace_s=grace_s)
            except NoSuchContainer:
                return  # its --rm, or somebody's zos rm, was faster
            except ZosError as error:
                failed.append(error)  # the others have their grace all the same

        async with asyncio.TaskGroup() as group:
            for name, state in list(self._states.items()):
                if state.status in ("running", "stopping"):
                    group.create_task(stop(name), name=f"stop {name}")
        await self._trim_images()
        if failed:
            raise failed[0] if len(failed) == 1 else ExceptionGroup("containers did not end", failed)

    # --- small things --------------------------------------------------------------------------------------------

    def abandon(self) -> None:
        """Give up everything that is under way; the next supervisor's `reconcile` takes it up."""
        self._tasks.abandon()
        for start in self._starting.values():
            start.task.cancel()

    def _next_generation(self) -> int:
        """A number that no launch on this machine has had, so that an old exit is never taken for a new one's."""
        self._generation = max(self._generation + 1, self._clock_ns())
        return self._generation

    def _lock(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def _change(self, state: ContainerState, **changes: object) -> ContainerState:
        changed = msgspec.structs.replace(self._states.get(state.name, state), **changes)
        self._states[state.name] = changed
        return changed

    async def _save(self, state: ContainerState, *, durable: bool = False, **changes: object) -> ContainerState:
        """Change the state of a container in its document and here; in neither where the document cannot be written."""
        before = self._states.get(state.name)
        changed = self._change(state, **changes)
        try:
            await self._registry.save(changed, durable=durable)
        except Exception:
            known = self._current(changed)
            if known is not None and before is not None:  # what others have changed meanwhile stays
                kept = {field: getattr(before, field) for field in changes}
                self._states[state.name] = msgspec.structs.replace(known, **kept)
            raise
        return changed

    async def _note(self, state: ContainerState, **changes: object) -> ContainerState:
        """As `_save`, of what was found out and is so; where there is no room for the document, it is written later."""
        changed = self._change(state, **changes)
        try:
            await self._registry.save(changed, durable=False)
        except DiskFull as error:
            log.warning("the document of %s waits: %s", state.name, error)
            self._save_behind(state.name)
        return changed

    def _save_behind(self, name: str) -> None:
        """Write the document of a container as it then is, in its turn; nobody waits for it.

        For what hold knows as well: that a process was made, and its pid.
        """

        async def save() -> None:
            async with self._lock(name):
                if (state := self._states.get(name)) is not None:
                    await self._registry.save(state, durable=False)

        self._tasks.background(self._tasks.in_the_end(save, f"the document of {name}"), f"save {name}")

    async def _notify(self) -> None:
        async with self._changed:
            self._changed.notify_all()


def _check_command(args: Sequence[str], name: str) -> None:
    if not args or not args[0]:
        raise CommandNotFound("no command was given", hint="give one after -- that exists in the image", name=name)


def _unknown(name: str) -> NoSuchContainer:
    return NoSuchContainer(f"there is no container {name!r}", hint="zos ps lists those there are", name=name)


def _going_down() -> ContainerBusy:
    return ContainerBusy("the node is going down", hint="zos up starts it again")


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


def _image_state(mounted: MountedImage, image: SignedManifest, store: str) -> ImageState:
    return ImageState(
        digest=mounted.digest,
        name=image.manifest.name,
        store=store,
        provider=mounted.provider,
        reason=mounted.reason,
        size_bytes=mounted.size_bytes,
        units=mounted.units,
    )
