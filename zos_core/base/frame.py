"""Frames between zos processes (docs/spec/frame.md): a codec without I/O, and a channel for asyncio.

`encode_*`, `decode_message`, `wrap` and `unwrap` know the bytes; `Channel` moves them over a connected SEQPACKET
socket, under uvloop and the stock loop alike, with many requests in flight and no task of its own: the loop's reader
callback resolves the futures of the requests. `Reconnecting` has the same `request` and dials again.

Descriptors that come with a reply belong to the caller of `request`, who closes them. Those that nobody waits for
any more (timeout, cancellation) are closed here.
"""

from __future__ import annotations

import array
import asyncio
import contextlib
import fcntl
import os
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from native.errors import ZosError
from zos_core.base.document import Document, Record, decode_msgpack, encode_msgpack
from zos_core.base.errors import (
    DescriptorsExhausted,
    DocumentInvalid,
    FrameInvalid,
    PeerGone,
    RemoteError,
    RequestTimeout,
    is_out_of_descriptors,
)

__all__ = [
    "DESCRIPTORS_MAX",
    "INLINE_BYTES_MAX",
    "MAP_BYTES_MAX",
    "Channel",
    "Event",
    "Failure",
    "FrameInvalid",
    "Message",
    "PeerGone",
    "Reconnecting",
    "RemoteError",
    "Reply",
    "Request",
    "RequestTimeout",
    "close_all",
    "decode_message",
    "encode_error",
    "encode_event",
    "encode_reply",
    "encode_request",
    "socket_address",
    "unwrap",
    "wrap",
]

VERSION = 1
HEADER = struct.Struct("<HI")
INLINE_BYTES_MAX = 131_072  # FRAME-2: what fits the default socket buffer (212,992 bytes) with its overhead
MAP_BYTES_MAX = 16 << 20  # FRAME-2
DESCRIPTORS_MAX = 64  # FRAME-3
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
REQUESTS_MAX = 4096  # in flight on one channel: far above what a supervisor asks at once, a leak is seen early
EVENTS_MAX = 16_384  # kept for a consumer that is late; beyond it the channel is closed rather than an event lost
DATAGRAMS_PER_WAKE = 64  # fairness: then the loop's other callbacks have their turn
CONNECT_TIMEOUT_S = 5.0
DIAL_INTERVAL_S = 0.02

REFUSED = 0  # FRAME-10: the id of an error that no request has
# What a native program says when it, or hold for it, has as many descriptors as it may.
NO_DESCRIPTORS = ("frame.no-descriptors", "hold.full")

T = TypeVar("T")
Body = Document | Record | Mapping[str, object]


# --- The codec: maps (FRAME-4) -------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Request:
    """`body` is still msgpack: whoever knows the operation knows its type."""

    id: int
    op: str
    body: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Reply:
    """The answer to the request `id`."""

    id: int
    body: msgspec.Raw


@dataclass(frozen=True, slots=True)
class Failure:
    """The refusal of the request `id`."""

    id: int
    error: RemoteError


@dataclass(frozen=True, slots=True)
class Event:
    """Something that nobody asked for at this moment."""

    event: str
    body: msgspec.Raw


Message = Request | Reply | Failure | Event


class _Error(Record, frozen=True, kw_only=True):
    code: str
    message: str
    step: str | None = None
    errno: int | None = None
    hint: str | None = None


class _Map(Record, frozen=True, kw_only=True, omit_defaults=True):
    id: int | None = None
    op: str | None = None
    event: str | None = None
    body: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    error: _Error | None = None


def encode_request(id_: int, op: str, body: Body) -> bytes:
    """The map of a request."""
    return _encode({"id": id_, "op": op, "body": body})


def encode_reply(id_: int, body: Body) -> bytes:
    """The map of an answer."""
    return _encode({"id": id_, "body": body})


def encode_error(
    id_: int, code: str, message: str, *, step: str | None = None, errno: int | None = None, hint: str | None = None
) -> bytes:
    """The map of a refusal."""
    error = {"code": code, "message": message, "step": step, "errno": errno, "hint": hint}
    return _encode({"id": id_, "error": error})


def encode_event(event: str, body: Body) -> bytes:
    """The map of an event."""
    return _encode({"event": event, "body": body})


def _encode(map_: Mapping[str, object]) -> bytes:
    data = encode_msgpack(map_)
    if len(data) > MAP_BYTES_MAX:
        raise FrameInvalid(f"a message of {len(data)} bytes is above {MAP_BYTES_MAX} (FRAME-2)", size=len(data))
    return data


