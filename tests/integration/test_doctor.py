"""`zos doctor` on this machine, and on it with something taken away: real namespaces, real refusals of the kernel."""

from __future__ import annotations

import ctypes
import json
import os
import shlex
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.machine import snapshot
from zos_core.doctor.machine import PATH_OF_ROOT

TIMEOUT_S = 90
CANNOT = 77
# The command, from this checkout or from what is installed, whoever may execute the script beside the interpreter.
CODE = "import sys; from zos_core.base.verbs import main; sys.exit(main())"
ZOS = (sys.executable, "-P", "-c", CODE)
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP, SECCOMP_MODE_FILTER = 38, 22, 2
SYSCALLS = {"clone3": 435, "fsopen": 430, "fanotify_init": 300}


def doctor(
    *arguments: str,
    before: str = "",
    namespaces: tuple[str, ...] = ("--mount",),
    preexec: Callable[[], None] | None = None,
) -> tuple[int, Any]:
    """Run it, after the shell commands `before`, in namespaces of its own; its status and its report."""
    line = f"set -e; {before or ':'}\nexec {shlex.join([*ZOS, 'doctor', '--json', *arguments])}"
    done = subprocess.run(
        ["unshare", *namespaces, "sh", "-c", line],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        preexec_fn=preexec,
        check=False,
    )
    skip_where_only_root_reads(done)
    assert done.stdout.startswith("{"), done.stderr
    assert "Traceback" not in done.stderr
    return done.returncode, json.loads(done.stdout)


def skip_where_only_root_reads(done: subprocess.CompletedProcess[str]) -> None:
    """A checkout below /root, or in a home of mode 0700, is not there for anybody else."""
    if not done.stdout and ("Permission denied" in done.stderr or "No module named" in done.stderr):
        pytest.skip("this checkout or its interpreter lies where others cannot read")


def finding(report: Any, name: str) -> Any:
    return next(each for each in report["findings"] if each["name"] == name)


def refusing(call: str, error: int) -> Callable[[], None]:
    """In the child: a seccomp filter by which one system call fails, as in a container that somebody locked down."""

    def load() -> None:
        code = struct.pack("=HBBI", 0x20, 0, 0, 0)  # the number of the call
        code += struct.pack("=HBBI", 0x15, 0, 1, SYSCALLS[call])
        code += struct.pack("=HBBI", 0x06, 0, 0, 0x00050000 | error)  # SECCOMP_RET_ERRNO
        code += struct.pack("=HBBI", 0x06, 0, 0, 0x7FFF0000)  # SECCOMP_RET_ALLOW
        buffer = ctypes.create_string_buffer(code)
        program = struct.pack("@HP", len(code) // 8, ctypes.addressof(buffer))
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, program, 0, 0):
            raise OSError(ctypes.get_errno(), "seccomp")

    return load


@pytest.mark.root
def test_this_machine_runs_containers_and_nothing_is_left() -> None:
    before = snapshot()
    status, report = doctor()
    assert status == 0, report
    assert report["containers"] is True
    assert (report["problem"], report["command"]) == (None, None)
    assert report["kernel"] == os.uname().release
    assert finding(report, "container")["works"] is True
    assert all(each["works"] is not None for each in report["findings"])
    assert before.difference(snapshot(), instance="doctor-", alone=False) == []
    own = Path("/proc/self/cgroup").read_text()
    assert "doctor-" not in own


@pytest.fixture(scope="module")
def own_row() -> int:
    """Of this machine, with nothing switched off."""
    return int(doctor()[1]["row"]["number"])


@pytest.mark.root
@pytest.mark.parametrize(
    ("without", "here", "where_files_are_no_devices"),
    [
        ("detached-layers", (2, 1), (3, 2)),
        ("erofs-file-backed", (3, 2), (3, 2)),
        ("fuse", (4, 2), (4, 3)),
        ("erofs", (4, 2), (4, 3)),
    ],
)
def test_a_feature_switched_off_is_another_row(
    own_row: int, without: str, here: tuple[int, int], where_files_are_no_devices: tuple[int, int]
) -> None:
    status, report = doctor("--without", without)
    assert status == 0
    expected = {1: here, 2: here, 3: where_files_are_no_devices}[own_row]
    assert (report["row"]["number"], report["better"]["number"]) == expected
    assert finding(report, without)["found"] == "switched off by --without"
    if report["row"]["number"] != own_row:
        assert without in report["takes"]


