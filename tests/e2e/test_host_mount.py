"""`zos flist mount` and `unmount`: an image on a directory of the machine, without a node."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from flist.hostmount import mount_instance
from tests.e2e.machine import snapshot
from tests.e2e.node_tool import Done, large_content, problem, zos

pytestmark = pytest.mark.root


@pytest.fixture
def target(tmp_path: Path) -> Iterator[Path]:
    """A directory to mount on, of which nothing is left."""
    directory = tmp_path / "m t"
    directory.mkdir()
    instance = mount_instance(directory).name
    yield directory
    assert not directory.is_mount()
    assert snapshot().of(instance) == []


def mount(store: Path, on: Path | str, *more: str) -> Done:
    return zos("flist", "mount", "--json", "--store", str(store), *more, "small", str(on))


def unmount(on: Path | str) -> Done:
    return zos("flist", "unmount", "--json", str(on))


def processes(target: Path) -> list[int]:
    mark = f"ZOS_INSTANCE={mount_instance(target).name}".encode()
    found = []
    for path in Path("/proc").glob("[0-9]*/environ"):
        try:
            if mark in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
        except OSError:
            continue  # it has ended
    return found


@pytest.mark.parametrize("link", [False, True])
def test_an_image_is_there_and_gone(store: Path, target: Path, tmp_path: Path, link: bool) -> None:
    named = target
    if link:
        named = tmp_path / "link"
        named.symlink_to(target)
    done = mount(store, named)
    assert done.status == 0, done.err
    assert target.is_mount()
    assert (target / "data/07").read_bytes() == large_content(7)
    assert problem(mount(store, target))["hint"] == f"zos flist unmount '{target}'"
    assert unmount(named).status == 0
    assert problem(unmount(named))["code"] == "flist.not-mounted"


def test_of_loop_devices_its_own_count(store: Path, target: Path, tmp_path: Path) -> None:
    """What the snapshot of the machine takes for ours: others attach and detach theirs meanwhile."""
    if not Path("/dev/loop-control").exists():
        pytest.skip("no /dev/loop-control")
    before = snapshot().loops
    (tmp_path / "disk").write_bytes(bytes(1 << 20))
    theirs = subprocess.run(
        ["losetup", "--find", "--show", tmp_path / "disk"], check=True, capture_output=True, text=True
    ).stdout.strip()
    try:
        assert snapshot().loops == before
        done = mount(store, target, "--provider", "loop")
        assert done.status == 0, done.err
        assert len(snapshot().loops - before) == 2, "metadata and data"
        assert unmount(target).status == 0
        assert snapshot().loops == before
    finally:
        subprocess.run(["losetup", "--detach", theirs], check=True)


def test_one_that_is_in_use_stays(store: Path, target: Path) -> None:
    assert mount(store, target).status == 0
    with open(target / "data/01", "rb") as file:
        said = problem(unmount(target))
        assert (said["code"], said["hint"]) == ("flist.mount-busy", "a process works in it or has a file of it open")
        assert file.read() == large_content(1)
    assert unmount(target).status == 0


def test_its_processes_are_killed(store: Path, target: Path) -> None:
    """By whoever it was: what is left is taken away by the same command."""
    assert mount(store, target).status == 0
    pids = processes(target)
    assert len(pids) >= 2
    pidfds = [os.pidfd_open(pid) for pid in pids]
    for pidfd in pidfds:
        with contextlib.suppress(ProcessLookupError):  # it has ended with hold
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        os.close(pidfd)
    assert problem(mount(store, target))["code"] == "flist.mount-busy"
    assert unmount(target).status == 0


def test_somebody_else_has_unmounted_it(store: Path, target: Path) -> None:
    assert mount(store, target).status == 0
    subprocess.run(["umount", target], check=True)
    assert problem(mount(store, target))["code"] == "flist.mount-busy"
    assert unmount(target).status == 0


def test_what_is_no_directory(store: Path, target: Path, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for on in (tmp_path / "none", tmp_path / "file"):
        assert problem(mount(store, on))["code"] == "flist.mount-failed"
    for verb in ("mount", "unmount"):
        done = mount(store, "") if verb == "mount" else unmount("")
        assert (done.status, problem(done)["code"]) == (2, "cli.usage"), "an empty variable is not this directory"
    assert problem(unmount(target))["code"] == "flist.not-mounted"