def decode_message(data: bytes) -> Message:
    """The message in one map; bodies stay undecoded.

    Raises:
        FrameInvalid: not one of the shapes of FRAME-4.
    """
    try:
        map_ = decode_msgpack(data, _Map, what="frame")
    except DocumentInvalid as error:
        raise FrameInvalid(f"undecodable head: {error}") from error
    id_, body, why = map_.id, map_.body, map_.error
    if id_ is not None and id_ < 0:
        raise FrameInvalid("the id of a frame is negative")
    if why is not None and id_ is not None:
        return Failure(
            id_, RemoteError(why.message, remote_code=why.code, step=why.step, errno=why.errno, hint=why.hint)
        )
    if isinstance(body, msgspec.UnsetType):
        raise FrameInvalid("a frame has neither body nor error")
    if map_.event is not None and id_ is None and map_.op is None:
        return Event(map_.event, body)
    if id_ is not None and map_.event is None:
        return Reply(id_, body) if map_.op is None else Request(id_, map_.op, body)
    raise FrameInvalid("a frame is neither request, reply nor event")


# --- The codec: datagrams (FRAME-1..3) -----------------------------------------------------------------------------


def wrap(data: bytes, descriptors: Sequence[int]) -> tuple[bytes, list[int], int | None]:
    """One datagram: its bytes, its descriptors, and the memfd among them (the first) that the sender closes afterwards.

    Raises:
        FrameInvalid: too many descriptors, or `data` too long.
    """
    if len(data) > MAP_BYTES_MAX:
        raise FrameInvalid(f"a message of {len(data)} bytes is above {MAP_BYTES_MAX} (FRAME-2)", size=len(data))
    inline = len(data) <= INLINE_BYTES_MAX
    count = len(descriptors) + (0 if inline else 1)
    if count > DESCRIPTORS_MAX:
        raise FrameInvalid(f"{count} descriptors in one frame, at most {DESCRIPTORS_MAX} (FRAME-3)", count=count)
    header = HEADER.pack(VERSION, len(data))
    if inline:
        return header + data, list(descriptors), None
    memory = os.memfd_create("zos-frame", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(memory, view) :]
        fcntl.fcntl(memory, fcntl.F_ADD_SEALS, SEALS)
    except BaseException:
        os.close(memory)
        raise
    return header, [memory, *descriptors], memory


def unwrap(datagram: bytes | memoryview, descriptors: list[int]) -> bytes:
    """The map in one datagram; a memfd that carried it is taken from the front of `descriptors` and closed.

    Raises:
        FrameInvalid: FRAME-1 or FRAME-2 is broken. The descriptors are still the caller's to close.
    """
    if len(datagram) < HEADER.size:
        raise FrameInvalid(f"a frame of {len(datagram)} bytes has no header")
    version, length = HEADER.unpack_from(datagram)
    if version != VERSION:
        raise FrameInvalid(f"frame version {version}, we speak {VERSION}", version=version)
    if length == 0:
        raise FrameInvalid("a frame without a map")
    if len(datagram) > HEADER.size:
        if length != len(datagram) - HEADER.size:
            raise FrameInvalid(f"a frame says {length} bytes and holds {len(datagram) - HEADER.size}")
        return bytes(datagram[HEADER.size :])
    if not descriptors:
        raise FrameInvalid("a frame's memfd is missing")
    if length > MAP_BYTES_MAX:
        raise FrameInvalid(f"a map of {length} bytes is above {MAP_BYTES_MAX} (FRAME-2)")
    data = _read_sealed(descriptors[0], length)
    os.close(descriptors.pop(0))
    return data


def _read_sealed(memory: int, length: int) -> bytes:
    try:
        seals = fcntl.fcntl(memory, fcntl.F_GET_SEALS)
    except OSError as error:  # EINVAL: no memfd at all
        raise FrameInvalid("a frame's descriptor is not a memfd") from error
    if seals & SEALS != SEALS:
        raise FrameInvalid("a frame's memfd lacks a seal")
    if os.fstat(memory).st_size != length:
        raise FrameInvalid("a frame's memfd has another size than the frame says")
    data = bytearray()
    while len(data) < length:
        piece = os.pread(memory, length - len(data), len(data))
        if not piece:
            raise FrameInvalid("a frame's memfd ended early")
        data += piece
    return bytes(data)


def close_all(descriptors: Sequence[int]) -> None:
    """Close each descriptor."""
    for descriptor in descriptors:
        os.close(descriptor)


