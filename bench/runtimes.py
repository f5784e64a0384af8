"""The peers of our containers: Debian's crun and runc under the configuration that ours run with, and unshare(1).

One OCI bundle for each peer, with our namespaces (the cgroup one too, without which crun is slow), mounts, masked and
read-only paths, capabilities, no_new_privs, resource limits and our own seccomp profile in OCI's words. What differs is
said in `DIFFERENCES`, and printed beside the figures.

Runtimes run in a private mount namespace without /sys/fs/cgroup/unified, because crun refuses a hybrid host that has a
controller in the v2 tree; a small runner in there (`bench.runtime_runner`) spawns and times them, so that neither
unshare(1) nor a shell is in the figures. State directories are on a tmpfs there, as /run is.
"""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from bench import seccomp_profile
from native.errors import ZosError
from zos_core.containers import launch

__all__ = ["DIFFERENCES", "Runtime", "RuntimeFailed", "Runtimes", "Timed", "bundle"]

RUNTIMES = ("crun", "runc")
ENVIRONMENT = [f"PATH={launch.DEFAULT_PATH}", "HOME=/root", "HOSTNAME=bench"]
DIFFERENCES = (
    "peers: same namespaces (mnt pid ipc uts net cgroup), mounts, masked and read-only paths, capabilities, "
    "no_new_privs and limits as ours; seccomp: native/crates/seccomp/data/profile.json in OCI's words",
    "cgroups differ: ours makes one v2 group; crun and runc make one group in each v1 hierarchy "
    "({hierarchies}) and mount these inside; 'no cgroup' is crun without making or mounting any",
    "ours does more: resolves and verifies the name, makes its overlay and a veth pair, writes a document and a log, "
    "runs a reaper as pid 1; a peer's overlay is mounted before, its network is lo alone, its output goes to /dev/null",
)


class RuntimeFailed(ZosError):
    """A container runtime did not do what it was asked."""

    code, http_status, exit_status = "bench.runtime-failed", 502, 113


@dataclass(frozen=True, slots=True)
class Timed:
    """A command that was run to its end: time from before its start, processor time of it and all it waited for."""

    ns: int
    cpu_ns: int
    status: int
    stderr: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Runtime:
    """One peer: its bundle, or why there is none."""

    name: str
    runtime: str
    directory: Path
    options: tuple[str, ...] = ()
    missing: str | None = None


