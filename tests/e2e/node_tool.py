"""A real node for tests: the `zos` command, a hub that can misbehave, and a small image of one static program."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import pytest

from flist.manifest import SignedManifest, encode_manifest
from flist.sign import sign_manifest
from tests.e2e.machine import snapshot
from tests.hold_tool import HoldTool
from tests.integration.spawn_kit import make_tree
from zos_core.base.keyring import Keyring
from zos_core.base.paths import Instance
from zos_core.base.verbs import main as verbs_main

ZOS = Path(sys.executable).parent / "zos"
TIMEOUT_S = 90
LARGE_FILES = 24
LARGE_BYTES = 700_000
# Lines of a footprint that a node without containers has.
OF_THE_TREE = (
    r"(processes|namespaces|unix_sockets|run_files|state): |cgroups: .*/zos/[^/]*(/[a-z]+)?$|kept: listen/[a-z]+$"
)
# Programs whose first page is in no other file, so that starting one waits for the hub.
LATE_PROGRAMS = 12
# What a node keeps of itself in its state directory, whatever runs.
KEPT = ("images", "log", "revisions")


@dataclass
class Done:
    """What a command printed, and its exit status."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The first value that `--json` printed."""
        return json.loads(self.out.splitlines()[0])


def problem(done: Done) -> Any:
    """The error that a command with --json printed: code, message, hint, exit_status, context."""
    return json.loads(done.out.splitlines()[-1])["error"]


