"""A real logd or forward under a real hold, for tests."""

from __future__ import annotations

import fcntl
import os
import shutil
import signal
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from native.programs import program
from tests.hold_tool import Holding, HoldTool, Starter, pidfd, wait_exit
from zos_core.containers.logfile import NOTE, LogFrame, LogReader

# fcntl(2); the module of Python 3.11 has no name for it.
F_SETPIPE_SZ = 1031


def zos_io() -> str:
    """The real zos-io: `ZOS_IO` while one works on it, otherwise the one that was built (`make setup`)."""
    return os.environ.get("ZOS_IO") or str(program("zos-io"))


@dataclass
class Service:
    """One role of zos-io as the only service of a hold; restarted at once whenever it ends.

    `survives`: hold has a keeper, and `lose_hold` may be called.
    """

    start_hold: Starter
    name: str
    arguments: list[str]
    limit_nofile: int | None = None
    survives: bool = False
    holding: Holding = field(init=False)
    hold: HoldTool = field(init=False)

    def __post_init__(self) -> None:
        self._start()

    def _start(self) -> None:
        limit = [shutil.which("prlimit") or "prlimit", f"--nofile={self.limit_nofile}"] if self.limit_nofile else []
        row: dict[str, object] = {
            "name": self.name,
            "argv": [*limit, zos_io(), *self.arguments],
            "env": {},
            "program": "exec",
            "ready_timeout_ms": 15_000,
            "stop_timeout_ms": 5_000,
            "restarts_max": 1000,
            "restart_window_ms": 1,
            "fallback": None,
            "survives": self.survives,
        }
        listeners = [{"name": self.name, "path": f"{self.name}.sock"}]
        self.holding = self.start_hold(row, listeners=listeners, keeper=self.survives)
        self.hold = self.holding.tool()

    def lose_hold(self, pid: int) -> None:
        """SIGKILL to hold, and another takes over (HOLD-TAKE); returns when the service, process `pid`, has met it."""
        self.holding.process.kill()
        self.holding.process.wait()
        self._start()
        assert self.pid == pid, "the service did not survive"

    def tool(self) -> HoldTool:
        """A connection to the service."""
        tool = HoldTool(self.holding.run_dir / f"{self.name}.sock")
        self.holding.tools.append(tool)
        return tool

    @property
    def pid(self) -> int:
        """Of the running process."""
        row: dict[str, Any] = {}

        def is_up() -> bool:
            row.update(self.hold.service(self.name))
            return bool(row["state"] == "ready")

        self.hold.until(is_up)
        return int(row["pid"])

    def wait_successor(self, pid: int) -> int:
        """The process that hold has started after process `pid`, ready or not."""
        row: dict[str, Any] = {}

        def is_started() -> bool:
            row.update(self.hold.service(self.name))
            return row["pid"] not in (None, pid)

        self.hold.until(is_started)
        return int(row["pid"])

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the process and wait for its successor."""
        pid = self.pid
        with pidfd(pid) as descriptor:
            signal.pidfd_send_signal(descriptor, number)
            wait_exit(descriptor)
        self.wait_successor(pid)
        assert self.pid != pid

    def log(self) -> str:
        """What the processes have written to their standard error."""
        return self.holding.log(self.name)


@dataclass
class Output:
    """The pipes of a process that does not exist: their read ends are in hold, the write ends here."""

    service: Service
    name: str
    pipe_bytes: int = 1 << 20
    stdout: int = field(init=False)
    stderr: int = field(init=False)

    def __post_init__(self) -> None:
        ends = []
        for stream in ("stdout", "stderr"):
            out, into = os.pipe()
            fcntl.fcntl(into, F_SETPIPE_SZ, self.pipe_bytes)
            self.service.hold.put(f"log/{self.name}/{stream}", out, replace=True)
            os.close(out)
            ends.append(into)
        self.stdout, self.stderr = ends

    def close(self) -> None:
        os.close(self.stdout)
        os.close(self.stderr)


def write_all(descriptor: int, data: bytes) -> None:
    """Write to a blocking pipe."""
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]


def read_log(directory: Path) -> list[LogFrame]:
    """All frames of a log, notes included."""
    frames = []
    with LogReader(directory) as reader:
        while batch := reader.read():
            frames += batch
    return frames


def output(frames: list[LogFrame]) -> dict[int, bytes]:
    """The bytes of each stream, in order."""
    streams: dict[int, bytearray] = {}
    for frame in frames:
        if frame.stream != NOTE:
            streams.setdefault(frame.stream, bytearray()).extend(frame.data)
    return {stream: bytes(data) for stream, data in streams.items()}