@contextlib.contextmanager
def socket_address(path: Path) -> Iterator[str]:
    """An address for connect(2) or bind(2) at `path`, however long: sun_path holds 107 bytes only (unix(7))."""
    text = os.fspath(path)
    if len(os.fsencode(text)) <= 107:
        yield text
        return
    directory = os.open(path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield f"/proc/self/fd/{directory}/{path.name}"
    finally:
        os.close(directory)


# --- The channel ---------------------------------------------------------------------------------------------------


class Channel:
    """A connection to one native program; also an async context manager that closes it.

    Usable from the event loop in which it was made, only. When the connection ends, every request in flight and
    every later one raises PeerGone.
    """

    def __init__(self, sock: socket.socket, *, name: str) -> None:
        """Use `from_socket` or `connect`."""
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._name = name
        self._next_id = 1
        self._waiting: dict[int, asyncio.Future[tuple[Reply | Failure, list[int]]]] = {}
        self._events: deque[Event] = deque()
        self._event_came = asyncio.Event()
        self._sending = asyncio.Lock()
        self._writer: asyncio.Future[None] | None = None
        self._gone: PeerGone | None = None
        self._refused: ZosError | None = None
        self._closed = False
        self._buffer = bytearray(HEADER.size + INLINE_BYTES_MAX)
        sock.setblocking(False)
        self._loop.add_reader(sock.fileno(), self._readable)

    @classmethod
    def from_socket(cls, sock: socket.socket, *, name: str | None = None) -> Self:
        """Take over a connected SEQPACKET socket (descriptor 3 of a service); `name` appears in errors."""
        return cls(sock, name=name or "peer")

    @classmethod
    async def connect(cls, path: Path, *, timeout_s: float = CONNECT_TIMEOUT_S) -> Self:
        """Dial a listening socket once.

        Raises:
            PeerGone: nobody listens there, or the backlog stayed full for `timeout_s`.
            DescriptorsExhausted: this process has none left for the socket.
        """
        try:
            sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK)
        except OSError as error:
            if is_out_of_descriptors(error):
                raise DescriptorsExhausted.here(f"reach {path.name}") from error
            raise
        try:
            async with asyncio.timeout(timeout_s):
                with socket_address(path) as address:
                    while True:
                        try:
                            sock.connect(address)
                            break
                        except BlockingIOError:  # connect(2) of AF_UNIX: EAGAIN means that the backlog is full
                            await asyncio.sleep(DIAL_INTERVAL_S)
        except (OSError, TimeoutError) as error:
            sock.close()
            reason = getattr(error, "strerror", None) or "nobody accepts"
            raise PeerGone(f"cannot reach {path}: {reason}", hint="is the instance up? `zos up` starts it") from error
        except BaseException:
            sock.close()
            raise
        return cls(sock, name=path.name)

    @property
    def is_open(self) -> bool:
        """Whether the connection still stands, as far as is known."""
        return self._gone is None

    async def request(
        self, op: str, body: Body, *, fds: Sequence[int] = (), reply: type[T], timeout_s: float
    ) -> tuple[T, list[int]]:
        """Ask, and wait for the answer: its body as `reply`, and the descriptors that came with it, now the caller's.

        `fds` stay open and stay the caller's.

        Raises:
            RemoteError: the peer refused; `remote_code` says why.
            DescriptorsExhausted: the peer has no descriptor left, or this process has none for the answer's.
            PeerGone: the connection ended (`sent`: whether the request had left).
            RequestTimeout: no answer within `timeout_s`.
            DocumentInvalid: the answer is not a `reply`.
        """
        if self._gone is not None:
            raise self._no_more(sent=False)
        if len(self._waiting) >= REQUESTS_MAX:
            raise FrameInvalid(f"{REQUESTS_MAX} requests to {self._name} are in flight already")
        id_, self._next_id = self._next_id, self._next_id + 1
        future: asyncio.Future[tuple[Reply | Failure, list[int]]] = self._loop.create_future()
        self._waiting[id_] = future
        try:
            async with asyncio.timeout(timeout_s):
                await self._send(encode_request(id_, op, body), fds)
                answer, received = await future
        except BaseException as error:
            self._abandon(id_, future)
            if isinstance(error, TimeoutError):
                raise RequestTimeout(f"{self._name} did not answer {op} within {timeout_s:g} s", op=op) from error
            raise
        try:
            if isinstance(answer, Failure):
                raise _known(answer.error)
            return decode_msgpack(answer.body, reply, what=f"answer of {self._name} to {op}"), received
        except BaseException:
            close_all(received)
            raise

    async def events(self) -> AsyncIterator[tuple[str, msgspec.Raw]]:
        """Names and undecoded bodies of events, for one consumer; ends when this side closes the channel.

        Raises:
            PeerGone: the connection ended. Events that came before are delivered first.
        """
        while True:
            while self._events:
                event = self._events.popleft()
                yield event.event, event.body
            if self._closed:
                return
            if self._gone is not None:
                raise self._no_more(sent=True)
            self._event_came.clear()
            await self._event_came.wait()

    async def aclose(self) -> None:
        """Close the connection; what is in flight raises PeerGone."""
        self._closed = True
        self._end(PeerGone(f"the channel to {self._name} was closed", sent=True))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()

    async def _send(self, data: bytes, fds: Sequence[int]) -> None:
        datagram, descriptors, memory = wrap(data, fds)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        try:
            async with self._sending:  # keeps the order, and one writer callback at a time
                while True:
                    if self._gone is not None:
                        raise self._no_more(sent=False)
                    try:
                        self._socket.sendmsg([datagram], ancillary, socket.MSG_NOSIGNAL)
                        return
                    except BlockingIOError:
                        await self._writable()
                    except OSError as error:
                        self._readable()  # the reason, if it said one before it went (FRAME-10)
                        self._end(PeerGone(f"{self._name} is gone: {error.strerror}", sent=False))
                        raise self._no_more(sent=False) from error
        finally:
            if memory is not None:
                os.close(memory)

    async def _writable(self) -> None:
        ready: asyncio.Future[None] = self._loop.create_future()
        self._writer = ready
        descriptor = self._socket.fileno()
        self._loop.add_writer(descriptor, _wake, ready)
        try:
            await ready
        finally:
            self._writer = None
            if self._gone is None:  # else `_end` has removed it, and the number may be another file's by now
                self._loop.remove_writer(descriptor)

    def _readable(self) -> None:
        for _ in range(DATAGRAMS_PER_WAKE):
            if self._gone is not None:
                return
            try:
                size, descriptors, intact = self._receive()
            except BlockingIOError:
                return
            except ConnectionResetError:  # told once; what the peer had sent is still there (FRAME-9)
                continue
            except OSError as error:
                self._end(PeerGone(f"{self._name} is gone: {error.strerror}", sent=True))
                return
            if size == 0 and not descriptors:
                self._end(PeerGone(f"{self._name} closed the connection", sent=True))
                return
            try:
                if not intact and (size <= HEADER.size or len(descriptors) >= DESCRIPTORS_MAX):
                    raise FrameInvalid("a frame was cut: too long, or too many descriptors (FRAME-3)")
                message = decode_message(unwrap(memoryview(self._buffer)[:size], descriptors))
            except (FrameInvalid, OSError) as error:
                close_all(descriptors)
                self._end(PeerGone(f"{self._name} sent a frame that breaks the rules: {error}", sent=True))
                return
            if not intact:  # the map is whole, and this process has no room for its descriptors
                close_all(descriptors)
                self._deliver(_short(message, self._name), [])
            else:
                self._deliver(message, descriptors)

    def _receive(self) -> tuple[int, list[int], bool]:
        """One datagram into the buffer: its size, its descriptors, whether nothing was cut."""
        room = socket.CMSG_SPACE(DESCRIPTORS_MAX * array.array("i").itemsize)
        size, ancillary, flags, _ = self._socket.recvmsg_into([self._buffer], room, socket.MSG_CMSG_CLOEXEC)
        descriptors = array.array("i")
        for level, kind, data in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                descriptors.frombytes(data[: len(data) - len(data) % descriptors.itemsize])
        return size, list(descriptors), not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)

    def _deliver(self, message: Message, descriptors: list[int]) -> None:
        match message:
            case Failure(id=id_, error=error) if id_ == REFUSED:
                self._refused = _known(error)
                self._end(PeerGone(f"{self._name} refused the connection: {error}", hint=error.hint, sent=False))
            case Reply(id=id_) | Failure(id=id_):
                future = self._waiting.pop(id_, None)
                if future is None or future.done():  # its request gave up; an answer to nobody is not an error
                    close_all(descriptors)
                else:
                    future.set_result((message, descriptors))
            case Event():
                close_all(descriptors)  # no event of ours carries any
                if len(self._events) >= EVENTS_MAX:
                    self._end(PeerGone(f"{EVENTS_MAX} events of {self._name} were not consumed", sent=True))
                    return
                self._events.append(message)
                self._event_came.set()
            case Request():
                close_all(descriptors)
                self._end(PeerGone(f"{self._name} sent a request to a client", sent=True))

    def _abandon(self, id_: int, future: asyncio.Future[tuple[Reply | Failure, list[int]]]) -> None:
        self._waiting.pop(id_, None)
        if not future.cancel() and not future.cancelled() and future.exception() is None:
            close_all(future.result()[1])  # the answer came in the very turn of the loop in which its request gave up

    def _no_more(self, *, sent: bool) -> ZosError:
        """Why nothing more goes over this connection."""
        if self._refused is not None:
            return self._refused
        assert self._gone is not None
        return PeerGone(str(self._gone), hint=self._gone.hint, sent=sent)

    def _end(self, gone: PeerGone) -> None:
        if self._gone is not None:
            return
        self._gone = gone
        descriptor = self._socket.fileno()
        self._loop.remove_reader(descriptor)
        if self._writer is not None:
            self._loop.remove_writer(descriptor)
            _wake(self._writer)
        self._socket.close()
        waiting, self._waiting = self._waiting, {}
        for future in waiting.values():
            if not future.done():
                future.set_exception(self._no_more(sent=True))
                future.exception()  # retrieved: the request may have been cancelled meanwhile
        self._event_came.set()


