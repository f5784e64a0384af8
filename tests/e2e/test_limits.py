"""A node at the end of its descriptors, or of its disk: it says so in time, what runs goes on, and it recovers."""

from __future__ import annotations

import json
import resource
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.disks import SmallDisk, disk_file, small_disk
from tests.e2e.node_tool import TIMEOUT_S, ZOS, Done, Node, Reading, large_sums, make_image_tree, problem, zos
from zos_core.base.frame import socket_address
from zos_core.base.paths import Instance

pytestmark = pytest.mark.root

# A command that takes longer has waited for something: most of this is the start of Python under load.
AT_ONCE_S = 20.0
FEW_DESCRIPTORS = 140
COUNTER = "i=0; while sleep 0.1; do i=$((i+1)); echo $i; done"


def timed(node: Node, *arguments: str) -> Done:
    """A verb of the node that must not take long, whatever becomes of it."""
    began = time.monotonic()
    done = node.zos(*arguments)
    assert time.monotonic() - began < AT_ONCE_S, arguments
    return done


def check_refused(done: Done, code: str, *parts: str) -> None:
    """The command failed with this error, which says these things, and with a hint."""
    told = problem(done)
    assert told["code"] == code, done.out + done.err
    assert all(part in told["message"] for part in parts), told
    assert told["hint"]


@contextmanager
def crowded(node: Node, *, limit: int) -> Iterator[None]:
    """Let the supervisor have few descriptors, and take as many as it gives away by connections to its API."""
    pid = node.pid("supervisor")
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        with ExitStack() as stack, socket_address(Instance(node.instance).socket("api")) as address:
            for _ in range(limit):
                client = stack.enter_context(socket.socket(socket.AF_UNIX))
                client.settimeout(TIMEOUT_S)
                client.connect(address)
                client.sendall(b"GET /v1/node HTTP/1.1\r\nHost: zos\r\n\r\n")
                if b" 503 " in client.recv(65_536).splitlines()[0]:
                    break
            else:
                raise AssertionError("everybody was let in")
            yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def test_a_supervisor_without_descriptors_says_so_and_recovers(node: Node) -> None:
    follower = Reading(node.start("--rm", "--name", "counter", "small", command=["sh", "-c", COUNTER]))
    follower.wait_lines(1)
    pid = node.pid("supervisor")
    with crowded(node, limit=128):
        check_refused(timed(node, "ps", "--json"), "base.no-descriptors", "zos node", "(RLIMIT_NOFILE) is 128")
        refused = timed(node, "run", "--json", "--store", str(node.store), "--name", "no", "small", "--", "true")
        assert refused.status == 125
        check_refused(refused, "base.no-descriptors", "(RLIMIT_NOFILE) is 128")
        follower.wait_lines(len(follower.lines) + 5)
    assert node.names() == ["counter"]
    assert node.run("--rm", "--name", "yes", "small", command=["echo", "yes"]).out == "yes\n"
    assert node.pid("supervisor") == pid
    assert node.zos("stop", "counter").status == 0
    follower.end()
    assert follower.lines == [str(1 + number) for number in range(len(follower.lines))]


