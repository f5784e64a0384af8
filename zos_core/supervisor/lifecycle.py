"""The life of the containers of one node: start, stop, exec, remove, and what survives the supervisor.

State is in three places: documents on disk (`States`), descriptors and exits in hold, cgroups and links in the
kernel. The document precedes the launch, every release is idempotent and goes by the name alone; so `reconcile`, which
runs at each start, is all there is to recovery. Work on one container is ordered by its lock, containers run in
parallel.
"""

from __future__ import annotations

import asyncio
import logging
import platform
import signal
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Protocol

import msgspec
from blake3 import blake3

from flist.manifest import SignedManifest
from flist.mount import ImageMounts
from native.errors import ZosError
from zos_core.base.document import encode_msgpack
from zos_core.base.errors import DescriptorsExhausted, zos_error_in
from zos_core.base.frame import PeerGone
from zos_core.base.groups import plain_group
from zos_core.base.programs import (
    Dropped,
    ErrorEvent,
    ExitRecord,
    Names,
    Nothing,
    Seq,
)
from zos_core.containers.document import (
    ContainerState,
    ExecRequest,
    ExecState,
    Failure,
    ImageRequest,
    RunRequest,
    shown,
)
from zos_core.containers.errors import (
    CommandNotFound,
    ContainerBusy,
    ContainerExists,
    ContainerNotRunning,
    ImageArchitecture,
    LaunchFailed,
    NoSuchContainer,
    RequestChanged,
    StartCalledOff,
)
from zos_core.containers.launch import plan_exec, plan_launch
from zos_core.host import CgroupTree
from zos_core.network import Network, PublishedPort, parse_published
from zos_core.supervisor.exits import ExitLedger
from zos_core.supervisor.image_use import ImageUse
from zos_core.supervisor.launcher import REQUEST_TIMEOUT_S, Identity, Launcher
from zos_core.supervisor.provision import Programs, Provisioner
from zos_core.supervisor.registry import Registry
from zos_core.supervisor.states import States
from zos_core.supervisor.tasks import SCARCE, Tasks

__all__ = ["Lifecycle"]

log = logging.getLogger("zos.supervisor")

KILL_TIMEOUT_S = 10.0
STOP_GRACE_S = 10.0
# How long a container whose follower has vanished is kept for somebody to read its output.
ATTACH_GRACE_S = 60.0
# Requests that were called off are remembered, so that one that comes later than its calling off starts nothing.
CALLED_OFF_MAX = 1024
# Of each container: ended execs that somebody has been told of, all that have ended, and events.
EXECS_TOLD_KEPT_MAX = 16
EXECS_ENDED_MAX = 128
EVENTS_KEPT_MAX = 20
EVENT_GRACE_NS = 5_000_000_000


