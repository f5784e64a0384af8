"""Requests about one container that meet in the supervisor, step by step.

The programs are scripted, because no real one can be made to answer between two given steps; registry, image mounts and
lifecycle are the real ones.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TypeVar, cast

import msgspec
import pytest

from flist.manifest import SignedManifest
from flist.mount import ImageMounts
from native.errors import ZosError
from zos_core.base.document import Document, Record
from zos_core.base.errors import PeerGone, RemoteError
from zos_core.base.programs import (
    Child,
    Children,
    Descriptors,
    Dropped,
    ExitRecord,
    Exits,
    Kill,
    Launched,
    Nothing,
    Probe,
    Seq,
)
from zos_core.containers.document import (
    RUN_BYTES_MAX,
    ContainerState,
    ExecRequest,
    ExecState,
    ImageRequest,
    RunRequest,
)
from zos_core.containers.errors import ContainerBusy, ContainerExists, LaunchFailed, RequestChanged
from zos_core.host import CgroupTree
from zos_core.network import Network
from zos_core.supervisor import lifecycle as lifecycle_module
from zos_core.supervisor.lifecycle import Lifecycle, ResolveImage
from zos_core.supervisor.provision import Programs
from zos_core.supervisor.registry import Registry

DEADLINE_S = 10.0
R = TypeVar("R", bound=Record)
T = TypeVar("T")
Answer = Callable[[Any], Awaitable[Record]]

PROBE = Probe(
    kernel="6.18",
    fuse=True,
    erofs=True,
    erofs_file_backed=True,
    loop_control=True,
    detached_layers=True,
    overlay=True,
)


@dataclass
class Scripted:
    """A program that answers as the test says, and otherwise that there is nothing."""

    answers: dict[str, Answer] = field(default_factory=dict)
    asked: list[tuple[str, Document]] = field(default_factory=list)

    async def request(
        self, op: str, body: Document, *, fds: Sequence[int] = (), reply: type[R], timeout_s: float
    ) -> tuple[R, list[int]]:
        self.asked.append((op, body))
        if op in self.answers:
            return cast(R, await self.answers[op](body)), []
        nothing: dict[type[Record], Record] = {
            Nothing: Nothing(),
            Dropped: Dropped(dropped=0),
            Descriptors: Descriptors(names=[]),
            Children: Children(children=[]),
            Exits: Exits(exits=[]),
            Probe: PROBE,
        }
        return cast(R, nothing[reply]), []

    def signals(self, name: str) -> list[int]:
        """Signals that were sent to a process by its name."""
        return [body.signal for op, body in self.asked if op == "kill" and isinstance(body, Kill) and body.name == name]

    def acknowledged(self) -> list[int]:
        return [body.seq for op, body in self.asked if op == "ack" and isinstance(body, Seq)]


class NoGroup:
    async def kill(self) -> None:
        """There is nothing in it."""

    async def end(self) -> None:
        """It was empty."""


class NoKernel:
    """For groups and links, of which these tests have none."""

    def group(self, name: str) -> NoGroup:
        return NoGroup()

    async def detach(self, name: str) -> None:
        """There is no link."""

    async def reconcile(self, wanted: Collection[str]) -> None:
        """Nothing is there."""


async def outcome(work: Awaitable[T]) -> T | ZosError:
    """What comes of it; an error is no end of the test's other tasks."""
    try:
        return await work
    except ZosError as error:
        return error


@dataclass
class House:
    """A lifecycle and those it talks to."""

    lifecycle: Lifecycle
    hold: Scripted
    spawn: Scripted
    group: asyncio.TaskGroup
    sequence: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def begin(self, work: Awaitable[T]) -> asyncio.Task[T | ZosError]:
        return self.group.create_task(outcome(work))

    def end(self, name: str, *, code: int = 0) -> None:
        """hold tells that the container's program has ended."""
        self.lifecycle.exited(ExitRecord(seq=next(self.sequence), name=name, generation=1, pid=9, code=code))

    async def until(self, condition: Callable[[], object]) -> None:
        """Give others their turn until the condition holds; the caller's deadline bounds it."""
        while not condition():  # noqa: ASYNC110 (what it waits for tells nobody)
            await asyncio.sleep(0)


