"""Installing peers: from package registries only, by their ordinary clients, below the cache's own directory.

What fails is said of that peer and the others go on. A peer counts as installed when its program has answered.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from bench.errors import PeerFailed, PeerMissing
from bench.peers.cache import PROGRAMS, Cache, Installed, source_digest
from bench.peers.catalog import PeerSpec
from bench.peers.debian import unpack
from bench.peers.process import Process
from zos_core.base.atomic_file import Owner, make_directories
from zos_core.base.progress import Progress

__all__ = ["install", "plan"]

COMMAND_TIMEOUT_S = 900
C_FLAGS = ("-O3", "-march=native", "-Wall", "-Wextra", "-Wno-psabi")
TOOLS = {
    "c": ("cc", "apt-get install gcc libc6-dev"),
    "debian": ("cc", "apt-get install gcc libc6-dev"),
    "go": ("go", "apt-get install golang-go, or a newer Go (1.24 and up) on PATH"),
    "rust": ("cargo", "make setup, or Rust from your distribution"),
}


@dataclass(frozen=True, slots=True)
class _Command:
    argv: Sequence[str]
    environment: Mapping[str, str]


def plan(specs: Sequence[PeerSpec], cache: Cache) -> list[str]:
    """What `install` would do, a line for each step."""
    lines = []
    for spec in specs:
        if spec.kind == "system":
            lines.append(f"{spec.name}: nothing; it is the machine's own: apt-get install {' '.join(spec.packages)}")
            continue
        if spec.kind == "debian":
            lines.append(f"{spec.name}: unpack {', '.join(spec.packages)} of {spec.suite} by apt from its own mirror")
        lines += [f"{spec.name}: {' '.join(command.argv)}" for command in _commands(spec, cache)]
    return lines


def install(
    specs: Sequence[PeerSpec], cache: Cache, *, progress: Progress, note: Callable[[str], None], owner: Owner | None
) -> None:
    """Install each; why one could not be is kept in its record, and `Cache.find` tells it.

    Args:
        owner: to whom what is made belongs, where that is not the process.
    """
    make_directories(cache.root, owner=owner)
    with progress.task("installing peers", total=len(specs)) as task:
        for spec in specs:
            if spec.kind != "system":
                note(f"> {spec.name}: {spec.summary}")
                try:
                    cache.keep(_installed(spec, cache))
                except (PeerMissing, PeerFailed) as error:
                    note(f"{spec.name}: {error.message}")
                    cache.keep(Installed(name=spec.name, source=source_digest(spec), failure=error.message))
            task.advance(1)
    if owner is not None:
        for directory, _, files in os.walk(cache.directory):
            for name in [directory, *(os.path.join(directory, file) for file in files)]:
                os.chown(name, *owner, follow_symlinks=False)


def _installed(spec: PeerSpec, cache: Cache) -> Installed:
    """Build one and ask it who it is.

    Raises:
        PeerMissing: something that it is built with is not here, or a command failed.
        PeerFailed: it was built and does not answer as it should.
    """
    source = source_digest(spec)  # of what is built now, whatever becomes of the files meanwhile
    tool = TOOLS.get(spec.kind)
    if tool is not None and shutil.which(tool[0]) is None:
        raise PeerMissing(f"there is no {tool[0]} on PATH ({tool[1]})")
    (cache.root / "bin").mkdir(exist_ok=True)
    arguments: tuple[str, ...] = ()
    if spec.kind == "debian":
        version = unpack(spec.packages, spec.suite, cache.root / "debian" / spec.name)
        if _numbers(version) < _numbers(spec.minimum):
            raise PeerMissing(f"{spec.suite} has {version}, a comparison needs {spec.minimum}")
        arguments = (version,)
    for command in _commands(spec, cache):
        _run(command, cache.root / f"{spec.name}.log")
    argv = [*_argv(spec, cache), *arguments]
    environment = dict(spec.environment)
    process = Process(argv, environment)
    process.close()
    return Installed(
        name=spec.name,
        version=process.hello.version,
        argv=argv,
        environment=environment,
        source=source,
    )


def _argv(spec: PeerSpec, cache: Cache) -> list[str]:
    if spec.kind == "python":
        return [str(cache.root / "python/bin/python"), "-I", str(cache.root / "python/python_peer.py"), spec.program]
    return [str(cache.root / "bin" / spec.program)]


def _commands(spec: PeerSpec, cache: Cache) -> list[_Command]:
    """What builds the program of a peer. Versions are pinned by the lock files beside the sources."""
    program = str(cache.root / "bin" / spec.program)
    if spec.kind == "c":
        return [_Command(["cc", *C_FLAGS, "-o", program, str(PROGRAMS / f"{spec.program}.c")], {})]
    if spec.kind == "debian":
        root = cache.root / "debian" / spec.name
        library = str(next(iter(sorted(root.glob("usr/lib/*-linux-gnu*"))), root / "usr/lib"))
        flags = [f"-I{root}/usr/include", f"-L{library}", f"-Wl,-rpath,{library}"]
        return [_Command(["cc", *C_FLAGS, *flags, "-o", program, str(PROGRAMS / f"{spec.program}.c"), "-lisal"], {})]
    if spec.kind == "go":
        argv = ["go", "build", "-C", str(PROGRAMS / "go"), "-trimpath", "-o", program, f"./{spec.program}"]
        return [_Command(argv, {"GOFLAGS": "-mod=readonly"})]
    if spec.kind == "rust":
        target = cache.root / "build/rust"
        build = ["cargo", "build", "--quiet", "--release", "--locked", "--bin", spec.program]
        build += ["--manifest-path", str(PROGRAMS / "rust/Cargo.toml"), "--target-dir", str(target)]
        copy = ["cp", "-f", str(target / "release" / spec.program), program]
        return [_Command(build, {}), _Command(copy, {})]
    if spec.kind == "python":
        make = [sys.executable, "-m", "venv", str(cache.root / "python")]
        python = str(cache.root / "python/bin/python")
        pip = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *spec.packages]
        fresh = [] if os.access(python, os.X_OK) else [_Command(make, {})]
        # The program beside its packages, as the others are: a checkout that goes away takes no peer with it.
        copy = ["cp", "-f", str(PROGRAMS / "python_peer.py"), str(cache.root / "python/python_peer.py")]
        return [*fresh, *([_Command(pip, {})] if spec.packages else []), _Command(copy, {})]
    return []


def _run(command: _Command, log: Path) -> None:
    """Run one to its end; what it prints goes to `log`.

    Raises:
        PeerMissing: it failed, or took too long.
    """
    with log.open("wb") as file:
        try:
            done = subprocess.run(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                env={**os.environ, **command.environment},
                timeout=COMMAND_TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise PeerMissing(f"{command.argv[0]} did not end within {COMMAND_TIMEOUT_S} s") from error
    if done.returncode != 0:
        last = log.read_text(errors="replace").strip().splitlines()[-1:] or ["it printed nothing"]
        raise PeerMissing(f"{Path(command.argv[0]).name} failed: {last[0][:300]} (all of it: {log})")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: 2.31.1-1+b2 is (2, 31, 1)."""
    found = re.match(r"(?:\d+:)?(\d+(?:\.\d+)*)", version)
    return tuple(int(part) for part in found[1].split(".")) if found else ()
