"""A real hold for tests: started with a table, spoken to over its socket, ended without a trace."""

from __future__ import annotations

import array
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from zos_core.base import frame

DEADLINE_S = 20.0

# A service in one line of shell. Writing to descriptor 3 sends a datagram: the frame {"id": 1, "op": "ready", "body":
# {}}. `cat` then takes what hold says until hold has gone (HOLD-EOF).
READY = "".join(f"\\{byte:03o}" for byte in frame.wrap(frame.encode_request(1, "ready", {}), [])[0])
SAY_READY = f"printf '{READY}' >&3"
WAIT = "exec cat <&3 >/dev/null"


class Refused(Exception):
    """hold answered with an error; `code` is its code."""

    def __init__(self, failure: frame.Failure) -> None:
        super().__init__(str(failure.error))
        self.code = failure.error.remote_code


class Gone(Exception):
    """hold closed the connection."""


class HoldTool:
    """A blocking connection to hold.sock."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.socket.settimeout(DEADLINE_S)
        try:
            with frame.socket_address(path) as address:
                self.socket.connect(address)
        except OSError:
            self.socket.close()
            raise
        self.events: list[tuple[str, dict[str, Any]]] = []
        self._last_id = 0

    def __enter__(self) -> HoldTool:
        return self

    def __exit__(self, *exc: object) -> None:
        self.socket.close()

    def send_raw(self, data: bytes, fds: Sequence[int] = ()) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.socket.sendmsg([data], ancillary)

    def send_map(self, data: bytes, fds: Sequence[int] = ()) -> None:
        datagram, descriptors, memory = frame.wrap(data, fds)
        try:
            self.send_raw(datagram, descriptors)
        finally:
            if memory is not None:
                os.close(memory)

    def receive(self) -> tuple[frame.Message, list[int]]:
        """The next frame; raises Gone at the end of the connection."""
        space = socket.CMSG_SPACE(frame.DESCRIPTORS_MAX * 4)
        try:
            data, ancillary, flags, _ = self.socket.recvmsg(frame.INLINE_BYTES_MAX + 6, space, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:  # told once; what the peer had sent is still there (FRAME-9)
            return self.receive()
        assert not flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC)
        fds = array.array("i")
        for level, kind, content in ancillary:
            assert (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
            fds.frombytes(content)
        if not data:
            raise Gone
        descriptors = list(fds)
        return frame.decode_message(frame.unwrap(data, descriptors)), descriptors

    def call(self, op: str, body: Mapping[str, object], fds: Sequence[int] = ()) -> tuple[dict[str, Any], list[int]]:
        """One request: the reply's body and descriptors; events that come in between are kept."""
        self._last_id += 1
        with contextlib.suppress(BrokenPipeError):  # what the peer had said before it went is read below
            self.send_map(frame.encode_request(self._last_id, op, body), fds)
        while True:
            message, descriptors = self.receive()
            if isinstance(message, frame.Failure) and message.id == 0:  # FRAME-10
                raise Refused(message)
            if isinstance(message, frame.Event):
                self.events.append((message.event, msgspec.msgpack.decode(message.body)))
                continue
            assert isinstance(message, (frame.Reply, frame.Failure))
            assert message.id == self._last_id
            if isinstance(message, frame.Failure):
                raise Refused(message)
            return msgspec.msgpack.decode(message.body), descriptors

    def ask(self, op: str, **body: object) -> dict[str, Any]:
        """One request without descriptors either way."""
        reply, descriptors = self.call(op, body)
        assert not descriptors
        return reply

    def put(self, name: str, fd: int, *, replace: bool = False) -> None:
        self.call("put", {"name": name, "replace": replace}, [fd])

    def get(self, *names: str) -> list[int]:
        return self.call("get", {"names": names})[1]

    def names(self, prefix: str = "") -> list[str]:
        names: list[str] = self.ask("list", prefix=prefix)["names"]
        return names

    def event(self, kind: str, **expected: object) -> dict[str, Any]:
        """Wait for an event of this kind with these values; earlier ones are passed over."""
        while True:
            while self.events:
                name, body = self.events.pop(0)
                if name == kind and expected.items() <= body.items():
                    return body
            message, _ = self.receive()
            assert isinstance(message, frame.Event)
            self.events.append((message.event, msgspec.msgpack.decode(message.body)))

    def service(self, name: str) -> dict[str, Any]:
        """The row of one service."""
        rows: list[dict[str, Any]] = self.ask("services")["services"]
        return next(row for row in rows if row["name"] == name)

    def until(self, condition: Callable[[], object]) -> None:
        """Ask hold for something small until the condition holds; the pace is that of the answers."""
        deadline = time.monotonic() + DEADLINE_S
        while not condition():
            assert time.monotonic() < deadline, "the condition never came true"
            self.names("no/such/prefix")

    def wait_end(self) -> None:
        """Wait until hold closes the connection."""
        with contextlib.suppress(Gone):
            while True:
                self.receive()


def shell_service(name: str, script: str, **more: object) -> dict[str, object]:
    """A row of the table that runs a line of shell."""
    row: dict[str, object] = {
        "name": name,
        "argv": ["/bin/sh", "-c", script],
        "env": {"PATH": os.environ["PATH"]},
        "program": "exec",
        "ready_timeout_ms": 15_000,
        "stop_timeout_ms": 5_000,
        "restarts_max": 20,
        "restart_window_ms": 60_000,
        "fallback": None,
    }
    return row | more


