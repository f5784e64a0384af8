"""What the figures were taken on, how much else went on there, and the one CPU that short measures run on."""

from __future__ import annotations

import hashlib
import os
import platform
import re
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path

from bench.results import Machine
from bench.workspace import BASE, ROOT, file_system

__all__ = [
    "busy_share",
    "cpu_times",
    "describe",
    "features",
    "pinned",
    "prefer",
    "prefer_instance",
    "probe_s",
    "wait_quiet",
]

SAMPLE_S = 0.5
IDLE_SAMPLE_S = 0.1
QUIET_SHARE = 0.15
PREFERRED_NICE = -15
# What our kernels and their peers choose a code path by; flags of /proc/cpuinfo, x86 and ARM64.
FEATURES = frozenset(
    [
        "ssse3",
        "avx2",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512ifma",
        "avx512vbmi",
        "gfni",
        "vaes",
        "vpclmulqdq",
        "sha_ni",
        "aes",
        "bmi2",
        "erms",
        "fsrm",
        "asimd",
        "sha2",
        "sha512",
        "pmull",
        "sve",
        "sve2",
    ]
)
PROBE = bytes(64 << 10)
DISTRIBUTIONS = ("pytest-benchmark", "msgspec", "uvloop", "blake3", "pynacl", "zstandard")
VERSION_COMMANDS = {
    "cc": ["cc", "--version"],
    "go": ["go", "version"],
    "rustc": ["rustc", "--version"],
    "crun": ["crun", "--version"],
    "runc": ["runc", "--version"],
    "mkfs.erofs": ["mkfs.erofs", "--version"],
    "zstd": ["zstd", "--version"],
    "tar": ["tar", "--version"],
}


def describe(paths: Mapping[str, str] | None = None) -> Machine:
    """This machine and the versions of what takes part; `paths`: which code path each native kernel has chosen."""
    cpu = next(
        (line.partition(":")[2].strip() for line in _lines("/proc/cpuinfo") if line.startswith("model name")),
        platform.machine(),
    )
    memory_kib = next(int(line.split()[1]) for line in _lines("/proc/meminfo") if line.startswith("MemTotal"))
    versions = {"zos": f"{metadata.version('zos')} ({_commit()}; programs: {_build_kind()})"}
    versions["python"] = platform.python_version()
    versions["libc"] = " ".join(platform.libc_ver())
    versions |= {name: metadata.version(name) for name in DISTRIBUTIONS}
    versions |= {name: _version(argv) for name, argv in VERSION_COMMANDS.items()}
    return Machine(
        kernel=platform.release(),
        architecture=platform.machine(),
        cpu=cpu,
        cpus=len(os.sched_getaffinity(0)),
        features=features(),
        memory_mib=memory_kib // 1024,
        file_system=file_system(BASE),
        virtual=_output(["systemd-detect-virt", "--vm"]) or "virtualization unknown",
        versions=versions,
        paths=dict(paths or {}),
    )


def features() -> list[str]:
    """What this CPU has of `FEATURES`, sorted."""
    flags = next(
        (line.partition(":")[2] for line in _lines("/proc/cpuinfo") if line.startswith(("flags", "Features"))), ""
    )
    return sorted(FEATURES & set(flags.split()))


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
    # Without optional locks, as `describe --dirty` would write the index anew: as root, in a user's checkout.
    git = ["git", "--no-optional-locks", "-c", f"safe.directory={ROOT}", "-C", str(ROOT)]
    commit = _output([*git, "describe", "--always"])
    if not commit or " " in commit:
        return "no git"
    return f"{commit}-dirty" if _output([*git, "status", "--porcelain", "--untracked-files=no"]) else commit


def _build_kind() -> str:
    """Debug programs are ten times the size of those that ship; their figures are worth nothing."""
    try:
        size = (ROOT / "native/bin/zos-init").stat().st_size
    except FileNotFoundError:
        return "not built"
    return "release" if size < 4 << 20 else "DEBUG, do not trust the figures"


def cpu_times() -> tuple[int, int, int]:
    """Clock ticks of all CPUs so far: in all, idle, stolen by the hypervisor; proc_stat(5)."""
    fields = [int(field) for field in _lines("/proc/stat")[0].split()[1:9]]
    return sum(fields), fields[3] + fields[4], fields[7]


def probe_s() -> float:
    """Seconds that a fixed piece of work takes now (SHA-256 of 64 KiB): what varies there is the machine."""
    begin_s = time.perf_counter()
    hashlib.sha256(PROBE).digest()
    return time.perf_counter() - begin_s


@contextmanager
def pinned() -> Iterator[int]:
    """Keep this process, and those that it starts meanwhile, on one CPU: the one that was most idle just now."""
    before = os.sched_getaffinity(0)
    cpu = _idlest(before)
    os.sched_setaffinity(0, {cpu})
    try:
        yield cpu
    finally:
        os.sched_setaffinity(0, before)


def _idlest(among: set[int]) -> int:
    def idle() -> dict[int, int]:
        found = {}
        for line in _lines("/proc/stat"):
            name, *fields = line.split()
            if name.startswith("cpu") and name[3:].isdecimal() and int(name[3:]) in among:
                found[int(name[3:])] = int(fields[3]) + int(fields[4])
        return found

    before = idle()
    time.sleep(IDLE_SAMPLE_S)
    after = idle()
    return max(among, key=lambda cpu: (after.get(cpu, 0) - before.get(cpu, 0), cpu))


def busy_share(seconds: float = SAMPLE_S) -> float:
    """The share of all CPUs that was in use, or taken by the hypervisor, during the next `seconds`; proc_stat(5)."""

    total, idle, _ = cpu_times()
    time.sleep(seconds)
    total_after, idle_after, _ = cpu_times()
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
