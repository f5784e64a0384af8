"""What is asked of the kernel, asked of the kernel."""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import subprocess
from pathlib import Path

import pytest

from native.kernel import (
    ExitStatus,
    KernelUnsupported,
    attach_mount,
    is_tmpfs,
    pidfd_exit,
    unmount,
)
from tests.mounts import in_own_mount_namespace


def exit_of(command: str) -> ExitStatus | None:
    with subprocess.Popen(["sh", "-c", command]) as child:
        pidfd = os.pidfd_open(child.pid)
    try:
        return pidfd_exit(pidfd)
    except KernelUnsupported as error:
        pytest.skip(error.message)
    finally:
        os.close(pidfd)


def test_native_kernel_exit_of_a_reaped_process() -> None:
    assert exit_of("exit 7") == ExitStatus(code=7, signal=None)
    assert exit_of("exit 0") == ExitStatus(code=0, signal=None)
    assert exit_of("kill -KILL $$") == ExitStatus(code=None, signal=signal.SIGKILL)


def test_native_kernel_no_exit_while_it_lives_or_waits_to_be_reaped() -> None:
    with subprocess.Popen(["sh", "-c", "read line"], stdin=subprocess.PIPE) as child:
        pidfd = os.pidfd_open(child.pid)
        try:
            assert pidfd_exit(pidfd) is None
            child.kill()
            os.waitid(os.P_PIDFD, pidfd, os.WEXITED | os.WNOWAIT)
            assert pidfd_exit(pidfd) is None
            child.wait()
            assert pidfd_exit(pidfd) == ExitStatus(code=None, signal=signal.SIGKILL)
        except KernelUnsupported as error:
            pytest.skip(error.message)
        finally:
            os.close(pidfd)


def test_native_kernel_what_is_no_descriptor() -> None:
    with pytest.raises(OSError, match="PIDFD_GET_INFO: Bad file descriptor") as caught:
        pidfd_exit(-1)
    assert caught.value.errno == errno.EBADF


def test_native_kernel_a_file_is_no_pidfd(tmp_path: Path) -> None:
    descriptor = os.open(tmp_path, os.O_RDONLY)
    try:
        with pytest.raises((KernelUnsupported, OSError)):
            pidfd_exit(descriptor)
    finally:
        os.close(descriptor)


def test_native_kernel_file_system_in_memory(tmp_path: Path) -> None:
    assert is_tmpfs("/dev/shm")
    assert not is_tmpfs("/proc")
    with pytest.raises(FileNotFoundError) as caught:
        is_tmpfs(tmp_path / "absent")
    assert caught.value.filename == str(tmp_path / "absent")


@pytest.mark.root
def test_native_kernel_attach_and_unmount(tmp_path: Path) -> None:
    target, link, file = tmp_path / "target", tmp_path / "link", tmp_path / "file"
    target.mkdir()
    link.symlink_to(target)
    file.touch()
    libc = ctypes.CDLL(None, use_errno=True)

    def detached() -> int:
        context = libc.syscall(430, b"tmpfs", 0)  # fsopen
        assert libc.syscall(431, context, 6, None, None, 0) == 0  # fsconfig, FSCONFIG_CMD_CREATE
        mount = int(libc.syscall(432, context, 0, 0))  # fsmount
        os.close(context)
        return mount

    def work() -> None:
        mount = detached()
        try:
            with pytest.raises(OSError, match="move_mount: Invalid argument"):  # a directory onto a file
                attach_mount(mount, file)
            with pytest.raises(FileNotFoundError):
                attach_mount(mount, tmp_path / "absent")
            assert not target.is_mount()
            attach_mount(mount, target)
            assert is_tmpfs(target)
            assert target.is_mount()
            (target / "here").touch()
        finally:
            os.close(mount)
        with pytest.raises(OSError, match="umount2") as caught:
            unmount(link)
        assert caught.value.errno == errno.EINVAL
        with open(target / "here", "rb"):
            with pytest.raises(OSError, match="busy"):
                unmount(target)
            unmount(target, lazy=True)
        assert list(target.iterdir()) == []
        with pytest.raises(OSError, match="umount2"):
            unmount(target)

    in_own_mount_namespace(work)
