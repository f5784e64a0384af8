"""The channel over real SEQPACKET sockets: many requests, descriptors, memfds, hostile peers, lost connections."""

from __future__ import annotations

import array
import asyncio
import fcntl
import os
import resource
import select
import socket
import struct
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from zos_core.base import frame
from zos_core.base.document import Document, Record
from zos_core.base.errors import DescriptorsExhausted, DocumentInvalid, PeerGone, RemoteError, RequestTimeout

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {
    "uvloop": uvloop.new_event_loop,
    "stock": asyncio.new_event_loop,
}
Run = Callable[[Coroutine[Any, Any, None]], None]


class Ask(Document, frozen=True, kw_only=True):
    text: str = ""
    data: bytes = b""


class Answer(Record, frozen=True, kw_only=True):
    text: str
    size: int = 0


@pytest.fixture(params=sorted(LOOPS))
def run(request: pytest.FixtureRequest) -> Run:
    def run_(main: Coroutine[Any, Any, None]) -> None:
        with asyncio.Runner(loop_factory=LOOPS[request.param]) as runner:
            runner.run(main)

    return run_


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


class Peer:
    """The other end, by hand and blocking: its script runs in a thread."""

    def __init__(self, sock: socket.socket) -> None:
        self.sock = sock
        sock.settimeout(20)

    def receive(self) -> tuple[frame.Request, list[int]]:
        numbers = array.array("i")
        data, ancillary, _, _ = self.sock.recvmsg(200_000, 4096, socket.MSG_CMSG_CLOEXEC)
        for _level, _kind, payload in ancillary:
            numbers.frombytes(payload)
        descriptors = list(numbers)
        message = frame.decode_message(frame.unwrap(data, descriptors))
        assert isinstance(message, frame.Request)
        return message, descriptors

    def send(self, map_: bytes, descriptors: list[int] | None = None) -> None:
        datagram, all_descriptors, memory = frame.wrap(map_, descriptors or [])
        socket.send_fds(self.sock, [datagram], all_descriptors)
        if memory is not None:
            os.close(memory)

    def answer(self, text: str = "", descriptors: list[int] | None = None) -> None:
        request, received = self.receive()
        frame.close_all(received)
        self.send(frame.encode_reply(request.id, Answer(text=text)), descriptors)


@asynccontextmanager
async def connected(script: Callable[[Peer], None]) -> AsyncIterator[frame.Channel]:
    """A channel whose peer runs `script` in a thread; nothing may be left open."""
    before = open_descriptors()
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        async with asyncio.TaskGroup() as group, frame.Channel.from_socket(ours, name="peer") as channel:
            thread = group.create_task(asyncio.to_thread(script, Peer(theirs)))
            yield channel
            await thread
    assert open_descriptors() <= before + 2  # the thread pool keeps none, the loop's self-pipe may be new


def test_many_requests_are_answered_in_any_order(run: Run) -> None:
    count = 200

    def script(peer: Peer) -> None:
        requests = [peer.receive()[0] for _ in range(count)]
        for request in reversed(requests):
            text = msgspec.msgpack.decode(request.body, type=Ask).text
            peer.send(frame.encode_reply(request.id, Answer(text=text)))

    async def main() -> None:
        async with connected(script) as channel, asyncio.TaskGroup() as group:
            for n in range(count):
                group.create_task(ask(channel, n))

    async def ask(channel: frame.Channel, n: int) -> None:
        answer, _ = await channel.request("say", Ask(text=str(n)), reply=Answer, timeout_s=20)
        assert answer.text == str(n)

    run(main())


def test_descriptors_go_both_ways(run: Run) -> None:
    def script(peer: Peer) -> None:
        request, received = peer.receive()
        os.write(received[0], b"x")
        peer.send(frame.encode_reply(request.id, Answer(text="")), received)
        frame.close_all(received)

    async def main() -> None:
        read, write = os.pipe()
        async with connected(script) as channel:
            _, received = await channel.request("take", Ask(), fds=[write], reply=Answer, timeout_s=20)
            assert os.read(read, 1) == b"x"
            assert len(received) == 1
            assert fcntl.fcntl(received[0], fcntl.F_GETFD) & fcntl.FD_CLOEXEC
            frame.close_all([*received, read, write])

    run(main())


