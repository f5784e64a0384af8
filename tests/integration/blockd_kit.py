"""A real hold with spawn and blockd, tiny images made here, and an HTTP server for their store that can misbehave.

The images are written from `docs/spec/flist-v1.md` alone, not by our builder, so that the tests judge both ends.
"""

from __future__ import annotations

import http.server
import os
import re
import signal
import socket
import struct
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

import zstandard
from blake3 import blake3

from native.programs import program
from tests.hold_tool import Holding, HoldTool, Starter, descendants

BLOCK = 4096
PAGE_UNITS = 256
CUT_AT = 1000
IMAGE = "b1" * 32


@dataclass(frozen=True)
class Image:
    """An image in a store on disk."""

    store: Path
    units: tuple[bytes, ...]
    root: bytes
    pages: int
    blocks: int
    packs: tuple[str, ...]
    places: tuple[tuple[int, int, int], ...]

    @property
    def blob(self) -> bytes:
        """What a reader must see: units, each padded with zeros to a block."""
        return b"".join(unit + bytes(-len(unit) % BLOCK) for unit in self.units)

    def address(self, unit: int) -> int:
        return sum(-(-len(plain) // BLOCK) * BLOCK for plain in self.units[:unit])

    def wire_size(self) -> int:
        return sum(size for _, _, size in self.places)

    def pack_of(self, unit: int) -> Path:
        return self.store / "pack" / self.packs[self.places[unit][0]]

    def damage(self, unit: int) -> bytes:
        """Flip the bytes of one unit in its pack; gives what the pack was."""
        pack = self.pack_of(unit)
        good = pack.read_bytes()
        _, offset, size = self.places[unit]
        pack.write_bytes(
            good[:offset] + bytes(byte ^ 0x55 for byte in good[offset : offset + size]) + good[offset + size :]
        )
        return good

    def plan(self, directory: Path, *sources: dict[str, str], **changes: Any) -> dict[str, Any]:
        plan: dict[str, Any] = {
            "image": IMAGE,
            "index": {"root": self.root, "pages": self.pages, "units": len(self.units), "blocks": self.blocks},
            "dir": str(directory),
            "sources": list(sources) or [{"kind": "dir", "path": str(self.store)}],
            "fetch_timeout_ms": 5000,
            "read_deadline_ms": 10_000,
            "cache_bytes_max": 0,
            "serve": True,
        }
        return plan | changes


def plain_unit(number: int, size: int) -> bytes:
    """Bytes that are like no other unit's; every third does not shrink."""
    if number % 3 == 0:
        return blake3(b"%d" % number).digest(length=size)
    line = b"unit %d of a test image, which shrinks well\n" % number
    return (line * (size // len(line) + 1))[:size]


def make_image(store: Path, sizes: Sequence[int], *, units_of_pack: int = 64) -> Image:
    """Write page list, pages, packs and locator of units of these sizes."""
    units = tuple(plain_unit(number, size) for number, size in enumerate(sizes))
    for name in ("index", "pack", "locator", "meta"):
        (store / name).mkdir(parents=True, exist_ok=True)
    packs: list[str] = []
    places: list[tuple[int, int, int]] = []
    entries = b""
    for start in range(0, len(units), units_of_pack):
        pack = b""
        for plain in units[start : start + units_of_pack]:
            stored = zstandard.compress(plain)
            raw = len(stored) >= len(plain)
            stored = plain if raw else stored
            places.append((len(packs), len(pack), len(stored)))
            entries += struct.pack("<III", len(packs), len(pack), len(stored) | raw << 31)
            pack += stored
        name = blake3(pack).hexdigest()
        (store / "pack" / name).write_bytes(pack)
        packs.append(name)
    refs, block = b"", 0
    for start in range(0, len(units), PAGE_UNITS):
        part = units[start : start + PAGE_UNITS]
        page = struct.pack("<IIII", 0x31495A46, len(part), block, 0)
        page += b"".join(struct.pack("<I", len(plain)) for plain in part)
        page += b"".join(blake3(plain).digest() for plain in part)
        digest = blake3(page).digest()
        (store / "index" / digest.hex()).write_bytes(page)
        refs += digest + struct.pack("<I", block)
        block += sum(-(-len(plain) // BLOCK) for plain in part)
    pages = len(refs) // 36
    page_list = b"ZOSPLIST" + struct.pack("<HHIII", 1, 0, pages, len(units), block) + refs
    root = blake3(page_list).digest()
    (store / "index" / root.hex()).write_bytes(page_list)
    head = b"ZOSLOCAT" + struct.pack("<HHIII", 1, 0, len(packs), len(units), 0)
    locator = head + b"".join(bytes.fromhex(name) for name in packs) + entries
    (store / "locator" / root.hex()).write_bytes(locator)
    return Image(store, units, root, pages, block, tuple(packs), tuple(places))


def mixed_sizes(count: int) -> list[int]:
    """Sizes at which things turn, and ordinary ones."""
    edges = [1, 4095, 4096, 4097, 65_535, 65_536, 262_143, 262_144]
    return [edges[number % 8] if number % 5 == 0 else 3000 + 977 * number % 60_000 for number in range(count)]


class StoreServer:
    """Serves a store over HTTP with ranges. `gate` closed: requests wait. `fail`: status for everything but 0."""

    def __init__(self, store: Path, port: int = 0) -> None:
        outer = self
        self.gate = threading.Event()
        self.gate.set()
        self.fail = 0
        self.cut_packs = False
        self.paths: list[str] = []
        self.connections: list[socket.socket] = []
        self.bytes_sent = 0

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def setup(self) -> None:
                super().setup()
                outer.connections.append(self.connection)

            def do_GET(self) -> None:
                outer.paths.append(self.path)
                outer.gate.wait(30)
                if outer.fail:
                    return self.send_error(outer.fail)
                with suppress(FileNotFoundError), open(store / self.path.lstrip("/"), "rb") as file:
                    return self.send(file)
                self.send_error(404)

            def send(self, file: BinaryIO) -> None:
                size = os.fstat(file.fileno()).st_size
                first, last = 0, size - 1
                wanted = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
                if wanted:
                    first, last = int(wanted[1]), min(int(wanted[2]), size - 1)
                    if first >= size:
                        return self.send_error(416)
                    self.send_response(206)
                    self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
                else:
                    self.send_response(200)
                file.seek(first)
                data = file.read(last + 1 - first)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                cut = outer.cut_packs and self.path.startswith("/pack/")
                with suppress(OSError):
                    self.wfile.write(data[:CUT_AT] if cut else data)
                outer.bytes_sent += len(data)
                if cut:
                    self.close_connection = True

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(http.server.ThreadingHTTPServer):
            daemon_threads = True
            allow_reuse_address = True

            def handle_error(self, request: object, client_address: object) -> None:
                pass

        self.server = Server(("127.0.0.1", port), Handler)
        self.port: int = self.server.server_address[1]
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True)
        self.thread.start()

    @property
    def source(self) -> dict[str, str]:
        return {"kind": "http", "url": f"http://127.0.0.1:{self.port}"}

    def requests(self, prefix: str) -> int:
        return sum(path.startswith(prefix) for path in self.paths)

    def close(self) -> None:
        self.gate.set()
        self.server.shutdown()
        self.server.server_close()
        for connection in self.connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)


@contextmanager
def serving(store: Path) -> Iterator[StoreServer]:
    server = StoreServer(store)
    try:
        yield server
    finally:
        server.close()


@dataclass
class Tree:
    """hold, spawn and blockd at work."""

    directory: Path
    holding: Holding
    hold: HoldTool
    spawn: HoldTool
    blockd: HoldTool
    open_files: list[int] = field(default_factory=list)

    def fuse_open(self, image: str = IMAGE) -> None:
        self.spawn.ask("fuse_open", image=image)

    def add(self, plan: dict[str, Any]) -> dict[str, Any]:
        return self.blockd.ask("add", **plan)

    def status(self) -> dict[str, Any]:
        return self.blockd.ask("status", image=IMAGE)

    def file(self, image: str = IMAGE) -> int:
        """A descriptor of the FUSE file."""
        [mount] = self.hold.get(f"fusemnt/{image}")
        fd = os.open(f"/proc/self/fd/{mount}", os.O_RDONLY)
        os.close(mount)
        self.open_files.append(fd)
        return fd

    def serve(self, image: Image, *sources: dict[str, str], **changes: Any) -> int:
        """Everything up to a descriptor of the FUSE file."""
        self.fuse_open()
        self.add(image.plan(self.directory / "image", *sources, **changes))
        return self.file()

    def pid(self) -> int:
        pid: int = self.hold.service("blockd")["pid"]
        return pid

    def kill(self, pid: int) -> None:
        """SIGKILL, and no wait: the successor is hold's business."""
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    def reconnect(self) -> None:
        self.blockd.socket.close()
        self.blockd = connect(self.holding.run_dir / "blockd.sock")

    def log(self) -> str:
        return self.holding.log("blockd")


def connect(path: Path) -> HoldTool:
    return HoldTool(path)


def read_all(fd: int, size: int, step: int = 128 << 10) -> bytes:
    """The whole file in reads of `step` bytes."""
    return b"".join(os.pread(fd, min(step, size - at), at) for at in range(0, size, step))


def zos_io() -> Path:
    given = os.environ.get("ZOS_IO")
    return Path(given) if given else program("zos-io")


@contextmanager
def running(start_hold: Starter, directory: Path, **more: object) -> Iterator[Tree]:
    """hold, spawn and blockd, and nothing of them afterwards."""
    (directory / "state").mkdir(mode=0o700)
    limits: dict[str, object] = {
        "ready_timeout_ms": 10_000,
        "stop_timeout_ms": 5000,
        "restarts_max": 1000,
        "restart_window_ms": 10_000,
    }
    spawn: dict[str, object] = {
        "name": "spawn",
        "argv": ["zos-spawn", "spawn", "--state", str(directory / "state")],
        "env": {},
        "program": "self",
        "fallback": None,
    }
    blockd: dict[str, object] = {
        "name": "blockd",
        "argv": [str(zos_io()), "block"],
        "env": {},
        "program": "exec",
        "fallback": [str(zos_io()), "refuse"],
    }
    listeners = [{"name": name, "path": f"{name}.sock"} for name in ("spawn", "blockd")]
    holding = start_hold(spawn | limits, blockd | limits | more, listeners=listeners)
    with ExitStack() as stack:
        run_dir = holding.run_dir
        tree = Tree(
            directory, holding, holding.tool(), connect(run_dir / "spawn.sock"), connect(run_dir / "blockd.sock")
        )
        stack.callback(end, tree)
        yield tree


def end(tree: Tree) -> None:
    """End everything, and see that nothing is left."""
    for fd in tree.open_files:
        with suppress(OSError):
            os.close(fd)
    children = descendants(tree.holding.pid)
    tree.spawn.socket.close()
    tree.blockd.socket.close()
    tree.holding.end()
    left = [pid for pid in children if Path(f"/proc/{pid}").exists()]
    assert not left, f"processes left: {left}"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