class ResolveImage(Protocol):
    """Turns what a caller asked for into a verified manifest (flist.names)."""

    async def __call__(self, request: ImageRequest) -> SignedManifest:
        """Resolve, fetch and verify."""


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
        self._hold = programs.hold
        self._resolve = resolve
        self._clock_ns = clock_ns
        self._tasks = Tasks(group)
        self._states = States(registry=registry, tasks=self._tasks)
        self._images = ImageUse(images=images, states=self._states)
        self._provisioner = Provisioner(
            programs=programs, network=network, cgroups=cgroups, state_dir=state_dir, tasks=self._tasks
        )
        self._launcher = Launcher(hold=programs.hold, spawn=programs.spawn, images=images, tasks=self._tasks)
        self._starting: dict[str, Start] = {}
        self._called_off: dict[str, None] = {}
        self._exits = ExitLedger()
        self._reconciled = False
        # By container that has ended: the generation of which this supervisor has released everything.
        self._released: dict[str, int] = {}
        # By container: its execs whose end somebody was told.
        self._told: dict[str, set[int]] = {}
        self._closing = False
        self._generation = 0

    # --- reading -------------------------------------------------------------------------------------------------

    async def containers(self) -> list[ContainerState]:
        """Every known container, oldest first."""
        return sorted(self._states.all(), key=lambda state: state.created_ns)

    async def inspect(self, name: str) -> ContainerState:
        """One container with the current counters of its image.

        Raises:
            NoSuchContainer: it is not known here.
        """
        state = self._states.get(name)
        if state.image is None or state.status == "exited":
            return state
        return await self._images.with_counters(state)

    async def wait(self, name: str, *, timeout_s: float) -> ContainerState:
        """The container as it is when it has ended, or after `timeout_s` seconds.

        Raises:
            NoSuchContainer: it is not known here, or was removed meanwhile.
        """
        return await self._states.ended(self._states.get(name), timeout_s=timeout_s)

    async def wait_exec(self, name: str, number: str, *, timeout_s: float) -> ExecState:
        """The exec as it is when it has ended, or after `timeout_s` seconds."""
        await self._states.wait_until(lambda: not self._states.get_exec(name, number).running, timeout_s=timeout_s)
        known = self._states.get_exec(name, number)
        if not known.running:
            self._told.setdefault(name, set()).add(known.id)
        return known

    def get_exec(self, name: str, number: str) -> ExecState:
        """One exec by its number as it stands in a path.

        Raises:
            NoSuchContainer, NoSuchExec: unknown.
        """
        return self._states.get_exec(name, number)

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
            known, start = self._states.find(name), self._starting.get(name)
            if known is not None and known.request.request_id != request.request_id:
                raise ContainerExists(
                    f"there is already a container {name!r}",
                    hint=f"zos rm {name} removes it, or choose another --name",
                    name=name,
                )
            if start is None or start.request_id == request.request_id:
                break
            await asyncio.wait([start.task])  # another's, which is being undone
        if known is not None and known.request != request:
            raise RequestChanged(f"request {request.request_id} has started another container {name!r}", name=name)
        if start is None:
            if known is not None and known.failure is None:
                if known.status == "starting":  # it broke off, and so did undoing it: the next supervisor will know
                    raise self._given_up()
                return known
            state = ContainerState(
                name=name,
                owner_uid=owner_uid,
                request=request,
                status="starting",
                generation=self._next_generation(),
                created_ns=self._clock_ns(),
            )
            self._states.put(state)
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
            async with self._states.lock(name):
                try:
                    if again:
                        await self._discard(name)
                        self._states.put(state)
                    running = await self._start_steps(state, ports)
                except BaseException as error:
                    await asyncio.shield(self._undo(state, error))
                    raise
            self._states.save_behind(name)
            return running
        except ZosError as error:
            return error
        except (ExceptionGroup, OSError, TimeoutError, ValueError) as error:
            log.exception("start of %s failed", name)
            return zos_error_in(error) or LaunchFailed(f"the start failed: {error}", name=name)
        finally:
            await self._states.notify()

    async def _undo(self, state: ContainerState, why: BaseException) -> None:
        """Take back what a start has made; what cannot be for want of room or descriptors, as soon as it can.

        Until then the container is there, and says why it failed.
        """
        name = state.name
        try:
            await self._discard(name)
        except SCARCE as scarce:
            known = zos_error_in(why) or scarce
            self._states.change(
                state,
                status="exited",
                finished_ns=self._clock_ns(),
                failure=Failure(code=known.code, message=str(known), hint=known.hint, exit_status=known.exit_status),
            )

            async def discard() -> None:
                async with self._states.lock(name):
                    if self._states.current(state) is not None:
                        await self._discard(name)
                await self._states.notify()

            self._tasks.background(self._tasks.in_the_end(discard, f"removal of {name}"), f"discard {name}")

    def _given_up(self) -> ZosError:
        """Why a start ended, or an exec, that nobody had called off."""
        return _going_down() if self._closing else PeerGone("the supervisor is ending", sent=False)

    def _start_done(self, name: str) -> None:
        self._starting.pop(name, None)
        self._images.settled(name)

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
        async with plain_group() as group:
            mounting = group.create_task(self._images.mount(name, image, request.image), name="image")
            providing = group.create_task(self._provisioner.provide(name, request.resources, ports), name="provision")
        mounted, given = mounting.result(), providing.result()
        state = await self._states.save(
            state, image=mounted, cgroup=given.cgroup, limits=given.limits, network=given.network
        )
        launch = plan_launch(
            request,
            generation=state.generation,
            image=mounted.digest,
            upper=f"containers/{name}/upper",
            work=f"containers/{name}/work",
            netns=name,
            cgroup=given.cgroup,
        )
        pid = await self._launcher.start(
            "launch",
            launch,
            request.args[0] if request.args else "",
            name,
            image=image,
            read_error=partial(self._read_error, name),
        )
        await self._provisioner.attach_log(name)
        return self._states.change(state, status="running", pid=pid, started_ns=self._clock_ns())

    def _read_error(self, name: str) -> str | None:
        """Why a read of the container's image failed last."""
        state = self._states.find(name)
        return state.events[-1] if state is not None and state.events else None

    async def exec(self, name: str, request: ExecRequest) -> ExecState:
        """Run one more program in a running container.

        Raises:
            ContainerNotRunning: it has ended, or has not begun.
            CommandNotFound, CommandNotExecutable, LaunchFailed: the program did not start.
        """
        _check_command(request.args, name)
        digest = blake3(encode_msgpack(request)).hexdigest()
        async with self._states.lock(name):
            state = self._states.get(name)
            for known in state.execs:
                if known.request_id == request.request_id:
                    if (known.request_digest or digest) != digest or known.args != shown(request.args):
                        raise RequestChanged(f"request {request.request_id} has run another program", name=name)
                    if known.running and known.pid is None:  # it broke off
                        raise self._given_up()
                    return known
            if state.status != "running" or state.cgroup is None:
                raise ContainerNotRunning(f"container {name!r} is {state.status}, not running", name=name)
            number = state.next_exec
            process = f"{name}/exec-{number}"
            started = ExecState(
                id=number,
                request_id=request.request_id,
                request_digest=digest,
                generation=state.generation,
                args=shown(request.args),
            )
            plan = plan_exec(state.request, request, name=process, generation=state.generation, cgroup=state.cgroup)
            state = await self._states.save(state, execs=[*state.execs, started], next_exec=number + 1)
            try:
                pid = await self._launcher.start(
                    "exec", plan, request.args[0], name, read_error=partial(self._read_error, name)
                )
            except PeerGone:
                raise  # hold's end: whether it was made, the next supervisor will know; `pid` stays None until then
            except ZosError:
                await self._states.note(state, execs=[known for known in state.execs if known.id != number])
                raise
            try:
                await self._provisioner.attach_log(process)
            except DescriptorsExhausted:
                await self._launcher.kill(process, signal.SIGKILL)  # nobody would hear what it prints
                raise
            started = msgspec.structs.replace(started, pid=pid)
            self._states.change_exec(name, started)
        self._states.save_behind(name)
        return started

    # --- ending --------------------------------------------------------------------------------------------------

    async def signal(self, name: str, number: int) -> None:
        """Send a signal to a container's program; one that has ended is no error."""
        state = self._states.get(name)
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
        state = self._states.get(name)
        if state.status == "running":
            self._states.change(state, status="stopping")  # no document: it is to end on a full disk too
            await self._launcher.kill(name, signal.SIGTERM)
        state = await self._states.ended(state, timeout_s=grace_s)
        return state if state.status == "exited" else await self._end(state)

    async def _end(self, state: ContainerState) -> ContainerState:
        """Kill everything in the container's cgroup and wait until its exit has been seen."""
        name = state.name
        await self._launcher.kill(name, signal.SIGKILL)
        if self._states.current(state) is not None:
            await self._provisioner.kill(name)
        state = await self._states.ended(state, timeout_s=KILL_TIMEOUT_S)
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
        state = self._states.get(name)
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
        state = self._states.find(name)
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
        known = self._states.current(state)
        if known is not None and known.status in ("running", "stopping"):
            with suppress(NoSuchContainer):  # somebody else has removed it first, or its --rm
                await self._end(known)
        async with self._states.lock(name):
            if self._states.current(state) is not None:
                await self._discard(name)
        await self._states.notify()

    async def _discard(self, name: str) -> None:
        """Release a container and remove everything that was kept of it."""
        state = self._states.find(name)
        if self._released.pop(name, None) != (state.generation if state is not None else 0):
            await self._provisioner.release(name)
        await self._provisioner.remove(name)
        await self._states.delete(name)
        self._told.pop(name, None)
        await self._trim_images()

    async def _trim_images(self) -> None:
        if self._closing:
            await self._images.trim(keep=0)
        else:
            await self._images.trim()

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
        async with self._states.lock(name):
            state = self._states.find(name)
            if state is not None and state.generation == record.generation:
                if exec_part:
                    await self._exec_ended(name, int(exec_part), record)
                else:
                    await self._container_ended(state, record)
        if (upto := self._exits.close(record.seq)) is not None:
            await self._hold.request("ack", Seq(seq=upto), reply=Nothing, timeout_s=REQUEST_TIMEOUT_S)
        await self._states.notify()

    async def _container_ended(self, state: ContainerState, record: ExitRecord) -> None:
        """Tell it, keep it, release; a kill in between is made good by `reconcile`: hold keeps the exit until then."""
        counted = await self._images.with_counters(state)
        state = self._states.change(
            state,
            image=counted.image,
            status="exited",
            finished_ns=record.time_ns or self._clock_ns(),
            pid=None,
            exit_code=record.code,
            exit_signal=record.signal,
            exit_unknown=record.code is None and record.signal is None,
        )
        await self._states.notify()
        try:
            await self._states.save(state, durable=True)
        finally:  # what it held is free even where there is no room to say so
            await self._provisioner.release(state.name)
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
            await self._states.wait_until(lambda: self._states.current(state) is None, timeout_s=ATTACH_GRACE_S)
        async with self._states.lock(state.name):
            if self._states.current(state) is not None:
                await self._discard(state.name)
        await self._states.notify()

    async def _exec_ended(self, name: str, number: int, record: ExitRecord) -> None:
        """Tell it first; hold keeps the exit until the document has it."""
        for known in self._states.get(name).execs:
            if known.id == number:
                state = self._states.change_exec(
                    name,
                    msgspec.structs.replace(
                        known, running=False, pid=None, exit_code=record.code, exit_signal=record.signal
                    ),
                )
                await self._states.notify()
                await self._states.save(state)
        await self._prune_execs(name)
        await self._hold.request(
            "drop", Names(names=[f"pidfd/{record.name}"]), reply=Dropped, timeout_s=REQUEST_TIMEOUT_S
        )

    async def _prune_execs(self, name: str) -> None:
        """Forget the oldest ended execs and their output: those whose end was told, others where there are too many.

        Who started one may be busy with its output for as long as he likes before he asks how it ended.
        """
        state, told = self._states.get(name), self._told.get(name, set())
        ended = [known.id for known in state.execs if not known.running]
        surplus = [number for number in ended if number in told][:-EXECS_TOLD_KEPT_MAX]
        surplus += [number for number in ended if number not in surplus][:-EXECS_ENDED_MAX]
        for number in surplus:
            await self._provisioner.remove_log(f"{name}/exec-{number}")
            state = await self._states.save(state, execs=[other for other in state.execs if other.id != number])
            told.discard(number)

    def image_error(self, event: ErrorEvent) -> None:
        """Keep with each container of the image why a read of it failed."""
        line = f"{event.code}: {event.message}"
        log.warning("image %s: %s", event.image, line)
        since_ns = self._clock_ns() - EVENT_GRACE_NS
        for state in self._states.all():
            # The program may have ended by that very failure before we hear of it.
            concerned = state.status != "exited" or (state.finished_ns or 0) > since_ns
            if state.image is not None and state.image.digest == event.image and concerned:
                events = [*state.events, line][-EVENTS_KEPT_MAX:]
                self._states.change(state, events=events)

    # --- restart and end of the supervisor -----------------------------------------------------------------------

    async def reconcile(self) -> None:
        """Bring documents, hold and the kernel together after a start of the supervisor.

        What runs is adopted, what ended meanwhile is reported by its exit, whether its launch was answered or not. What
        was being started and never came to its launch is given up, to be started again by whoever still asks. What
        nobody knows is ended and removed.
        """
        await self._states.load()
        alive, ended = await self._launcher.made()
        for state in self._states.all():
            name = state.name
            if state.status == "exited":
                continue
            identity = (name, state.generation)
            if identity in alive or identity in ended:
                # One that was being stopped gets its SIGTERM again from whoever still asks for it.
                state = await self._states.note(
                    state,
                    status="running",
                    pid=alive.get(identity),
                    started_ns=state.started_ns or self._clock_ns(),
                )
                self._images.adopt(state)
                await self._provisioner.attach_log(name, may_lack=identity in ended)
            elif state.status == "starting":
                state = await self._states.note(
                    state,
                    status="exited",
                    failure=Failure(
                        code="container.interrupted",
                        message="the supervisor was restarted while the container was being started",
                        hint="run it again",
                    ),
                )
            else:
                state = await self._states.note(
                    state, status="exited", exit_unknown=True, pid=None, finished_ns=self._clock_ns()
                )
            await self._adopt_execs(state, alive, ended)
        for (name, generation), _pid in alive.items():
            state_of = self._states.find(name.partition("/")[0])
            if state_of is None or state_of.generation != generation:
                await self._launcher.kill(name, signal.SIGKILL)
        running = [state.name for state in self._states.all() if state.status != "exited"]
        for state in self._states.all():
            if state.status == "exited":
                await self._provisioner.release(state.name)
        # Of what has no document, the start did not get so far.
        for name in await self._provisioner.given() - {state.name for state in self._states.all()}:
            await self._discard(name)
        await self._provisioner.keep_only(running)
        self._reconciled = True
        for record in await self._launcher.exits():
            self.exited(record)
        self._exits.complete()
        for state in self._states.all():
            if state.status == "exited" and state.request.remove_on_exit:
                self._remove_behind(state)
        await self._trim_images()

    async def _adopt_execs(
        self, state: ContainerState, alive: Mapping[Identity, int], ended: Mapping[Identity, int]
    ) -> None:
        for known in state.execs:
            process = f"{state.name}/exec-{known.id}"
            identity = (process, known.generation)
            if not known.running:
                continue
            if identity in alive or identity in ended:
                adopted = msgspec.structs.replace(known, pid=alive.get(identity, ended.get(identity)))
                await self._states.note(self._states.change_exec(state.name, adopted))
                await self._provisioner.attach_log(process, may_lack=identity in ended)
            elif known.pid is None:  # it never came to it: whoever still asks begins anew
                execs = [other for other in self._states.get(state.name).execs if other.id != known.id]
                await self._states.note(state, execs=execs)
            else:
                lost = msgspec.structs.replace(known, running=False, pid=None)
                await self._states.note(self._states.change_exec(state.name, lost))

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
            for state in self._states.all():
                if state.status in ("running", "stopping"):
                    group.create_task(stop(state.name), name=f"stop {state.name}")
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


def _check_command(args: Sequence[str], name: str) -> None:
    if not args or not args[0]:
        raise CommandNotFound("no command was given", hint="give one after -- that exists in the image", name=name)


def _going_down() -> ContainerBusy:
    return ContainerBusy("the node is going down", hint="zos up starts it again")
