"""The kill matrix: every process of a node is killed, alone and in pairs, at random moments under load.

`python -m tests.soak.kill_matrix [--seed N] [--each N] [--minutes N]` runs it; the seed is printed, and the same seed
kills the same processes in the same order after the same pauses. What is checked is in `Load`.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import io
import itertools
import os
import random
import secrets
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import uvloop

from tests.e2e.machine import snapshot
from tests.e2e.node_tool import LARGE_FILES, LATE_PROGRAMS, Hub, Node, large_sums, make_image_tree, zos
from tests.hold_tool import Gone, HoldTool
from zos_core import attach
from zos_core.attach import Output, call_again, follow_output, wait_container, wait_exec
from zos_core.base.client import Client
from zos_core.base.endpoint import RemoteProblem
from zos_core.base.keyring import Keyring
from zos_core.base.paths import Instance
from zos_core.containers.document import ExecRequest, ImageRequest, RunRequest, TrustedKey
from zos_core.containers.errors import NoSuchContainer
from zos_core.supervisor.endpoints import EXEC, PS, REMOVE, RUN, STOP, RemoveQuery, StopRequest

SERVICES = ("supervisor", "blockd", "logd", "forward", "spawn")
EACH = 30
# hold with any other at the same moment, and the keeper: fewer, since nothing of it is asked for.
EACH_EXTRA = 6
KILLS_PER_EPOCH = 32
# hold starts a service 20 times in 60 s before it pauses; the matrix stays below.
KILLS_PER_MINUTE_MAX = 17
PAUSE_MAX_S = 0.7
PAIR_GAP_MAX_S = 0.05
HOLD_AWAY_MAX_S = 1.0
HUB_DELAY_S = 0.06
STUCK_S = 180.0
READERS = 3
MAPPED = 3
EXECS = 2
TICKER = """trap 'stop=1' TERM; i=0
while [ -z "$stop" ]; do echo $i; i=$((i+1)); [ $((i % 100)) = 0 ] && usleep 30000; done
echo "end $i"; exit 7"""

Combination = tuple[str, ...]


def say(text: str) -> None:
    """A line of the report."""
    print(text, flush=True)


def combinations(each: int, extra: int) -> list[Combination]:
    """Every process alone, every pair without hold, `each` times; hold with another and the keeper `extra` times."""
    alone: list[Combination] = [(name,) for name in (*SERVICES, "hold")]
    pairs: list[Combination] = list(itertools.combinations(SERVICES, 2))
    more: list[Combination] = [("keeper",), *(("hold", name) for name in SERVICES)]
    return [*alone, *pairs] * each + more * extra


@dataclass
class Killer:
    """Ends processes of a node and brings hold back."""

    node: Node
    random: random.Random
    kills: Counter[Combination] = field(default_factory=Counter)
    processes: Counter[str] = field(default_factory=Counter)
    times: dict[str, deque[float]] = field(default_factory=dict)

    def pids(self) -> dict[str, int]:
        """The processes that run now."""
        found: dict[str, int] = {}
        run_dir = Instance(self.node.instance).run_dir
        with HoldTool(run_dir / "hold.sock") as hold:
            for service in hold.ask("services")["services"]:
                if service["pid"] is not None:
                    found[service["name"]] = service["pid"]
        hold_pid = int((run_dir / "lock").read_text())
        children = Path(f"/proc/{hold_pid}/task/{hold_pid}/children").read_text().split()
        for child in children:
            with contextlib.suppress(OSError):
                if Path(f"/proc/{child}/comm").read_text() == "zos-keep\n":
                    found["keeper"] = int(child)
        found["hold"] = hold_pid
        return found

    async def kill(self, combination: Combination) -> None:
        """Kill these processes at nearly the same moment; returns when all of them run again."""
        for name in combination:
            await self._pace(name)
        await asyncio.sleep(self.random.uniform(0, PAUSE_MAX_S))
        order = list(combination)
        self.random.shuffle(order)
        gap = self.random.uniform(0, PAIR_GAP_MAX_S) if self.random.random() < 0.7 else 0.0
        away = self.random.uniform(0, HOLD_AWAY_MAX_S)
        settle = self.random.random() < 0.75
        pids = await asyncio.to_thread(self.pids)
        for number, name in enumerate(order):
            if number:
                await asyncio.sleep(gap)
            pid = pids.get(name)
            if pid is None:  # it is being started again after the last kill
                continue
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
            self.processes[name] += 1
            self.times.setdefault(name, deque()).append(time.monotonic())
        self.kills[tuple(sorted(combination))] += 1
        if "hold" in combination:
            await asyncio.sleep(away)
            await self._up()
        if settle or "hold" in combination:
            await self.wait_ready()

    async def _up(self) -> None:
        done = await asyncio.to_thread(self.node.zos, "up", "--json")
        assert done.status == 0, f"zos up after the end of hold: {done.err}{self.node.service_logs()}"

    async def _pace(self, name: str) -> None:
        times = self.times.setdefault(name, deque())
        while times and times[0] < time.monotonic() - 60:
            times.popleft()
        if len(times) >= KILLS_PER_MINUTE_MAX:
            await asyncio.sleep(max(0.0, times[0] + 60 - time.monotonic()))

    async def wait_ready(self) -> None:
        """Every service says that it is ready, and the keeper is there."""
        deadline = time.monotonic() + STUCK_S
        while True:
            with contextlib.suppress(OSError, Gone, ValueError):
                if await asyncio.to_thread(self._ready):
                    return
            assert time.monotonic() < deadline, f"not ready again: {self.node.service_logs()}"
            await asyncio.sleep(0.1)

    def _ready(self) -> bool:
        with HoldTool(Instance(self.node.instance).run_dir / "hold.sock") as hold:
            states = [service["state"] for service in hold.ask("services")["services"]]
        return all(state == "ready" for state in states) and "keeper" in self.pids()


class Exits:
    """What hold tells of exits, over its deaths: no process may end twice."""

    def __init__(self, instance: str) -> None:
        self._path = Instance(instance).run_dir / "hold.sock"
        self.seqs: dict[tuple[str, int, int], set[int]] = {}
        self.unknown: list[str] = []

    async def follow(self) -> None:
        """Hear every event, and what had not been acknowledged when the connection was made."""
        while True:
            with contextlib.suppress(OSError, Gone):
                await asyncio.to_thread(self._listen)
            await asyncio.sleep(0.05)

    def _listen(self) -> None:
        with HoldTool(self._path) as hold:
            hold.ask("subscribe")
            for record in hold.ask("exits", after=0)["exits"]:
                self._note(record)
            hold.socket.settimeout(1.0)
            with contextlib.suppress(TimeoutError):
                while True:
                    self._note(hold.event("exit"))

    def _note(self, record: dict[str, object]) -> None:
        name, generation, pid = str(record["name"]), int(str(record["generation"])), int(str(record["pid"]))
        self.seqs.setdefault((name, generation, pid), set()).add(int(str(record["seq"])))
        if record["code"] is None and record["signal"] is None:
            self.unknown.append(name)

    def check(self) -> None:
        """Each end was told with one number, and how it ended was known."""
        twice = {name: seqs for name, seqs in self.seqs.items() if len(seqs) > 1}
        assert not twice, f"ends that were reported more than once: {twice}"
        assert not self.unknown, f"ends of which nobody knows how: {self.unknown}"


class Load:
    """Everything that goes on while processes are killed, and what must come of it.

    Readers: 3 by read(2) and 2 by execve(2) inside containers, 3 by mmap(2); every byte is hashed, nobody waits for
    longer than `STUCK_S`. Containers are started, stopped and removed, execs run: each has the exit status and the
    output that it must have, once. A log is followed all the while and read again at its end.
    """

    def __init__(self, node: Node, hub: SlowHub, epoch: int, order: random.Random) -> None:
        self.node, self.hub, self.epoch, self.random = node, hub, epoch, order
        self.client = Client(Instance(node.instance).api_socket)
        keyring = Keyring.of()
        self.image = ImageRequest(
            store=hub.url,
            reference=f"{keyring.publisher()}/matrix-{epoch}",
            trusted=[
                TrustedKey(publisher=publisher, key=key)
                for publisher in keyring.publishers()
                for key in keyring.trusted(publisher)
            ],
        )
        self.stopping = asyncio.Event()
        self.done: Counter[str] = Counter()
        self.sums = large_sums()

    async def start(self, name: str, *command: str, ports: Sequence[str] = ()) -> tuple[int | None, list[str]]:
        """Start a container."""
        request = RunRequest(
            request_id=secrets.token_hex(16), name=name, image=self.image, args=list(command), ports=list(ports)
        )
        state = await call_again(self.client, RUN, body=request, timeout_s=STUCK_S, known=True)
        return state.pid, [port.listen for port in state.network.ports] if state.network else []

    async def output(self, name: str, *, number: int | None = None, follow: bool = True) -> list[str]:
        """Its output, read once more from the beginning."""
        out, err = io.BytesIO(), io.BytesIO()
        await follow_output(self.client, name, Output(out, err), number=number, follow=follow, known=True)
        assert not err.getvalue(), f"{name}: {err.getvalue()!r}"
        return out.getvalue().decode().splitlines()

    async def remove(self, name: str) -> None:
        """Remove it; should the answer be lost, it is gone."""
        try:
            await call_again(self.client, REMOVE, path={"name": name}, query=RemoveQuery(force=True), known=True)
        except RemoteProblem as problem:
            if problem.code != NoSuchContainer.code:
                raise

    async def run(self, kills: AsyncIterator[None]) -> None:
        """Carry the load while `kills` goes on, then bring everything to its end and judge it."""
        async with self.client, asyncio.timeout(STUCK_S * 4):
            pid, ports = await self.start("writer", "sh", "-c", TICKER, ports=["127.0.0.1:0:80"])
            assert pid is not None
            served = "mkdir -p /www; echo hello > /www/index.html; busybox httpd -p 80 -h /www"
            web = await self._exec("writer", "sh", "-c", served)
            assert web == (0, []), web
            async with asyncio.TaskGroup() as group:
                writer = group.create_task(self.output("writer"), name="writer")
                readers = [
                    group.create_task(self._within(self._reader(number)), name=f"reader {number}")
                    for number in range(READERS)
                ]
                readers += [
                    group.create_task(self._within(self._mapped(pid, number)), name=f"mapped {number}")
                    for number in range(MAPPED)
                ]
                others = [
                    *(group.create_task(self._execs(number), name=f"exec {number}") for number in range(EXECS)),
                    group.create_task(self._short_lives(), name="short lives"),
                    group.create_task(self._long_lives(), name="long lives"),
                    group.create_task(self._connections(ports[0]), name="connections"),
                ]
                async for _ in kills:
                    pass
                self.stopping.set()
                self.hub.quick.set()
                await asyncio.wait([*readers, *others])
                state = await call_again(
                    self.client, STOP, path={"name": "writer"}, body=StopRequest(grace_s=30), timeout_s=90, known=True
                )
            assert state.exit_status == 7, f"writer: {state.exit_status}"
            *numbers, last = writer.result()
            assert last == f"end {len(numbers)}", f"writer ended with {last!r} after {len(numbers)} lines"
            wrong = next((at for at, line in enumerate(numbers) if line != str(at)), None)
            assert wrong is None, f"line {wrong} of the writer is {numbers[wrong or 0]!r}"
            assert await self.output("writer", follow=False) == writer.result(), "the log read again differs"
            self.done["lines"] += len(numbers)
            await self.remove("writer")
            left = [known.name for known in (await call_again(self.client, PS, known=True)).containers]
            assert not left, f"containers that nobody started or that could not be removed: {left}"

    async def _within(self, work: object) -> None:
        assert asyncio.iscoroutine(work)
        async with asyncio.timeout(STUCK_S * 3):
            await work

    async def _reader(self, number: int) -> None:
        files = list(range(LARGE_FILES))
        random.Random(number).shuffle(files)
        names = " ".join(f"/data/{file:02}" for file in files)
        name = f"reader-{number}"
        await self.start(name, "sh", "-c", f"for file in {names}; do sha256sum $file || exit 1; done; exit 3")
        lines = await self.output(name)
        state = await wait_container(self.client, name)
        assert (state.exit_status, lines) == (3, [self.sums[file] for file in files]), f"{name}: {state} {lines}"
        self.done["files read"] += len(files)
        await self.remove(name)

    async def _mapped(self, pid: int, number: int) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__).with_name("mapped_reader.py")),
            f"/proc/{self._inner(pid)}/root/data",
            str(number),
            stdout=asyncio.subprocess.PIPE,
        )
        try:
            out, _ = await process.communicate()
        except BaseException:
            with contextlib.suppress(ProcessLookupError):
                process.kill()
            await process.wait()
            raise
        lines = sorted(out.decode().splitlines())
        assert (process.returncode, lines) == (0, sorted(self.sums)), f"mapped {number}: {process.returncode}"
        self.done["files mapped"] += len(lines)

    @staticmethod
    def _inner(pid: int) -> int:
        """The program below the container's own pid 1, which nobody may look into."""
        return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])

    async def _exec(self, name: str, *command: str) -> tuple[int | None, list[str]]:
        request = ExecRequest(request_id=secrets.token_hex(16), args=list(command))
        begun = await call_again(self.client, EXEC, path={"name": name}, body=request, timeout_s=STUCK_S, known=True)
        lines = await self.output(name, number=begun.id)
        ended = await wait_exec(self.client, name, begun.id)
        return ended.exit_code, lines

    async def _execs(self, number: int) -> None:
        turn = 0
        while not self.stopping.is_set():
            program = f"/late/busybox-{(turn * EXECS + number) % LATE_PROGRAMS:02}"
            done = await self._exec("writer", program, "sh", "-c", f"echo {number}-{turn}; exit {turn % 100}")
            assert done == (turn % 100, [f"{number}-{turn}"]), f"exec {number}-{turn}: {done}"
            self.done["execs"] += 1
            turn += 1

    async def _short_lives(self) -> None:
        for turn in itertools.count():
            if self.stopping.is_set():
                return
            name, status = f"short-{turn}", turn % 100
            await self.start(name, "sh", "-c", f"echo {turn}; echo again {turn}; exit {status}")
            state = await wait_container(self.client, name)
            lines = await self.output(name)
            assert (state.exit_status, lines) == (status, [f"{turn}", f"again {turn}"]), f"{name}: {state} {lines}"
            self.done["containers"] += 1
            await self.remove(name)

    async def _long_lives(self) -> None:
        for turn in itertools.count():
            if self.stopping.is_set():
                return
            name = f"long-{turn}"
            await self.start(name, "sh", "-c", "trap 'exit 5' TERM; echo up; while true; do usleep 20000; done")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self.random.uniform(0.2, 3.0)):
                    await self.stopping.wait()
            # It has started when the shell has; that it hears SIGTERM it says itself.
            while await self.output(name, follow=False) != ["up"]:  # noqa: ASYNC110 (a line tells nobody)
                await asyncio.sleep(0.02)
            state = await call_again(
                self.client, STOP, path={"name": name}, body=StopRequest(grace_s=30), timeout_s=90, known=True
            )
            lines = await self.output(name)
            assert (state.exit_status, lines) == (5, ["up"]), f"{name}: {state} {lines}"
            self.done["stops"] += 1
            await self.remove(name)

    async def _connections(self, listen: str) -> None:
        """Connections through a killed forward may break; one is answered again within `STUCK_S`."""
        host, _, port = listen.rpartition(":")
        answered = time.monotonic()
        while not self.stopping.is_set():
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, TimeoutError):
                async with asyncio.timeout(10):
                    reader, writer = await asyncio.open_connection(host, int(port))
                    writer.write(b"GET / HTTP/1.0\r\n\r\n")
                    answer = await reader.read()
                    writer.close()
                if answer:
                    assert answer.endswith(b"hello\n"), answer
                    answered = time.monotonic()
                    self.done["connections"] += 1
            assert time.monotonic() - answered < STUCK_S, "the published port does not answer any more"
            await asyncio.sleep(0.05)


