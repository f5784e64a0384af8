"""A node of this run's own, driven by its API from Python as a program would, and by the `zos` command."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import time
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import uvloop

from bench.workspace import IMAGE, Failed, Workspace
from zos_core.base.client import Client
from zos_core.base.keyring import Keyring
from zos_core.base.paths import Instance, account
from zos_core.containers.document import ContainerState, ExecRequest, ImageRequest, RunRequest, TrustedKey
from zos_core.supervisor.endpoints import (
    EXEC,
    EXEC_WAIT,
    NODE,
    REMOVE,
    RUN,
    WAIT,
    NodeInfo,
    RemoveQuery,
    WaitQuery,
)

__all__ = ["Node", "Span", "memory_kib", "processor_ns"]

WAIT_S = 60.0
RUN_TIMEOUT_S = 300.0
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One run through the API in nanoseconds from the request: until it runs, until its exit was told."""

    running_ns: int
    exit_ns: int


class Node:
    """`zos up` with empty state, and a client with one open connection."""

    def __init__(self, workspace: Workspace, *, suffix: str = "", store: str | None = None) -> None:
        self.instance = workspace.instance + suffix
        self._workspace = workspace
        self._store = store if store is not None else str(workspace.store())
        self._runner = asyncio.Runner(loop_factory=uvloop.new_event_loop)
        self._client = Client(Instance(self.instance).api_socket)
        self._open = False
        self._ended = False
        self._number = 0
        self._trusted = self._keys()
        workspace.on_close(self.down)
        workspace.zos("up", "--instance", self.instance)
        workspace.prefer(self.instance)
        self._run(self._client.__aenter__())
        self._open = True

    def _keys(self) -> list[TrustedKey]:
        keyring = Keyring.of(account(self._workspace.environment))
        return [
            TrustedKey(publisher=publisher, key=key)
            for publisher in keyring.publishers()
            for key in keyring.trusted(publisher)
        ]

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        return self._runner.run(work)

    def down(self) -> None:
        """End it and delete its state; again is no error."""
        if self._open:
            self._open = False
            self._run(self._client.__aexit__(None, None, None))
        if self._ended:
            return
        self._runner.close()
        self._workspace.zos("down", "--instance", self.instance, "--purge", "--grace", "1")
        self._ended = True

    def info(self) -> NodeInfo:
        """The node and its processes."""
        return self._run(self._client.call(NODE))

    def processor_ns(self) -> dict[str, int]:
        """Processor time of each process of the tree so far."""
        return {process.name: processor_ns(process.pid) for process in self.info().processes if process.pid is not None}

    # --- by the API ------------------------------------------------------------------------------------------------

    def request(self, args: list[str]) -> RunRequest:
        """A request under a new name."""
        self._number += 1
        return RunRequest(
            request_id=secrets.token_hex(16),
            name=f"bench-{self._number}",
            image=ImageRequest(
                store=self._store,
                reference=f"{account(self._workspace.environment).name}/{IMAGE}",
                trusted=self._trusted,
            ),
            args=args,
        )

    def run(self, request: RunRequest) -> Span:
        """Request -> running -> exit.

        Raises:
            Failed: the command's status is not 0.
        """

        async def work() -> tuple[Span, ContainerState]:
            begin_ns = time.perf_counter_ns()
            await self._client.call(RUN, body=request, timeout_s=RUN_TIMEOUT_S)
            running_ns = time.perf_counter_ns() - begin_ns
            state = await self._client.call(
                WAIT, path={"name": request.name}, query=WaitQuery(timeout_s=WAIT_S), timeout_s=2 * WAIT_S
            )
            return Span(running_ns=running_ns, exit_ns=time.perf_counter_ns() - begin_ns), state

        span, state = self._run(work())
        if state.status != "exited" or state.exit_status != 0:
            raise Failed(f"{request.args} is {state.status}, status {state.exit_status}")
        return span

    def start(self, request: RunRequest) -> None:
        """Start a container and leave it running."""
        self._run(self._client.call(RUN, body=request, timeout_s=RUN_TIMEOUT_S))

    def remove(self, name: str) -> int:
        """Forget a container; nanoseconds until it is gone."""
        begin_ns = time.perf_counter_ns()
        self._run(self._client.call(REMOVE, path={"name": name}, query=RemoveQuery(force=True)))
        return time.perf_counter_ns() - begin_ns

    def exec(self, name: str, args: list[str]) -> None:
        """One more program in a running container, to its exit.

        Raises:
            Failed: its status is not 0.
        """
        body = ExecRequest(request_id=secrets.token_hex(16), args=args)

        async def work() -> int | None:
            begun = await self._client.call(EXEC, path={"name": name}, body=body, timeout_s=RUN_TIMEOUT_S)
            ended = await self._client.call(
                EXEC_WAIT,
                path={"name": name, "number": str(begun.id)},
                query=WaitQuery(timeout_s=WAIT_S),
                timeout_s=2 * WAIT_S,
            )
            return ended.exit_code

        status = self._run(work())
        if status != 0:
            raise Failed(f"exec of {args} ended with {status}")

    # --- by the command --------------------------------------------------------------------------------------------

    def zos(self, verb: str, *arguments: str) -> int:
        """A verb of the node as a whole command; nanoseconds until it has ended."""
        argv = [self._workspace.zos_program, verb, "--instance", self.instance, *arguments]
        begin_ns = time.perf_counter_ns()
        pid = os.posix_spawn(
            argv[0],
            argv,
            self._workspace.environment,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
            ],
        )
        _, status = os.waitpid(pid, 0)
        spent_ns = time.perf_counter_ns() - begin_ns
        if status != 0:
            raise Failed(f"zos {verb} {' '.join(arguments)} ended with {os.waitstatus_to_exitcode(status)}")
        return spent_ns

    def run_command(self, *command: str) -> int:
        """`zos run --rm ... -- command`; nanoseconds of the whole command."""
        return self.zos("run", "--rm", "--store", self._store, IMAGE, "--", *command)

    def inspect(self, name: str) -> Mapping[str, Any]:
        """`zos inspect --json`."""
        out = self._workspace.zos("inspect", "--instance", self.instance, "--json", name)
        found: Mapping[str, Any] = json.loads(out)
        return found


def memory_kib(pid: int) -> Mapping[str, int]:
    """Rss and Pss of a process in KiB, proc_pid_smaps_rollup(5)."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return {key: int(rest.split()[0]) for key, _, rest in lines if key in ("Rss", "Pss")}


def processor_ns(pid: int) -> int:
    """Processor time of a process and of the children it has waited for.

    Its own threads to the nanosecond (schedstat of each), its children's in steps of a clock tick, proc_pid_stat(5).
    """
    own = sum(int(path.read_text().split()[0]) for path in Path(f"/proc/{pid}/task").glob("*/schedstat"))
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return own + (int(fields[13]) + int(fields[14])) * (1_000_000_000 // os.sysconf("SC_CLK_TCK"))
