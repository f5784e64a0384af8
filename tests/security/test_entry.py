"""The moment at which a program enters a container, attacked by one that is inside already (docs/security.md)."""

from __future__ import annotations

import os
import re
import resource
import secrets
import time
from pathlib import Path

import pytest

from tests.e2e.node_tool import Node
from tests.integration.spawn_kit import CAPABILITIES, Refused, Tree, make_tree
from tests.mounts import in_own_mount_namespace
from tests.security.kit import ALL_CAPABILITIES, put_programs, run_outside
from tests.security.naive import in_jail, write_by_path

pytestmark = pytest.mark.root

# `make soak` raises it to the 10,000 of the design; each takes about 2 ms.
EXECS = int(os.environ.get("ZOS_TEST_EXECS", "100"))
RACES_MAX = 200
# Of those that come while something is swapped: enough for both to be met many times, and never for long.
RACES_MIN = 60
RACE_S = 20.0
WAY_OUT = """
    mkdir /tmp/here && ln -s /proc/self/fd/3 /tmp/there && exec entry swap /tmp/here /tmp/there 100000
"""
FAKE_PROC = """
    mkdir /tmp/proc && mount -t tmpfs none /tmp/proc
    for pid in self thread-self 1; do
        mkdir -p /tmp/proc/$pid/attr /tmp/proc/$pid/fd
        for file in attr/exec attr/keycreate oom_score_adj setgroups uid_map status comm cmdline; do
            echo untouched > /tmp/proc/$pid/$file
        done
    done
    mount --move /tmp/proc /proc 2>/dev/null || mount -o bind /tmp/proc /proc
    echo faked; exec sleep 1000
"""
ATTACK_MS = str(max(100_000, 50 * EXECS))
SYS_PTRACE = 19
# What the attacker gets here is more than any container of the product has: the defence must not rest on that.
STRONG = {"seccomp": "unconfined", "no_new_privileges": False, "capabilities": ALL_CAPABILITIES}


@pytest.fixture
def jail(tmp_path: Path, programs: Path) -> Path:
    """What the naive root leads into: a container's tree without a container."""
    root = tmp_path / "jail"
    make_tree(root)
    put_programs(programs, root)
    (root / "dev").mkdir()
    (root / "dev/null").touch()
    (tmp_path / "outside").write_text("of the host")
    return root


def attack(tree: Tree, name: str, *arguments: str, **changes: object) -> None:
    """Start an attack program in a container of that name; it goes on until /tmp/stop is there."""
    tree.launch(name, f"/bin/{arguments[0]}", *arguments[1:], **(STRONG | changes))
    assert tree.lines(name, 1) == ["ready"]


def finish(tree: Tree, name: str) -> str:
    """Let the attack end; the rest of what it said."""
    stop = tree.exec(name, 9999, "/bin/touch", "/tmp/stop")
    tree.wait_exit(stop)
    status, out, err = tree.finish(name)
    assert (status, err) == (0, ""), (status, out, err)
    return out


def counts(line: str) -> dict[str, int]:
    return {key: int(value) for key, value in re.findall(r"(\w+)=(\d+)", line)}


def drop_streams(tree: Tree, process: str) -> None:
    tree.hold.do("drop", names=[f"log/{process}/stdout", f"log/{process}/stderr"])


# --- 1: CVE-2019-5736 ------------------------------------------------------------------------------------------------


def test_the_runtime_cannot_be_overwritten_through_proc(tree: Tree) -> None:
    """zos-init is executed inside by way of /proc/self/exe, again and again, and someone waits for it."""
    attack(tree, "overwrite", "entry", "exe", "zos-init (deleted)", ATTACK_MS)
    entered = 0
    for number in range(1, RACES_MAX):
        process = tree.exec("overwrite", number, "/proc/self/exe", "spawn")
        tree.wait_exit(process)
        drop_streams(tree, process)
        entered += 1
    found = counts(finish(tree, "overwrite").splitlines()[-1])
    assert found["seen"] > 0, f"{entered} times inside, and the attacker never saw it: this test shows nothing"
    assert (found["opened"], found["unsealed"], found["written"]) == (0, 0, 0)


