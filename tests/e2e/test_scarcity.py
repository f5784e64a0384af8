"""The disk is full: a command fails with a reason, what runs runs on, nothing is left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.node_tool import Hub, Node, Reading, large_sums, problem
from zos_core.base.paths import Instance

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

DISK_BYTES = 64 << 20
PRINTED_LINES = 60_000


@pytest.fixture
def small_node(store: Path, tmp_path: Path) -> Iterator[Node]:
    """A node whose state lies on an ext4 of 64 MiB."""
    if shutil.which("mkfs.ext4") is None:
        pytest.skip("no mkfs.ext4 (e2fsprogs)")
    node = Node(store=store, config=store)
    state, disk = Instance(node.instance).state_dir, tmp_path / "disk"
    state.mkdir(parents=True)
    with disk.open("wb") as file:
        file.truncate(DISK_BYTES)
    subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(disk)], check=True)
    subprocess.run(["mount", "-o", "loop", str(disk), str(state)], check=True)
    try:
        node.up()
        yield node
        done = node.zos("down", "--grace", "1")
        assert done.status == 0, done.err
    finally:
        subprocess.run(["umount", str(state)], check=True)
        state.rmdir()


def fill(directory: Path) -> Path:
    """Take all that is left of a disk, to the last byte."""
    ballast = directory / "ballast"
    with ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue
        os.fsync(file.fileno())
    return ballast


def test_a_full_disk(small_node: Node, hub: Hub) -> None:
    node = small_node
    state = Instance(node.instance).state_dir
    go = "while [ ! -e /go ]; do usleep 20000; done; rm /go"
    # It reads and prints while the disk is full, and has to end all the same.
    reading = f"echo up; {go}; sha256sum /data/03 2>/dev/null || echo failed; {go}; sha256sum /data/03; exit 4"
    printing = f"echo up; {go}; seq {PRINTED_LINES}; exit 6"
    readers = Reading(node.start("--name", "reader", "small", command=["sh", "-c", reading], store=hub.url))
    printers = Reading(
        node.start("--name", "printer", "small", command=["busybox", "sh", "-c", printing], store=hub.url)
    )
    readers.wait_lines(1)
    printers.wait_lines(1)
    ballast = fill(state)

    refused = node.zos("run", "--json", "--store", hub.url, "--name", "late", "small", "--", "true")
    assert refused.status == 125, refused
    said = problem(refused)
    assert said["code"] != "http.internal", said
    assert "space" in json.dumps(said).lower(), said
    assert sorted(node.names()) == ["printer", "reader"]
    for name in ("reader", "printer"):
        (Path("/proc") / str(pid_of(node, name)) / "root/go").touch()
    printer = printers.end()
    assert printer == 6, printers.err + node.service_logs()

    ballast.unlink()
    (Path("/proc") / str(pid_of(node, "reader")) / "root/go").touch()
    assert readers.end() == 4, readers.err + node.service_logs()
    assert readers.lines[-1] == large_sums()[3]
    assert node.inspect("printer")["exit_code"] == 6
    log = node.zos("logs", "printer")
    numbers = [int(line) for line in log.out.splitlines() if line.isdecimal()]
    assert numbers == sorted(set(numbers)), "lines came twice or out of order"
    for name in ("reader", "printer"):
        assert node.zos("rm", name).status == 0
    again = node.run("--rm", "small", command=["echo", "again"], store=hub.url)
    assert (again.status, again.out) == (0, "again\n"), again.err + node.service_logs()
    assert node.footprint_without_services() == []


def pid_of(node: Node, name: str) -> int:
    """The program of a container, below its own pid 1."""
    first = node.inspect(name)["pid"]
    return int(Path(f"/proc/{first}/task/{first}/children").read_text().split()[0])
