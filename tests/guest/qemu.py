"""QEMU guests: a stock Debian kernel and root, our checks on a second disk, and a status at the end.

The guest's first serial port is its console, the second carries one JSON object for each check. It ends by a write to
isa-debug-exit, so that QEMU's own exit status says whether all was well. Its disk is never written to.
"""

from __future__ import annotations

import functools
import json
import os
import pwd
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

__all__ = [
    "FAILED",
    "PASSED",
    "Image",
    "Run",
    "accelerator",
    "boot",
    "checks_disk",
    "image_of",
    "installed_image_of",
    "keep",
    "wheels_of",
]

ROOT = Path(__file__).resolve().parents[2]
QEMU = "qemu-system-x86_64"
MEMORY_MIB = 2048
# isa-debug-exit gives (value << 1) | 1; 0x10 and 0x11 are what inside/main writes.
PASSED, FAILED = 33, 35
KVM_DEADLINE_S = 5.0
# A root from the mirror, or a wheel and its crates from nothing, on a machine that does something else as well.
IMAGE_TIMEOUT_S = 600
WHEELS_TIMEOUT_S = 1200
CONSOLE_TAIL = 60
# As in pyproject.toml, without the plugins that a guest has no use for; a guest is ten times slower.
PYTEST_INI = """[pytest]
pythonpath = .
addopts = --import-mode=importlib
filterwarnings = error
timeout = 600
faulthandler_timeout = 590
markers =
    unit
    property
    spec
    integration
    guest
    e2e
    lint
    root
    slow
"""


@dataclass(frozen=True, kw_only=True)
class Image:
    """A disk with its kernel, as .ci/guest-image made it."""

    directory: Path

    @property
    def release(self) -> str:
        """The kernel's release."""
        return (self.directory / "release").read_text().strip()

    @property
    def version(self) -> tuple[int, int]:
        """Its first two numbers."""
        major, minor = self.release.split(".")[:2]
        return int(major), int(minor)


@dataclass(kw_only=True)
class Run:
    """What a guest said until its end. `status` is None when it did not end in time."""

    status: int | None
    seconds: float
    console: str
    checks: list[dict[str, Any]] = field(default_factory=list)

    @property
    def failed(self) -> list[dict[str, Any]]:
        """The checks that did not pass."""
        return [check for check in self.checks if check["outcome"] == "failed"]

    def story(self) -> str:
        """For a failed assertion: what failed, and the console's last lines."""
        lines = [f"status {self.status} after {self.seconds:.0f} s"]
        for check in self.failed:
            lines += [f"== {check['check']}", check["detail"]]
        return "\n".join([*lines, "== console", *self.console.splitlines()[-CONSOLE_TAIL:]])


def _without_sudo() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith("SUDO_")}


