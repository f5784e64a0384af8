"""Exec into a running container, and a spawn that is killed while containers run (docs/spec/spawn.md)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest

from tests.integration.spawn_kit import CAPABILITIES, IMAGE, Refused, Tree, processes_of, running

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["detached", "attached"])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    more = () if request.param == "detached" else ("--without", "detached_layers")
    with running(tmp_path_factory.mktemp("spawn"), *more) as tree:
        tree.mount_extracted()
        tree.launch("box", "/bin/sleep", "100000", cwd=b"/work", hostname="inside")
        yield tree


def kill_spawn(tree: Tree) -> None:
    """And wait for the next one."""
    service = tree.service()
    os.kill(service["pid"], signal.SIGKILL)
    while True:
        event = tree.hold.event("service")
        if (event["name"], event["state"]) == ("spawn", "ready") and event["generation"] > service["generation"]:
            break
    tree.reconnect()


def test_exec_is_inside(tree: Tree) -> None:
    kinds = ["mnt", "pid", "ipc", "uts", "cgroup", "net"]
    script = f"hostname; ps; cat /proc/self/cgroup; stat -L -c %i {' '.join(f'/proc/self/ns/{kind}' for kind in kinds)}"
    name = tree.exec("box", 1, "/bin/sh", "-c", script)
    out = tree.output(name).decode().splitlines()
    assert out[0] == "inside"
    assert any("sleep 100000" in line for line in out)
    assert "0::/" in out
    pid = tree.hold.do("children")["children"][0]["pid"]
    assert out[-6:] == [str(os.stat(f"/proc/{pid}/ns/{kind}").st_ino) for kind in kinds]
    exit_ = tree.wait_exit(name)
    assert (exit_["code"], exit_["signal"]) == (0, None)


def test_exec_has_a_status_of_its_own(tree: Tree) -> None:
    name = tree.exec("box", 2, "/bin/sh", "-c", "exit 9")
    assert tree.wait_exit(name)["code"] == 9
    name = tree.exec("box", 3, "/bin/sleep", "1000")
    tree.hold.do("kill", name=name, signal=15)
    exit_ = tree.wait_exit(name)
    assert (exit_["code"], exit_["signal"]) == (None, 15)
    assert [child["name"] for child in tree.hold.do("children")["children"]] == ["box"]


def test_exec_has_no_more_rights_than_it_was_given(tree: Tree) -> None:
    name = tree.exec("box", 4, "/bin/cat", "/proc/self/status", user={"uid": 1000, "gid": 1000, "groups": [5]})
    status = dict(line.split(":\t", 1) for line in tree.output(name).decode().splitlines() if ":\t" in line)
    assert tree.wait_exit(name)["code"] == 0
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Prm", "Eff", "Amb")] == [0] * 4
    assert int(status["CapBnd"], 16) == sum(1 << number for number in CAPABILITIES)
    assert (status["NoNewPrivs"], status["Seccomp"], status["Uid"].split()[0]) == ("1", "2", "1000")
    assert {int(status[key], 16) for key in ("SigBlk", "SigIgn", "SigCgt")} == {0}


def test_exec_sees_three_descriptors_and_its_own_environment(tree: Tree) -> None:
    name = tree.exec("box", 5, "/bin/sh", "-c", "exec ls /proc/self/fd")
    assert tree.output(name).split() == [b"0", b"1", b"2", b"3"]
    assert tree.wait_exit(name)["code"] == 0
    name = tree.exec("box", 6, "/bin/env", env=[b"X=y"])
    assert tree.output(name) == b"X=y\n"
    tree.wait_exit(name)
    name = tree.exec("box", 7, "/bin/pwd", cwd=b"/work")
    assert tree.output(name) == b"/work\n"
    tree.wait_exit(name)


def test_exec_has_the_limits_of_its_container(tree: Tree) -> None:
    limits = [{"resource": 7, "soft": 77, "hard": 88}]
    tree.launch("lim", "/bin/sleep", "1000", rlimits=limits)
    name = tree.exec("lim", 1, "/bin/sh", "-c", "ulimit -n; ulimit -Hn")
    assert tree.output(name) == b"77\n88\n"
    tree.wait_exit(name)
    name = tree.exec("lim", 2, "/bin/sh", "-c", "ulimit -n", rlimits=[{"resource": 7, "soft": 66, "hard": 66}])
    assert tree.output(name) == b"66\n"
    tree.wait_exit(name)
    tree.hold.do("kill", name="lim", signal=9)
    tree.wait_exit("lim")


def test_exec_lies_in_the_cgroup_asked_for(tree: Tree) -> None:
    group = tree.new_cgroup("box-execs")
    name = tree.exec("box", 80, "/bin/cat", "/proc/self/cgroup", cgroup=str(group))
    assert tree.output(name).splitlines()[-1] == b"0::/../box-execs"
    tree.wait_exit(name)
    name = tree.exec("box", 8, "/bin/sleep", "1000", cgroup=str(group))
    assert len((group / "cgroup.procs").read_text().split()) == 1
    (group / "cgroup.kill").write_text("1")
    assert tree.wait_exit(name)["signal"] == 9


def test_what_an_exec_leaves_is_reaped_inside(tree: Tree) -> None:
    name = tree.exec("box", 9, "/bin/sh", "-c", "(usleep 100000; exit 3) & echo $!")
    pid = int(tree.output(name))
    assert tree.wait_exit(name)["code"] == 0
    name = tree.exec("box", 10, "/bin/sh", "-c", f"while test -d /proc/{pid}; do usleep 1000; done")
    assert tree.wait_exit(name)["code"] == 0


def test_execs_that_cannot_be(tree: Tree) -> None:
    for number, (target, args, code) in enumerate(
        [
            ("box", "/bin/nothing", "spawn.not-found"),
            ("box", "/bin/foreign", "spawn.not-executable"),
            ("none", "/bin/true", "spawn.no-such-target"),
        ],
        20,
    ):
        with pytest.raises(Refused) as caught:
            tree.exec(target, number, args, cgroup=str(tree.cgroup / "box"))
        assert caught.value.code == code
        if target == "box":
            assert tree.wait_exit(f"box/exec-{number}")["code"] in (126, 127)
    for number in range(3, 16):
        with pytest.raises(Refused) as caught:
            tree.exec("box", 30 + number, "/bin/pwd", cwd=f"/proc/self/fd/{number}".encode())
        assert caught.value.step == "chdir"
    # These had no name in hold yet.
    assert tree.hold.do("list", prefix="log/box/exec-33")["names"] == []


def test_exec_into_what_has_ended(tree: Tree) -> None:
    tree.launch("short", "/bin/sleep", "1000")
    _, [pidfd] = tree.hold.ask("get", names=["pidfd/short"])
    tree.hold.do("kill", name="short", signal=9)
    tree.wait_exit("short")
    with open(pidfd, "rb"):
        with pytest.raises(Refused) as caught:
            tree.exec("short", 1, "/bin/true")
    assert caught.value.code == "spawn.no-such-target"


def test_the_entering_process_cannot_be_looked_into(tree: Tree) -> None:
    """CVE-2016-9962: something inside polls for a newcomer that it may open, before that one is its program."""
    spy = """
        seen=0
        while ! test -e /tmp/stop; do
            for p in /proc/[0-9]*; do
                case $p in /proc/1|/proc/$$) continue;; esac
                read name < $p/comm && case $name in zos*) seen=1; readlink $p/fd/3 $p/cwd $p/root $p/exe;; esac
            done
        done
        echo seen $seen
    """
    tree.launch("spy", "/bin/sh", "-c", spy, seccomp="unconfined")
    for number in range(200):
        name = tree.exec("spy", number, "/bin/true")
        assert tree.wait_exit(name)["code"] == 0
        tree.hold.do("drop", prefix=f"log/{name}/")
    tree.wait_exit(tree.exec("spy", 1000, "/bin/touch", "/tmp/stop"))
    assert tree.wait_exit("spy")["code"] == 0
    assert tree.output("spy").decode().splitlines() in (["seen 0"], ["seen 1"])


def test_containers_outlive_spawn(tree: Tree) -> None:
    tree.launch("old", "/bin/sh", "-c", "trap 'echo ended; exit 4' TERM; echo begun; while :; do usleep 1000; done")
    assert tree.lines("old", 1) == ["begun"]
    kill_spawn(tree)
    name = tree.exec("old", 1, "/bin/hostname")
    assert tree.output(name) == b"box\n"
    tree.wait_exit(name)
    # The image is still mounted for the new one, in either kind of layers, and no matter how often.
    assert tree.run("/bin/true", "")[0] == 0
    kill_spawn(tree)
    assert tree.run("cat /etc/passwd | wc -l")[1] == "2\n"
    tree.hold.do("kill", name="old", signal=15)
    assert tree.wait_exit("old")["code"] == 4
    assert tree.output("old") == b"ended\n"
    # And asking for it again is answered.
    assert tree.spawn.do("mount_image", image=IMAGE, provider="extract", tree="tree")["provider"] == "extract"
    assert tree.run("/bin/true", "")[0] == 0


def test_a_spawn_killed_at_work_leaves_nothing(tree: Tree) -> None:
    before = len(processes_of(tree.directory))
    started = 0
    for round_ in range(20):
        bodies = [tree.launch_body(f"k{round_}-{n}", "/bin/sleep", "1000") for n in range(6)]
        for body in bodies:
            tree.spawn.send("launch", body)
        for _ in range(round_ % 4):
            tree.spawn.receive()
        kill_spawn(tree)
        for child in tree.hold.do("children")["children"]:
            if child["name"].startswith("k"):
                started += 1
                tree.hold.do("kill", name=child["name"], signal=9)
                assert tree.wait_exit(child["name"])["signal"] == 9
        tree.hold.do("drop", prefix="log/k")
        # What was killed between clone and register waits for a word that never comes, and goes.
        for n in range(6):
            events = tree.cgroup / f"k{round_}-{n}/cgroup.events"
            while "populated 1" in events.read_text():
                os.sched_yield()
    assert started > 0
    assert len(processes_of(tree.directory)) == before
    assert len(list((tree.directory / "run").iterdir())) == len(["spawn.sock", "hold.sock", "lock"])