def bundle(root: Path, args: Sequence[str], *, hostname: str, cgroup: str | None) -> dict[str, Any]:
    """The OCI configuration that asks of a runtime what a launch of ours asks of zos-spawn (runtime-spec 1.0).

    Args:
        root: the root file system, writable.
        args: the command.
        hostname: inside.
        cgroup: path of the group in each hierarchy; None to have none made (for crun with --cgroup-manager=disabled)
            and none mounted.
    """
    capabilities = [f"CAP_{name}" for name in launch.CAPABILITIES]
    inert = ["nosuid", "noexec", "nodev"]
    _, nofile_max = resource.getrlimit(resource.RLIMIT_NOFILE)
    nofile = min(launch.NOFILE, nofile_max)
    mounts: list[dict[str, Any]] = [
        {"destination": "/proc", "type": "proc", "source": "proc", "options": inert},
        {
            "destination": "/dev",
            "type": "tmpfs",
            "source": "tmpfs",
            "options": ["nosuid", "noexec", "strictatime", "mode=755", "size=64k"],
        },
        {
            "destination": "/dev/pts",
            "type": "devpts",
            "source": "devpts",
            "options": ["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        },
        {
            "destination": "/dev/shm",
            "type": "tmpfs",
            "source": "shm",
            "options": [*inert, "mode=1777", f"size={launch.SHM_BYTES}"],
        },
        {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": inert},
        {"destination": "/sys", "type": "sysfs", "source": "sysfs", "options": [*inert, "ro"]},
    ]
    linux: dict[str, Any] = {
        "namespaces": [{"type": kind} for kind in ("pid", "network", "ipc", "uts", "mount", "cgroup")],
        "maskedPaths": [os.fsdecode(path) for path in launch.MASKED],
        "readonlyPaths": [os.fsdecode(path) for path in launch.READONLY],
        "seccomp": seccomp_profile.load(),
    }
    if cgroup is not None:
        mounts.append(
            {
                "destination": "/sys/fs/cgroup",
                "type": "cgroup",
                "source": "cgroup",
                "options": [*inert, "relatime", "ro"],
            }
        )
        linux["cgroupsPath"] = cgroup
        linux["resources"] = {"devices": [{"allow": False, "access": "rwm"}], "pids": {"limit": 4096}}
    return {
        "ociVersion": "1.0.2",
        "process": {
            "terminal": False,
            "user": {"uid": 0, "gid": 0},
            "args": list(args),
            "env": ENVIRONMENT,
            "cwd": "/",
            "capabilities": {
                kind: [] if kind in ("inheritable", "ambient") else capabilities
                for kind in ("bounding", "permitted", "effective", "inheritable", "ambient")
            },
            "rlimits": [
                {"type": "RLIMIT_NOFILE", "soft": nofile, "hard": nofile},
                {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
            ],
            "noNewPrivileges": True,
        },
        "root": {"path": str(root), "readonly": False},
        "hostname": hostname,
        "mounts": mounts,
        "linux": linux,
    }


@dataclass(kw_only=True)
class Runtimes:
    """The runner and the bundles below `directory`; `lower` is the tree that our image was built from."""

    directory: Path
    lower: Path
    name: str
    command: Sequence[str]
    peers: dict[str, Runtime] = field(default_factory=dict)
    _runner: subprocess.Popen[str] | None = None

    def start(self) -> None:
        """Start the runner, make the bundles, run each peer once; one that does not work becomes a missing one."""
        self.directory.mkdir(parents=True)
        state, root = self.directory / "state", self.directory / "root"
        for path in (state, root, self.directory / "upper", self.directory / "work"):
            path.mkdir()
        script = 'umount /sys/fs/cgroup/unified 2>/dev/null; exec "$@"'
        runner = [sys.executable, str(Path(__file__).with_name("runtime_runner.py")), str(self.directory)]
        self._runner = subprocess.Popen(
            ["unshare", "-m", "sh", "-c", script, "sh", *runner],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={"PATH": launch.DEFAULT_PATH},
            process_group=0,
        )
        layers = f"lowerdir={self.lower},upperdir={self.directory}/upper,workdir={self.directory}/work"
        self._ask(
            op="prepare",
            mounts=[
                ["-t", "tmpfs", "tmpfs", str(state)],
                ["-t", "overlay", "overlay", "-o", f"{layers},index=off,metacopy=off,redirect_dir=on", str(root)],
            ],
        )
        for runtime in RUNTIMES:
            self._add(Runtime(name=runtime, runtime=runtime, directory=self.directory / runtime))
        self._add(
            Runtime(
                name="crun, no cgroup",
                runtime="crun",
                directory=self.directory / "crun-no-cgroup",
                options=("--cgroup-manager=disabled",),
            )
        )

    def _add(self, peer: Runtime) -> None:
        missing = self._prepare(peer)
        if missing is not None:
            peer = Runtime(name=peer.name, runtime=peer.runtime, directory=peer.directory, missing=missing)
        self.peers[peer.name] = peer

    def _prepare(self, peer: Runtime) -> str | None:
        """Make the bundle and try it; why it does not work, if it does not."""
        if shutil.which(peer.runtime, path=launch.DEFAULT_PATH) is None:
            return f"missing: no {peer.runtime} here (apt-get install {peer.runtime})"
        self._bundle(peer.directory, self.command, peer)
        done = self.run(peer)
        return None if done.status == 0 else f"missing: {peer.runtime} failed: {done.stderr.strip()[-300:]}"

    def _bundle(self, directory: Path, args: Sequence[str], peer: Runtime) -> None:
        group = None if peer.options else f"/{self.name}-{directory.name}"
        config = bundle(self.directory / "root", args, hostname="bench", cgroup=group)
        directory.mkdir()
        (directory / "config.json").write_text(json.dumps(config))

    def _command(self, peer: Runtime, *arguments: str) -> list[str]:
        return [peer.runtime, "--root", str(self.directory / "state" / peer.directory.name), *peer.options, *arguments]

    def run(self, peer: Runtime) -> Timed:
        """A container from nothing to its end, as `crun run` makes it: start of the program, create, delete."""
        return self._time(self._command(peer, "run", f"{self.name}-{peer.directory.name}"), peer.directory)

    def hold(self, peer: Runtime, args: Sequence[str]) -> None:
        """Have a container run `args` until the end of this object, for `exec`.

        Raises:
            RuntimeFailed: it did not start.
        """
        directory = peer.directory.with_name(f"{peer.directory.name}-held")
        self._bundle(directory, args, peer)
        name = f"{self.name}-{directory.name}"
        self._ask(op="keep", argv=self._command(peer, "delete", "--force", name))
        done = self._time(self._command(peer, "run", "--detach", name), directory)
        if done.status != 0:
            raise RuntimeFailed(f"{peer.runtime} run --detach: {done.stderr.strip()[-300:]}")

    def exec(self, peer: Runtime, args: Sequence[str]) -> Timed:
        """One more program in the container that `hold` started, with the rights of that container."""
        return self._time(self._command(peer, "exec", f"{self.name}-{peer.directory.name}-held", *args), peer.directory)

    def unshare(self) -> Timed:
        """The floor: namespaces and a chroot by unshare(1), without masks, seccomp, capabilities or cgroup."""
        flags = ["--mount", "--pid", "--fork", "--ipc", "--uts", "--net", "--cgroup"]
        return self._time(["unshare", *flags, f"--root={self.directory}/root", *self.command], self.directory)

    def _time(self, argv: Sequence[str], directory: Path) -> Timed:
        done = self._ask(op="time", argv=list(argv), dir=str(directory))
        return Timed(
            ns=int(done["ns"]), cpu_ns=int(done["cpu_ns"]), status=int(done["status"]), stderr=str(done["stderr"])
        )

    def _ask(self, **request: Any) -> Mapping[str, Any]:
        runner = self._runner
        if runner is None or runner.stdin is None or runner.stdout is None:
            raise RuntimeFailed("the runner was not started")
        runner.stdin.write(json.dumps(request) + "\n")
        runner.stdin.flush()
        line = runner.stdout.readline()
        if not line:
            raise RuntimeFailed(f"the runner ended with {runner.wait()}")
        answer: Mapping[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        """End what runs; the mounts of the peers go with their namespace."""
        runner, self._runner = self._runner, None
        if runner is None:
            return
        if runner.stdin is not None:
            try:
                runner.stdin.close()
            except BrokenPipeError:
                pass
        try:
            runner.wait(timeout=30)
        except subprocess.TimeoutExpired:
            runner.send_signal(signal.SIGKILL)
            runner.wait()
        if runner.stdout is not None:
            runner.stdout.close()


def hierarchies() -> list[str]:
    """The cgroup v1 hierarchies of this machine, cgroups(7)."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return sorted(
        line.split()[4].rpartition("/")[2] for line in lines if line.partition(" - ")[2].startswith("cgroup ")
    )