@dataclass
class Launcher:
    """A service that starts a line of shell as a child of hold (its parent ends, hold is the subreaper)."""

    directory: Path

    def row(self) -> dict[str, object]:
        for name in ("commands", "pids"):
            os.mkfifo(self.directory / name, 0o600)
        commands, pids = self.directory / "commands", self.directory / "pids"
        launch = '( sh -c "$line" 3<&- 5<&- & echo $! >&5 )'
        loop = f"while read -r line <&4; do {launch}; done"
        return shell_service("launcher", f"exec 4<>{commands} 5<>{pids}; {SAY_READY}; {loop}")

    def launch(self, command: str, tool: HoldTool, parent: int) -> int:
        """The pid of a new child of process `parent`."""
        with open(self.directory / "commands", "w") as commands, open(self.directory / "pids") as pids:
            commands.write(f"{command}\n")
            commands.flush()
            pid = int(pids.readline())
        tool.until(lambda: parent_of(pid) == parent)
        return pid


@dataclass
class Holding:
    """A running hold."""

    process: subprocess.Popen[bytes]
    run_dir: Path
    log_dir: Path
    launcher: Launcher | None = None
    tools: list[HoldTool] = field(default_factory=list)

    @property
    def pid(self) -> int:
        return self.process.pid

    def tool(self) -> HoldTool:
        tool = HoldTool(self.run_dir / "hold.sock")
        self.tools.append(tool)
        return tool

    def launch(self, command: str, tool: HoldTool) -> int:
        assert self.launcher is not None
        return self.launcher.launch(command, tool, self.pid)

    def log(self, name: str = "hold") -> str:
        return (self.log_dir / f"{name}.log").read_text()

    def end(self) -> int:
        """SIGTERM, and the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DEADLINE_S)


class NotStarted(Exception):
    """hold said why it does not start."""


@dataclass
class Starter:
    """Starts holds of one test in its own directory."""

    program: Path
    directory: Path
    started: list[Holding] = field(default_factory=list)
    limit_nofile: int | None = None

    def __call__(
        self,
        *services: Mapping[str, object],
        listeners: Sequence[Mapping[str, object]] = (),
        launcher: bool = False,
        **more: object,
    ) -> Holding:
        run_dir, log_dir = self.directory / "run", self.directory / "log"
        run_dir.mkdir(mode=0o700, exist_ok=True)
        log_dir.mkdir(mode=0o700, exist_ok=True)
        launching = Launcher(self.directory) if launcher else None
        rows = [*services, launching.row()] if launching else list(services)
        table = {
            "instance": "t-hold",
            "run_dir": str(run_dir),
            "log_dir": str(log_dir),
            "listeners": listeners,
            "services": rows,
        }
        holding = Holding(self.start(msgspec.msgpack.encode(table | more)), run_dir, log_dir, launching)
        self.started.append(holding)
        return holding

    def start(self, table: bytes) -> subprocess.Popen[bytes]:
        """Start hold with the bytes of a table; raises NotStarted with its word."""
        memory = os.memfd_create("table")
        os.write(memory, table)
        ready, ready_write = os.pipe()
        limit = ["prlimit", f"--nofile={self.limit_nofile}"] if self.limit_nofile else []
        command: list[str | Path] = [*limit, self.program, "hold", "--table", str(memory), "--ready", str(ready_write)]
        process = subprocess.Popen(
            command, pass_fds=(memory, ready_write), start_new_session=True, stdin=subprocess.DEVNULL
        )
        os.close(memory)
        os.close(ready_write)
        with open(ready, "rb") as pipe:
            word = pipe.read()
        if word != b"1":
            process.wait(DEADLINE_S)
            assert word.startswith(b"E")
            assert word.endswith(b"\n")
            raise NotStarted(word[1:].decode().strip(), process.returncode)
        return process

    def close(self) -> None:
        for holding in self.started:
            for tool in holding.tools:
                tool.socket.close()
            if holding.process.poll() is None:
                holding.end()


@contextlib.contextmanager
def pidfd(pid: int) -> Iterator[int]:
    """A pidfd, closed at the end."""
    descriptor = os.pidfd_open(pid)
    try:
        yield descriptor
    finally:
        os.close(descriptor)


def wait_exit(descriptor: int) -> None:
    """Wait until the process of a pidfd has ended."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    assert poll.poll(DEADLINE_S * 1000), "the process does not end"


def is_reaped(descriptor: int) -> bool:
    """Whether the process of a pidfd is no more, not even a zombie."""
    try:
        signal.pidfd_send_signal(descriptor, 0)
    except ProcessLookupError:
        return True
    return False


def parent_of(pid: int) -> int:
    """The parent of a process."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def descendants(pid: int) -> list[int]:
    """All processes below `pid`."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if parent_of(int(stat.parent.name)) == pid:
                found.append(int(stat.parent.name))
    return found + [below for child in found for below in descendants(child)]


def dump(value: object) -> str:
    """For messages of assertions."""
    return json.dumps(value, indent=1, default=repr)
