"""rtnetlink over one socket: of our own namespace, or one that was made inside a container's. It blocks.

The kernel does the work of a request inside the sender's sendmsg(2), and deleting a link waits there for every CPU: so
a whole piece of work (`wiring`) is done in one thread, rather than each message in one of its own. Answers to an
exchange that was given up (a supervisor was killed and left them in the socket) carry other sequence numbers, and are
dropped.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
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
_TIMEOUT_MIN_S: Final = 0.001  # 0 would mean not to wait at all
_DATAGRAM_BYTES: Final = 1 << 16  # the kernel fills at most 32 KiB
_SOL_NETLINK: Final = 270  # include/linux/socket.h
_NETLINK_CAP_ACK: Final = 10  # include/uapi/linux/netlink.h
_NETLINK_EXT_ACK: Final = 11


class RouteSocket:
    """A client of rtnetlink. Make it with `opened` or `over`; both give the descriptor back when they end."""

    def __init__(self, sock: socket.socket, *, first_sequence: int) -> None:
        for option in (_NETLINK_CAP_ACK, _NETLINK_EXT_ACK):
            sock.setsockopt(_SOL_NETLINK, option, 1)
        self._socket = sock
        self._sequence = first_sequence

    @classmethod
    @contextmanager
    def opened(cls) -> Iterator[RouteSocket]:
        """Open a client of the network namespace we live in."""
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as sock:
            yield cls(sock, first_sequence=secrets.randbits(31))

    @classmethod
    @contextmanager
    def over(cls, descriptor: int) -> Iterator[RouteSocket]:
        """Use somebody's socket (hold's `rtnl/<name>`) through a copy of its descriptor."""
        with socket.socket(fileno=os.dup(descriptor)) as sock:
            if sock.family != socket.AF_NETLINK:
                raise NetlinkInvalid(f"netlink: descriptor {descriptor} is no netlink socket")
            yield cls(sock, first_sequence=secrets.randbits(31))

    def apply(self, requests: Sequence[Request]) -> list[list[Message]]:
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
        numbers = self._numbers(len(requests))
        data = b"".join(
            pack_message(one.type, one.flags | messages.NLM_F_REQUEST | messages.NLM_F_ACK, number, one.payload)
            for one, number in zip(requests, numbers, strict=True)
        )
        answers: dict[int, list[Message]] = {number: [] for number in numbers}
        refusals: dict[int, Refusal] = {}
        self._send(data)
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while len(refusals) < len(requests):
            for message in self._receive(requests[0].what, deadline_s):
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

    def dump(self, request: Request, read: Callable[[Message], T | None]) -> list[T]:
        """Read a whole list, again when it changed meanwhile; what `read` gives None for is left out.

        Raises:
            NetlinkRefused: the kernel refused the list.
            NetlinkTimeout: no answer in time, or the list never stood still.
        """
        for _ in range(DUMP_TRIES_MAX):
            (number,) = self._numbers(1)
            self._send(pack_message(request.type, request.flags | messages.NLM_F_REQUEST, number, request.payload))
            found, whole = self._read_dump(request.what, number, read)
            if whole:
                return found
        raise NetlinkTimeout(f"{request.what}: the list changed {DUMP_TRIES_MAX} times while it was read")

    def _read_dump(self, what: str, number: int, read: Callable[[Message], T | None]) -> tuple[list[T], bool]:
        found: list[T] = []
        whole = True
        deadline_s = time.monotonic() + ANSWER_TIMEOUT_S
        while True:
            for message in self._receive(what, deadline_s):
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

    def _send(self, data: bytes) -> None:
        self._drain()
        sent = self._socket.sendto(data, (0, 0))
        if sent != len(data):
            raise NetlinkInvalid(f"netlink: {sent} of {len(data)} bytes were sent")

    def _drain(self) -> None:
        """Read away what an exchange that was given up has left: a list half read makes the next one EBUSY."""
        for _ in range(DRAIN_MAX):
            try:
                self._socket.recv(_DATAGRAM_BYTES, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise

    def _receive(self, what: str, deadline_s: float) -> list[Message]:
        """Wait for the next datagram of the kernel (port 0), and split it."""
        while True:
            self._socket.settimeout(max(deadline_s - time.monotonic(), _TIMEOUT_MIN_S))
            try:
                data, _, flags, sender = self._socket.recvmsg(_DATAGRAM_BYTES)
            except TimeoutError as error:
                raise NetlinkTimeout(f"{what}: no answer from the kernel in {ANSWER_TIMEOUT_S:.0f} s") from error
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                raise NetlinkTimeout("netlink: answers were lost, the socket's receive buffer was full") from error
            finally:
                self._socket.settimeout(None)
            if flags & socket.MSG_TRUNC:
                raise NetlinkInvalid(f"netlink: a datagram above {_DATAGRAM_BYTES} bytes")
            if sender[0] == 0:
                return parse_messages(data)


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
