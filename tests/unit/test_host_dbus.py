"""The D-Bus that one call to systemd takes: bytes of the call, answers, and hostile answers."""

from __future__ import annotations

import asyncio
import os
import socket
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jeepney.low_level import Endianness, Header, HeaderFields, Message, MessageType

from zos_core.host import SystemdRefused, dbus, systemd

UNIT = "zos-t-1.scope"
BEGIN = b"BEGIN\r\n"


def message(kind: MessageType, fields: dict[HeaderFields, Any], signature: str = "", *values: Any) -> bytes:
    """What systemd would send."""
    if signature:
        fields = {**fields, HeaderFields.signature: signature}
    header = Header(Endianness.little, kind, 0, 1, 0, 7, fields)
    return bytes(Message(header, values).serialise())


def signal(member: str, signature: str, *values: Any) -> bytes:
    return message(MessageType.signal, {HeaderFields.member: member}, signature, *values)


def refusal(name: str, reason: str) -> bytes:
    return message(MessageType.error, {HeaderFields.reply_serial: 1, HeaderFields.error_name: name}, "s", reason)


ANSWER = message(MessageType.method_return, {HeaderFields.reply_serial: 1}, "o", "/job/1")
DONE = signal("JobRemoved", "uoss", 1, "/job/1", UNIT, "done")


def test_host_dbus_call_is_read_back() -> None:
    call = systemd.scope_call(UNIT, "system.slice", "zos instance t-1", [1, 2])
    assert dbus.message_length(call) == len(call)
    assert call[:4] == b"l\1\0\1"
    read = Message.from_buffer(call)
    assert read.header.fields[HeaderFields.member] == "StartTransientUnit"
    unit, mode, properties, auxiliary = read.body
    assert (unit, mode, auxiliary) == (UNIT, "fail", [])
    assert dict(properties)["PIDs"] == ("au", [1, 2])
    assert dict(properties)["Delegate"] == ("b", True)


def test_host_dbus_endless_list_is_not_read() -> None:
    """An array of empty structures, in which jeepney's decoder would stay for ever."""
    endless = signal("JobRemoved", "aay", [b"1"]).replace(b"\3aay\0", b"\3a()\0")
    assert b"a()" in endless
    assert dbus.parse_message(endless).body == ()


def test_host_dbus_length_needs_the_header() -> None:
    assert dbus.message_length(ANSWER[:15]) is None
    assert dbus.message_length(ANSWER[:16]) == len(ANSWER)
    with pytest.raises(SystemdRefused):
        dbus.message_length(b"B" + ANSWER[1:])
    with pytest.raises(SystemdRefused):
        dbus.message_length(ANSWER[:4] + b"\xff\xff\xff\x7f" + ANSWER[8:])


@given(st.binary(max_size=300))
def test_host_dbus_garbage(data: bytes) -> None:
    for call in (dbus.message_length, dbus.parse_message):
        try:
            call(data)
        except SystemdRefused:
            pass


@given(st.sampled_from([ANSWER, DONE, systemd.scope_call(UNIT, "a", "b", [1])]), st.data())
def test_host_dbus_damage(whole: bytes, data: st.DataObject) -> None:
    changed = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 3))):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    try:
        dbus.parse_message(bytes(changed))
    except SystemdRefused:
        pass


async def receive(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        data += await asyncio.get_running_loop().sock_recv(connection, size - len(data))
    return data


async def say(path: Path, *answers: bytes, greeting: bytes = b"OK 0123456789abcdef\r\n") -> list[bytes]:
    """A systemd that lets us in, says these things, and closes. Gives what it was sent after the greeting."""
    heard: list[bytes] = []
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        server.listen()
        server.setblocking(False)

        async def serve() -> None:
            connection, _ = await loop.sock_accept(server)
            with connection:
                hello = await loop.sock_recv(connection, 4096)
                assert hello == b"\0AUTH EXTERNAL " + str(os.geteuid()).encode().hex().encode() + b"\r\n"
                await loop.sock_sendall(connection, greeting)
                if answers:
                    assert await receive(connection, len(BEGIN)) == BEGIN
                for answer in answers:
                    start = await receive(connection, 16)
                    length = dbus.message_length(start)
                    assert length is not None
                    heard.append(start + await receive(connection, length - len(start)))
                    await loop.sock_sendall(connection, answer)
                connection.shutdown(socket.SHUT_WR)
                while await loop.sock_recv(connection, 1 << 16):
                    pass

        async with asyncio.TaskGroup() as tasks:
            serving = tasks.create_task(serve())
            await systemd.start_scope(UNIT, slice="system.slice", description="d", processes=[1], path=path)
            serving.cancel()
    return heard


async def test_host_dbus_scope_started(tmp_path: Path) -> None:
    heard = await say(tmp_path / "s", ANSWER + DONE)
    assert heard == [systemd.scope_call(UNIT, "system.slice", "d", [1])]


async def test_host_dbus_scope_started_between_other_signals(tmp_path: Path) -> None:
    """systemd tells everybody everything, in types (dictionaries) that are not spoken here."""
    other = bytearray(signal("PropertiesChanged", "ss", "org.freedesktop.systemd1.Unit", "x"))
    at = other.index(b"\x02ss\0")
    other[at + 1 : at + 3] = b"{s"
    await say(tmp_path / "s", bytes(other) + ANSWER + bytes(other) + DONE)


async def test_host_dbus_scope_started_signal_first(tmp_path: Path) -> None:
    await say(tmp_path / "s", DONE + ANSWER)


REFUSALS = [
    refusal("org.freedesktop.DBus.Error.AccessDenied", "no"),
    ANSWER + signal("JobRemoved", "uoss", 1, "/job/1", UNIT, "failed"),
    b"",
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
]


@pytest.mark.parametrize("answer", REFUSALS, ids=["error", "job failed", "closed", "another protocol"])
async def test_host_dbus_scope_refused(tmp_path: Path, answer: bytes) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await say(tmp_path / "s", answer)
    assert caught.group_contains(SystemdRefused)


async def test_host_dbus_not_let_in(tmp_path: Path) -> None:
    with pytest.raises(ExceptionGroup) as caught:
        await say(tmp_path / "s", greeting=b"REJECTED EXTERNAL\r\n")
    assert caught.group_contains(SystemdRefused, match="did not let us in")


async def test_host_dbus_old_scope_is_waited_for(tmp_path: Path) -> None:
    exists = refusal(systemd.UNIT_EXISTS, "already loaded")
    removed = signal("UnitRemoved", "so", UNIT, "/unit")
    heard = await say(tmp_path / "s", exists + removed, ANSWER + DONE)
    assert heard[0] == heard[1]


async def test_host_dbus_no_systemd(tmp_path: Path) -> None:
    with pytest.raises(SystemdRefused, match="cannot be reached"):
        await systemd.start_scope(UNIT, slice="s", description="d", processes=[1], path=tmp_path / "absent")