@pytest.mark.parametrize("size", [131_000, 131_072, 131_073, 5_000_000])
def test_a_long_map_travels_in_a_memfd(run: Run, size: int) -> None:
    def script(peer: Peer) -> None:
        request, _ = peer.receive()
        assert len(msgspec.msgpack.decode(request.body, type=Ask).data) == size
        peer.send(frame.encode_reply(request.id, Answer(text="x" * size)))

    async def main() -> None:
        async with connected(script) as channel:
            answer, received = await channel.request("long", Ask(data=bytes(size)), reply=Answer, timeout_s=20)
            assert answer.text == "x" * size
            assert received == []

    run(main())


def test_a_full_socket_makes_the_sender_wait(run: Run) -> None:
    def script(peer: Peer) -> None:
        for _ in range(40):
            peer.answer()

    async def main() -> None:
        async with connected(script) as channel, asyncio.TaskGroup() as group:
            for _ in range(40):
                group.create_task(channel.request("big", Ask(data=bytes(100_000)), reply=Answer, timeout_s=30))

    run(main())


def test_an_error_is_typed(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.send(frame.encode_error(peer.receive()[0].id, "spawn.step", "no", step="overlay", errno=22, hint="look"))

    async def main() -> None:
        async with connected(script) as channel:
            with pytest.raises(RemoteError, match="no") as caught:
                await channel.request("x", Ask(), reply=Answer, timeout_s=20)
            error = caught.value
            assert (error.remote_code, error.step, error.errno, error.hint) == ("spawn.step", "overlay", 22, "look")

    run(main())


@pytest.mark.parametrize("asks_first", [False, True])
def test_a_refused_connection_says_why(run: Run, asks_first: bool) -> None:
    refusal = frame.encode_error(0, "frame.no-descriptors", "logd has no descriptor left", hint="end some")

    def script(peer: Peer) -> None:
        if asks_first:
            assert select.select([peer.sock], [], [], 20)[0]  # and it is closed with what nobody has read
        peer.send(refusal)
        peer.sock.close()

    async def main() -> None:
        async with connected(script) as channel:
            for _ in range(2):  # whatever is asked of it
                with pytest.raises(DescriptorsExhausted, match="logd has no descriptor left") as caught:
                    await channel.request("x", Ask(), reply=Answer, timeout_s=20)
                assert caught.value.context["process"] == "logd"
            assert not channel.is_open

    run(main())


def test_descriptors_without_room_fail_their_request_alone(run: Run) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)

    def script(peer: Peer) -> None:
        first = peer.receive()[0]
        with open("/dev/null") as null:
            free = os.dup(null.fileno())  # the lowest free number: all below it are taken
            os.close(free)
            resource.setrlimit(resource.RLIMIT_NOFILE, (free, before[1]))
            peer.send(frame.encode_reply(first.id, Answer(text="rich")), [null.fileno()])
            second = peer.receive()[0]
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        peer.send(frame.encode_reply(second.id, Answer(text="poor")))

    async def main() -> None:
        async with connected(script) as channel:
            with pytest.raises(DescriptorsExhausted, match=r"no descriptor left to take what came .* of peer"):
                await channel.request("x", Ask(), reply=Answer, timeout_s=20)
            assert (await channel.request("y", Ask(), reply=Answer, timeout_s=20))[0].text == "poor"

    try:
        run(main())
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def test_a_late_answer_is_dropped_with_its_descriptors(run: Run) -> None:
    def script(peer: Peer) -> None:
        late = peer.receive()[0]
        in_time = peer.receive()[0]
        with open("/dev/null") as null:
            peer.send(frame.encode_reply(late.id, Answer(text="late")), [null.fileno()])
        peer.send(frame.encode_reply(in_time.id, Answer(text="in time")))

    async def main() -> None:
        async with connected(script) as channel:
            before = open_descriptors()
            with pytest.raises(RequestTimeout, match="slow"):
                await channel.request("slow", Ask(), reply=Answer, timeout_s=0.01)
            answer, _ = await channel.request("next", Ask(), reply=Answer, timeout_s=20)
            assert answer.text == "in time"
            assert open_descriptors() <= before

    run(main())


