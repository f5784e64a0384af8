"""Asynchronous rtnetlink over one socket: of our own namespace, or one that was made inside a container's.

The kernel does the work of a request inside the sender's sendmsg(2), and deleting a link waits there for every CPU: so
sending happens in a thread, and answers are read on the loop. One exchange at a time; answers to an exchange that was
given up (by us, or by a supervisor that was killed and left its answers in the socket) carry other sequence numbers,
and are dropped.
"""

from __future__ import annotations

import asyncio
import errno
import os
import secrets
import socket
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Final, TypeVar

from native.netlink import Message, NetlinkInvalid, pack_message, parse_messages
from zos_core.network import messages
from zos_core.network.errors import NetlinkRefused, NetlinkTimeout
from zos_core.network.messages import Refusal, Request

__all__ = ["RouteSocket"]

T = TypeVar("T")

ANSWER_TIMEOUT_S: Final = 10.0
"""The kernel answers at once; deleting many links under load takes a second."""
DUMP_TRIES_MAX: Final = 16
"""A list that changed while it was read (NLM_F_DUMP_INTR) is read again."""
DRAIN_MAX: Final = 65_536
"""Datagrams of one abandoned list: a million routes of 60 bytes each, twice over."""
REQUESTS_MAX: Final = 256
"""Messages in one datagram: their answers must fit the socket's receive buffer (212,992 bytes by default)."""
_DATAGRAM_BYTES: Final = 1 << 16  # the kernel fills at most 32 KiB
_SOL_NETLINK: Final = 270  # include/linux/socket.h
_NETLINK_CAP_ACK: Final = 10  # include/uapi/linux/netlink.h
_NETLINK_EXT_ACK: Final = 11


