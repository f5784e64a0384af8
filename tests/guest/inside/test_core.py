"""The core path on a stock Debian with systemd and full cgroup v2: what a user does, and what must survive.

Runs inside a guest (tests/guest), as root, against the installed wheel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pwd
import re
import secrets
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.machine import Snapshot, snapshot
from tests.e2e.node_tool import ZOS, Node, Reading, image_store, large_content, zos
from zos_core.base.client import Client
from zos_core.base.keyring import Keyring
from zos_core.base.paths import Instance, account
from zos_core.containers.document import ImageRequest, Resources, RunRequest, TrustedKey
from zos_core.host import CgroupTree
from zos_core.host.layout import SYSTEM_LEAF
from zos_core.supervisor.endpoints import RUN, WAIT, WaitQuery

CGROUPS = Path("/sys/fs/cgroup")
RELEASE = tuple(int(number) for number in os.uname().release.split(".")[:2])
# What the architecture's table promises; what is chosen is chosen by trying, never by this.
ROW = 1 if RELEASE >= (6, 15) else 2 if RELEASE >= (6, 12) else 3
PROVIDER = "file" if RELEASE >= (6, 12) else "loop"
COUNT = "trap 'echo bye; exit 3' TERM; i=0; while :; do echo $i; i=$((i+1)); usleep 50000; done"


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with image_store(tmp_path_factory.mktemp("image")) as made:
        yield made


@pytest.fixture(scope="module")
def hub(store: Path) -> Iterator[str]:
    """The real hub, over HTTP."""
    command = [str(ZOS), "hub", "serve", "--json", "--store", str(store), "--listen", "127.0.0.1:0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        yield ready["url"]
        process.terminate()
        assert process.wait(timeout=60) in (0, 143)


@pytest.fixture(scope="module")
def node(store: Path) -> Iterator[Node]:
    made = Node(store=store, config=store)
    made.up()
    yield made
    made.down()


def sum_of(number: int) -> str:
    """What sha256sum prints of one of the image's files."""
    return f"{hashlib.sha256(large_content(number)).hexdigest()}  /data/{number:02}"


def group_of(node: Node, name: str) -> Path:
    return CGROUPS / "system.slice" / f"zos-{node.instance}.scope" / "zos" / node.instance / f"c-{name}"


def wait_until(condition: Callable[[], object], *, timeout_s: float = 60) -> None:
    """Ask the kernel again and again: what is waited for here has no descriptor that would say it."""
    deadline, pause = time.monotonic() + timeout_s, threading.Event()
    while not condition():
        assert time.monotonic() < deadline, "it did not happen in time"
        pause.wait(0.05)


def wait_nothing_left(before: Snapshot, instance: str) -> None:
    """systemd puts a scope away when its last process has ended, a moment later."""
    wait_until(lambda: before.difference(snapshot(), instance=instance, alone=False) == [])


def events(path: Path) -> dict[str, int]:
    return {key: int(value) for key, value in (line.split() for line in path.read_text().splitlines())}


def test_doctor_finds_the_row_of_this_kernel() -> None:
    before = snapshot()
    done = zos("doctor", "--json", timeout_s=180)
    report = done.json
    assert done.status == 0, done.out + done.err
    assert report["row"]["number"] == ROW, report
    found = {finding["name"]: finding for finding in report["findings"]}
    assert found["limits"]["works"] is True, found["limits"]
    assert found["cgroups"]["found"].startswith("scope "), found["cgroups"]
    assert found["container"]["works"] is True, found["container"]
    wait_nothing_left(before, "doctor-")
    assert "doctor-" not in Path("/proc/self/cgroup").read_text()


def test_the_node_is_a_delegated_scope(node: Node) -> None:
    info = node.up()
    assert info["cgroup_layout"].startswith("scope "), info
    assert sorted(info["controllers"]) == ["cpu", "memory", "pids"]
    unit = f"zos-{node.instance}.scope"
    show = subprocess.run(
        ["systemctl", "show", unit, "-p", "Delegate", "-p", "ActiveState"], capture_output=True, text=True, check=True
    )
    assert sorted(show.stdout.split()) == ["ActiveState=active", "Delegate=yes"]
    # What systemd does to its own groups reaches nothing of ours.
    assert node.run("-d", "--name", "kept", "--memory", "64M", "small", command=["sleep", "1000"]).status == 0
    limit = (group_of(node, "kept") / "memory.max").read_text()
    subprocess.run(["systemctl", "daemon-reload"], check=True, timeout=120)
    assert (group_of(node, "kept") / "memory.max").read_text() == limit == f"{64 << 20}\n"
    assert node.inspect("kept")["status"] == "running"
    assert node.zos("stop", "--grace", "0.1", "kept").status == 0
    assert node.zos("rm", "kept").status == 0