def test_a_cancelled_request_leaves_nothing(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.receive()
        peer.answer("second")

    async def main() -> None:
        async with connected(script) as channel:
            async with asyncio.TaskGroup() as group:
                task = group.create_task(channel.request("first", Ask(), reply=Answer, timeout_s=20))
                await asyncio.sleep(0)
                task.cancel()
            assert (await channel.request("second", Ask(), reply=Answer, timeout_s=20))[0].text == "second"

    run(main())


def test_an_answer_of_another_shape_is_refused(run: Run) -> None:
    def script(peer: Peer) -> None:
        with open("/dev/null") as null:
            peer.send(frame.encode_reply(peer.receive()[0].id, {"text": 5}), [null.fileno()])
        peer.answer("right")

    async def main() -> None:
        async with connected(script) as channel:
            with pytest.raises(DocumentInvalid, match="text"):
                await channel.request("x", Ask(), reply=Answer, timeout_s=20)
            assert (await channel.request("y", Ask(), reply=Answer, timeout_s=20))[0].text == "right"

    run(main())


def test_events_come_in_order_and_the_end_is_told(run: Run) -> None:
    def script(peer: Peer) -> None:
        for n in range(300):
            peer.send(frame.encode_event("exit", {"seq": n}))
        peer.sock.shutdown(socket.SHUT_RDWR)

    async def main() -> None:
        async with connected(script) as channel:
            seen: list[int] = []
            with pytest.raises(PeerGone):
                await collect(channel, seen)
            assert seen == list(range(300))

    async def collect(channel: frame.Channel, seen: list[int]) -> None:
        async for name, body in channel.events():
            assert name == "exit"
            seen.append(msgspec.msgpack.decode(body)["seq"])

    run(main())


def test_events_end_quietly_when_we_close(run: Run) -> None:
    async def main() -> None:
        async with connected(lambda peer: None) as channel, asyncio.TaskGroup() as group:
            consumer = group.create_task(consume(channel))
            await asyncio.sleep(0)
            await channel.aclose()
            assert await consumer == []

    async def consume(channel: frame.Channel) -> list[str]:
        return [name async for name, _ in channel.events()]

    run(main())


def test_requests_in_flight_learn_that_the_peer_is_gone(run: Run) -> None:
    def script(peer: Peer) -> None:
        peer.receive()
        peer.sock.shutdown(socket.SHUT_RDWR)

    async def main() -> None:
        async with connected(script) as channel:
            with pytest.raises(PeerGone) as caught:
                await channel.request("x", Ask(), reply=Answer, timeout_s=20)
            assert caught.value.sent
            with pytest.raises(PeerGone) as caught:
                await channel.request("x", Ask(), reply=Answer, timeout_s=20)
            assert not caught.value.sent

    run(main())


def head(length: int, version: int = 1) -> bytes:
    return struct.pack("<HI", version, length)


def unsealed(size: int) -> list[int]:
    memory = os.memfd_create("t", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(memory, size)
    return [memory]


BAD: dict[str, Callable[[], tuple[bytes, list[int]]]] = {
    "version": lambda: (head(1, 2) + b"\x80", []),
    "length": lambda: (head(2) + b"\x80", []),
    "no map": lambda: (head(0), []),
    "short": lambda: (b"\1", []),
    "no memfd": lambda: (head(5), []),
    "unsealed memfd": lambda: (head(5), unsealed(5)),
    "a file, no memfd": lambda: (head(5), [os.open("/dev/null", os.O_RDONLY)]),
    "too long": lambda: (head(140_000) + bytes(140_000), []),
    "no msgpack": lambda: (head(3) + b"\xc1\xc1\xc1", []),
    "no map but a list": lambda: (head(1) + b"\x90", []),
    "empty map": lambda: (head(1) + b"\x80", []),
    "many descriptors": lambda: (
        head(1) + b"\x80",
        [os.open("/dev/null", os.O_RDONLY | os.O_CLOEXEC) for _ in range(65)],
    ),
}


@pytest.mark.parametrize("case", sorted(BAD))
def test_a_frame_that_breaks_the_rules_ends_the_connection(run: Run, case: str) -> None:
    def script(peer: Peer) -> None:
        peer.receive()
        datagram, descriptors = BAD[case]()
        socket.send_fds(peer.sock, [datagram], descriptors)
        frame.close_all(descriptors)

    async def main() -> None:
        async with connected(script) as channel:
            with pytest.raises(PeerGone, match="breaks the rules"):
                await channel.request("x", Ask(), reply=Answer, timeout_s=20)

    run(main())


class Listener:
    """A listening SEQPACKET socket whose every connection answers `answers` requests and is then cut."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with frame.socket_address(path) as address:
            self.sock.bind(address)
        self.sock.listen()
        self.sock.settimeout(20)

    def serve(self, *answers: int) -> None:
        for count in answers:
            connection, _ = self.sock.accept()
            with connection:
                peer = Peer(connection)
                for n in range(count):
                    peer.answer(str(n))
                peer.sock.recv(1)  # one more request, or the end; left without an answer


def test_a_path_longer_than_sun_path_is_reached(run: Run, tmp_path: Path) -> None:
    directory = tmp_path / ("d" * 60) / ("e" * 60)
    directory.mkdir(parents=True)
    listener = Listener(directory / "x.sock")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(listener.serve, 1))
            async with await frame.Channel.connect(directory / "x.sock") as channel:
                await channel.request("x", Ask(), reply=Answer, timeout_s=20)

    with listener.sock:
        run(main())


def test_nobody_listens(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        with pytest.raises(PeerGone, match=r"nobody\.sock"):
            await frame.Channel.connect(tmp_path / "nobody.sock")
        async with frame.Reconnecting(tmp_path / "nobody.sock") as peer:
            with pytest.raises(PeerGone):
                await peer.request("x", Ask(), reply=Answer, timeout_s=0.05)

    run(main())


def test_each_caller_has_its_own_deadline(run: Run, tmp_path: Path) -> None:
    async def main() -> None:
        async with frame.Reconnecting(tmp_path / "nobody.sock") as peer, asyncio.TaskGroup() as group:
            patient = group.create_task(impatient(peer, 60.0))
            await asyncio.sleep(0)
            async with asyncio.timeout(10):
                await impatient(peer, 0.05)
            assert not patient.done()
            patient.cancel()

    async def impatient(peer: frame.Reconnecting, timeout_s: float) -> None:
        with pytest.raises(PeerGone):
            await peer.request("x", Ask(), reply=Answer, timeout_s=timeout_s)

    run(main())


def test_a_lost_connection_is_dialled_again(run: Run, tmp_path: Path) -> None:
    listener = Listener(tmp_path / "x.sock")
    greeted: list[frame.Channel] = []

    async def greet(channel: frame.Channel) -> None:
        greeted.append(channel)

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(listener.serve, 1, 1))
            async with frame.Reconnecting(tmp_path / "x.sock", greet=greet) as peer:
                await peer.request("one", Ask(), reply=Answer, timeout_s=20)
                with pytest.raises(PeerGone) as caught:  # it had left: acted on or not, nobody knows
                    await peer.request("two", Ask(), reply=Answer, timeout_s=20)
                assert caught.value.sent
                await peer.request("three", Ask(), reply=Answer, timeout_s=20)
        assert len(greeted) == 2

    with listener.sock:
        run(main())


def test_an_idempotent_request_is_repeated(run: Run, tmp_path: Path) -> None:
    listener = Listener(tmp_path / "x.sock")

    async def main() -> None:
        async with asyncio.TaskGroup() as group:
            group.create_task(asyncio.to_thread(listener.serve, 0, 1))
            async with frame.Reconnecting(tmp_path / "x.sock") as peer:
                await peer.request("idempotent", Ask(), reply=Answer, timeout_s=20, repeat=True)

    with listener.sock:
        run(main())