class SlowHub(Hub):
    """A hub whose every answer takes a while, until it is told to be quick."""

    def __init__(self, store: Path, order: random.Random) -> None:
        super().__init__(store)
        self.quick = asyncio.Event()
        self._order = order
        self.behave = self._slowly

    def _slowly(self, path: str, data: bytes) -> bytes:
        if not self.quick.is_set() and path.startswith("/pack/"):
            self.pause(self._order.uniform(0, 2 * HUB_DELAY_S * (1 + len(data) / 131_072)))
        return data


@contextlib.contextmanager
def image(directory: Path, epoch: int) -> Iterator[Path]:
    """A store with an image of which nothing is on this machine."""
    tree, store = directory / "tree", directory / "store"
    make_image_tree(tree)
    (tree / "epoch").write_text(f"{epoch} {secrets.token_hex(8)}")
    wanted = ["--name", f"matrix-{epoch}", "--store", str(store), "-o", str(directory / "m.flist")]
    done = zos("flist", "build", str(tree), *wanted)
    assert done.status == 0, done.err
    shutil.rmtree(tree)
    try:
        yield store
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextlib.contextmanager
def patient_clients() -> Iterator[None]:
    """Clients wait for a node that is away as long as anything may take here, `zos up` under load included."""
    before, attach.AWAY_MAX_S = attach.AWAY_MAX_S, STUCK_S
    try:
        yield
    finally:
        attach.AWAY_MAX_S = before