def running(name: str, **more: Any) -> ContainerState:
    request = RunRequest(request_id="0" * 32, name=name, image=ImageRequest(store="/none"), args=["true"], **more)
    return ContainerState(
        name=name, owner_uid=0, request=request, status="running", generation=1, created_ns=1, pid=9, cgroup="/none"
    )


async def no_image(request: ImageRequest) -> SignedManifest:
    raise AssertionError("no image is asked for")


@asynccontextmanager
async def house(
    tmp_path: Path,
    *states: ContainerState,
    hold: Scripted | None = None,
    reconcile: bool = True,
    resolve: ResolveImage = no_image,
) -> AsyncIterator[House]:
    """A lifecycle that has adopted these containers, whose processes hold knows."""
    hold, spawn, logd = hold or Scripted(), Scripted(), Scripted()
    registry = Registry(tmp_path / "documents")
    await registry.load()
    for state in states:
        await registry.save(state)

    async def children(_: Document) -> Children:
        return Children(children=[Child(name=state.name, generation=1, pid=9) for state in states])

    hold.answers.setdefault("children", children)
    kernel = NoKernel()
    async with asyncio.timeout(DEADLINE_S), asyncio.TaskGroup() as group:
        lifecycle = Lifecycle(
            programs=Programs(hold=hold, spawn=spawn, logd=logd, forward=Scripted()),
            images=ImageMounts(hold=hold, spawn=spawn, blockd=Scripted(), state_dir=tmp_path),
            registry=registry,
            network=cast(Network, kernel),
            cgroups=cast(CgroupTree, kernel),
            resolve=resolve,
            state_dir=tmp_path,
            clock_ns=lambda: 5,
            group=group,
        )
        if reconcile:
            await lifecycle.reconcile()
        yield House(lifecycle=lifecycle, hold=hold, spawn=spawn, group=group)
        lifecycle.abandon()


async def test_stop_does_not_wait_for_an_exec_that_hangs(tmp_path: Path) -> None:
    """The program of an exec is loaded from a hub that does not answer: its container stops all the same."""
    async with house(tmp_path, running("web")) as one:
        ended = asyncio.Event()

        async def hang(_: Document) -> Record:
            await ended.wait()
            raise RemoteError("killed", remote_code="spawn.step")

        one.spawn.answers["exec"] = hang
        executing = one.begin(one.lifecycle.exec("web", ExecRequest(request_id="1" * 32, args=["slow"])))
        await one.until(lambda: any(op == "exec" for op, _ in one.spawn.asked))
        stopping = one.begin(one.lifecycle.stop("web", grace_s=60))
        await one.until(lambda: one.hold.signals("web") == [signal.SIGTERM])
        assert (await one.lifecycle.inspect("web")).status == "stopping"
        one.end("web", code=3)
        ended.set()
        assert isinstance(await executing, LaunchFailed)
        state = await stopping
        assert isinstance(state, ContainerState)
        assert (state.status, state.exit_code) == ("exited", 3)
        assert one.hold.signals("web") == [signal.SIGTERM], "it had its grace"
        await one.until(lambda: one.hold.acknowledged() == [1])
        assert (await one.lifecycle.inspect("web")).execs == []


async def hold_is_dead(request: object) -> NoReturn:
    raise PeerGone("hold has died", sent=True)


async def test_an_exec_that_broke_off_with_hold_is_none_that_has_begun(tmp_path: Path) -> None:
    """Asked again, a supervisor that is ending does not say that it runs: only the next one knows."""
    async with house(tmp_path, running("web")) as one:
        one.spawn.answers["exec"] = hold_is_dead
        one.hold.answers["children"] = hold_is_dead
        request = ExecRequest(request_id="1" * 32, args=["true"])
        for _ in range(2):
            with pytest.raises(PeerGone):
                await one.lifecycle.exec("web", request)