def test_from_the_hub_to_the_end(node: Node, hub: str) -> None:
    """Lazy run, exec, logs, stop; the image is fetched while it runs, by this machine's own provider."""
    first = node.run("--rm", "small", store=hub, command=["sh", "-c", "sha256sum /data/03"])
    assert (first.status, first.out.split()) == (0, sum_of(3).split()), first.err + node.service_logs()
    follower = Reading(node.start("--name", "count", "small", store=hub, command=["sh", "-c", COUNT]))
    follower.wait_lines(3)
    image = node.inspect("count")["image"]
    assert image["provider"] == PROVIDER, image
    assert image["units_present"] < image["units"], "the whole image was fetched"
    inside = node.zos("exec", "count", "--", "sh", "-c", "hostname; id -u; exit 5")
    assert (inside.status, inside.out.split()) == (5, ["count", "0"]), inside.err
    assert node.zos("stop", "--grace", "60", "count").status == 0
    assert follower.end() == 3, follower.err
    assert follower.lines[-1] == "bye"
    assert follower.lines[:-1] == [str(number) for number in range(len(follower.lines) - 1)]
    assert node.zos("logs", "count").out.splitlines() == follower.lines
    assert node.zos("rm", "count").status == 0


@pytest.mark.parametrize("service", ["supervisor", "blockd"])
def test_killed_while_an_image_is_read(node: Node, hub: str, service: str) -> None:
    """Eight readers of what was not fetched, a container that counts; SIGKILL; every byte right, no line lost."""
    number = ["supervisor", "blockd"].index(service)
    counter = Reading(node.start("--name", "count", "small", store=hub, command=["sh", "-c", COUNT]))
    counter.wait_lines(2)
    wanted = range(4 + number * 8, 12 + number * 8)
    reads = " ".join(f"sha256sum /data/{file:02} &" for file in wanted)
    readers = Reading(node.start("--name", "readers", "small", store=hub, command=["sh", "-c", f"{reads} wait"]))
    node.kill(service)
    counter.wait_lines(len(counter.lines) + 5)
    assert readers.end() == 0, readers.err + node.service_logs()
    assert sorted(readers.lines) == sorted(sum_of(file) for file in wanted)
    assert node.zos("stop", "--grace", "60", "count").status == 0
    assert counter.end() == 3, counter.err
    assert counter.lines[:-1] == [str(number) for number in range(len(counter.lines) - 1)]
    for name in ("count", "readers"):
        assert node.zos("rm", name).status == 0


def test_memory_max_ends_the_whole_container(node: Node) -> None:
    eat = "sleep 1000 & dd if=/dev/zero of=/dev/null bs=200M count=1; echo survived"
    done = node.run("--name", "eater", "--memory", "32M", "small", command=["sh", "-c", eat])
    assert "survived" not in done.out
    assert done.status == 137, done.err
    state = node.inspect("eater")
    limit = next(limit for limit in state["limits"] if limit["name"] == "memory")
    assert (limit["enforced"], limit["reason"]) == (limit["requested"], None), limit
    assert node.zos("rm", "eater").status == 0


async def test_statistics_are_the_kernels(node: Node) -> None:
    fill = "x=$(dd if=/dev/zero bs=1M count=8 2>/dev/null | tr '\\0' a); echo ${#x}; sleep 1000; :"
    holder = Reading(node.start("--name", "holder", "--memory", "64M", "small", command=["sh", "-c", fill]))
    holder.wait_lines(1)
    assert holder.lines == [str(8 << 20)]
    group = group_of(node, "holder")
    tree = await CgroupTree.find(Instance(node.instance))
    assert tree is not None
    # The reaper, the shell and, in a moment, sleep.
    wait_until(lambda: int((group / "pids.current").read_text()) == 3)
    found = await tree.group("holder").statistics()
    assert found.processes == 3
    assert found.memory_bytes is not None
    assert 8 << 20 <= found.memory_bytes <= 64 << 20
    assert found.memory_peak_bytes is None or found.memory_bytes <= found.memory_peak_bytes <= 64 << 20
    assert found.cpu_us is not None
    assert 0 < found.cpu_us <= events(group / "cpu.stat")["usage_usec"]
    assert found.out_of_memory_kills == 0
    assert node.zos("stop", "--grace", "0.1", "holder").status == 0
    assert holder.end() in (137, 143), "by SIGTERM, or killed when the grace was over"
    assert node.zos("rm", "holder").status == 0