def test_the_attack_on_the_runtime_works_on_a_file(tree: Tree) -> None:
    """The control: what is no sealed memfd is overwritten as soon as it does not run any more."""
    tree.launch("control", "/bin/sleep", "1000", **STRONG)
    process = tree.exec("control", 1, "/bin/entry", "exe", "/tmp/busybox-victim", ATTACK_MS, **STRONG)
    assert tree.lines(process, 1) == ["ready"]
    start = "cat /bin/busybox > /tmp/busybox-victim; chmod 755 /tmp/busybox-victim; exec /tmp/busybox-victim sleep 1000"
    victim = tree.exec("control", 2, "/bin/sh", "-c", start)
    assert tree.lines(process, 1) == ["seen"]
    tree.hold.do("kill", name=victim, signal=9)
    tree.wait_exit(victim)
    upper = tree.state / "containers/control/upper/tmp/busybox-victim"
    for _ in range(1000):
        if upper.read_bytes()[:2] == b"#!":
            break
        tree.wait_exit(tree.exec("control", 3, "/bin/true"))
        drop_streams(tree, "control/exec-3")
    assert upper.read_bytes()[:2] == b"#!"
    tree.wait_exit(tree.exec("control", 4, "/bin/touch", "/tmp/stop"))
    found = counts(tree.output(process).decode())
    assert found["unsealed"] > 0
    assert found["written"] > 0
    tree.hold.do("kill", name="control", signal=9)
    tree.wait_exit("control")


def test_the_first_process_cannot_be_opened(attacked: Node) -> None:
    """pid 1 is zos-init for the whole life of a container."""
    script = """
        for mode in '<' '>' '<>'; do
            eval "true $mode /proc/$pid/exe" 2>&1 | sed 's/.*: //'
        done
        for link in exe cwd root fd/0 fd/1 fd/2; do readlink /proc/$pid/$link; done
        ls /proc/$pid/fd/ | wc -l; cat /proc/$pid/maps | wc -l
    """
    out = attacked.run("--rm", "attack", command=["sh", "-c", f"pid=1; {script}"]).out
    # The numbers of its three descriptors may be listed, what they are may not.
    assert out.splitlines() == ["Permission denied"] * 3 + ["3", "0"]
    # The control: another process of the same user, in the same container.
    out = attacked.run("--rm", "attack", command=["sh", "-c", f"sleep 1000 & pid=$!; {script}"]).out
    *lines, maps = out.splitlines()
    assert lines[:5] == ["Text file busy"] * 2 + ["/bin/busybox", "/", "/"], out
    assert len(lines) == 5 + 3 + 1, out
    assert int(maps) > 0


# --- 2: CVE-2024-21626 -----------------------------------------------------------------------------------------------


def test_only_three_descriptors_come_along(attacked: Node, programs: Path) -> None:
    attacked.run("-d", "--name", "box", "attack", command=["sleep", "1000"])
    outputs = [
        attacked.run("--rm", "attack", command=["entry", "fds"]).out,
        attacked.zos("exec", "box", "--", "entry", "fds").out,
    ]
    assert attacked.zos("rm", "-f", "box").status == 0
    for out in outputs:
        lines = [line.split(" ", 1) for line in out.splitlines()]
        assert [number for number, _ in lines] == ["0", "1", "2", "cwd"], out
        assert lines[0][1] == "/dev/null"
        assert lines[3][1] == "/"
    leaked = os.open("/etc", os.O_RDONLY)
    try:
        assert f"{leaked} /etc\n" in run_outside(programs, "entry", "fds", pass_fds=(leaked,)), "the control"
    finally:
        os.close(leaked)


