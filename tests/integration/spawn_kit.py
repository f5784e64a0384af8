"""A real `zos-init hold` with spawn as its only service, a small root file system, and a blocking client of frames.

The client is written here once more, from `docs/spec/frame.md` alone, so that the tests judge both ends.
"""

from __future__ import annotations

import array
import itertools
import os
import shutil
import socket
import struct
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
IMAGE = "5a" * 32
REPLY_TIMEOUT_S = 30.0
# Those of docs/spec/spawn.md's example: what moby hides.
MASKED = [
    b"/proc/acpi",
    b"/proc/kcore",
    b"/proc/keys",
    b"/proc/latency_stats",
    b"/proc/timer_list",
    b"/proc/sched_debug",
    b"/proc/scsi",
    b"/sys/firmware",
    b"/sys/devices/virtual/powercap",
]
READ_ONLY = [b"/proc/bus", b"/proc/fs", b"/proc/irq", b"/proc/sys", b"/proc/sysrq-trigger"]
INSTANCES = itertools.count()
APPLETS = """sh true cat id ls mount umount sleep kill env touch chmod grep hostname readlink stat mknod unshare ps echo
    mkdir test wc chroot dd printf setsid pwd sync head find rm ln tr od usleep"""
CAPABILITIES = [0, 1, 3, 4, 5, 6, 7, 8, 10, 18, 31]


class Refused(Exception):
    """The answer was an error."""

    def __init__(self, error: dict[str, Any]) -> None:
        super().__init__(f"{error['code']}: {error['message']} (step {error.get('step')}, hint {error.get('hint')})")
        self.code: str = error["code"]
        self.step: str | None = error.get("step")
        self.errno: int | None = error.get("errno")
        self.hint: str | None = error.get("hint")


class Client:
    """One connection; requests are answered in any order, so answers are kept by their number."""

    def __init__(self, path: Path) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.settimeout(REPLY_TIMEOUT_S)
        self.sock.connect(str(path))
        self.last_id = 0
        self.answers: dict[int, tuple[dict[str, Any], list[int]]] = {}
        self.events: list[dict[str, Any]] = []

    def close(self) -> None:
        self.sock.close()

    def send(self, op: str, body: dict[str, Any], fds: list[int] | None = None) -> int:
        self.last_id += 1
        payload = msgspec.msgpack.encode({"id": self.last_id, "op": op, "body": body})
        control = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.sock.sendmsg([struct.pack("<HI", 1, len(payload)), payload], control)
        return self.last_id

    def receive(self) -> None:
        datagram, control, flags, _ = self.sock.recvmsg(200_000, socket.CMSG_SPACE(65 * 4), socket.MSG_CMSG_CLOEXEC)
        assert flags & (socket.MSG_CTRUNC | socket.MSG_TRUNC) == 0
        if not datagram:
            raise ConnectionError("the other end closed")
        fds = array.array("i")
        for level, kind, data in control:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                fds.frombytes(data[: len(data) - len(data) % 4])
        version, length = struct.unpack("<HI", datagram[:6])
        assert (version, length) == (1, len(datagram) - 6)
        message = msgspec.msgpack.decode(datagram[6:])
        if "event" in message:
            self.events.append(message)
        else:
            self.answers[message["id"]] = (message, list(fds))

    def answer(self, number: int) -> tuple[dict[str, Any], list[int]]:
        while number not in self.answers:
            self.receive()
        message, fds = self.answers.pop(number)
        if "error" in message:
            raise Refused(message["error"])
        return message["body"], fds

    def ask(self, op: str, /, **body: Any) -> tuple[dict[str, Any], list[int]]:
        return self.answer(self.send(op, body))

    def do(self, op: str, **body: Any) -> dict[str, Any]:
        """A request whose descriptors are of no interest."""
        reply, fds = self.ask(op, **body)
        for fd in fds:
            os.close(fd)
        return reply

    def event(self, name: str) -> dict[str, Any]:
        while True:
            for index, event in enumerate(self.events):
                if event["event"] == name:
                    body: dict[str, Any] = self.events.pop(index)["body"]
                    return body
            self.receive()


def program() -> Path:
    """The built `zos-init`."""
    named = os.environ.get("ZOS_INIT")
    path = Path(named) if named else REPOSITORY / "native/bin/zos-init"
    if not path.is_file():
        pytest.skip(f"{path} is not built")
    return path


def cgroup2_root() -> Path:
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        fields = line.split()
        if fields[fields.index("-") + 1] == "cgroup2":
            return Path(fields[4])
    pytest.skip("no cgroup2 is mounted")


