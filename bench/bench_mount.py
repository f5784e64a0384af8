"""Reading a mounted image beside the same tree on ext4: walk, Python with imports, many small files at once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from pytest_benchmark.fixture import BenchmarkFixture

from bench.options import Options
from bench.recorder import Recorder
from bench.rounds import in_rounds
from bench.workspace import IMAGE, Failed, Workspace, file_system
from flist.hostmount import mount_instance

PROVIDERS = ("file", "loop", "full")
NATIVE = "native"
IMPORTS = "import django, numpy, ssl, sqlite3, asyncio"
THREADS = 8
DROP_CACHES = Path("/proc/sys/vm/drop_caches")


@dataclass(frozen=True, slots=True, kw_only=True)
class Mounts:
    """The native tree and the mounts of its image by provider; why a provider is not there."""

    paths: dict[str, Path]
    missing: dict[str, str]


@pytest.fixture(scope="module")
def mounts(workspace: Workspace, recorder: Recorder) -> Mounts:
    """All three at once, each filled and compared by size with the native tree."""
    paths, missing = {NATIVE: _native(workspace, recorder)}, {}
    for provider in PROVIDERS:
        recorder.say(f"mounting the image by provider {provider}, reading it whole")
        target = workspace.directory / f"mount-{provider}"
        target.mkdir()
        try:
            workspace.zos(
                "flist", "mount", IMAGE, str(target), "--provider", provider, "--store", str(workspace.store())
            )
        except Failed as error:
            missing[provider] = f"missing: {error}"
            continue
        workspace.on_close(_unmounting(workspace, target))
        workspace.prefer(mount_instance(target).name)
        paths[provider] = target
        filled = _read(workspace, "files", target, str(workspace.all_files()), str(THREADS))
        native = _read(workspace, "files", paths[NATIVE], str(workspace.all_files()), str(THREADS))
        if filled[1] != native[1]:
            raise Failed(f"provider {provider} gave {filled[1]} bytes, ext4 {native[1]}")
    return Mounts(paths=paths, missing=missing)


def _unmounting(workspace: Workspace, target: Path) -> Callable[[], None]:
    def unmount() -> None:
        workspace.zos("flist", "unmount", str(target))

    return unmount


def _native(workspace: Workspace, recorder: Recorder) -> Path:
    """The tree itself where it lies on the disk of everything else, a copy otherwise."""
    tree = workspace.tree()
    if tree.stat().st_dev == workspace.directory.stat().st_dev:
        return tree
    recorder.say(f"copying the tree to {file_system(workspace.directory)}")
    copy = workspace.directory / "native"
    workspace.command(["cp", "-a", str(tree), str(copy)])
    return copy


def _read(workspace: Workspace, what: str, path: Path, *arguments: str) -> tuple[int, int]:
    """Run bench/reader.c: nanoseconds, and how many entries or bytes it saw."""
    spent, seen = workspace.command([str(workspace.reader()), what, str(path), *arguments]).split()
    return int(spent), int(seen)


def _works(workspace: Workspace) -> dict[str, tuple[str, Callable[[Path], int]]]:
    """What is done: key -> title, and the work that takes a root directory and tells its nanoseconds."""
    small = str(workspace.small_files())

    def walk(path: Path) -> int:
        return _read(workspace, "walk", path)[0]

    def imports(path: Path) -> int:
        return _read(workspace, "run", path, "/usr/bin/python3", "-B", "-c", IMPORTS)[0]

    def files(path: Path) -> int:
        return _read(workspace, "files", path, small, str(THREADS))[0]

    return {
        "walk": ("walk (readdir and lstat of everything)", walk),
        "imports": (f"chroot, python3 -c '{IMPORTS}'", imports),
        "files": (f"{THREADS} threads read every file below 64 KiB", files),
    }


def _drop_caches() -> None:
    os.sync()
    DROP_CACHES.write_text("3")


def _can_drop_caches() -> str | None:
    try:
        _drop_caches()
    except OSError as error:
        return f"cold reads: {DROP_CACHES} cannot be written ({error.strerror})"
    return None


def _cases() -> Iterator[tuple[str, str]]:
    for heat in ("warm", "cold"):
        for work in ("walk", "imports", "files"):
            yield heat, work


@pytest.mark.parametrize(("heat", "work"), list(_cases()))
def bench_mount(
    benchmark: BenchmarkFixture,
    heat: str,
    work: str,
    mounts: Mounts,
    workspace: Workspace,
    recorder: Recorder,
    options: Options,
) -> None:
    """One work, all providers in turns; cold: everything that the kernel caches is dropped before each."""
    cold = heat == "cold"
    reason = _can_drop_caches() if cold else None
    if reason is not None:
        if reason not in recorder.skipped:
            recorder.skip(reason)
        pytest.skip(reason)
    title, act = _works(workspace)[work]
    present = [name for name in PROVIDERS if name in mounts.paths]
    if not present:
        # A group of its own would have nothing but reasons; one that is silent would look as if nobody had asked.
        for name, why in mounts.missing.items():
            if f"{name}: {why}" not in recorder.skipped:
                recorder.skip(f"{name}: {why}")
        pytest.skip("no provider works here")
    with recorder.group(
        f"mount.{heat}.{work}",
        f"Mounted image, {heat}: {title}",
        [(name, "ms") for name in (NATIVE, *PROVIDERS)],
        baselines=[NATIVE],
        direction="speed",
        notes=[
            f"x {NATIVE} above 1: faster than {file_system(mounts.paths[NATIVE])}; all bytes have been fetched before"
        ],
    ) as group:
        for name, why in mounts.missing.items():
            group.missing(name, why)
        if not cold:
            for path in mounts.paths.values():
                act(path)

        def one(name: str) -> None:
            if cold:
                _drop_caches()
            group.add_ms(name, act(mounts.paths[name]))

        def others() -> None:
            for name in (NATIVE, *present[1:]):
                one(name)
            if cold:
                _drop_caches()

        def ours() -> None:
            group.add_ms(present[0], act(mounts.paths[present[0]]))

        in_rounds(benchmark, ours, others=others, rounds=options.cold if cold else options.warm, group=group)