def test_a_node_of_few_descriptors_starts_what_fits(store: Path) -> None:
    node = Node(store=store, config=store)
    prlimit = shutil.which("prlimit")
    assert prlimit is not None
    up = [prlimit, f"--nofile={FEW_DESCRIPTORS}", str(ZOS), "up", "--instance", node.instance]
    subprocess.run(up, check=True, capture_output=True, timeout=TIMEOUT_S)
    try:
        first = Reading(node.start("--name", "c0", "small", command=["sh", "-c", COUNTER]))
        first.wait_lines(1)
        empty = node.footprint_without_services()
        running = ["c0"]
        while True:
            assert len(running) < 60, "the limit was never reached"
            name = f"c{len(running)}"
            arguments = ("--json", "-d", "--store", str(store), "--name", name, "small", "--", "sleep", "1000")
            done = timed(node, "run", *arguments)
            if done.status:
                break
            running.append(name)
        check_refused(done, "base.no-descriptors", f"(RLIMIT_NOFILE) is {FEW_DESCRIPTORS}")
        assert sorted(node.names()) == sorted(running), "nothing of what failed is left"
        first.wait_lines(len(first.lines) + 5)
        readers = [Reading(node.begin("logs", "-f", "c0")) for _ in range(3)]
        for reader in readers:
            reader.wait_lines(len(first.lines))
        for freed in running[-2:]:
            assert node.zos("rm", "--force", freed).status == 0
        assert timed(node, "run", *arguments).status == 0, "there is room again"
        for each in [*running[1:-2], name]:
            assert node.zos("rm", "--force", each).status == 0
        assert node.footprint_without_services() == empty
        assert node.zos("stop", "c0").status == 0
        first.end()
        for reader in readers:
            assert reader.end() == 0
            assert reader.lines == first.lines
    finally:
        node.down()


# --- Full disks ----------------------------------------------------------------------------------------------------


@contextmanager
def node_with(store: Path, part: str, size: str) -> Iterator[tuple[Node, SmallDisk]]:
    """A running node, a part of whose state directory is a small disk."""
    node = Node(store=store, config=store)
    state = Instance(node.instance).state_dir
    try:
        with small_disk(state / part, size) as disk:
            node.up()
            try:
                yield node, disk
            finally:
                assert node.zos("down", "--grace", "1").status == 0
    finally:
        shutil.rmtree(state)


def until(condition: Callable[[], bool]) -> None:
    pause = threading.Event()
    for _ in range(200):
        if condition():
            return
        pause.wait(0.05)
    raise AssertionError("the condition never came true")


def test_no_room_for_documents(store: Path) -> None:
    with node_with(store, "documents", "192k") as (node, disk):
        empty = node.footprint_without_services()
        follower = Reading(node.start("--name", "counter", "small", command=["sh", "-c", COUNTER]))
        follower.wait_lines(1)
        for name in ("old", "gone"):
            assert node.run("-d", "--name", name, "small", command=["sleep", "1000"]).status == 0
        until(lambda: all(b'"running"' in data for data in disk.files().values()))
        before, footprint = disk.files(), node.footprint_without_services()
        disk.fill()

        refused = timed(node, "run", "--json", "--store", str(store), "--name", "new", "small", "--", "true")
        assert refused.status == 125
        check_refused(refused, "disk.full", str(disk.directory / "new.json"), "the disk is full")
        refused = timed(node, "exec", "--json", "counter", "--", "true")
        assert refused.status == 125
        check_refused(refused, "disk.full", str(disk.directory / "counter.json"))
        assert disk.files() == before, "every document is the old one, and nothing is half written"
        assert node.footprint_without_services() == footprint
        assert sorted(node.names()) == ["counter", "gone", "old"]

        assert timed(node, "stop", "--grace", "1", "old").status == 0, "what runs can be ended"
        assert timed(node, "rm", "--force", "gone").status == 0, "and removed"
        disk.fill()
        assert node.inspect("old")["exit_code"] == 143
        node.kill("supervisor")
        follower.wait_lines(len(follower.lines) + 5)
        assert node.inspect("old")["exit_code"] == 143, "hold keeps the end until the document has it"

        disk.free()
        until(lambda: json.loads(disk.files()["old.json"])["status"] == "exited")
        assert node.run("--rm", "--name", "new", "small", command=["echo", "new"]).out == "new\n"
        assert node.zos("exec", "counter", "--", "echo", "in").out == "in\n"
        assert node.zos("rm", "old").status == 0
        assert node.zos("stop", "--grace", "1", "counter").status == 0
        follower.end()
        assert follower.lines == [str(1 + number) for number in range(len(follower.lines))]
        assert node.zos("rm", "counter").status == 0
        assert disk.files() == {}
        assert node.footprint_without_services() == empty