def test_no_descriptor_is_a_way_out_for_the_working_directory(tree: Tree) -> None:
    """As it is given, and by way of a link that the container made."""
    tree.launch("cwd", "/bin/sleep", "1000")
    inside = tree.state / "containers/cwd/upper/tmp"
    inside.mkdir(exist_ok=True)
    for number in range(64):
        path = f"/proc/self/fd/{number}"
        (inside / f"to-{number}").symlink_to(path)
        if number % 4:
            path = f"/tmp/to-{number}"
        with pytest.raises(Refused) as caught:
            tree.exec("cwd", number, "/bin/pwd", cwd=path.encode())
        assert caught.value.code in ("spawn.step", "spawn.bad-path"), path
        assert caught.value.step == "chdir" or "outside" in str(caught.value), path
    for number in range(16):
        with pytest.raises(Refused) as caught:
            tree.launch(f"cwd{number}", "/bin/pwd", cwd=f"/proc/self/fd/{number}".encode())
        assert caught.value.code in ("spawn.step", "spawn.bad-path"), number
    tree.hold.do("kill", name="cwd", signal=9)
    tree.wait_exit("cwd")


def test_a_descriptor_is_a_way_out_for_who_leaves_it_open(jail: Path) -> None:
    """The control: who enters a root with a descriptor of the host's, and is told to go there, is in the host."""
    leaked = os.open("/", os.O_RDONLY)
    try:
        steps = f"cd /proc/self/fd/{leaked} && cat .{jail.parent}/outside"
        done = in_own_mount_namespace(lambda: in_jail(jail, "sh", "-c", steps, pass_fds=(leaked,)))
    finally:
        os.close(leaked)
    assert done.stdout == "of the host", done.stderr


# --- 3: CVE-2016-9962 ------------------------------------------------------------------------------------------------


def entering(tree: Tree, name: str, count: int) -> tuple[dict[str, int], str]:
    """Let so many programs enter the container of an attacker; what it found, and what it said of it."""
    sent: list[str] = []

    def drain() -> None:
        for process in sent:
            tree.wait_exit(process)
            drop_streams(tree, process)
        sent.clear()

    for number in range(1, count + 1):
        sent.append(tree.exec(name, number, "/bin/true", capabilities=CAPABILITIES))
        if len(sent) == 16:
            drain()
    drain()
    out = finish(tree, name)
    return counts(out.splitlines()[-1]), out


def test_nothing_of_an_entering_process_can_be_read(tree: Tree) -> None:
    """Whoever enters is looked at, traced and opened; by a filter nothing is held back, and rights are the default."""
    attack(tree, "window", "entry", "window", ATTACK_MS, capabilities=CAPABILITIES)
    found, out = entering(tree, "window", EXECS)
    assert found["touched"] > 0, "the attacker saw none of them: this test shows nothing"
    assert found["leaks"] == 0, out[:2000]


def test_the_attack_on_entering_processes_works_with_the_right_to_trace(tree: Tree) -> None:
    """The control: CAP_SYS_PTRACE, which no container has, sees the sealed zos-init before its execve."""
    attack(tree, "tracer", "entry", "window", ATTACK_MS, capabilities=[*CAPABILITIES, SYS_PTRACE])
    found, out = entering(tree, "tracer", 32)
    assert found["leaks"] > 0
    assert "leak exe /memfd:zos-init (deleted)" in out


# --- The memory of what enters ----------------------------------------------------------------------------------------


def secret() -> bytes:
    """Some bytes that are in no program."""
    return secrets.token_hex(16).encode()


def memory_of(pid: int) -> bytes:
    """All that a process has written or read to its own memory, read as root."""
    found = []
    with open(f"/proc/{pid}/maps") as maps, open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in maps:
            span, rights, *_ = line.split()
            if not rights.startswith("rw") or "[v" in line:
                continue
            start, end = (int(part, 16) for part in span.split("-"))
            memory.seek(start)
            found.append(memory.read(end - start))
    return b"".join(found)


def pid_of(tree: Tree, name: str) -> int:
    [child] = [child for child in tree.hold.do("children")["children"] if child["name"] == name]
    return int(child["pid"])