def _known(error: RemoteError) -> ZosError:
    """The error of a peer as what callers know it by."""
    if error.remote_code in NO_DESCRIPTORS:
        return DescriptorsExhausted(str(error), hint=error.hint, process=error.message.partition(" ")[0])
    return error


def _short(message: Message, name: str) -> Message:
    """A reply whose descriptors found no room here, as the failure that it is; events have none."""
    if not isinstance(message, Reply):
        return message
    here = DescriptorsExhausted.here(f"take what came with the answer of {name}")
    return Failure(message.id, RemoteError(str(here), remote_code=NO_DESCRIPTORS[0], hint=here.hint))


def _wake(waiter: asyncio.Future[None]) -> None:
    if not waiter.done():
        waiter.set_result(None)


class Reconnecting:
    """`request` over a connection that is dialled on first use and again after it was lost; an async context manager.

    A request that had not left when the connection was lost is sent again until its deadline. One that had left may
    have been acted on: it raises PeerGone (`sent`), unless the caller says that it may be repeated.
    """

    def __init__(self, path: Path, *, greet: Callable[[Channel], Awaitable[None]] | None = None) -> None:
        """`greet` is called with every new connection before anything else uses it: to subscribe, or to say plans."""
        self._path = path
        self._greet = greet
        self._channel: Channel | None = None
        self._dialling = asyncio.Lock()
        self._closed = False

    async def request(
        self,
        op: str,
        body: Body,
        *,
        fds: Sequence[int] = (),
        reply: type[T],
        timeout_s: float,
        repeat: bool = False,
    ) -> tuple[T, list[int]]:
        """As `Channel.request`; `repeat`: the operation is idempotent, ask a new peer when the old one is lost.

        Raises:
            PeerGone, RequestTimeout, RemoteError, DocumentInvalid: as `Channel.request`.
        """
        deadline_s = asyncio.get_running_loop().time() + timeout_s
        while True:
            channel = await self.channel(timeout_s=deadline_s - asyncio.get_running_loop().time())
            left_s = max(0.0, deadline_s - asyncio.get_running_loop().time())
            try:
                return await channel.request(op, body, fds=fds, reply=reply, timeout_s=left_s)
            except PeerGone as gone:
                if self._closed or (gone.sent and not repeat):
                    raise

    async def channel(self, *, timeout_s: float) -> Channel:
        """The connection that stands, or a new one, dialled again and again for at most `timeout_s`.

        Raises:
            PeerGone: nobody listened in that time, or this object is closed.
        """
        if self._channel is not None and self._channel.is_open:
            return self._channel
        last: PeerGone | None = None
        try:
            async with (
                asyncio.timeout(timeout_s),
                self._dialling,
            ):  # who waits for another's dialling has a deadline too
                while True:
                    if self._closed:
                        raise PeerGone(f"the connection to {self._path} was closed")
                    if self._channel is not None and self._channel.is_open:
                        return self._channel
                    try:
                        self._channel = await self._dial()
                    except PeerGone as gone:
                        last = gone
                        await asyncio.sleep(DIAL_INTERVAL_S)
        except TimeoutError as error:
            raise last or PeerGone(f"cannot reach {self._path} within {timeout_s:g} s") from error

    async def _dial(self) -> Channel:
        channel = await Channel.connect(self._path)
        if self._greet is not None:
            try:
                await self._greet(channel)
            except BaseException:
                await channel.aclose()
                raise
        return channel

    async def aclose(self) -> None:
        """Close the connection and dial no more."""
        self._closed = True
        if self._channel is not None:
            await self._channel.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.aclose()
