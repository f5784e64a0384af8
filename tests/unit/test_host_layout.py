"""Which control groups are ours, from the texts that the kernel gives."""

from __future__ import annotations

from pathlib import Path, PurePosixPath

import pytest

from zos_core.host import layout
from zos_core.host.layout import CgroupMount

PURE = "30 23 0:26 / /sys/fs/cgroup rw,nosuid,nodev,noexec,relatime shared:9 - cgroup2 cgroup2 rw,nsdelegate\n"
HYBRID = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "35 31 0:32 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
    "41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n"
)
BOUND = r"51 40 0:26 /docker/a\040b /sys/fs/cgroup\134x ro - cgroup2 cgroup rw" + "\n"
PROC_HYBRID = "9:name=systemd:/\n8:pids:/\n4:memory:/api/x\n2:cpu,cpuacct:/\n0::/\n"


def test_host_layout_mounts() -> None:
    assert layout.find_mount(PURE) == CgroupMount(root=PurePosixPath("/"), path=Path("/sys/fs/cgroup"))
    assert layout.find_mount(HYBRID) == CgroupMount(root=PurePosixPath("/"), path=Path("/sys/fs/cgroup/unified"))
    assert layout.find_mount(BOUND) == CgroupMount(root=PurePosixPath("/docker/a b"), path=Path("/sys/fs/cgroup\\x"))
    assert layout.find_mount("garbage\n\n - cgroup2\n1 2 - cgroup2 x\n") is None


def test_host_layout_own_group() -> None:
    assert layout.own_cgroup(PROC_HYBRID) == PurePosixPath("/")
    assert layout.own_cgroup("0::/system.slice/zos-zos.scope (deleted)\n") == PurePosixPath(
        "/system.slice/zos-zos.scope"
    )
    assert layout.own_cgroup("4:memory:/x\n") is None
    assert layout.v1_controllers(PROC_HYBRID) == {"pids", "memory", "cpu", "cpuacct"}
    assert layout.v1_controllers("0::/\n") == frozenset()


@pytest.mark.parametrize(
    ("root", "own", "directory"),
    [
        ("/", "/", "/sys/fs/cgroup"),
        ("/", "/user.slice/x", "/sys/fs/cgroup/user.slice/x"),
        ("/docker/a", "/docker/a/b", "/sys/fs/cgroup/b"),
        ("/docker/a", "/docker/ab", None),
        ("/", "/../../other", None),
    ],
)
def test_host_layout_own_directory(root: str, own: str, directory: str | None) -> None:
    mount = CgroupMount(root=PurePosixPath(root), path=Path("/sys/fs/cgroup"))
    assert layout.own_directory(mount, PurePosixPath(own)) == (None if directory is None else Path(directory))


def test_host_layout_scope() -> None:
    mount = CgroupMount(root=PurePosixPath("/"), path=Path("/sys/fs/cgroup"))
    assert layout.scope_directory(mount, "t-1") == Path("/sys/fs/cgroup/system.slice/zos-t-1.scope")