async def test_a_start_that_broke_off_with_hold_is_none_that_goes_on(tmp_path: Path) -> None:
    async with house(tmp_path, resolve=hold_is_dead) as one:
        one.hold.answers["list"] = hold_is_dead
        for _ in range(2):
            with pytest.raises(PeerGone):
                await one.lifecycle.run(running("web").request, owner_uid=0)


async def test_an_exit_during_reconcile_hides_no_older_one(tmp_path: Path) -> None:
    """hold tells of an exit just before it says which others there were: these are told too, and forgotten then."""
    hold = Scripted()
    exits = [
        ExitRecord(seq=5, name="first", generation=1, pid=9, code=4),
        ExitRecord(seq=6, name="second", generation=1, pid=9, code=5),
    ]
    stranger = ExitRecord(seq=7, name="nobody", generation=8, pid=10, signal=9)
    lists = itertools.count(1)

    async with house(tmp_path, running("first"), running("second"), hold=hold, reconcile=False) as one:

        async def list_exits(body: Any) -> Exits:
            kept = exits
            if body.after == 0 and next(lists) == 2:  # the first time it is asked what has ended, now what to take up
                one.lifecycle.exited(stranger)
                for _ in range(50):
                    await asyncio.sleep(0)
                assert hold.acknowledged() == [], "it would forget the older ones"
                kept = [*exits, stranger]
            return Exits(exits=[record for record in kept if record.seq > body.after])

        hold.answers["exits"] = list_exits
        await one.lifecycle.reconcile()
        await one.until(lambda: hold.acknowledged()[-1:] == [7])
        ended = {state.name: state.exit_code for state in await one.lifecycle.containers()}
        assert ended == {"first": 4, "second": 5}


async def test_one_that_does_not_end_takes_no_grace_from_the_others(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lifecycle_module, "KILL_TIMEOUT_S", 0.01)
    async with house(tmp_path, running("stuck"), running("good")) as one:

        async def kill(body: Any) -> Nothing:
            if body.name == "good":
                await one.until(lambda: signal.SIGKILL in one.hold.signals("stuck"))
                await one.lifecycle.wait("stuck", timeout_s=0.1)  # by then it was given up
                one.end("good")
            return Nothing()

        one.hold.answers["kill"] = kill
        with pytest.raises(LaunchFailed, match="stuck"):
            await one.lifecycle.shut_down(grace_s=0.01)
        assert (await one.lifecycle.inspect("good")).status == "exited"
        with pytest.raises(ContainerBusy, match="going down"):
            await one.lifecycle.run(running("new").request, owner_uid=0)


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"", "truncated"),
        (b"{", "truncated"),
        (b"\0" * 4096, "malformed"),
        (b"[]", "array"),
        (b"{}", "missing"),
        (2 * RUN_BYTES_MAX + 1, "longer than"),
        (None, "no regular file"),
        ("web", "is the document of 'web'"),
    ],
)
async def test_a_damaged_document_keeps_no_other_container_from_its_node(
    tmp_path: Path, data: bytes | str | int | None, why: str
) -> None:
    """An empty one is what a power cut leaves of a container that had just been started."""
    documents = tmp_path / "documents"
    async with house(tmp_path, running("web"), reconcile=False) as one:
        path = documents / "hurt.json"
        if data is None:
            path.mkdir()
        elif isinstance(data, int):
            path.touch()
            os.truncate(path, data)
        else:
            path.write_bytes((documents / f"{data}.json").read_bytes() if isinstance(data, str) else data)
        (documents / ".tmp-0123456789abcdef").write_bytes(b"what a killed writer left")
        await one.lifecycle.reconcile()
        hurt, web = await one.lifecycle.inspect("hurt"), await one.lifecycle.inspect("web")
        assert web.status == "running"
        assert hurt.failure is not None
        assert (hurt.status, hurt.failure.code, why in hurt.failure.message) == (
            "exited",
            "container.document-damaged",
            True,
        ), hurt
        with pytest.raises(ContainerExists):
            await one.lifecycle.run(msgspec.structs.replace(web.request, name="hurt", request_id="1" * 32), owner_uid=0)
        if data is not None:
            await one.lifecycle.remove("hurt", force=False)
            assert sorted(file.name for file in documents.iterdir()) == ["web.json"]


