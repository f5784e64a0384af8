"""Asks systemd for a scope of our own, in which control groups are ours to make (Delegate=yes).

Spoken over systemd's private socket, as systemctl does for root: no bus daemon is needed. Source:
org.freedesktop.systemd1(5), StartTransientUnit; systemd.scope(5); the D-Bus Specification, "Authentication Protocol".
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from jeepney.auth import BEGIN, AuthenticationError, Authenticator

from zos_core.host import dbus
from zos_core.host.errors import SystemdRefused

__all__ = ["start_scope"]

PRIVATE_SOCKET: Final = Path("/run/systemd/private")
START_TIMEOUT_S: Final = 20.0
_GREETING_BYTES_MAX: Final = 512
_UNLIMITED: Final = (1 << 64) - 1
_SERIAL: Final = 1
JOB_REMOVED: Final = "JobRemoved"
UNIT_REMOVED: Final = "UnitRemoved"
UNIT_EXISTS: Final = "org.freedesktop.systemd1.UnitExists"


async def start_scope(
    unit: str,
    *,
    slice: str,
    description: str,
    processes: Sequence[int],
    path: Path = PRIVATE_SOCKET,
) -> None:
    """Start a delegated scope with these processes in it; returns when they are there.

    Raises:
        SystemdRefused: it cannot be reached, refuses, or does not answer in `START_TIMEOUT_S`.
    """
    try:
        async with asyncio.timeout(START_TIMEOUT_S):
            await _start_scope(unit, slice, description, processes, path)
    except TimeoutError as error:
        raise SystemdRefused(f"systemd did not start {unit} in {START_TIMEOUT_S:.0f} s", unit=unit) from error
    except OSError as error:
        raise SystemdRefused(
            f"systemd cannot be reached: {error.strerror}", hint="zos up needs root", unit=unit, reason=error.strerror
        ) from error


async def _start_scope(unit: str, slice: str, description: str, processes: Sequence[int], path: Path) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC) as sock:
        await loop.sock_connect(sock, str(path))
        await _authenticate(sock)
        call = scope_call(unit, slice, description, processes)
        await loop.sock_sendall(sock, call)
        job: str | None = None
        removed: dict[str, str] = {}  # the job may be done before the answer that names it is read
        pending = b""
        while job is None or job not in removed:
            message, pending = await _receive(sock, pending)
            if message.type == dbus.ERROR and message.reply_serial == _SERIAL:
                if message.error_name != UNIT_EXISTS:
                    reason = next((text for text in message.body if isinstance(text, str)), message.error_name)
                    raise SystemdRefused(f"systemd refused {unit}: {reason}", unit=unit, reason=reason)
            elif message.type == dbus.METHOD_RETURN and message.reply_serial == _SERIAL and message.body:
                job = str(message.body[0])
            elif message.type == dbus.SIGNAL and message.member == JOB_REMOVED and len(message.body) == 4:
                removed[str(message.body[1])] = str(message.body[3])
            elif message.type == dbus.SIGNAL and message.member == UNIT_REMOVED and unit in message.body:
                # The scope of the last time was still being put away.
                await loop.sock_sendall(sock, call)
        if removed[job] != "done":
            raise SystemdRefused(f"systemd did not start {unit}: {removed[job]}", unit=unit, reason=removed[job])


def scope_call(unit: str, slice: str, description: str, processes: Sequence[int]) -> bytes:
    """The call that starts the scope. Its own limits are off: ours are set per container, below it."""
    properties = [
        ("Description", ("s", description)),
        ("Slice", ("s", slice)),
        ("Delegate", ("b", True)),
        ("TasksMax", ("t", _UNLIMITED)),
        ("CollectMode", ("s", "inactive-or-failed")),
        ("PIDs", ("au", list(processes))),
    ]
    return dbus.encode_call(
        _SERIAL,
        destination="org.freedesktop.systemd1",
        path="/org/freedesktop/systemd1",
        interface="org.freedesktop.systemd1.Manager",
        member="StartTransientUnit",
        signature="ssa(sv)a(sa(sv))",
        body=(unit, "fail", properties, []),
    )


async def _authenticate(sock: socket.socket) -> None:
    """SASL EXTERNAL: who we are, systemd knows from the socket."""
    loop = asyncio.get_running_loop()
    authentication = Authenticator()
    try:
        for line in authentication:
            await loop.sock_sendall(sock, line)
            answer = await loop.sock_recv(sock, _GREETING_BYTES_MAX)
            if not answer:
                raise SystemdRefused("systemd closed the connection instead of letting us in")
            authentication.feed(answer)
    except AuthenticationError as error:
        text = bytes(error.data).decode("ascii", "replace")
        raise SystemdRefused(f"systemd did not let us in: {text}") from error
    await loop.sock_sendall(sock, BEGIN)


async def _receive(sock: socket.socket, pending: bytes) -> tuple[dbus.Incoming, bytes]:
    loop = asyncio.get_running_loop()
    while True:
        length = dbus.message_length(pending)
        if length is not None and len(pending) >= length:
            return dbus.parse_message(pending[:length]), pending[length:]
        more = await loop.sock_recv(sock, 1 << 16)
        if not more:
            raise SystemdRefused("systemd closed the connection")
        pending += more
