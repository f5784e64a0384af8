"""Launching: what a container is made of, and how each failure is said (docs/spec/spawn.md)."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.spawn_kit import CAPABILITIES, IMAGE, Refused, Tree, running

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["detached", "attached"])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """With the layers that this kernel takes, and with those that kernels before 6.15 take."""
    more = () if request.param == "detached" else ("--without", "detached_layers")
    with running(tmp_path_factory.mktemp("spawn"), *more) as tree:
        tree.mount_extracted()
        yield tree


def status_of(tree: Tree, **changes: object) -> dict[str, str]:
    code, out, err = tree.run("/bin/cat", "/proc/self/status", **changes)
    assert (code, err) == (0, "")
    return dict(line.split(":\t", 1) for line in out.splitlines() if ":\t" in line)


def refusal(tree: Tree, *args: str | bytes, **changes: object) -> Refused:
    """The answer to a launch that cannot be, and its exit status."""
    tree.counter += 1
    with pytest.raises(Refused) as caught:
        tree.launch(f"r{tree.counter}", *args, **changes)
    return caught.value


def test_the_probe_says_what_is_there(tree: Tree) -> None:
    probe = tree.spawn.do("probe")
    assert probe["kernel"] == os.uname().release
    assert probe["overlay"], probe
    wrong = [name for name, value in probe.items() if value is False]
    assert sorted(wrong) == sorted(probe["reasons"])


def test_exit_statuses(tree: Tree) -> None:
    assert tree.run("/bin/true", "") == (0, "", "")
    assert tree.run("exit 7")[0] == 7
    assert tree.run("kill -9 $$")[0] == 128 + 9
    assert tree.run("kill -TERM $$")[0] == 128 + 15


def test_without_a_reaper_the_signal_is_the_record(tree: Tree) -> None:
    tree.launch("raw", "/bin/sleep", "1000", init=False)
    tree.hold.do("kill", name="raw", signal=9)
    exit_ = tree.wait_exit("raw")
    assert (exit_["code"], exit_["signal"], exit_["generation"]) == (None, 9, 1)


def test_streams_are_two_pipes(tree: Tree) -> None:
    assert tree.run("echo out; echo err >&2") == (0, "out\n", "err\n")
    assert tree.run("cat") == (0, "", "")
    assert tree.run("echo x > /dev/stdout; echo y > /dev/stderr", user={"uid": 1000, "gid": 1000}) == (0, "x\n", "y\n")


def test_pipes_hold_a_mebibyte(tree: Tree) -> None:
    tree.launch("full", "/bin/sh", "-c", "dd if=/dev/zero bs=65536 count=15 2>/dev/null; echo done >&2")
    _, [fd] = tree.hold.ask("get", names=["log/full/stderr"])
    with open(fd, "rb") as file:
        assert file.readline() == b"done\n"
    assert tree.finish("full")[0] == 0


def test_environment_directory_and_arguments(tree: Tree) -> None:
    tree.launch("env", "/bin/env", env=[b"A=1", b"B=\xff x"])
    assert tree.output("env") == b"A=1\nB=\xff x\n"
    tree.wait_exit("env")
    assert tree.run("pwd; hostname", cwd=b"/work", hostname="name.example") == (0, "/work\nname.example\n", "")
    tree.launch("args", "/bin/printf", b"%s|", b"a b", b"", b"\xc3\x28")
    assert tree.output("args") == b"a b||\xc3\x28|"
    tree.wait_exit("args")


def test_path_is_searched(tree: Tree) -> None:
    tree.launch("p", "true", env=[b"PATH=/nowhere:/etc/passwd:/bin"])
    assert tree.wait_exit("p")["code"] == 0
    error = refusal(tree, "true", env=[b"PATH=/nowhere"])
    assert (error.code, error.errno) == ("spawn.not-found", 2)


def test_users_and_groups(tree: Tree) -> None:
    status = status_of(tree, user={"uid": 1000, "gid": 1001, "groups": [7, 1002]})
    assert status["Uid"].split() == ["1000"] * 4
    assert status["Gid"].split() == ["1001"] * 4
    assert status["Groups"].split() == ["7", "1002"]
    assert {status[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Amb")} == {"0" * 16}
    assert int(status["CapBnd"], 16) == sum(1 << number for number in CAPABILITIES)
    assert status_of(tree)["Groups"].strip() == ""


def test_capabilities_and_filter(tree: Tree) -> None:
    status = status_of(tree)
    expected = sum(1 << number for number in CAPABILITIES)
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd")] == [expected] * 3
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Inh", "Amb")] == [0, 0]
    assert (status["NoNewPrivs"], status["Seccomp"], status["Seccomp_filters"]) == ("1", "2", "1")
    status = status_of(tree, capabilities=[], seccomp="unconfined", no_new_privileges=False)
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff", "Bnd", "Inh", "Amb")] == [0] * 5
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("0", "0")


@pytest.mark.parametrize("user", [{"uid": 0, "gid": 0}, {"uid": 1000, "gid": 1000}])
def test_a_filter_without_no_new_privileges(tree: Tree, user: dict[str, int]) -> None:
    status = status_of(tree, no_new_privileges=False, user=user)
    assert (status["NoNewPrivs"], status["Seccomp"]) == ("0", "2")
    expected = sum(1 << number for number in CAPABILITIES) if user["uid"] == 0 else 0
    assert [int(status[f"Cap{kind}"], 16) for kind in ("Prm", "Eff")] == [expected] * 2


def test_signals_are_as_a_program_expects(tree: Tree) -> None:
    for init in (True, False):
        status = status_of(tree, init=init)
        assert {int(status[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")} == {0}


def test_only_three_descriptors(tree: Tree) -> None:
    for init in (True, False):
        # The listing itself is the fourth; it is gone when it is looked at.
        code, out, _ = tree.run("/bin/sh", "-c", "exec ls /proc/self/fd", init=init)
        assert (code, out.split()) == (0, ["0", "1", "2", "3"])


def test_the_reaper_has_no_descriptors_and_no_readers(tree: Tree) -> None:
    code, out, _ = tree.run(
        "ls /proc/1/fd; readlink /proc/1/fd/*; cat /proc/1/maps /proc/1/environ; readlink /proc/1/exe"
    )
    assert (code, out) == (1, "0\n1\n2\n")
    code, out, _ = tree.run("tr '\\0' ' ' < /proc/1/cmdline; cat /proc/1/comm")
    assert out.split() == ["zos-reaper", "zos-reaper"]
    code, out, _ = tree.run("grep -E 'Uid|CapEff|NoNew' /proc/1/status", user={"uid": 1000, "gid": 1000})
    assert out.split() == ["Uid:", "1000", "1000", "1000", "1000", "CapEff:", "0" * 16, "NoNewPrivs:", "1"]


def test_the_reaper_reaps_and_passes_signals(tree: Tree) -> None:
    script = """
        trap 'echo usr1' USR1; trap 'echo term; exit 3' TERM
        (setsid sh -c 'sleep 0.01 & echo $!') > /tmp/orphan
        while test -d /proc/$(cat /tmp/orphan); do :; done
        echo reaped
        while :; do sleep 1000 & wait; done
    """
    tree.launch("reap", "/bin/sh", "-c", script)
    assert tree.lines("reap", 1) == ["reaped"]
    tree.hold.do("kill", name="reap", signal=10)
    assert tree.lines("reap", 1) == ["usr1"]
    tree.hold.do("kill", name="reap", signal=15)
    assert tree.wait_exit("reap")["code"] == 3
    assert tree.output("reap") == b"term\n"


def test_a_signal_before_execve_is_not_lost(tree: Tree) -> None:
    for number in range(10):
        name = f"early{number}"
        tree.launch(name, "/bin/sleep", "1000")
        tree.hold.do("kill", name=name, signal=15)
        assert tree.wait_exit(name)["code"] == 128 + 15


def test_the_file_system(tree: Tree) -> None:
    code, out, _ = tree.run("mount", readonly_root=True)
    mounts = {
        line.split()[2]: (line.split()[4], set(line.split()[5].strip("()").split(","))) for line in out.splitlines()
    }
    assert code == 0
    assert mounts["/"][0] == "overlay"
    assert {"ro", "nodev"} <= mounts["/"][1]
    assert "nosuid" not in mounts["/"][1]
    quiet = {"nosuid", "nodev", "noexec"}
    for path, kind, flags in [
        ("/proc", "proc", quiet),
        ("/sys", "sysfs", quiet | {"ro"}),
        ("/sys/fs/cgroup", "cgroup2", quiet | {"ro"}),
        ("/dev", "tmpfs", quiet),
        ("/dev/shm", "tmpfs", quiet | {"size=64k"}),
        ("/dev/mqueue", "mqueue", quiet),
        ("/dev/pts", "devpts", {"nosuid", "noexec"}),
        ("/dev/null", "devtmpfs", {"ro", "nosuid", "noexec"}),
        ("/proc/sys", "proc", quiet | {"ro"}),
    ]:
        assert mounts[path][0] in (kind, "tmpfs" if kind == "devtmpfs" else kind), path
        assert flags <= mounts[path][1], path
    # Nothing of the host, and nothing of spawn.
    inside = ("/proc", "/sys", "/dev")
    assert [path for path in mounts if path != "/" and not path.startswith(inside)] == []


def test_a_volatile_root(tree: Tree) -> None:
    code, out, _ = tree.run("grep ' / ' /proc/mounts; echo written > /etc/new && sync && cat /etc/new", volatile=True)
    assert code == 0
    assert {"volatile", "fsync=volatile"} & set(out.splitlines()[0].split()[3].split(","))
    assert out.splitlines()[1] == "written"
    code, out, _ = tree.run("grep ' / ' /proc/mounts")
    assert "volatile" not in out


def test_devices(tree: Tree) -> None:
    code, out, _ = tree.run("cd /dev; ls; stat -c '%F %t %T %a' null zero full random urandom tty; ls pts shm mqueue")
    lines = out.splitlines()
    assert code == 0
    assert set(lines[: lines.index("zero") + 1]) == {
        "fd", "full", "mqueue", "null", "ptmx", "pts", "random", "shm", "stderr", "stdin", "stdout", "tty", "urandom",
        "zero",
    }  # fmt: skip
    nodes = [line for line in lines if line.startswith("character")]
    assert nodes == [f"character special file {major} {minor} 666" for major, minor in
                     [("1", "3"), ("1", "5"), ("1", "7"), ("1", "8"), ("1", "9"), ("5", "0")]]  # fmt: skip
    assert lines[-6:] == ["mqueue:", "", "pts:", "ptmx", "", "shm:"]
    before = Path("/dev/null").stat().st_mode
    code, _, _ = tree.run("echo x > /dev/null && chmod 000 /dev/null")
    assert code != 0
    assert Path("/dev/null").stat().st_mode == before


def test_what_is_masked_and_what_is_read_only(tree: Tree) -> None:
    code, out, _ = tree.run("cat /proc/kcore /proc/keys /proc/timer_list | wc -c; ls /proc/acpi /sys/firmware")
    assert out.split() == ["0", *(["/proc/acpi:"] if Path("/proc/acpi").exists() else []), "/sys/firmware:"]
    for command in [
        "echo x > /proc/sys/kernel/core_pattern",
        "echo b > /proc/sysrq-trigger",
        "echo 1 > /sys/kernel/profiling",
        "mkdir /sys/fs/cgroup/x",
        "echo 1 > /sys/fs/cgroup/cgroup.procs",
        "umount /proc/sys",
        "mount -t tmpfs none /tmp",
        "unshare -U true",
        "mknod /tmp/disk b 7 0",
        "chroot / true && unshare -m true",
    ]:
        code, _, err = tree.run(command)
        assert code != 0, command
        assert err, command


def test_masked_paths_of_the_image_are_found_inside(tree: Tree) -> None:
    before = Path("/etc/passwd").read_bytes()
    (tree.state / "tree/opt/secret").write_text("secret\n")
    (tree.state / "tree/opt/link").symlink_to("/etc/passwd")
    masked = [b"/opt/secret", b"/opt/link", b"/bin/../root", b"/nowhere", b"/etc/passwd/x"]
    code, out, _ = tree.run("cat /opt/secret /etc/passwd; ls -a /root; stat -c %t,%T /etc/passwd", masked=masked)
    assert (code, out) == (0, ".\n..\n1,3\n")
    code, _, err = tree.run("touch /etc/new", readonly=[b"/etc"])
    assert "Read-only" in err
    assert Path("/etc/passwd").read_bytes() == before


def test_the_upper_keeps_what_was_written(tree: Tree) -> None:
    layers = {"upper": "containers/keep/upper", "work": "containers/keep/work"}
    (tree.state / "containers/keep").mkdir()
    assert tree.run("echo kept > /root/file; rm /etc/passwd", **layers)[0] == 0
    assert tree.run("cat /root/file; test -e /etc/passwd", **layers) == (1, "kept\n", "")
    assert (tree.state / "tree/etc/passwd").exists()
    assert (tree.state / "containers/keep/upper").stat().st_mode == (tree.state / "tree").stat().st_mode
    tree.spawn.do("remove", path="containers/keep")
    assert not (tree.state / "containers/keep").exists()


def test_etc_files(tree: Tree) -> None:
    code, out, _ = tree.run("cat /etc/hostname; test -L /etc/resolv.conf && echo link; grep box /etc/hosts | wc -l")
    assert (code, out) == (0, "box\nlink\n2\n")
    (tree.state / "etc1").mkdir()
    (tree.state / "etc1/resolv.conf").write_text("nameserver 192.0.2.1\n")
    (tree.state / "etc1/hosts").write_text("192.0.2.2 given\n")
    code, out, _ = tree.run("cat /etc/hostname /etc/hosts /etc/resolv.conf", etc="etc1")
    assert (code, out) == (0, "box\n192.0.2.2 given\nnameserver 192.0.2.1\n")


def test_limits(tree: Tree) -> None:
    nofile, core = 7, 4
    limits = [{"resource": nofile, "soft": 100, "hard": 200}, {"resource": core, "soft": 0, "hard": 0}]
    assert tree.run("ulimit -n; ulimit -Hn; ulimit -c", rlimits=limits) == (0, "100\n200\n0\n", "")
    assert tree.run("ulimit -n") == (0, "1024\n", "")
    rise = [{"resource": nofile, "soft": 1_000_000, "hard": 1_000_000_000}]
    with pytest.raises(Refused) as caught:
        tree.launch("no", "/bin/true", rlimits=[{"resource": 99, "soft": 0, "hard": 0}])
    assert (caught.value.code, caught.value.step) == ("spawn.step", "rlimits")
    reply = tree.launch("rise", "/bin/true", rlimits=rise)
    allowed = int(Path("/proc/sys/fs/nr_open").read_text()) >= 1_000_000_000
    assert (reply["unenforced"] == []) == allowed


def test_network_namespaces(tree: Tree) -> None:
    _, fds = tree.spawn.ask("netns", name="n1")
    _, more = tree.spawn.ask("netns", name="n1")
    assert [os.fstat(fd).st_ino for fd in fds[:1]] == [os.fstat(fd).st_ino for fd in more[:1]]
    inode = os.fstat(fds[0]).st_ino
    assert inode != os.stat("/proc/self/ns/net").st_ino
    for fd in [*fds, *more]:
        os.close(fd)
    code, out, _ = tree.run(
        "ls /sys/class/net; cat /sys/class/net/lo/flags; stat -L -c %i /proc/self/ns/net", netns="n1"
    )
    assert (code, out.split()) == (0, ["lo", "0x9", str(inode)])
    code, out, _ = tree.run("stat -L -c %i /proc/self/ns/net")
    assert int(out) == os.stat("/proc/self/ns/net").st_ino
    error = refusal(tree, "/bin/true", netns="n2")
    assert (error.code, error.step) == ("spawn.step", "get-netns")


def test_every_namespace_is_its_own(tree: Tree) -> None:
    kinds = ["mnt", "pid", "ipc", "uts", "cgroup", "net"]
    _, out, _ = tree.run(f"cd /proc/self/ns; stat -L -c %i {' '.join(kinds)}; cat /proc/self/cgroup")
    *inodes, cgroup = out.split()
    here = [str(os.stat(f"/proc/self/ns/{kind}").st_ino) for kind in kinds]
    assert [kind for kind, one, other in zip(kinds, inodes, here, strict=False) if one == other] == ["net"]
    assert out.splitlines()[-1] == "0::/", cgroup


def test_the_cgroup_is_that_asked_for(tree: Tree) -> None:
    tree.launch("cg", "/bin/sleep", "1000")
    procs = (tree.cgroup / "cg/cgroup.procs").read_text().split()
    assert len(procs) == 2
    for pid in procs:
        assert Path(f"/proc/{pid}/oom_score_adj").read_text() == "0\n"
    (tree.cgroup / "cg/cgroup.kill").write_text("1")
    assert tree.wait_exit("cg")["signal"] == 9


def test_programs_that_cannot_be_executed(tree: Tree) -> None:
    for args, code, errno, hint in [
        ("/bin/nothing", "spawn.not-found", 2, None),
        ("nothing", "spawn.not-found", 2, None),
        ("/etc/passwd/x", "spawn.not-found", 2, None),
        ("/bin/no-interpreter", "spawn.not-found", 2, "interpreter"),
        ("/bin/not-executable", "spawn.not-executable", 13, "permission"),
        ("/bin/no-header", "spawn.not-executable", 8, "#!"),
        ("/bin/foreign", "spawn.not-executable", 8, "S/390"),
        ("/etc", "spawn.not-executable", 13, "directory"),
    ]:
        error = refusal(tree, args)
        assert (error.code, error.errno) == (code, errno), args
        assert hint is None or (error.hint and hint in error.hint), (args, error.hint)
        exit_ = tree.wait_exit(f"r{tree.counter}")
        assert exit_["code"] == (127 if code == "spawn.not-found" else 126)
    left = [tree.hold.do("list", prefix=f"log/r{number}/")["names"] for number in range(tree.counter + 1)]
    assert not any(left)


def test_requests_that_make_no_sense(tree: Tree) -> None:
    wrong: list[tuple[dict[str, object], str]] = [
        ({"image": "00" * 32}, "spawn.image-not-mounted"),
        ({"image": "x"}, "frame.bad-body"),
        ({"upper": "../x"}, "spawn.bad-path"),
        ({"upper": "/x"}, "spawn.bad-path"),
        ({"upper": "no/such/upper"}, "spawn.step"),
        ({"cwd": b"tmp"}, "spawn.bad-path"),
        ({"cwd": b"/nowhere"}, "spawn.step"),
        ({"cgroup": "/etc"}, "spawn.bad-path"),
        ({"cgroup": str(tree.cgroup / "none")}, "spawn.step"),
        ({"cgroup": str(tree.cgroup / "../..")}, "spawn.step"),
        ({"hostname": "a b"}, "frame.bad-body"),
        ({"name": "a b"}, "frame.bad-body"),
        ({"args": []}, "frame.bad-body"),
        ({"user": {"uid": 2**32 - 1, "gid": 0}}, "frame.bad-body"),
        ({"user": {"uid": -1, "gid": 0}}, "frame.bad-body"),
        ({"user": {"uid": "0", "gid": 0}}, "frame.bad-body"),
        ({"capabilities": [64]}, "frame.bad-body"),
        ({"seccomp": "none"}, "frame.bad-body"),
        ({"masked": [b"proc"]}, "spawn.bad-path"),
        ({"surprise": 1}, "frame.bad-body"),
    ]
    for changes, code in wrong:
        body = tree.launch_body("bad", "/bin/true") | changes
        with pytest.raises(Refused) as caught:
            tree.spawn.do("launch", **body)
        assert caught.value.code == code, (changes, caught.value)
        if caught.value.step in ("upper", "chdir"):
            assert tree.wait_exit("bad")["code"] == 125
    with pytest.raises(Refused) as caught:
        tree.spawn.do("nonsense")
    assert caught.value.code == "frame.unknown-op"


def test_a_working_directory_by_descriptor_is_refused(tree: Tree) -> None:
    """CVE-2024-21626."""
    for number in range(3, 24):
        error = refusal(tree, "/bin/pwd", cwd=f"/proc/self/fd/{number}".encode())
        assert (error.code, error.step) == ("spawn.step", "chdir"), number


def test_names_are_unique_while_they_live(tree: Tree) -> None:
    tree.launch("one", "/bin/sleep", "1000")
    with pytest.raises(Refused) as caught:
        tree.launch("one", "/bin/true")
    assert caught.value.code == "spawn.exists"
    tree.hold.do("kill", name="one", signal=9)
    assert tree.wait_exit("one")["signal"] == 9


def test_many_at_once(tree: Tree) -> None:
    count = 40
    bodies = [tree.launch_body(f"m{n}", "/bin/sh", "-c", f"echo {n}; exit {n}") for n in range(count)]
    asked = [tree.spawn.send("launch", body) for body in bodies]
    for number in asked:
        _, fds = tree.spawn.answer(number)
        poller = select.poll()
        poller.register(fds[0], select.POLLIN)
        assert poller.poll(30_000)
        os.close(fds[0])
    for n in range(count):
        assert tree.wait_exit(f"m{n}")["code"] == n
        assert tree.output(f"m{n}") == f"{n}\n".encode()
    tree.hold.do("drop", prefix="log/m")


def test_image_is_mounted_once(tree: Tree) -> None:
    ask = {"image": IMAGE, "provider": "extract", "tree": "tree"}
    inodes = set()
    for _ in range(2):
        reply, [fd] = tree.spawn.ask("mount_image", **ask)
        inodes.add((os.fstat(fd).st_dev, os.fstat(fd).st_ino))
        os.close(fd)
        assert reply["provider"] == "extract"
    assert len(inodes) == 1
    other = "77" * 32
    tree.spawn.do("mount_image", **(ask | {"image": other}))
    assert tree.run("/bin/true", "", image=other)[0] == 0
    tree.spawn.do("forget_image", image=other)
    assert tree.hold.do("list", prefix="mnt/")["names"] == [f"mnt/{IMAGE}"]
    assert refusal(tree, "/bin/true", image=other).code == "spawn.image-not-mounted"
    with pytest.raises(Refused) as caught:
        tree.spawn.do("mount_image", image=other, provider="extract", tree="nowhere")
    assert (caught.value.code, caught.value.step, caught.value.errno) == ("spawn.step", "open-tree", 2)