async def matrix(plan: Sequence[Combination], *, seed: int, per_epoch: int = KILLS_PER_EPOCH) -> Killer:
    """Carry out `plan`; every `per_epoch` kills the load is brought to its end, judged, and begun on a new image."""
    order = random.Random(seed)
    queue = list(plan)
    order.shuffle(queue)
    node = Node(store=Path("/nonexistent"), config=Path("/nonexistent"))
    killer = Killer(node, random.Random(order.random()))
    began = time.monotonic()
    node.up()
    exits = Exits(node.instance)
    watching = asyncio.ensure_future(exits.follow())
    try:
        for epoch in itertools.count():
            kills, queue = queue[:per_epoch], queue[per_epoch:]
            if not kills:
                break

            async def carry_out(kills: list[Combination]) -> AsyncIterator[None]:
                for combination in kills:
                    await killer.kill(combination)
                    yield

            with image(Path(tempfile.mkdtemp(prefix="zos-matrix-")), epoch) as store:
                hub = SlowHub(store, random.Random(order.random()))
                try:
                    load = Load(node, hub, epoch, random.Random(order.random()))
                    with patient_clients():
                        await load.run(carry_out(kills))
                finally:
                    hub.quick.set()
                    hub.close()
            await killer.wait_ready()
            assert not watching.done(), watching.exception()
            left = await asyncio.to_thread(node.footprint_without_services)
            assert not left, f"left behind: {left}"
            exits.check()
            done = ", ".join(f"{count} {what}" for what, count in sorted(load.done.items()))
            say(f"epoch {epoch}: {sum(killer.kills.values())} kills after {time.monotonic() - began:.0f} s; {done}")
    except BaseException:
        say(f"FAILED with seed {seed} after {sum(killer.kills.values())} kills; the last: {list(killer.kills)[-3:]}")
        say(node.service_logs())
        raise
    finally:
        watching.cancel()
        await asyncio.wait([watching])
        await asyncio.to_thread(node.down)
    left_on_machine = snapshot().of(node.instance)
    assert not left_on_machine, f"left behind after zos down: {left_on_machine}"
    say(f"{len(exits.seqs)} ends were reported, each once")
    return killer


def report(killer: Killer) -> None:
    """How often what was killed."""
    for combination, count in sorted(killer.kills.items()):
        say(f"{' + '.join(combination):24} {count:4}")
    say(f"{sum(killer.processes.values())} processes in {sum(killer.kills.values())} kills: {dict(killer.processes)}")


def main() -> int:
    """The whole matrix."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=int.from_bytes(os.urandom(4), "little"))
    parser.add_argument("--each", type=int, default=EACH)
    parser.add_argument("--extra", type=int, default=EACH_EXTRA)
    arguments = parser.parse_args()
    say(f"seed {arguments.seed}")
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        killer = runner.run(matrix(combinations(arguments.each, arguments.extra), seed=arguments.seed))
    report(killer)
    return 0


if __name__ == "__main__":
    sys.exit(main())