class RouteSocket:
    """A client of rtnetlink. Make it with `opened` or `over`; both give the descriptor back when they end."""

    def __init__(self, sock: socket.socket, *, first_sequence: int) -> None:
        sock.setblocking(False)
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        self._socket = sock
        self._sequence = first_sequence
        self._turn = asyncio.Lock()

    @classmethod
    @asynccontextmanager
    async def opened(cls) -> AsyncIterator[RouteSocket]:
        """Open a client of the network namespace we live in."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            yield cls(sock, first_sequence=secrets.randbits(31))

    @classmethod
    @asynccontextmanager
    async def over(cls, descriptor: int) -> AsyncIterator[RouteSocket]:
        """Use somebody's socket (hold's `rtnl/<name>`) through a copy of its descriptor."""
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            if sock.family != socket.AF_NETLINK:
                raise NetlinkInvalid(f"netlink: descriptor {descriptor} is no netlink socket")
            yield cls(sock, first_sequence=secrets.randbits(31))

    async def apply(self, requests: Sequence[Request]) -> list[list[Message]]:
        """Send all in one datagram; the kernel does them in order, even if we are killed meanwhile.

        The kernel goes on after a request that it refuses. Gives what each request was answered with, beside its
        acknowledgement.

        Raises:
            NetlinkRefused: for the first request that was refused with an errno that it does not tolerate.
            NetlinkTimeout: no answer in time; what was done is unknown, ask again.
        """
        if not requests:
            return []
        if len(requests) > REQUESTS_MAX:
            raise NetlinkInvalid(f"netlink: {len(requests)} requests at once are above {REQUESTS_MAX}")
        async with self._turn:
            numbers = self._numbers(len(requests))
            data = b"".join(
                pack_message(one.type, one.flags | messages.NLM_F_REQUEST | messages.NLM_F_ACK, number, one.payload)
                for one, number in zip(requests, numbers, strict=True)
            )
            answers: dict[int, list[Message]] = {number: [] for number in numbers}
            refusals: dict[int, Refusal] = {}
            async with self._answer_in_time(requests[0].what):
                await self._send(data)
                while len(refusals) < len(requests):
                    for message in await self._receive():
                        if message.sequence not in answers or message.sequence in refusals:
                            continue
                        if message.type == messages.NLMSG_ERROR:
                            refusals[message.sequence] = messages.read_refusal(message)
                        else:
                            answers[message.sequence].append(message)
        for one, number in zip(requests, numbers, strict=True):
            refusal = refusals[number]
            if refusal.errno and refusal.errno not in one.tolerated:
                raise _refused(one.what, refusal)
        return [answers[number] for number in numbers]

    async def dump(self, request: Request, read: Callable[[Message], T | None]) -> list[T]:
        """Read a whole list, again when it changed meanwhile; what `read` gives None for is left out.

        Raises:
            NetlinkRefused: the kernel refused the list.
            NetlinkTimeout: no answer in time, or the list never stood still.
        """
        async with self._turn:
            for _ in range(DUMP_TRIES_MAX):
                (number,) = self._numbers(1)
                async with self._answer_in_time(request.what):
                    await self._send(
                        pack_message(request.type, request.flags | messages.NLM_F_REQUEST, number, request.payload)
                    )
                    found, whole = await self._read_dump(request.what, number, read)
                if whole:
                    return found
        raise NetlinkTimeout(f"{request.what}: the list changed {DUMP_TRIES_MAX} times while it was read")

    async def _read_dump(self, what: str, number: int, read: Callable[[Message], T | None]) -> tuple[list[T], bool]:
        found: list[T] = []
        whole = True
        while True:
            for message in await self._receive():
                if message.sequence != number:
                    continue
                whole = whole and not message.flags & messages.NLM_F_DUMP_INTR
                if message.type == messages.NLMSG_DONE:
                    if failed := messages.read_done(message):
                        raise _refused(what, Refusal(errno=failed, text=None))
                    return found, whole
                if message.type == messages.NLMSG_ERROR:
                    raise _refused(what, messages.read_refusal(message))
                if (item := read(message)) is not None:
                    found.append(item)

    def _numbers(self, count: int) -> list[int]:
        """Sequence numbers that were not used for a long time, and never 0, which the kernel uses for events."""
        first = self._sequence
        self._sequence = (first + count) % 0x7FFF_FFFF
        return [(first + at) % 0x7FFF_FFFF + 1 for at in range(count)]

    async def _send(self, data: bytes) -> None:
        self._drain()
        sending = asyncio.get_running_loop().run_in_executor(None, self._socket.sendto, data, (0, 0))
        try:
            sent = await asyncio.shield(sending)
        except asyncio.CancelledError:
            # It cannot be called back. Whoever cleans up after us must find it done, not see it happen later.
            await asyncio.wait([sending])
            raise
        if sent != len(data):
            raise NetlinkInvalid(f"netlink: {sent} of {len(data)} bytes were sent")

    def _drain(self) -> None:
        """Read away what an exchange that was given up has left: a list half read makes the next one EBUSY."""
        for _ in range(DRAIN_MAX):
            try:
                self._socket.recv(_DATAGRAM_BYTES)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    async def _receive(self) -> list[Message]:
        """Wait for the next datagram of the kernel (port 0), and split it."""
        while True:
            try:
                data, _, flags, sender = self._socket.recvmsg(_DATAGRAM_BYTES)
            except BlockingIOError:
                await self._readable()
                continue
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise NetlinkTimeout("netlink: answers were lost, the socket's receive buffer was full") from error
            if flags & socket.MSG_TRUNC:
                raise NetlinkInvalid(f"netlink: a datagram above {_DATAGRAM_BYTES} bytes")
            if sender[0] == 0:
                return parse_messages(data)

    async def _readable(self) -> None:
        loop = asyncio.get_running_loop()
        ready: asyncio.Future[None] = loop.create_future()
        descriptor = self._socket.fileno()

        def wake() -> None:
            if not ready.done():
                ready.set_result(None)

        loop.add_reader(descriptor, wake)
        try:
            await ready
        finally:
            loop.remove_reader(descriptor)

    @asynccontextmanager
    async def _answer_in_time(self, what: str) -> AsyncIterator[None]:
        limit = asyncio.timeout(ANSWER_TIMEOUT_S)
        try:
            async with limit:
                yield
        except TimeoutError as error:
            if not limit.expired():
                raise
            raise NetlinkTimeout(f"{what}: no answer from the kernel in {ANSWER_TIMEOUT_S:.0f} s") from error


def _refused(what: str, refusal: Refusal) -> NetlinkRefused:
    name = errno.errorcode.get(refusal.errno, str(refusal.errno))
    words = f" ({refusal.text})" if refusal.text else ""
    hint = "making links needs root (CAP_NET_ADMIN)" if refusal.errno in (errno.EPERM, errno.EACCES) else None
    return NetlinkRefused(
        f"cannot {what}: {os.strerror(refusal.errno)}{words}",
        hint=hint,
        request=what,
        errno=refusal.errno,
        errno_name=name,
        kernel=refusal.text,
    )