def static_busybox() -> Path:
    found = shutil.which("busybox")
    if found is None or Path(found).read_bytes()[:4] != b"\x7fELF":
        pytest.skip("no busybox")
    if b"ld-linux" in Path(found).read_bytes()[:4096]:
        pytest.skip("busybox is not static (apt install busybox-static)")
    return Path(found)


def make_tree(tree: Path) -> None:
    """A root file system of one static program."""
    for name in ("bin", "etc", "tmp", "root", "proc", "work", "opt"):
        (tree / name).mkdir(parents=True)
    (tree / "tmp").chmod(0o1777)
    (tree / "opt").chmod(0o700)
    shutil.copy2(static_busybox(), tree / "bin/busybox")
    for name in APPLETS.split():
        (tree / "bin" / name).symlink_to("busybox")
    (tree / "etc/passwd").write_text("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/work:/bin/sh\n")
    (tree / "etc/resolv.conf").symlink_to("../run/nowhere")
    (tree / "bin/not-executable").write_text("#!/bin/sh\necho no\n")
    (tree / "bin/no-header").write_text("echo no\n")
    (tree / "bin/no-header").chmod(0o755)
    (tree / "bin/no-interpreter").write_text("#!/nowhere\n")
    (tree / "bin/no-interpreter").chmod(0o755)
    header = bytearray((tree / "bin/busybox").read_bytes()[:4096])
    header[18:20] = struct.pack("<H", 22 if os.uname().machine != "s390x" else 62)
    (tree / "bin/foreign").write_bytes(header)
    (tree / "bin/foreign").chmod(0o755)


@dataclass
class Tree:
    """hold and spawn at work."""

    directory: Path
    cgroup: Path
    hold: Client
    spawn: Client
    process: subprocess.Popen[bytes]
    seen_exits: int = 0
    counter: int = 0
    exits: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def state(self) -> Path:
        return self.directory / "state"

    def new_cgroup(self, name: str) -> Path:
        path = self.cgroup / name.replace("/", "_")
        path.mkdir(exist_ok=True)
        return path

    def launch_body(self, name: str, *args: str | bytes, **changes: Any) -> dict[str, Any]:
        body: dict[str, Any] = {
            "name": name,
            "generation": 1,
            "image": IMAGE,
            "upper": f"containers/{name}/upper",
            "work": f"containers/{name}/work",
            "args": [a.encode() if isinstance(a, str) else a for a in args],
            "env": [b"PATH=/bin", b"HOME=/root"],
            "cwd": b"/",
            "user": {"uid": 0, "gid": 0, "groups": []},
            "hostname": "box",
            "netns": None,
            "cgroup": str(self.new_cgroup(name)),
            "readonly_root": False,
            "rlimits": [],
            "capabilities": CAPABILITIES,
            "no_new_privileges": True,
            "seccomp": "default",
            "masked": MASKED,
            "readonly": READ_ONLY,
            "init": True,
            "shm_bytes": 65_536,
        }
        body.update(changes)
        (self.state / "containers" / name).mkdir(parents=True, exist_ok=True)
        return body

    def launch(self, name: str, *args: str | bytes, **changes: Any) -> dict[str, Any]:
        reply, fds = self.spawn.ask("launch", **self.launch_body(name, *args, **changes))
        assert len(fds) == 1, "the pidfd"
        os.close(fds[0])
        return reply

    def exec(self, target: str, number: int, *args: str | bytes, **changes: Any) -> str:
        name = f"{target}/exec-{number}"
        body: dict[str, Any] = {
            "name": name,
            "generation": 1,
            "target": target,
            "args": [a.encode() if isinstance(a, str) else a for a in args],
            "env": [b"PATH=/bin"],
            "cwd": b"/",
            "user": {"uid": 0, "gid": 0, "groups": []},
            "capabilities": CAPABILITIES,
            "cgroup": str(self.cgroup / target),
        }
        body.update(changes)
        self.spawn.do("exec", **body)
        return name

    def output(self, name: str, stream: str = "stdout") -> bytes:
        """Everything that the process writes until the last writer has gone."""
        _, [fd] = self.hold.ask("get", names=[f"log/{name}/{stream}"])
        with open(fd, "rb") as file:
            return file.read()

    def lines(self, name: str, count: int) -> list[str]:
        """The first lines of a process that goes on."""
        _, [fd] = self.hold.ask("get", names=[f"log/{name}/stdout"])
        with open(fd, "rb", buffering=0) as file:
            data = b""
            while data.count(b"\n") < count:
                more = file.read(65_536)
                assert more, data
                data += more
        return data.decode().splitlines()

    def wait_exit(self, name: str) -> dict[str, Any]:
        """The record of the end of a process; each is given once."""
        while name not in self.exits:
            event = self.hold.event("exit")
            self.exits[event["name"]] = event
        return self.exits.pop(name)

    def run(self, *args: str | bytes, **changes: Any) -> tuple[int | None, str, str]:
        """Launch, wait, and give status, stdout and stderr; the shell command if there is one argument."""
        self.counter += 1
        name = changes.pop("name", f"c{self.counter}")
        self.launch(name, *(("/bin/sh", "-c", *args) if len(args) == 1 else args), **changes)
        return self.finish(name)

    def finish(self, name: str) -> tuple[int | None, str, str]:
        out, err = self.output(name), self.output(name, "stderr")
        code: int | None = self.wait_exit(name)["code"]
        self.hold.do("drop", names=[f"log/{name}/stdout", f"log/{name}/stderr"])
        return code, out.decode(), err.decode()

    def mount_extracted(self) -> None:
        make_tree(self.state / "tree")
        self.spawn.do("mount_image", image=IMAGE, provider="extract", meta=None, blob=None, tree="tree")

    def reconnect(self) -> None:
        """A connection to the spawn that runs now."""
        self.spawn.close()
        self.spawn = Client(self.directory / "run/spawn.sock")

    def service(self, name: str = "spawn") -> dict[str, Any]:
        found: list[dict[str, Any]] = self.hold.do("services")["services"]
        return next(service for service in found if service["name"] == name)