def test_no_room_for_an_image(store: Path, tmp_path: Path) -> None:
    node = Node(store=store, config=store)
    state = Instance(node.instance).state_dir
    with disk_file(tmp_path / "disk", state, size=48 << 20) as disk:
        node.up()
        try:
            arguments = ("--json", "--store", str(store), "--name", "first", "small", "--", "sh", "-c", COUNTER)
            empty = node.footprint_without_services()
            disk.fill()
            refused = timed(node, "run", *arguments)
            assert refused.status == 125
            check_refused(refused, "disk.full", str(state))
            assert node.footprint_without_services() == empty

            disk.free(keep=6 << 20)  # of the 17 MB that the container reads
            follower = Reading(node.start("--name", "first", "small", command=["sh", "-c", COUNTER]))
            follower.wait_lines(1)
            read = ("exec", "first", "--", "sh", "-c", "sha256sum /data/*")
            failed = timed(node, *read)
            assert failed.status != 0
            assert set(failed.out.splitlines()) < set(large_sums()), "what was read is right, and it is not all"
            events = node.inspect("first")["events"]
            assert any("fetch.no-space" in event for event in events), events

            disk.free()
            whole = timed(node, *read)
            assert whole.out.splitlines() == large_sums(), whole.err
            assert node.zos("stop", "--grace", "1", "first").status == 0
            follower.end()
            assert follower.lines == [str(1 + number) for number in range(len(follower.lines))]
            assert node.zos("rm", "first").status == 0
            assert node.footprint_without_services() == empty
        finally:
            assert node.zos("down", "--grace", "1").status == 0
    state.rmdir()


def test_no_room_for_keys_and_trust(store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SUDO_UID", "SUDO_GID", "SUDO_USER"):  # or its keys and settings were those of who called sudo
        monkeypatch.delenv(name, raising=False)
    with small_disk(tmp_path / "config", "64k") as disk:
        env = {"XDG_CONFIG_HOME": str(disk.directory), "HOME": str(disk.directory)}
        shown = zos("key", "show", "--json", env=env)
        assert shown.status == 0, shown.err
        key = shown.json["key"]
        assert zos("trust", "add", "jane", key, env=env).status == 0
        before = disk.files()
        disk.fill()
        refused = zos("trust", "add", "--json", "joe", key, env=env)
        check_refused(refused, "disk.full", str(disk.directory))
        assert refused.status == 10
        assert disk.files() == before
        disk.free()
        assert zos("trust", "add", "joe", key, env=env).status == 0


def test_no_room_for_a_build(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_image_tree(tree)
    with small_disk(tmp_path / "disk", "4m") as disk:
        arguments = ("flist", "build", str(tree), "--name", "full", "--store", str(disk.directory / "store"), "--json")
        refused = zos(*arguments, "-o", str(tmp_path / "full.flist"))
        check_refused(refused, "disk.full", str(disk.directory))
        assert not (tmp_path / "full.flist").exists()
        assert not [name for name in disk.files() if "manifest" in name or "name" in name]
        disk.grow("64m")
        assert zos(*arguments, "-o", str(tmp_path / "full.flist")).status == 0


def test_a_node_that_is_too_busy_to_go_down_takes_no_container_its_grace(store: Path) -> None:
    """It is asked again; only a supervisor that cannot be reached is gone past."""
    node = Node(store=store, config=store)
    node.up()
    trap = "trap 'echo bye; exit 7' TERM; echo up; while :; do sleep 0.05; done"
    running = Reading(node.start("--name", "graceful", "small", command=["sh", "-c", trap]))
    running.wait_lines(1)
    with crowded(node, limit=128):
        down = node.begin("down", "--purge")
        assert down.stderr is not None
        assert "asking again" in down.stderr.readline()
    assert down.wait(TIMEOUT_S) == 0
    down.communicate()
    assert (running.end(), running.lines) == (7, ["up", "bye"])
