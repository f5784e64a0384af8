"""The client's side of a foreground container: follow its output, forward Ctrl-C, know its exit.

All of it goes on across a restart of the node's supervisor.
"""

from __future__ import annotations

import asyncio
import signal
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import BinaryIO, Protocol, TypeVar

from zos_core.base.client import Client
from zos_core.base.document import Document
from zos_core.base.endpoint import Endpoint, RemoteProblem
from zos_core.base.errors import PeerGone, RequestTimeout, Unreachable
from zos_core.base.groups import plain_group
from zos_core.base.signals import signals_to
from zos_core.containers.document import ContainerState, ExecState, RunRequest
from zos_core.containers.errors import ContainerNotRunning, NoSuchContainer
from zos_core.containers.logstream import NOTE, STDERR, STDOUT, LogStreamDecoder, StreamFrame
from zos_core.supervisor.endpoints import (
    EXEC_LOGS,
    EXEC_WAIT,
    LOGS,
    REMOVE,
    SIGNAL,
    WAIT,
    LogQuery,
    RemoveQuery,
    SignalRequest,
    WaitQuery,
)

__all__ = [
    "CalledOff",
    "LastLines",
    "Output",
    "call_again",
    "follow_output",
    "interruptible",
    "wait_container",
    "wait_exec",
]

# How long a supervisor may be away before a client gives up on it.
AWAY_MAX_S = 30.0
RETRY_INTERVAL_S = 0.1
WAIT_S = 30.0
CALL_MARGIN_S = 10.0
SECOND_INTERRUPT_S = 2.0

R = TypeVar("R")


class CalledOff(Exception):
    """A signal ended a start before the container ran; nothing is left of it. `number` is the signal's."""

    def __init__(self, number: int) -> None:
        super().__init__(number)
        self.number = number


Away = Unreachable | RequestTimeout | RemoteProblem


def _away(error: Away) -> Away:
    """The error, if it says that the node is on its way down or up (API-HOLD); any other is raised."""
    if isinstance(error, RemoteProblem) and error.code != PeerGone.code:
        raise error
    return error


class _Patience:
    """For how long a supervisor that went away is asked again: counted from when it went."""

    def __init__(self, *, known: bool) -> None:
        """`known`: it has answered before, so that nobody listening is no reason to give up at once."""
        self._known = known
        self._away_since_s: float | None = None

    def answered(self) -> None:
        """It is there."""
        self._known, self._away_since_s = True, None

    async def wait(self, error: Away) -> None:
        """Wait a little before it is asked again; raises `error` when that has gone on for too long."""
        now_s = asyncio.get_running_loop().time()
        if self._away_since_s is None:
            self._away_since_s = now_s
        absent = isinstance(error, Unreachable) and error.absent and not self._known
        self._known = True  # what broke off had been there, though it had not answered yet
        if absent or now_s - self._away_since_s > AWAY_MAX_S:
            raise error
        await asyncio.sleep(RETRY_INTERVAL_S)


async def call_again(
    client: Client,
    endpoint: Endpoint[R],
    *,
    path: Mapping[str, str] | None = None,
    query: Document | None = None,
    body: Document | None = None,
    timeout_s: float = WAIT_S + CALL_MARGIN_S,
    known: bool = False,
) -> R:
    """Call an endpoint that may be asked again (API-AGAIN), while the supervisor is being restarted too.

    `known`: the node has answered before; otherwise one that does not run is an error at once.
    """
    patience = _Patience(known=known)
    while True:
        try:
            return await client.call(endpoint, path=path or {}, query=query, body=body, timeout_s=timeout_s)
        except (Unreachable, RemoteProblem) as error:
            await patience.wait(_away(error))


async def wait_container(client: Client, name: str) -> ContainerState:
    """Wait, however long it takes, until a container has ended."""
    while True:
        state = await call_again(client, WAIT, path={"name": name}, query=WaitQuery(timeout_s=WAIT_S), known=True)
        if state.status == "exited":
            return state


async def wait_exec(client: Client, name: str, number: int) -> ExecState:
    """Wait, however long it takes, until an exec has ended."""
    while True:
        state = await call_again(
            client, EXEC_WAIT, path={"name": name, "number": str(number)}, query=WaitQuery(timeout_s=WAIT_S), known=True
        )
        if not state.running:
            return state