def service_table(directory: Path, instance: str, *more: str) -> dict[str, Any]:
    return {
        "instance": instance,
        "run_dir": str(directory / "run"),
        "log_dir": str(directory / "log"),
        "listeners": [{"name": "spawn", "path": "spawn.sock"}],
        "services": [
            {
                "name": "spawn",
                "argv": ["zos-spawn", "spawn", "--state", str(directory / "state"), *more],
                "env": {},
                "program": "self",
                "ready_timeout_ms": 10_000,
                "stop_timeout_ms": 2_000,
                "restarts_max": 50,
                "restart_window_ms": 100,
                "fallback": None,
            }
        ],
    }


@contextmanager
def running(directory: Path, *more: str) -> Iterator[Tree]:
    """hold and spawn below `directory`, and nothing of them afterwards."""
    for name in ("run", "log", "state"):
        (directory / name).mkdir(mode=0o700)
    instance = f"t-spawn-{os.getpid()}-{next(INSTANCES)}"
    cgroup = cgroup2_root() / instance
    with ExitStack() as stack:
        cgroup.mkdir(exist_ok=True)
        stack.callback(remove_cgroup, cgroup)
        table = os.memfd_create("table")
        os.write(table, msgspec.msgpack.encode(service_table(directory, instance, *more)))
        os.lseek(table, 0, os.SEEK_SET)
        read, write = os.pipe()
        # In a mount namespace of its own, so that what is mounted there is ours.
        command = ["unshare", "--mount", "--propagation", "private"]
        command += [str(program()), "hold", "--table", str(table), "--ready", str(write)]
        process = subprocess.Popen(command, pass_fds=(table, write))
        stack.callback(stop, process)
        os.close(table)
        os.close(write)
        with open(read, "rb") as file:
            said = file.read()
        logs = "".join(path.read_text() for path in (directory / "log").iterdir())
        assert said == b"1", (said, logs)
        hold = Client(directory / "run/hold.sock")
        stack.callback(hold.close)
        hold.do("subscribe")
        tree = Tree(directory, cgroup, hold, Client(directory / "run/spawn.sock"), process)
        stack.callback(lambda: tree.spawn.close())
        mounts = Path(f"/proc/{process.pid}/mountinfo")
        before = mounts.read_text()
        yield tree
        assert mounts.read_text() == before
        hold.do("shutdown")
        # With the last descriptors of hold goes the last mount.
        assert process.wait(REPLY_TIMEOUT_S) == 0
        assert list((directory / "run").iterdir()) == []
        assert processes_of(directory) == []


def stop(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(REPLY_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def remove_cgroup(path: Path) -> None:
    if (path / "cgroup.kill").exists():
        (path / "cgroup.kill").write_text("1")
    for child in path.iterdir():
        if child.is_dir():
            remove_cgroup(child)
    wait_empty(path)
    path.rmdir()


def wait_empty(path: Path) -> None:
    """Until the last process of a cgroup has been reaped."""
    import select

    with open(path / "cgroup.events") as events:
        poller = select.poll()
        poller.register(events, select.POLLPRI)
        while True:
            events.seek(0)
            if "populated 0" in events.read():
                return
            assert poller.poll(10_000), f"{path} does not become empty"


def processes_of(directory: Path) -> list[str]:
    """Processes that have this directory on their command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                line = (entry / "cmdline").read_bytes()
            except OSError:
                continue
            if str(directory).encode() in line:
                found.append(line.decode(errors="replace"))
    return found