def test_cpu_max_throttles(node: Node) -> None:
    spin = "end=$(($(cut -d. -f1 /proc/uptime)+4)); while [ $(cut -d. -f1 /proc/uptime) -lt $end ]; do :; done"
    done = node.run("-d", "--name", "spinner", "--cpus", "0.2", "small", command=["sh", "-c", f"{spin}; sleep 1000"])
    assert done.status == 0, done.err
    group = group_of(node, "spinner")
    assert (group / "cpu.max").read_text().split() == ["20000", "100000"]
    begin, began = events(group / "cpu.stat"), time.monotonic()
    wait_until(lambda: events(group / "cpu.stat")["nr_throttled"] >= begin["nr_throttled"] + 10)
    used = (events(group / "cpu.stat")["usage_usec"] - begin["usage_usec"]) / 1e6
    share = used / (time.monotonic() - began)
    assert share < 0.3, f"{share:.2f} of a processor, 0.2 allowed"
    node.zos("stop", "--grace", "0.1", "spinner")
    assert node.zos("rm", "spinner").status == 0


async def test_pids_max_refuses_the_fork(node: Node) -> None:
    keyring, publisher = Keyring.of(), account().name
    trusted = [TrustedKey(publisher=publisher, key=key) for key in keyring.trusted(publisher)]
    request = RunRequest(
        request_id=secrets.token_hex(16),
        name="forker",
        image=ImageRequest(store=str(node.store), reference=f"{publisher}/small", trusted=trusted),
        # A shell that cannot fork ends; the one around it does not, and keeps the container's group.
        args=["sh", "-c", "(for i in 1 2 3 4 5 6 7 8 9 10 11 12; do sleep 1000 & done; wait); sleep 1000; :"],
        resources=Resources(pids=10),
    )
    async with Client(Instance(node.instance).api_socket) as client:
        state = await client.call(RUN, body=request, timeout_s=90)
        group = group_of(node, "forker")
        limit = next(limit for limit in state.limits if limit.name == "pids")
        assert (limit.enforced, limit.reason) == ("10", None), limit
        wait_until(lambda: events(group / "pids.events")["max"] > 0)
        assert int((group / "pids.current").read_text()) <= 10
        assert node.zos("stop", "--grace", "0.1", "forker").status == 0
        await client.call(WAIT, path={"name": "forker"}, query=WaitQuery(timeout_s=30), timeout_s=60)
    assert "can't fork" in node.zos("logs", "forker").err
    assert node.zos("rm", "forker").status == 0


def test_a_container_cannot_lift_its_own_limits(node: Node) -> None:
    """CVE-2023-25809: write, make or move below /sys/fs/cgroup, also after a remount and in a new mount of it."""
    started = node.run("-d", "--name", "bound", "--memory", "64M", "small", command=["sleep", "1000"])
    assert started.status == 0, started.err
    group = group_of(node, "bound")
    before = {path: path.read_text() for path in (group / "memory.max", group / "cgroup.procs", group / "cpu.max")}
    tries = [
        "echo max > $1/memory.max",
        "echo max > $1/cpu.max",
        "echo 0 > $1/cgroup.procs",
        "mkdir $1/mine",
        "echo 1 > $1/cgroup.kill",
    ]
    each = "; ".join(f'({command}) 2>/dev/null && echo "{command}"' for command in tries)
    attack = (
        "attack() { " + each + "; }; attack /sys/fs/cgroup; ls /sys/fs/cgroup/memory.max; "
        "mount -o remount,rw /sys/fs/cgroup 2>/dev/null && attack /sys/fs/cgroup; "
        "mkdir /tmp/again; mount -t cgroup2 none /tmp/again 2>/dev/null && attack /tmp/again; echo tried"
    )
    done = node.zos("exec", "bound", "--", "sh", "-c", attack)
    assert (done.status, done.out.split("\n")) == (0, ["/sys/fs/cgroup/memory.max", "tried", ""]), done.err
    assert {path: path.read_text() for path in before} == before
    assert [path for path in group.iterdir() if path.is_dir()] == []
    # The same, outside, on the same group: it is the container that may not, not the kernel that cannot.
    *changes, kill = tries
    looks = ["cat $1/memory.max", "test -d $1/mine && echo made"]  # by the same shell: after the kill the group goes
    outside = ["sh", "-c", "; ".join([*changes, *looks, kill]), "sh", str(group)]
    attacked = subprocess.run(outside, timeout=60, check=False, stdout=subprocess.PIPE, text=True)
    assert attacked.returncode == -signal.SIGKILL, "by its own cgroup.kill"
    assert attacked.stdout == "max\nmade\n"
    wait_until(lambda: node.inspect("bound")["status"] == "exited")
    assert node.zos("rm", "bound").status == 0
    assert not group.exists()