async def test_long_arguments_of_execs_do_not_fill_the_document(tmp_path: Path) -> None:
    async def launched(_: object) -> Launched:
        return Launched(pid=9, generation=1)

    async with house(tmp_path, running("web")) as one:
        one.spawn.answers["exec"] = launched
        for number in range(20):
            request = ExecRequest(request_id=f"{number:032x}", args=["true", *["\x01" * 131_071] * 16])
            begun = await one.lifecycle.exec("web", request)
            assert begun.args == ["true", "\x01" * 1020 + "..."]
        await one.lifecycle.exec("web", ExecRequest(request_id="f" * 32, args=["last"]))
    assert (tmp_path / "documents/web.json").stat().st_size < 200_000


async def test_the_end_of_an_exec_is_kept_until_it_was_told(tmp_path: Path) -> None:
    """Whatever others run meanwhile: its starter may read the output first. What nobody asks for is bounded."""

    async def launched(_: object) -> Launched:
        return Launched(pid=9, generation=1)

    async with house(tmp_path, running("web")) as one:
        one.spawn.answers["exec"] = launched

        async def execute(number: int) -> None:
            begun = await one.lifecycle.exec("web", ExecRequest(request_id=f"{number:032x}", args=["true"]))
            one.end(f"web/exec-{begun.id}", code=number % 100)
            await one.until(lambda: len(one.hold.acknowledged()) == number)

        async def kept() -> list[int]:
            return [known.id for known in (await one.lifecycle.inspect("web")).execs]

        for number in range(1, 41):
            await execute(number)
            if number != 7:
                assert not (await one.lifecycle.wait_exec("web", str(number), timeout_s=0)).running
        assert await kept() == [7, *range(24, 41)]  # the last one came to be told after the others were looked at
        assert (await one.lifecycle.wait_exec("web", "7", timeout_s=0)).exit_code == 7
        await execute(41)
        assert await kept() == [*range(25, 42)]
        for number in range(42, 200):
            await execute(number)
        assert await kept() == [*range(200 - 128, 200)]


async def test_a_request_that_comes_again_with_something_else_is_refused(tmp_path: Path) -> None:
    async def launched(_: object) -> Launched:
        return Launched(pid=9, generation=1)

    async with house(tmp_path, running("web")) as one:
        request = running("web").request
        assert (await one.lifecycle.run(request, owner_uid=0)).name == "web"
        with pytest.raises(RequestChanged):
            await one.lifecycle.run(msgspec.structs.replace(request, args=["false"]), owner_uid=0)
        one.spawn.answers["exec"] = launched
        asked = ExecRequest(request_id="1" * 32, args=["true", "x" * 2000], env=["A=1"], cwd="/tmp")
        first = await one.lifecycle.exec("web", asked)
        assert await one.lifecycle.exec("web", asked) == first
        for change in ({"args": ["false"]}, {"args": ["true", "x" * 1999 + "y"]}, {"env": ["A=2"]}, {"cwd": "/"}):
            with pytest.raises(RequestChanged):
                await one.lifecycle.exec("web", msgspec.structs.replace(asked, **change))


async def test_an_exec_of_a_zos_that_kept_no_digest_is_known_by_its_arguments(tmp_path: Path) -> None:
    old = ExecState(id=1, request_id="1" * 32, generation=1, args=["true"], running=False, exit_code=0)
    async with house(tmp_path, msgspec.structs.replace(running("web"), execs=[old], next_exec=2)) as one:
        assert await one.lifecycle.exec("web", ExecRequest(request_id="1" * 32, args=["true"])) == old
        with pytest.raises(RequestChanged):
            await one.lifecycle.exec("web", ExecRequest(request_id="1" * 32, args=["false"]))