def test_what_enters_knows_nothing_of_other_containers(tree: Tree) -> None:
    """The process that enters a container, and stays there as pid 1, is a copy of spawn, which is asked for all."""
    mine, launched, executed, queued = secret(), secret(), secret(), secret()
    tree.launch("other", "/bin/sleep", "1000", env=[b"PATH=/bin", b"SECRET=" + launched])
    tree.wait_exit(
        tree.exec("other", 1, "/bin/true", env=[b"SECRET=" + executed, b"X=" + bytes(30_000).hex().encode()])
    )
    own = launched in memory_of(pid_of(tree, "other"))
    assert own, "the control: its own is what the search finds"
    spawn = memory_of(int(tree.service()["pid"]))
    assert [value for value in (launched, executed) if value in spawn] == []
    # Three at once, and descriptors for one at a time: while the second enters, the third waits in spawn.
    pid = int(tree.service()["pid"])
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (48, before[1]))
    try:
        bodies = [
            tree.launch_body(name, "/bin/sleep", "1000", env=[b"PATH=/bin", b"SECRET=" + value])
            for name, value in (("first", secret()), ("second", mine), ("third", queued))
        ]
        for number in [tree.spawn.send("launch", body) for body in bodies]:
            os.close(tree.spawn.answer(number)[1][0])
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    inside = memory_of(pid_of(tree, "second"))
    assert [value for value in (mine, launched, executed, queued) if value in inside] == [mine]
    for name in ("other", "first", "second", "third"):
        tree.hold.do("kill", name=name, signal=9)
        tree.wait_exit(name)


# --- 6 and 4: a /proc and a /dev/null of the container's own ---------------------------------------------------------


def test_an_exec_believes_no_proc_of_the_containers_own(tree: Tree) -> None:
    """CVE-2019-16884 and its kin: the runtime writes where a faked /proc points."""
    tree.launch("faked", "/bin/sh", "-c", FAKE_PROC, **STRONG)
    assert tree.lines("faked", 1) == ["faked"]
    process = tree.exec("faked", 1, "/bin/sh", "-c", "cat /proc/*/attr/* /proc/*/[!af]*")
    assert tree.wait_exit(process)["code"] == 0
    assert tree.output(process).split() == [b"untouched"] * 24
    tree.hold.do("kill", name="faked", signal=9)
    tree.wait_exit("faked")


def test_the_attack_by_a_faked_proc_works_on_who_believes_it(tree: Tree) -> None:
    """The control: who enters the same container and writes by path gives the attacker what the kernel should have."""
    tree.launch("believed", "/bin/sh", "-c", FAKE_PROC, **STRONG)
    assert tree.lines("believed", 1) == ["faked"]
    write_by_path(pid_of(tree, "believed"), "/proc/self/attr/exec", "label\\n")
    process = tree.exec("believed", 1, "/bin/cat", "/proc/self/attr/exec", "/proc/1/attr/exec")
    assert tree.wait_exit(process)["code"] == 0
    assert tree.output(process).split() == [b"label", b"untouched"]
    tree.hold.do("kill", name="believed", signal=9)
    tree.wait_exit("believed")


@pytest.mark.parametrize("what", ["link", "file"])
def test_an_exec_believes_no_dev_null_of_the_containers_own(tree: Tree, what: str) -> None:
    """CVE-2025-31133: what stands in the place of /dev/null would be opened by the runtime."""
    make = "ln -s /proc/sys/kernel/core_pattern /dev/null" if what == "link" else "echo x > /dev/null"
    name = f"null-{what}"
    tree.launch(
        name, "/bin/sh", "-c", f"umount -l /dev/null && rm /dev/null && {make} && echo faked; exec sleep 1000", **STRONG
    )
    assert tree.lines(name, 1) == ["faked"]
    with pytest.raises(Refused) as caught:
        tree.exec(name, 1, "/bin/true")
    assert caught.value.code in ("spawn.bad-path", "spawn.step")
    tree.hold.do("kill", name=name, signal=9)
    tree.wait_exit(name)