def test_a_node_without_memory_recovers(node: Node) -> None:
    """Its own processes meet their memory limit: the kernel ends the supervisor again and again; containers run on."""
    counter = Reading(node.start("--name", "count", "small", command=["sh", "-c", COUNT]))
    counter.wait_lines(2)
    group = group_of(node, "count").parent / SYSTEM_LEAF
    killed = events(group / "memory.events.local")["oom_kill"]
    supervisor = node.pid("supervisor")  # hold has no memory for a client while the limit is met
    # A new supervisor needs three times as much; what the old one has was charged to the group that it came from.
    (group / "memory.max").write_text(str(16 << 20))
    try:
        with contextlib.suppress(ProcessLookupError):  # the kernel was faster
            os.kill(supervisor, signal.SIGKILL)
        wait_until(lambda: events(group / "memory.events.local")["oom_kill"] >= killed + 3, timeout_s=180)
    finally:
        (group / "memory.max").write_text("max")
    counter.wait_lines(len(counter.lines) + 5)
    wait_until(lambda: node.zos("ps").status == 0, timeout_s=180)
    assert node.inspect("count")["status"] == "running"
    done = node.run("--rm", "small", command=["echo", "again"])
    assert (done.status, done.out) == (0, "again\n"), done.err + node.service_logs()
    assert node.zos("stop", "--grace", "60", "count").status == 0
    assert counter.end() == 3, counter.err
    assert counter.lines[:-1] == [str(number) for number in range(len(counter.lines) - 1)]
    assert node.zos("rm", "count").status == 0


def test_nothing_is_left_of_a_node(store: Path) -> None:
    before = snapshot()
    node = Node(store=store, config=store)
    node.up()
    assert node.run("--rm", "small", command=["true"]).status == 0
    node.down()
    wait_nothing_left(before, node.instance)


def as_dev(*command: str) -> subprocess.CompletedProcess[str]:
    """A command of the ordinary user `dev`, who has sudo, in a login of his own."""
    words = ["setpriv", "--reuid", "dev", "--regid", "dev", "--init-groups", "env", "-i"]
    words += ["PATH=/usr/local/bin:/usr/bin:/bin", "HOME=/home/dev", "USER=dev", "LOGNAME=dev", "LANG=C.UTF-8"]
    return subprocess.run([*words, *command], capture_output=True, text=True, timeout=120, cwd="/home/dev", check=False)


def test_with_sudo_keys_and_files_are_the_users(store: Path, tmp_path: Path) -> None:
    dev = pwd.getpwnam("dev")
    tree = Path("/home/dev/tree")
    as_dev("mkdir", "-p", "tree/bin").check_returncode()
    as_dev("cp", "/bin/busybox", "tree/bin/busybox").check_returncode()
    instance = f"u-{secrets.token_hex(3)}"
    report = json.loads(as_dev("zos", "doctor", "--json").stdout)
    assert (report["uid"], report["command"]) == (dev.pw_uid, "sudo zos doctor")
    built = as_dev("zos", "flist", "build", str(tree), "--name", "mine")
    assert built.returncode == 0, built.stderr
    again = as_dev("sudo", "zos", "flist", "build", str(tree), "--name", "through-sudo")
    assert again.returncode == 0, again.stderr
    # The verb asks sudo by itself.
    started = as_dev("zos", "up", "--instance", instance)
    assert started.returncode == 0, started.stderr
    try:
        for image in ("mine", "through-sudo"):
            ran = as_dev(
                "zos", "run", "--instance", instance, "--rm", image, "--", "/bin/busybox", "echo", "it", "runs"
            )
            assert (ran.returncode, ran.stdout) == (0, "it runs\n"), ran.stderr
    finally:
        ended = as_dev("sudo", "zos", "down", "--instance", instance, "--purge")
    assert ended.returncode == 0, ended.stderr
    assert Path("/home/dev/.config/zos").is_dir()
    foreign = [str(path) for path in Path("/home/dev").rglob("*") if path.lstat().st_uid != dev.pw_uid]
    assert foreign == []
    secret = [
        path for path in Path("/home/dev/.config/zos").rglob("*") if path.is_file() and path.stat().st_mode & 0o77
    ]
    assert [path for path in secret if re.search("key|secret", path.name) and path.suffix != ".pub"] == []
    assert not Path("/root/.config/zos").exists()


def test_what_the_node_says_of_this_machine(node: Node) -> None:
    info: Any = node.up()
    assert info["kernel"] == os.uname().release
    assert info["provider"] == PROVIDER