@pytest.mark.root
def test_a_feature_that_there_is_not() -> None:
    done = subprocess.run(
        [*ZOS, "doctor", "--without", "magic"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    assert done.returncode == 2
    assert "erofs-file-backed" in done.stderr


NO_FUSE = """new=$(mktemp -d); mount -t tmpfs dev $new; cd $new
for node in null zero full random urandom tty loop-control; do cp -a /dev/$node .; done
mkdir pts shm mqueue; ln -s /proc/self/fd fd; cd /; mount --move $new /dev; rmdir $new"""


@pytest.mark.root
def test_without_fuse_images_are_extracted() -> None:
    status, report = doctor(before=NO_FUSE)
    assert status == 0, report
    fuse = finding(report, "fuse")
    assert fuse["works"] is False
    assert "No such file" in fuse["found"]
    assert fuse["command"] == "modprobe fuse"
    assert report["row"]["number"] == 4
    assert report["takes"].startswith("what is missing here: fuse: ")


@pytest.mark.root
def test_state_in_memory_is_refused_before_anything_is_made() -> None:
    mounted = "mkdir -p /var/lib/zos; mount -t tmpfs state /var/lib/zos"
    status, report = doctor(before=mounted)
    assert status == CANNOT
    assert report["problem"].startswith("state: ")
    assert "mount DISK /var/lib/zos" in report["command"]
    assert finding(report, "container")["works"] is None


@pytest.mark.root
def test_without_control_groups_it_says_which_mount_would_help() -> None:
    status, report = doctor(before="umount -l /sys/fs/cgroup")
    assert status == CANNOT
    assert report["problem"].startswith("cgroups: ")
    assert report["command"] == "mount -t cgroup2 cgroup2 /sys/fs/cgroup"


@pytest.mark.root
def test_root_without_its_capabilities() -> None:
    """As in a container that somebody locked down: uid 0, and mount and clone are refused."""
    done = subprocess.run(
        ["setpriv", "--bounding-set", "-sys_admin", "--inh-caps", "-sys_admin", *ZOS, "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    report = json.loads(done.stdout)
    assert done.returncode == CANNOT, done.stderr
    assert "EPERM" in report["problem"]
    assert report["command"]
    assert finding(report, "namespaces")["works"] is False
    assert finding(report, "proc")["works"] is False


@pytest.mark.root
@pytest.mark.parametrize(("call", "name"), [("clone3", "namespaces"), ("fsopen", "tree")])
def test_a_filtered_system_call(call: str, name: str) -> None:
    status, report = doctor(preexec=refusing(call, 38), namespaces=("--mount",))
    assert status == CANNOT
    failed = finding(report, name)
    assert failed["works"] is False
    assert "ENOSYS" in failed["found"] or "not implemented" in failed["found"]
    assert report["containers"] is False
    assert report["problem"]


@pytest.mark.root
def test_root_of_a_user_namespace_is_not_root_of_the_machine() -> None:
    status, report = doctor(namespaces=("--user", "--map-root-user", "--mount"))
    assert status == CANNOT
    assert report["uid"] == 0
    assert report["problem"]


@pytest.mark.root
def test_a_sysctl_that_allows_no_namespace_is_named() -> None:
    before = "echo 0 > /proc/sys/user/max_net_namespaces"
    status, report = doctor(before=before, namespaces=("--user", "--map-root-user", "--mount"))
    assert status == CANNOT
    assert "net: ENOSPC" in finding(report, "namespaces")["found"]
    assert report["command"] == "sysctl -w user.max_net_namespaces=15000"


@pytest.mark.root
def test_without_root_it_says_what_root_would_add() -> None:
    done = subprocess.run(
        ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups", *ZOS, "doctor", "--json"],
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    skip_where_only_root_reads(done)
    assert done.returncode == CANNOT, done.stderr
    report = json.loads(done.stdout)
    assert report["problem"] == "root: uid 65534"
    words = shlex.split(report["command"])
    words = words[1:] if words[0] == "sudo" else shlex.split(words[2])
    assert words[1:] == ["doctor"]
    assert shutil.which(words[0], path=PATH_OF_ROOT), words
    assert report["row"]["number"] == 5
    assert finding(report, "container")["found"] == "not tried: needs root"
    assert finding(report, "seccomp")["works"] is not None
