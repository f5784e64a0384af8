"""What the figures were taken on, and how much else went on there."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import time
from importlib import metadata
from pathlib import Path

from bench.report import Machine
from bench.workspace import BASE, ROOT, file_system

__all__ = ["busy_share", "describe", "prefer", "prefer_instance", "wait_quiet"]

SAMPLE_S = 0.5
QUIET_SHARE = 0.15
PREFERRED_NICE = -15
VERSION_COMMANDS = {
    "crun": ["crun", "--version"],
    "runc": ["runc", "--version"],
    "mkfs.erofs": ["mkfs.erofs", "--version"],
    "zstd": ["zstd", "--version"],
    "tar": ["tar", "--version"],
}


def describe() -> Machine:
    """This machine and the versions of what takes part."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory_kib = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    versions = {"zos": f"{metadata.version('zos')} ({_commit()}; programs: {_build_kind()})"}
    versions["python"] = platform.python_version()
    versions |= {name: _version(argv) for name, argv in VERSION_COMMANDS.items()}
    return Machine(
        kernel=platform.release(),
        cpu=cpu,
        cpus=len(os.sched_getaffinity(0)),
        memory_mib=memory_kib // 1024,
        file_system=file_system(BASE),
        virtual=_output(["systemd-detect-virt", "--vm"]) or "virtualization unknown",
        versions=versions,
    )


def _lines(path: str) -> list[str]:
    return Path(path).read_text().splitlines()


def _output(argv: list[str]) -> str:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, timeout=10, stdin=subprocess.DEVNULL)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return (done.stdout or done.stderr).strip()


def _version(argv: list[str]) -> str:
    """The first thing like a version in what a program says of itself."""
    found = re.search(r"\d+\.\d[\w.+-]*", _output(argv))
    return found[0] if found else "missing"


def _commit() -> str:
    commit = _output(["git", "-c", f"safe.directory={ROOT}", "-C", str(ROOT), "describe", "--always", "--dirty"])
    return commit if commit and " " not in commit else "no git"


def _build_kind() -> str:
    """Debug programs are ten times the size of those that ship; their figures are worth nothing."""
    size = (ROOT / "native/bin/zos-init").stat().st_size
    return "release" if size < 4 << 20 else "DEBUG, do not trust the figures"


def busy_share(seconds: float = SAMPLE_S) -> float:
    """The share of all CPUs that was in use, or taken by the hypervisor, during the next `seconds`; proc_stat(5)."""

    def sample() -> tuple[int, int]:
        fields = [int(field) for field in _lines("/proc/stat")[0].split()[1:9]]
        return sum(fields), fields[3] + fields[4]

    total, idle = sample()
    time.sleep(seconds)
    total_after, idle_after = sample()
    return 1 - (idle_after - idle) / max(1, total_after - total)


def wait_quiet(seconds: float) -> float:
    """Wait until the machine is quiet, at most `seconds`; the share in use at the end."""
    deadline_s = time.monotonic() + seconds
    while True:
        share = busy_share()
        if share < QUIET_SHARE or time.monotonic() >= deadline_s:
            return share


def prefer(pid: int | str = "self") -> None:
    """Give the session of a process precedence over the others, sched(7) "The autogroup feature".

    Where the kernel does not group by sessions, its nice value has to do.
    """
    try:
        Path(f"/proc/{pid}/autogroup").write_text(str(PREFERRED_NICE))
    except FileNotFoundError:
        os.setpriority(os.PRIO_PROCESS, 0 if pid == "self" else int(pid), PREFERRED_NICE)


def prefer_instance(name: str) -> None:
    """The same for the process tree of an instance: its hold has a session for all of them."""
    wanted = f"/var/lib/zos/{name}".encode()
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            if wanted in path.read_bytes().split(b"\0"):
                prefer(path.parent.name)
        except (FileNotFoundError, ProcessLookupError):
            continue