def zos_here(capture: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """Run the command in this very process, which saves its start; for what is refused before anything else is done."""
    capture.readouterr()
    status = verbs_main(list(arguments))
    seen = capture.readouterr()
    return Done(status, seen.out, seen.err)


def zos(*arguments: str, timeout_s: float = TIMEOUT_S, env: dict[str, str] | None = None) -> Done:
    """Run the command to its end."""
    done = subprocess.run(
        [str(ZOS), *arguments], capture_output=True, text=True, timeout=timeout_s, env={**os.environ, **(env or {})}
    )
    return Done(done.returncode, done.stdout, done.stderr)


def large_content(number: int) -> bytes:
    """Content of /data/<number>: not compressible, the same every time."""
    block = hashlib.sha256(b"%d" % number).digest()
    return b"".join(hashlib.sha256(block + b"%d" % at).digest() for at in range(LARGE_BYTES // 32))


def make_image_tree(tree: Path) -> None:
    """busybox and 17 MB of data that no read-ahead can have fetched by chance."""
    make_tree(tree)
    (tree / "data").mkdir()
    for number in range(LARGE_FILES):
        (tree / "data" / f"{number:02}").write_bytes(large_content(number))
    program = bytearray((tree / "bin/busybox").read_bytes())
    (tree / "late").mkdir()
    for number in range(LATE_PROGRAMS):
        program[15] = 1 + number  # the last byte of e_ident, which nobody looks at
        path = tree / "late" / f"busybox-{number:02}"
        path.write_bytes(program)
        path.chmod(0o755)


def large_sums() -> list[str]:
    """What `sha256sum /data/*` prints."""
    return [f"{hashlib.sha256(large_content(n)).hexdigest()}  /data/{n:02}" for n in range(LARGE_FILES)]


class Hub:
    """A store over HTTP that does what a test tells it: `behave` gets the path and the bytes of each answer.

    `behave` returns the bytes to send; the length that is announced is the true one's. While `gate` is closed, requests
    for paths that `gated` names wait at it.
    """

    def __init__(self, store: Path) -> None:
        self.store = store
        self.behave: Callable[[str, bytes], bytes] = lambda path, data: data
        self.gate = threading.Event()
        self.gate.set()
        self.gated: Callable[[str], bool] = lambda path: True
        self.waiting = 0
        self.bytes_sent = 0
        self.asked = threading.Event()
        self._changed = threading.Condition()
        hub = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                hub.asked.set()
                if hub.gated(self.path):
                    hub._wait_at_gate()
                file = hub.store / self.path.lstrip("/")
                if not file.is_file():
                    self.send_response(404)
                    self.send_header("Content-Length", "0")
                    self.end_headers()
                    return
                data, status = file.read_bytes(), 200
                asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                total = len(data)
                if asked:
                    first, last = int(asked[1]), min(int(asked[2]), total - 1)
                    data, status = data[first : last + 1], 206
                announced = len(data)
                data = hub.behave(self.path, data)
                self.send_response(status)
                if asked:
                    self.send_header("Content-Range", f"bytes {asked[1]}-{int(asked[1]) + announced - 1}/{total}")
                self.send_header("Content-Length", str(announced))
                self.end_headers()
                self.wfile.write(data)
                hub.bytes_sent += len(data)
                if len(data) != announced:
                    self.close_connection = True

            def log_message(self, format: str, *arguments: object) -> None:
                return

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, request: Any, client_address: Any) -> None:
                if not isinstance(sys.exception(), ConnectionError):  # who asked was killed
                    super().handle_error(request, client_address)

        self._server = Server(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def pause(self, seconds: float) -> None:
        """An answer takes this long."""
        threading.Event().wait(seconds)

    def _wait_at_gate(self) -> None:
        with self._changed:
            self.waiting += 1
            self._changed.notify_all()
        self.gate.wait(TIMEOUT_S)
        with self._changed:
            self.waiting -= 1

    def wait_waiting(self, count: int) -> None:
        """Return when so many requests stand at the closed gate."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.waiting >= count, TIMEOUT_S), f"{self.waiting} of {count}"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def close(self) -> None:
        """Stop serving."""
        self.gate.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class Reading:
    """A process in the background whose output is read as it comes, so that a test can wait for a line of it."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self.process = process
        self.lines: list[str] = []
        self.err = ""
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._read), threading.Thread(target=self._read_err)]
        for thread in self._threads:
            thread.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self.lines.append(line.rstrip("\n"))
                self._changed.notify_all()

    def _read_err(self) -> None:
        assert self.process.stderr is not None
        self.err = self.process.stderr.read()

    def wait_lines(self, count: int) -> None:
        """Return when it has printed so many lines."""
        with self._changed:
            assert self._changed.wait_for(lambda: len(self.lines) >= count, TIMEOUT_S), self.lines[-5:]

    def end(self) -> int:
        """Wait for its end; its exit status."""
        try:
            status = self.process.wait(timeout=TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            for thread in self._threads:
                thread.join(TIMEOUT_S)
            for stream in (self.process.stdout, self.process.stderr):
                assert stream is not None
                stream.close()
        return status


@dataclass
class Node:
    """A node of its own instance, and the store of its image."""

    store: Path
    config: Path
    instance: str = field(default_factory=lambda: f"t-{secrets.token_hex(4)}")

    def zos(self, verb: str, *arguments: str, timeout_s: float = TIMEOUT_S) -> Done:
        """A verb of the node."""
        return zos(verb, "--instance", self.instance, *arguments, timeout_s=timeout_s)

    def run(self, *arguments: str, command: list[str], store: str | None = None) -> Done:
        """`zos run` of the test image."""
        return self.zos("run", "--store", store or str(self.store), *arguments, "--", *command)

    def start(self, *arguments: str, command: list[str], store: str | None = None) -> subprocess.Popen[str]:
        """`zos run` in the background, its output piped."""
        return self.begin("run", "--store", store or str(self.store), *arguments, "--", *command)

    def begin(self, verb: str, *arguments: str) -> subprocess.Popen[str]:
        """A verb of the node in the background, its output piped."""
        return subprocess.Popen(
            [str(ZOS), verb, "--instance", self.instance, *arguments],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def up(self) -> Any:
        """Start it; the node's own report."""
        done = self.zos("up", "--json")
        assert done.status == 0, done.err + self.service_logs()
        return done.json

    def down(self) -> None:
        """End it and delete its state."""
        done = self.zos("down", "--purge", "--grace", "1")
        assert done.status == 0, done.err

    def inspect(self, name: str) -> Any:
        """A container's state."""
        done = self.zos("inspect", "--json", name)
        assert done.status == 0, done.err
        return done.json

    def names(self) -> list[str]:
        """The containers there are."""
        done = self.zos("ps", "--json")
        assert done.status == 0, done.err
        return [json.loads(line)["name"] for line in done.out.splitlines()]

    def footprint(self) -> list[str]:
        """Everything that it has on this machine, but what it keeps: images, the services' own logs, revisions seen."""
        state = Instance(self.instance).state_dir
        files = [str(path.relative_to(state)) for path in state.rglob("*")] if state.exists() else []
        lines = [f"state: {name}" for name in files if name.split("/")[0] not in KEPT]
        if (Instance(self.instance).run_dir / "hold.sock").exists():
            with self.hold() as hold:
                lines += [f"kept: {name}" for name in hold.names()]
                lines += [f"child: {child['name']}" for child in hold.ask("children")["children"]]
        kept = ("fuse/", "fusemnt/", "slots/", "plan/", "mnt/", "logbuffer")
        lines += snapshot().of(self.instance)
        return sorted(
            line for line in lines if line != "state: containers" and not line.removeprefix("kept: ").startswith(kept)
        )

    def footprint_without_services(self) -> list[str]:
        """What of it is neither a process of the tree nor what belongs to those: nothing, when it has no containers."""
        return [line for line in self.footprint() if not re.match(OF_THE_TREE, line)]

    def wait_footprint(self, wanted: list[str]) -> None:
        """Return when it has this and nothing more; what ends by itself may take a moment."""
        pause = threading.Event()
        for _ in range(200):
            have = self.footprint()
            if have == wanted:
                return
            pause.wait(0.05)
        more, less = sorted(set(have) - set(wanted)), sorted(set(wanted) - set(have))
        raise AssertionError(f"left behind: {more}; missing: {less}")

    def hold(self) -> HoldTool:
        """A connection to its hold."""
        return HoldTool(Instance(self.instance).run_dir / "hold.sock")

    def pid(self, service: str) -> int:
        """A process of the tree, as it is now."""
        if service == "hold":
            return int((Instance(self.instance).run_dir / "lock").read_text())
        with self.hold() as hold:
            pid = hold.service(service)["pid"]
        assert pid is not None
        return int(pid)

    def kill(self, service: str) -> None:
        """SIGKILL for a process of the tree; returns when its successor is ready."""
        with self.hold() as hold:
            hold.ask("subscribe")
            os.kill(self.pid(service), signal.SIGKILL)
            hold.event("service", name=service, state="ended")
            hold.event("service", name=service, state="ready")

    def service_logs(self) -> str:
        """What the services said, for a failed assertion."""
        logs = sorted(Path(f"/var/lib/zos/{self.instance}/log").glob("*.log"))
        return "".join(f"\n== {path.name}\n{path.read_text()[-2000:]}" for path in logs)


@contextmanager
def image_store(directory: Path, *, architecture: str | None = None) -> Iterator[Path]:
    """A store with the image `small`, signed by the caller's own key."""
    tree, store = directory / "tree", directory / "store"
    make_image_tree(tree)
    done = zos(
        "flist", "build", str(tree), "--name", "small", "--store", str(store), "-o", str(directory / "small.flist")
    )
    assert done.status == 0, done.err
    yield store
    shutil.rmtree(tree)


def make_variant(image: SignedManifest, directory: Path) -> Path:
    """Write a .flist file of the image in another revision."""
    revision = 2 + secrets.randbelow(1 << 60)
    changed = SignedManifest(encode_manifest(msgspec.structs.replace(image.manifest, revision=revision)))
    file = directory / f"{revision}.flist"
    file.write_bytes(sign_manifest(changed, Keyring.of().own_key()).encode())
    return file


def lines_of(process: subprocess.Popen[str]) -> list[str]:
    """The rest of its output, as lines, once it has ended."""
    out, err = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 0, err
    return out.splitlines()
