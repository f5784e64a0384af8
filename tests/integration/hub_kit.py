"""A hub that can be killed, and a wire between it and a publisher that is cut, or kills somebody, at a certain byte."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import struct
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.zos_tool import Zos

READY_TIMEOUT_S = 60
PIECE_BYTES = 16_384


class HubProcess:
    """`zos hub serve` on a port that stays the same over restarts."""

    def __init__(self, zos: Zos, root: Path, *options: str | Path) -> None:
        self.zos, self.root, self.options = zos, root, options
        self.port = 0
        self.process: subprocess.Popen[str] | None = None
        root.mkdir(exist_ok=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> str:
        listen = f"127.0.0.1:{self.port}"
        self.process = self.zos.start("hub", "serve", "--store", self.root, "--listen", listen, "--json", *self.options)
        assert self.process.stdout is not None
        ready, _, _ = select.select([self.process.stdout], [], [], READY_TIMEOUT_S)
        assert ready, "the hub did not say that it is ready"
        line = self.process.stdout.readline()
        assert line, self.process.communicate(timeout=10)
        said = json.loads(line)
        assert "url" in said, said
        self.port = int(said["url"].rpartition(":")[2])
        return self.url

    def kill(self) -> str:
        """SIGKILL, and wait for the end; what it had said on stderr."""
        return self._end(signal.SIGKILL)

    def stop(self) -> None:
        """SIGTERM; nothing was said on stderr."""
        assert self.process is not None
        process = self.process
        err = self._end(signal.SIGTERM)
        assert (process.returncode, err) == (0, "")

    def _end(self, number: signal.Signals) -> str:
        if self.process is None:
            return ""
        self.process.send_signal(number)
        _, err = self.process.communicate(timeout=30)
        self.process = None
        return err

    @contextlib.contextmanager
    def running(self) -> Iterator[str]:
        yield self.start()
        self.stop()


class Wire:
    """A TCP relay to a hub, which knows it by name. After `after` bytes towards the hub, `act`, and it is cut."""

    def __init__(self, hub: HubProcess, *, after: int | None = None, act: Callable[[], object] | None = None) -> None:
        self._hub = hub
        self._after = after
        self._act = act
        self._lock = threading.Lock()
        self.sent = bytearray()
        self.cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listener.getsockname()[1]}"
        hub.options = (*hub.options, "--name", self.url.removeprefix("http://"))
        self._sockets: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
            each.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._hub.port))
            except OSError:
                client.close()
                continue
            self._sockets += [client, server]
            threading.Thread(target=self._relay, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._relay, args=(server, client, False), daemon=True).start()

    def _relay(self, source: socket.socket, target: socket.socket, counted: bool) -> None:
        try:
            while data := source.recv(PIECE_BYTES):
                if counted and not self._count(data, target):
                    return
                if (not counted and not self.cut.is_set()) or counted:
                    target.sendall(data)
        except OSError:
            pass
        finally:
            for each in (source, target):
                with contextlib.suppress(OSError):  # the other direction's thread may have been here
                    each.shutdown(socket.SHUT_RDWR)
                if self.cut.is_set():
                    # Reset whoever sends: after a mere close one whose window is shut asks for room for a minute.
                    with contextlib.suppress(OSError):
                        each.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                    each.close()

    def _count(self, data: bytes, target: socket.socket) -> bool:
        """Whether to relay `data` whole; at the byte of the cut the part before it goes, then `act` is called."""
        with self._lock:
            if self.cut.is_set():
                return False
            left = None if self._after is None else self._after - len(self.sent)
            if left is None or left > len(data):
                self.sent += data
                return True
            self.sent += data[:left]
            self.cut.set()
            target.sendall(data[:left])
        assert self._act is not None
        self._act()
        return False


def objects(root: Path) -> set[str]:
    """What a reader of the hub could ask for."""
    return {
        str(path.relative_to(root))
        for path in root.rglob("*")
        if path.is_file() and path.relative_to(root).parts[0] != "hub"
    }


def staged(root: Path) -> set[str]:
    """Names of what lies in the hub's staging."""
    return {path.name for path in (root / "hub" / "staged").rglob("*") if path.is_file()}


def kill(process: subprocess.Popen[str]) -> Callable[[], None]:
    def act() -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)

    return act