def _prepared(script: str, *arguments: str, timeout_s: float) -> Path:
    """Run a script of .ci that prints the path of what it made, once and for all."""
    owner = (
        ROOT.stat()
    )  # whom the caches belong to: below sudo this is not us, and the script asks for root where it must
    caller = pwd.getpwuid(owner.st_uid)
    mine = owner.st_uid == os.getuid()
    try:
        done = subprocess.run(
            [str(ROOT / ".ci" / script), *arguments],
            user=None if mine else caller.pw_uid,
            group=None if mine else owner.st_gid,
            extra_groups=None if mine else os.getgrouplist(caller.pw_name, owner.st_gid),
            env=None if mine else {**_without_sudo(), "HOME": caller.pw_dir, "USER": caller.pw_name},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        pytest.fail(
            f".ci/{script} {' '.join(arguments)} took more than {timeout_s:.0f} s: {(error.stderr or b'')[-2000:]!r}"
        )
    if done.returncode != 0:
        pytest.fail(f".ci/{script} {' '.join(arguments)} ended with {done.returncode}: {done.stderr[-4000:]}")
    return Path(done.stdout.splitlines()[-1])


def need_tools() -> None:
    """Skip, and say why, where guests cannot be had."""
    if os.uname().machine != "x86_64":
        pytest.skip("guests are x86-64 machines, and this is none")
    for tool, package in ((QEMU, "qemu-system-x86"), ("mmdebstrap", "mmdebstrap"), ("mke2fs", "e2fsprogs")):
        if shutil.which(tool, path=f"{os.environ['PATH']}:/usr/sbin:/sbin") is None:
            pytest.skip(f"{tool} is not here: apt-get install {package}")
    if shutil.which("apt-get") is None:
        pytest.skip("guests are made of Debian's packages, and apt is not here")


def image_of(name: str) -> Image:
    """The disk of a release; made when it is not there yet."""
    need_tools()
    return Image(directory=_prepared("guest-image", name, timeout_s=IMAGE_TIMEOUT_S))


def installed_image_of(name: str) -> Image:
    """The same with our wheel installed, which takes the guest itself a minute or more."""
    need_tools()
    return Image(directory=_prepared("guest-installed", name, timeout_s=IMAGE_TIMEOUT_S + WHEELS_TIMEOUT_S))


def wheels_of(suite: str) -> Path:
    """Our wheel and what it needs for the Python of a release; built when they are not there yet."""
    return _prepared("guest-wheels", suite, timeout_s=WHEELS_TIMEOUT_S)


def checks_disk(directory: Path, wheels: Path | None, selection: Sequence[str]) -> Path:
    """The second disk: our tests and which of them to run, and the wheels if they are still to be installed."""
    content = directory / "checks"
    (content / "work").mkdir(parents=True)
    for script in ("main", "install"):
        shutil.copy2(ROOT / "tests/guest/inside" / script, content / script)
    if wheels is not None:
        shutil.copytree(wheels, content / "wheels")
    unwanted = shutil.ignore_patterns("__pycache__", ".hypothesis")
    shutil.copytree(ROOT / "tests", content / "work/tests", ignore=unwanted)
    (content / "work/pytest.ini").write_text(PYTEST_INI)
    (content / "selection").write_text("".join(f"{line}\n" for line in selection))
    size = sum(path.stat().st_size for path in content.rglob("*") if path.is_file())
    disk = directory / "checks.ext4"
    environment = {**os.environ, "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
    command = ["mke2fs", "-q", "-t", "ext4", "-O", "^has_journal", "-d", str(content), str(disk)]
    subprocess.run(
        [*command, f"{size * 5 // 4 // 1_048_576 + 24}m"], check=True, env=environment, capture_output=True, timeout=120
    )
    shutil.rmtree(content)
    return disk


@functools.cache
def accelerator(vmlinuz: Path) -> tuple[str, ...]:
    """KVM where it boots this very kernel, else TCG.

    That /dev/kvm opens proves nothing: nested hosts let it be opened and then never boot a stock kernel. So the banner
    of a kernel must come within `KVM_DEADLINE_S`. Under TCG cmpxchg16b is left out (QEMU 7.2 spoils the flags).
    """
    tcg = ("-accel", "tcg,thread=multi", "-cpu", "max,-cx16")
    if not os.access("/dev/kvm", os.R_OK | os.W_OK):
        return tcg
    kvm = ("-accel", "kvm", "-cpu", "host")
    with tempfile.TemporaryDirectory() as directory:
        console = Path(directory) / "console"
        command = [QEMU, "-machine", "q35", *kvm, "-m", "256", "-display", "none", "-no-reboot", "-nic", "none"]
        command += ["-monitor", "none", "-serial", f"file:{console}", "-kernel", str(vmlinuz)]
        # Without a root it panics, which with panic=-1 and -no-reboot is its end.
        command += ["-append", "console=ttyS0 panic=-1"]
        try:
            subprocess.run(command, timeout=KVM_DEADLINE_S, capture_output=True, check=False)
        except subprocess.TimeoutExpired:
            pass  # what it printed decides
        banner = console.exists() and b"Linux version" in console.read_bytes()
    return kvm if banner else tcg


def boot(image: Image, disk: Path, directory: Path, *, timeout_s: float) -> Run:
    """Boot, wait for the end, kill after `timeout_s`."""
    console, results = directory / "console.log", directory / "results.jsonl"
    command = [QEMU, "-machine", "q35", *accelerator(image.directory / "vmlinuz"), "-m", str(MEMORY_MIB), "-smp", "2"]
    command += ["-display", "none", "-no-reboot", "-nic", "none", "-monitor", "none"]
    command += ["-serial", f"file:{console}", "-serial", f"file:{results}"]
    command += ["-drive", f"file={image.directory / 'disk.ext4'},format=raw,if=virtio,snapshot=on"]
    command += ["-drive", f"file={disk},format=raw,if=virtio,readonly=on"]
    command += ["-device", "isa-debug-exit,iobase=0xf4,iosize=0x04"]
    command += ["-kernel", str(image.directory / "vmlinuz"), "-initrd", str(image.directory / "initrd.img")]
    command += ["-append", "root=/dev/vda ro console=ttyS0 panic=-1 quiet no_timer_check systemd.show_status=0"]
    began = time.monotonic()
    # `timeout` ends it also where this process was killed.
    guard = ["timeout", "--signal=KILL", str(int(timeout_s) + 5)]
    with subprocess.Popen([*guard, *command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            said, _ = process.communicate(timeout=timeout_s)
            status: int | None = process.returncode
        except subprocess.TimeoutExpired:
            said, status = "", None
        finally:
            if process.poll() is None:
                process.terminate()  # `timeout` hands it on
                process.communicate(timeout=10)
    lines = results.read_text(errors="replace").splitlines() if results.exists() else []
    return Run(
        status=status,
        seconds=time.monotonic() - began,
        console=(console.read_text(errors="replace") if console.exists() else "") + said,
        checks=[json.loads(line) for line in lines if line.startswith("{") and line.endswith("}")],
    )


def keep(name: str, run: Run) -> Path:
    """Keep the console of a guest that failed, for whoever looks for the reason; it belongs to the checkout's owner."""
    directory = ROOT / ".cache/guest/failed"
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.log"
    path.write_text(run.console + "\n== checks\n" + "".join(f"{json.dumps(check)}\n" for check in run.checks))
    owner = ROOT.stat()
    for made in (directory, path):
        os.chown(made, owner.st_uid, owner.st_gid)
    return path