class _Sink(Protocol):
    """Where frames go; `flush` after each piece of the stream."""

    def add(self, frame: StreamFrame) -> None: ...
    def flush(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Output:
    """Where a container's output goes.

    `notes`: what logd says about it, such as how much is lost; None for nowhere.
    """

    out: BinaryIO
    err: BinaryIO
    notes: BinaryIO | None = None

    def add(self, frame: StreamFrame) -> None:
        """Write it, to what is of its stream."""
        if frame.stream == STDOUT:
            self.out.write(frame.data)
        elif frame.stream == STDERR:
            self.err.write(frame.data)
        elif frame.stream == NOTE and self.notes is not None:
            self.notes.write(frame.data if frame.data.endswith(b"\n") else frame.data + b"\n")

    def flush(self) -> None:
        """Let go of what was written."""
        for file in (self.out, self.err, self.notes):
            if file is not None:
                file.flush()


class LastLines:
    """Keeps no more of a stream than its last lines, of stdout and stderr together as they came."""

    def __init__(self, lines: int) -> None:
        self._lines = lines
        self._frames: deque[StreamFrame] = deque()
        self._ends = 0  # line feeds in them

    def add(self, frame: StreamFrame) -> None:
        """Take it, and drop what is before the last lines by now."""
        if not frame.data:
            return
        self._frames.append(frame)
        self._ends += frame.data.count(b"\n")
        while self._ends - (first := self._frames[0].data.count(b"\n")) > self._lines:
            self._ends -= first
            self._frames.popleft()

    def flush(self) -> None:
        """Nothing: nothing is written."""

    def frames(self) -> list[StreamFrame]:
        """The last lines; one without an end is a line, too."""
        found: deque[StreamFrame] = deque()
        left = self._lines
        if left and self._frames and self._frames[-1].data.endswith(b"\n"):
            left += 1  # the last line feed is before no line
        for frame in reversed(self._frames):
            at = len(frame.data)
            while left and (at := frame.data.rfind(b"\n", 0, at)) >= 0:
                left -= 1
            if not left:
                found.appendleft(replace(frame, data=frame.data[at + 1 :]))
                break
            found.appendleft(frame)
        return list(found)


async def follow_output(
    client: Client,
    name: str,
    output: Output,
    *,
    number: int | None = None,
    follow: bool,
    last_lines: int | None = None,
    known: bool = False,
) -> None:
    """Copy the output of a container, or of its exec `number`, to `output`; each byte once.

    Args:
        client: of the node.
        name: of the container.
        output: where it goes.
        number: of one of its execs.
        follow: go on until the output has ended.
        last_lines: so many lines at most of what there is already.
        known: the node has answered before; otherwise one that does not run is an error at once.
    """
    endpoint = LOGS if number is None else EXEC_LOGS
    path = {"name": name} if number is None else {"name": name, "number": str(number)}
    decoder = LogStreamDecoder()
    patience = _Patience(known=known)

    async def copy(sink: _Sink, *, follow: bool) -> None:
        while True:
            try:
                query = LogQuery(seq=decoder.seq, offset=decoder.offset, follow=follow)
                async with client.stream(endpoint, path=path, query=query) as chunks:
                    patience.answered()
                    async for chunk in chunks:
                        for frame in decoder.feed(chunk):
                            sink.add(frame)
                        sink.flush()
                return
            except (Unreachable, RequestTimeout, RemoteProblem) as error:
                decoder.broken()
                await patience.wait(_away(error))

    if last_lines is not None:
        last = LastLines(last_lines)
        await copy(last, follow=False)
        for frame in last.frames():
            output.add(frame)
        output.flush()
    if follow or last_lines is None:
        await copy(output, follow=follow)


@asynccontextmanager
async def interruptible(
    client: Client, request: RunRequest, *, started: Callable[[], bool], note: Callable[[str], None]
) -> AsyncIterator[None]:
    """While the block runs, SIGINT and SIGTERM go to the container; a second within 2 s kills it.

    Before the container has started, the first one calls the start off; while that is done, others change nothing.

    Raises:
        CalledOff: a signal came before the container had started.
    """
    loop = asyncio.get_running_loop()
    task = asyncio.current_task()
    assert task is not None
    last_s = float("-inf")
    called_off: signal.Signals | None = None
    path = {"name": request.name}

    async def pass_on(number: signal.Signals) -> None:
        body = SignalRequest(signal=number)
        await _unless_gone(call_again(client, SIGNAL, path=path, body=body, known=True))

    async with plain_group() as group:

        def received(number: signal.Signals) -> None:
            nonlocal last_s, called_off
            now_s = loop.time()
            again, last_s = now_s - last_s < SECOND_INTERRUPT_S, now_s
            if called_off is not None:
                note("the start is being called off")
            elif task.cancelling():
                return  # it was called off before this block had the signals
            elif started():
                group.create_task(pass_on(signal.SIGKILL if again else number), name="pass signal on")
            else:
                called_off = number
                task.cancel()

        with signals_to(received):
            try:
                yield
            except asyncio.CancelledError:
                if called_off is None:
                    raise
                task.uncancel()
                query = RemoveQuery(force=True, request_id=request.request_id)
                await _unless_gone(call_again(client, REMOVE, path=path, query=query))
                raise CalledOff(called_off) from None


async def _unless_gone(call: Coroutine[None, None, None]) -> None:
    """Make a call about a container that may have ended, or never begun, meanwhile."""
    try:
        await call
    except RemoteProblem as problem:
        if problem.code not in (NoSuchContainer.code, ContainerNotRunning.code):
            raise
