"""Everything that a run of the measures makes, and how it goes away again: trees, store, hub, node, mounts.

All of it lies in one directory on a disk and carries one instance name; `close` may be called at any moment and again.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from native.errors import ZosError

__all__ = ["HERE", "ROOT", "IMAGE", "Failed", "Workspace", "file_system", "finished"]

ROOT = Path(__file__).resolve().parents[1]
HERE = Path(__file__).resolve().parent
IMAGE = "bench"
BASE = Path("/var/tmp")
COMMAND_TIMEOUT_S = 300
TERMINATE_TIMEOUT_S = 20
SMALL_BYTES_MAX = 65_536
STORE_KINDS = ("pack", "meta", "index", "locator", "manifest")


class Failed(ZosError):
    """Something that a measure needs could not be had."""

    code, http_status, exit_status = "bench.needed-failed", 500, 118


def file_system(path: Path) -> str:
    """The type of the file system that `path` lies on, proc_pid_mountinfo(5)."""
    device = path.stat().st_dev
    number = f"{os.major(device)}:{os.minor(device)}"
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        if line.split()[2] == number:
            return line.partition(" - ")[2].split()[0]
    return "an unknown file system"


@dataclass(kw_only=True)
class Workspace:
    """One run's directory, and what stands in it so far.

    Attributes:
        say: prints a line of progress.
        given_tree: a root file system to take instead of making one; it is only read.
        prefer: called with the name of each instance that has been started.
    """

    say: Callable[[str], None]
    given_tree: Path | None = None
    prefer: Callable[[str], None] = lambda instance: None
    instance: str = field(default_factory=lambda: f"b-{secrets.token_hex(4)}")
    directory: Path = field(init=False)
    _tree: Path | None = None
    _store: Path | None = None
    _hub: subprocess.Popen[str] | None = None
    _hub_url: str = ""
    _closers: list[Callable[[], None]] = field(default_factory=list)

    def __post_init__(self) -> None:
        if file_system(BASE) in ("tmpfs", "ramfs"):
            raise Failed(f"{BASE} is on {file_system(BASE)}; the measures need a disk file system")
        self.directory = Path(tempfile.mkdtemp(prefix=f"zos-bench-{self.instance}-", dir=BASE))

    # --- commands --------------------------------------------------------------------------------------------------

    @property
    def environment(self) -> dict[str, str]:
        """For everything we start: keys are made and trusted in here, nothing of the user's is read or written."""
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("SUDO_", "XDG_"))}
        return {
            **kept,
            "XDG_CONFIG_HOME": str(self.directory / "config"),
            "XDG_DATA_HOME": str(self.directory / "data"),
        }

    @property
    def zos_program(self) -> str:
        """The `zos` command of the interpreter that runs us."""
        return str(Path(sys.executable).parent / "zos")

    def zos(self, *arguments: str, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run the command to its end; its standard output.

        Raises:
            Failed: its status is not 0.
        """
        return self.command([self.zos_program, *arguments], timeout_s=timeout_s)

    def command(self, argv: list[str], *, timeout_s: float = COMMAND_TIMEOUT_S) -> str:
        """Run any program to its end; its standard output.

        Raises:
            Failed: its status is not 0, or it took too long.
        """
        status, out, error_text = finished(argv, environment=self.environment, timeout_s=timeout_s)
        if status != 0:
            raise Failed(f"{' '.join(argv[:3])} ended with {status}: {error_text.strip()[-500:]}")
        return out

    def on_close(self, closer: Callable[[], None]) -> None:
        """Have `closer` called at the end, last one first."""
        self._closers.append(closer)

    # --- what measures ask for -------------------------------------------------------------------------------------

    def tree(self) -> Path:
        """A Debian root file system on a disk: the one given, or a new one."""
        if self._tree is None:
            if self.given_tree is not None:
                self._tree = self.given_tree
            else:
                maker = ROOT / ".ci/demo-tree"
                if not maker.exists():
                    raise Failed("only a checkout can make a root file system", hint="give one with --tree DIR")
                self.say("making a Debian root file system (half a minute)")
                tree = self.directory / "tree"
                self.command([str(maker), str(tree)])
                self._tree = tree
        return self._tree

    def tree_bytes(self) -> int:
        """Sizes of the regular files of the tree, each inode once."""
        seen: dict[int, int] = {}
        for directory, _, names in os.walk(self.tree()):
            for name in names:
                status = os.lstat(os.path.join(directory, name))
                if stat.S_ISREG(status.st_mode):
                    seen[status.st_ino] = status.st_size
        return sum(seen.values())

    def small_files(self) -> Path:
        """A list of the small files of the tree that a mount of it has as well, in an order that no directory has."""
        path = self.directory / "small.list"
        if not path.exists():
            path.write_text("".join(f"{name}\n" for name in self._names(SMALL_BYTES_MAX)))
        return path

    def all_files(self) -> Path:
        """A list of all regular files of the tree."""
        path = self.directory / "all.list"
        if not path.exists():
            path.write_text("".join(f"{name}\n" for name in self._names(1 << 62)))
        return path

    def _names(self, size_max: int) -> list[str]:
        names = []
        for directory, _, files in os.walk(self.tree()):
            for name in files:
                path = os.path.join(directory, name)
                status = os.lstat(path)
                if stat.S_ISREG(status.st_mode) and 0 < status.st_size < size_max and "\n" not in path:
                    names.append(os.path.relpath(path, self.tree()))
        return sorted(names, key=lambda name: hash_of(name))

    def store(self) -> Path:
        """A store with our image of the tree as `IMAGE`."""
        if self._store is None:
            store = self.directory / "store"
            self.say(f"building the image of {self.tree()}")
            self.build(store)
            self._store = store
        return self._store

    def build(self, store: Path, *, name: str = IMAGE) -> Mapping[str, Any]:
        """Build the image into `store`; what the command said of it.

        Every build of a name is a later revision, in whatever store, and an earlier one is not taken any more.
        """
        out = self.zos("flist", "build", str(self.tree()), "--name", name, "--store", str(store), "--json")
        report: Mapping[str, Any] = json.loads(out.splitlines()[-1])
        return report

    def store_bytes(self) -> int:
        """What a pull of the whole image would send: every object of the store, which has nothing else."""
        paths = (path for kind in STORE_KINDS for path in (self.store() / kind).rglob("*"))
        return sum(path.stat().st_size for path in paths if path.is_file())

    def hub(self) -> str:
        """The store over HTTP on loopback; its URL."""
        if self._hub is None:
            self._hub = subprocess.Popen(
                [self.zos_program, "hub", "serve", "--json", "--store", str(self.store()), "--listen", "127.0.0.1:0"],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=self.environment,
            )
            assert self._hub.stdout is not None
            line = self._hub.stdout.readline()
            if not line:
                raise Failed("the hub did not start")
            self._hub_url = str(json.loads(line)["url"])
        return self._hub_url

    def hub_statistics(self) -> Mapping[str, Any]:
        """What the hub has sent so far."""
        with urllib.request.urlopen(f"{self.hub()}/v1/statistics", timeout=10) as answer:
            found: Mapping[str, Any] = json.loads(answer.read())
        return found

    def reader(self) -> Path:
        """bench/reader.c, compiled.

        Raises:
            Failed: there is no C compiler.
        """
        program = self.directory / "reader"
        if not program.exists():
            if shutil.which("cc") is None:
                raise Failed("no C compiler (apt-get install gcc libc6-dev)")
            self.command(["cc", "-O2", "-pthread", "-o", str(program), str(HERE / "reader.c")])
        return program

    # --- the end ---------------------------------------------------------------------------------------------------

    def close(self) -> list[str]:
        """End and delete everything; what could not be, as sentences."""
        failures = []
        for closer in [*reversed(self._closers), self._end_hub, self._delete]:
            try:
                closer()
            except Exception as error:  # noqa: BLE001 (whatever one part of the end does, the others are due)
                failures.append(f"{type(error).__name__}: {error}")
        self._closers.clear()
        return failures

    def _end_hub(self) -> None:
        hub, self._hub = self._hub, None
        if hub is not None:
            hub.send_signal(signal.SIGTERM)
            try:
                hub.wait(timeout=10)
            except subprocess.TimeoutExpired:
                hub.kill()
                hub.wait()
            if hub.stdout is not None:
                hub.stdout.close()

    def _delete(self) -> None:
        """One file system only: whatever should still be mounted in there is not emptied."""
        if self.directory.exists():
            subprocess.run(["rm", "-rf", "--one-file-system", str(self.directory)], check=True)


def finished(argv: list[str], *, environment: Mapping[str, str], timeout_s: float) -> tuple[int, str, str]:
    """Run any program to its end; its status, standard output and standard error.

    Raises:
        Failed: it took too long, and was ended.
    """
    with subprocess.Popen(
        argv,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        process_group=0,  # of its own, so that Ctrl-C reaches us alone; we end it
    ) as process:
        try:
            out, error_text = process.communicate(timeout=timeout_s)
        except subprocess.TimeoutExpired as error:
            _end_group(process)
            raise Failed(f"{' '.join(argv[:3])} did not end within {timeout_s:.0f} s") from error
        except BaseException:
            _end_group(process)
            raise
    return process.returncode, out, error_text


def _end_group(process: subprocess.Popen[str]) -> None:
    """End a command that leads a process group, and whatever it started there: it may take away what it made."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        try:
            os.killpg(process.pid, number)
            process.wait(timeout=TERMINATE_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            continue
        except ProcessLookupError:
            break
        break


def hash_of(name: str) -> int:
    """A number that scatters names, the same in every process."""
    value = 2166136261
    for byte in os.fsencode(name):
        value = (value ^ byte) * 16777619 & 0xFFFFFFFF
    return value