def race(tree: Tree, name: str, program: tuple[str, ...], **changes: object) -> tuple[list[bytes], list[Refused]]:
    """Execs that come while somebody inside swaps what they meet: what the programs said, and what was refused."""
    said: list[bytes] = []
    refused: list[Refused] = []
    began = time.monotonic()
    for number in range(1, RACES_MAX):
        if number > RACES_MIN and said and refused:
            break
        if time.monotonic() - began > RACE_S:
            break
        try:
            process = tree.exec(name, number, *program, **changes)
        except Refused as error:
            refused.append(error)
            continue
        tree.wait_exit(process)
        said.append(tree.output(process))
        drop_streams(tree, process)
    tree.hold.do("kill", name=name, signal=9)
    tree.wait_exit(name)
    assert said, "nobody met the good one: this test shows nothing"
    assert refused, "nobody met the evil one: this test shows nothing"
    return said, refused


def test_an_exec_races_with_a_dev_null_that_is_swapped(tree: Tree) -> None:
    """CVE-2025-31133 as a race: what was looked at is what is used, whatever the name leads to a moment later."""
    script = """
        touch /tmp/real && mount -o bind /dev/null /tmp/real && umount -l /dev/null && rm -f /dev/null
        ln -s /tmp/real /dev/null && ln -s /proc/sys/kernel/core_pattern /dev/evil
        exec entry swap /dev/null /dev/evil 100000
    """
    core_pattern = Path("/proc/sys/kernel/core_pattern").read_text()
    tree.launch("swapped", "/bin/sh", "-c", script, **STRONG)
    assert tree.lines("swapped", 1) == ["ready"]
    said, refused = race(tree, "swapped", ("/bin/stat", "-L", "-c", "%t,%T", "/proc/self/fd/0"))
    assert set(said) == {b"1,3\n"}
    assert {error.code for error in refused} <= {"spawn.bad-path", "spawn.step"}
    assert Path("/proc/sys/kernel/core_pattern").read_text() == core_pattern


def test_an_exec_races_with_a_directory_that_is_swapped_for_a_way_out(tree: Tree) -> None:
    """CVE-2024-21626 as a race: the working directory is a directory inside, or a link to a descriptor of spawn's."""
    tree.launch("moving", "/bin/sh", "-c", WAY_OUT, **STRONG)
    assert tree.lines("moving", 1) == ["ready"]
    said, refused = race(tree, "moving", ("/bin/pwd",), cwd=b"/tmp/here")
    assert set(said) <= {b"/tmp/here\n", b"/tmp/there\n"}, said
    assert {error.step for error in refused} <= {"chdir", None}


# --- 23 --------------------------------------------------------------------------------------------------------------


def test_a_double_chroot_ends_at_the_containers_root(attacked: Node, jail: Path) -> None:
    assert attacked.run("--rm", "attack", command=["entry", "chroot"]).out == "inside\n"
    # The control: below a chroot alone the same steps lead out.
    done = in_own_mount_namespace(lambda: in_jail(jail, "entry", "chroot"))
    assert done.stdout == "outside\n", done.stderr


def test_the_root_that_others_see_is_the_containers(attacked: Node, jail: Path) -> None:
    script = """
        for root in /proc/$pid/root /proc/self/root /proc/$pid/cwd; do
            stat -L -c %d:%i $root/. 2>/dev/null
        done
        stat -c %d:%i /
    """
    lines = attacked.run("--rm", "attack", command=["sh", "-c", f"pid=1; {script}"]).out.split()
    assert len(lines) > 1, lines
    assert len(set(lines)) == 1, lines
    root = os.stat("/")
    outside = f"{root.st_dev}:{root.st_ino}"
    assert lines[0] != outside
    # The control: below a chroot alone there are processes of the host's, and their root is the host's.
    done = in_own_mount_namespace(lambda: in_jail(jail, "sh", "-c", f"pid={os.getpid()}; {script}"))
    assert done.stdout.split()[0] == outside, done
    assert done.stdout.split()[-1] != outside, done
