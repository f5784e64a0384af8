"""Calls, sockets, devices and files by which a container reaches the kernel or the machine (docs/security.md)."""

from __future__ import annotations

import ctypes
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.node_tool import Node
from tests.integration.spawn_kit import Tree
from tests.security.kit import ALL_CAPABILITIES, disk, run_inside, verdicts
from zos_core.containers.launch import MASKED

pytestmark = pytest.mark.root

UNPROTECTED = {"seccomp": "unconfined", "no_new_privileges": False, "capabilities": ALL_CAPABILITIES}
# What the default container is told, where it is not EPERM.
OTHERWISE = {
    "clone3": {"ENOSYS"},  # so that libc falls back to clone, whose flags a filter can look at
    "write_core_pattern": {"EROFS"},
    "write_modprobe": {"EROFS", "ENOENT"},  # ENOENT: this kernel was built without it
    "write_sysrq": {"EROFS", "ENOENT"},
    "write_uevent_helper": {"EROFS", "ENOENT"},
    "write_sysfs": {"EROFS", "ENOENT"},
    "write_cgroup": {"EROFS"},
    "mkdir_cgroup": {"EROFS"},
}
# What this kernel may lack for everybody, so that the control has nothing to show.
MAY_LACK = {"ENOSYS", "EAFNOSUPPORT", "ENOENT", "ENODEV", "EBUSY"}


def test_no_call_leads_out(attacked: Node, tree: Tree) -> None:
    """Attacks 9, 10, 15, 19, 23: every call fails, and each of them works in a container without protection."""
    inside = verdicts(attacked.run("--rm", "attack", command=["calls", disk()]).out)
    assert len(inside) > 35
    assert {name: verdict for name, verdict in inside.items() if verdict not in OTHERWISE.get(name, {"EPERM"})} == {}

    control = verdicts(run_inside(tree, "calls", disk(), **UNPROTECTED))
    assert set(control) == set(inside)
    # Nodes can be made there, and still lead nowhere: the mounts are nodev.
    assert control.pop("open_mem") == "EACCES"
    assert {name: verdict for name, verdict in control.items() if verdict != "ok" and verdict not in MAY_LACK} == {}
    assert sum(verdict == "ok" for verdict in control.values()) > 25


def test_each_exec_is_held_as_the_container_is(attacked: Node) -> None:
    attacked.run("-d", "--name", "box", "attack", command=["sleep", "1000"])
    inside = verdicts(attacked.zos("exec", "box", "--", "calls", disk()).out)
    assert attacked.zos("rm", "-f", "box").status == 0
    assert len(inside) > 35
    assert {name: verdict for name, verdict in inside.items() if verdict not in OTHERWISE.get(name, {"EPERM"})} == {}


def test_what_tells_about_the_machine_is_hidden(attacked: Node) -> None:
    """Attack 22."""
    masked = " ".join(path.decode() for path in MASKED)
    script = f"""
        for path in {masked}; do
            if test -d $path; then echo "$path dir $(ls -A $path | wc -l)"
            elif test -e $path; then echo "$path file $(head -c 64 $path | wc -c) $(stat -c %t,%T $path)"
            fi
        done
    """
    lines = attacked.run("--rm", "attack", command=["sh", "-c", script]).out.splitlines()
    there = [path.decode() for path in MASKED if os.path.exists(path)]
    assert [line.split()[0] for line in lines] == there
    assert "/proc/interrupts" in there
    for line in lines:
        path, rest = line.split(" ", 1)
        assert rest == ("dir 0" if os.path.isdir(path) else "file 0 1,3"), line
    # The control: outside, at least one of them says something.
    assert Path("/proc/interrupts").read_text()


def test_addresses_and_messages_of_the_kernel_are_hidden(attacked: Node) -> None:
    """Attack 22: dmesg and kallsyms."""
    script = """
        grep -v '^0* ' /proc/kallsyms 2>/dev/null | wc -l
        busybox dmesg 2>/dev/null | wc -l
    """
    more = """
        cat /dev/kmsg /proc/kmsg 2>/dev/null | wc -c
        for path in /sys/kernel/debug /sys/kernel/tracing /sys/fs/bpf; do ls -A $path 2>/dev/null; done | wc -l
    """
    done = attacked.run("--rm", "attack", command=["sh", "-c", script + more])
    assert done.out.split() == ["0"] * 4, done.out + done.err
    # The control: the same lines outside, as root, find something. (The rest would wait for messages.)
    outside = subprocess.run(["sh", "-c", script], capture_output=True, text=True, timeout=60).stdout.split()
    assert any(int(count) > 0 for count in outside), outside


@pytest.fixture
def host_key() -> Iterator[str]:
    """A key in the session keyring of this process, and so of all that it starts."""
    numbers = {"x86_64": (248, 250), "aarch64": (217, 219)}.get(os.uname().machine)
    if numbers is None:
        pytest.skip("the numbers of add_key and keyctl are not known here")
    libc = ctypes.CDLL(None, use_errno=True)
    name = b"zos-attack"
    if libc.syscall(numbers[1], 1, None) < 0:  # KEYCTL_JOIN_SESSION_KEYRING
        pytest.skip(f"no keys in this kernel: {os.strerror(ctypes.get_errno())}")
    assert libc.syscall(numbers[0], b"user", name, b"secret", 6, -3) > 0
    yield name.decode()
    assert libc.syscall(numbers[1], 7, -3) >= 0, "KEYCTL_CLEAR"


def test_the_session_keyring_of_the_host_is_not_inherited(host_key: str, programs: Path, tmp_path: Path) -> None:
    """Attack 22."""
    from tests.integration.spawn_kit import running
    from tests.security.kit import put_programs, run_outside

    assert run_outside(programs, "entry", "key", host_key) == "found\n"
    with running(tmp_path) as tree:
        tree.mount_extracted()
        put_programs(programs, tree.state / "tree")
        assert run_inside(tree, "entry", "key", host_key, **UNPROTECTED) == "ENOKEY\n"
        assert run_inside(tree, "entry", "key", host_key) == "EPERM\n"
