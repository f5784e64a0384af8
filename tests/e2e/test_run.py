"""The verbs of a node, as a user calls them."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import urllib.request
from pathlib import Path

import pytest

from tests.e2e.node_tool import ZOS, Hub, Node, large_sums, zos
from zos_core.base.paths import account

pytestmark = pytest.mark.root


@pytest.mark.parametrize(
    ("command", "status"),
    [
        (["true"], 0),
        (["sh", "-c", "exit 7"], 7),
        (["sh", "-c", "kill -9 $$"], 137),
        (["no-such-command"], 127),
        (["/bin/not-executable"], 126),
        (["/bin/foreign"], 126),
    ],
)
def test_the_exit_status_is_the_containers(node: Node, command: list[str], status: int) -> None:
    done = node.run("--rm", "small", command=command)
    assert done.status == status, done.err + node.service_logs()
    assert node.names() == []
    if status in (126, 127):
        assert "zos: " in done.err


def test_both_streams_arrive_whole_and_apart(node: Node) -> None:
    script = "i=0; while [ $i -lt 2000 ]; do echo out $i; echo err $i >&2; i=$((i+1)); done"
    done = node.run("--rm", "small", command=["sh", "-c", script])
    assert done.status == 0
    assert done.out.splitlines() == [f"out {number}" for number in range(2000)]
    assert done.err.splitlines() == [f"err {number}" for number in range(2000)]


def test_the_last_lines_alone(node: Node) -> None:
    script = "for i in 1 2 3 4; do echo out $i; done; printf 'out 5'"
    assert node.run("--name", "lines", "small", command=["sh", "-c", script]).status == 0
    for following in ([], ["-f"]):
        done = node.zos("logs", "-n", "2", *following, "lines")
        assert (done.status, done.out, done.err) == (0, "out 4\nout 5", "")
    assert node.zos("logs", "--tail", "0", "lines").out == ""
    refused = node.zos("logs", "--tail", "-1", "lines")
    assert refused.status == 2
    assert "'-1' is no number of lines" in refused.err
    assert node.zos("rm", "lines").status == 0


def test_environment_directory_and_host_name(node: Node) -> None:
    done = node.run(
        "--rm",
        "--name",
        "here",
        "-e",
        "A=b c",
        "--workdir",
        "/tmp",
        "small",
        command=["sh", "-c", "echo $A; pwd; hostname"],
    )
    assert done.out.splitlines() == ["b c", "/tmp", "here"]


def test_the_root_is_writable_and_goes_with_the_container(node: Node) -> None:
    first = node.run("--name", "writer", "small", command=["sh", "-c", "echo mine > /etc/mine; cat /etc/mine"])
    assert first.out == "mine\n"
    upper = Path(f"/var/lib/zos/{node.instance}/containers/writer/upper/etc/mine")
    assert upper.read_text() == "mine\n"
    assert node.zos("rm", "writer").status == 0
    assert not upper.parents[2].exists()
    again = node.run("--rm", "small", command=["sh", "-c", "ls /etc/mine"])
    assert again.status != 0


def test_a_container_from_start_to_removal(node: Node) -> None:
    loop = "trap 'echo bye; exit 3' TERM; echo ready; while true; do sleep 0.05; done"
    started = node.run("-d", "--name", "service", "small", command=["sh", "-c", loop])
    assert (started.status, started.out) == (0, "service\n")
    assert node.names() == ["service"]
    state = node.inspect("service")
    assert state["status"] == "running"
    assert state["image"]["name"].endswith("/small")
    assert len(state["image"]["digest"]) == 64
    assert state["network"]["missing"], "what the network cannot do yet is said"
    with subprocess.Popen(
        [str(ZOS), "logs", "--instance", node.instance, "-f", "service"], stdout=subprocess.PIPE, text=True
    ) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "ready\n"
        inside = node.zos("exec", "service", "--", "sh", "-c", "echo in here; exit 5")
        assert (inside.status, inside.out) == (5, "in here\n")
        assert node.zos("exec", "service", "--", "nothing-like-this").status == 127
        busy = node.zos("rm", "service")
        assert busy.status not in (0, 125)
        assert "zos stop" in busy.err
        assert node.zos("stop", "--grace", "20", "service").status == 0
        assert follower.stdout.read() == "bye\n"
        assert follower.wait(timeout=20) == 0
    ended = node.inspect("service")
    assert (ended["status"], ended["exit_code"]) == ("exited", 3)
    assert node.zos("logs", "service").out == "ready\nbye\n"
    assert node.zos("rm", "service").status == 0
    assert node.names() == []


def test_a_container_that_ignores_sigterm_is_killed_after_its_grace(node: Node) -> None:
    node.run("-d", "--name", "deaf", "small", command=["sh", "-c", "trap '' TERM; while true; do sleep 0.1; done"])
    assert node.zos("stop", "--grace", "0.2", "deaf").status == 0
    assert node.inspect("deaf")["exit_signal"] == 9 or node.inspect("deaf")["exit_code"] == 137
    assert node.zos("rm", "deaf").status == 0


@pytest.mark.parametrize("provider", ["file", "loop", "full", "extract"])
def test_every_provider_gives_the_same_bytes(store: Path, hub: Hub, provider: str) -> None:
    release = os.uname().release
    if provider == "file" and tuple(map(int, re.findall(r"\d+", release)[:2])) < (6, 12):
        pytest.skip(f"Linux {release} takes no file for the device of an EROFS (6.12 does)")
    node = Node(store=store, config=store)
    node.up()
    try:
        done = node.run(
            "--name", "sums", "--provider", provider, "small", store=hub.url, command=["sh", "-c", "sha256sum /data/*"]
        )
        assert done.status == 0, done.err + node.service_logs()
        assert done.out.splitlines() == large_sums()
        state = node.inspect("sums")
        assert (state["image"]["provider"], state["image"]["reason"]) == (provider, "asked for")
    finally:
        node.down()


@pytest.mark.parametrize("restarted", [False, True])
def test_a_provider_that_somebody_asked_for_is_no_choice_for_others(store: Path, restarted: bool) -> None:
    node = Node(store=store, config=store)
    node.up()

    def provided(name: str, *more: str) -> tuple[str, str]:
        done = node.run("-d", "--name", name, *more, "small", command=["sleep", "1000"])
        assert done.status == 0, done.err
        image = node.inspect(name)["image"]
        return image["provider"], image["reason"]

    try:
        assert provided("first", "--provider", "extract") == ("extract", "asked for")
        assert provided("beside") == ("extract", "mounted so already"), "one mount serves all that run from it"
        assert node.zos("rm", "-f", "first").status == 0
        if restarted:
            node.kill("supervisor")
        assert node.zos("rm", "-f", "beside").status == 0
        assert provided("later")[1] not in ("asked for", "mounted so already")
    finally:
        node.down()


def test_what_is_full_is_mounted_without_a_daemon_at_its_next_start(store: Path, hub: Hub) -> None:
    node = Node(store=store, config=store)
    node.up()
    try:
        assert node.run("--rm", "--provider", "full", "small", store=hub.url, command=["true"]).status == 0
        assert node.zos("down").status == 0
        node.up()
        sent = hub.bytes_sent
        done = node.run("--name", "sums", "small", store=hub.url, command=["sh", "-c", "sha256sum /data/*"])
        assert done.out.splitlines() == large_sums()
        assert node.inspect("sums")["image"]["provider"] == "full"
        assert hub.bytes_sent - sent < 10_000, "only the name and the manifest were asked for"
    finally:
        node.down()


def test_little_is_fetched_for_little_that_is_read(store: Path, hub: Hub) -> None:
    node = Node(store=store, config=store)
    node.up()
    try:
        # The hub in the name says where, as --store would.
        name = f"{hub.url.removeprefix('http://')}/{account().name}/small"
        assert node.zos("run", "--rm", name, "--", "true").status == 0
        whole = sum(path.stat().st_size for path in (store / "pack").rglob("*") if path.is_file())
        assert hub.bytes_sent < whole / 4
    finally:
        node.down()


def test_a_published_port_leads_into_the_container(node: Node) -> None:
    page = "mkdir -p /www; echo hello > /www/index.html; exec httpd -f -p 80 -h /www"
    started = node.run("-d", "--name", "web", "-p", "127.0.0.1:0:80", "small", command=["sh", "-c", page])
    if started.status == 0 and "httpd" not in subprocess.run(["busybox"], capture_output=True, text=True).stdout:
        pytest.skip("this busybox has no httpd")
    try:
        listen = node.inspect("web")["network"]["ports"][0]["listen"]
        answers = []
        for _ in range(200):
            try:
                with urllib.request.urlopen(f"http://{listen}/", timeout=5) as answer:
                    answers.append(answer.read())
                break
            except OSError:
                continue
        assert answers == [b"hello\n"]
    finally:
        assert node.zos("rm", "-f", "web").status == 0
    host, _, port = listen.rpartition(":")
    with socket.socket() as probe:
        assert probe.connect_ex((host, int(port))) != 0, "the port is closed with its container"


def test_what_a_container_sees(node: Node) -> None:
    script = (
        "ls /proc/self/fd; echo --; cat /proc/self/status; echo --; ls /dev; echo --; ls /sys/class/net; echo --;"
        "echo x > /proc/sys/kernel/hostname; echo $?; mount -t tmpfs none /tmp; echo $?; mknod /tmp/n c 1 3; echo $?;"
        "head -c 1 /proc/kcore | wc -c; ls /sys/firmware | wc -l; cat /proc/1/comm"
    )
    parts = node.run("--rm", "small", command=["sh", "-c", script]).out.split("--\n")
    assert {"0", "1", "2"} <= set(parts[0].split())
    assert len(parts[0].split()) <= 4
    status = dict(line.split(":\t", 1) for line in parts[1].splitlines() if ":\t" in line)
    assert int(status["CapEff"], 16) == int(status["CapBnd"], 16) == 0x800405FB
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("1", "2")
    assert {"null", "zero", "full", "random", "urandom", "tty"} <= set(parts[2].split())
    assert not {"sda", "vda", "kvm", "fuse", "mem", "loop0"} & set(parts[2].split())
    assert set(parts[3].split()) == {"lo", "eth0"}
    refused = parts[4].split()
    assert refused[0] != "0"
    assert refused[1] != "0"
    assert refused[2] != "0"
    assert refused[3] == "0"
    assert refused[4] == "0"


def test_two_starts_at_once_find_one_node(store: Path) -> None:
    node = Node(store=store, config=store)
    commands = [[str(ZOS), "up", "--instance", node.instance, "--json"] for _ in range(3)]
    running = [subprocess.Popen(each, stdout=subprocess.PIPE, text=True) for each in commands]
    try:
        reports = [json.loads(each.communicate(timeout=60)[0]) for each in running]
        assert [each.returncode for each in running] == [0, 0, 0]
        assert len({report["processes"][0]["pid"] for report in reports}) == 1
    finally:
        for each in running:
            each.kill()
            each.wait()
        node.down()


def test_down_is_no_error_when_nothing_runs() -> None:
    assert zos("down", "--instance", "t-nothing").status == 0
