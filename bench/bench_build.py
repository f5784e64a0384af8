"""How fast an image is built: MB of plain file content per second, from the page cache to synced files."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

from pytest_benchmark.fixture import BenchmarkFixture

from bench.options import Options
from bench.recorder import Collected, Recorder
from bench.rounds import in_rounds
from bench.workspace import Workspace

OURS, EROFS, TAR = "zos flist build", "mkfs.erofs", "tar + zstd -3"


def bench_build(benchmark: BenchmarkFixture, workspace: Workspace, recorder: Recorder, options: Options) -> None:
    """Ours walks, bundles, hashes (BLAKE3), compresses (zstd -3), signs; mkfs.erofs copies; tar and zstd compress."""
    workspace.store()  # the first build brings the tree into the page cache
    megabytes = workspace.tree_bytes() / 1e6
    rows = [(OURS, "MB/s"), (EROFS, "MB/s"), (TAR, "MB/s")]
    notes = [
        f"{megabytes:.0f} MB of plain files, page cache warm; whole commands, output synced",
        f"store {workspace.store_bytes() / 1e6:.1f} MB; mkfs.erofs does not compress; zstd has all cores, as ours",
    ]
    with recorder.group(
        "build", "Build of an image", rows, baselines=(EROFS, TAR), direction="rate", notes=notes
    ) as group:
        scratch = workspace.directory / "build"
        commands = {
            EROFS: ["mkfs.erofs", "--quiet", str(scratch / "erofs"), str(workspace.tree())],
            TAR: ["sh", "-c", f'tar -C "{workspace.tree()}" -cf - . | zstd -q -3 -T0 -o "{scratch / "tar.zst"}"'],
        }
        for name, program in ((EROFS, "mkfs.erofs"), (TAR, "zstd")):
            if shutil.which(program) is None:
                group.missing(name, f"missing: no {program} here")
                del commands[name]

        def others() -> None:
            for name, argv in commands.items():
                _fresh(scratch)
                _timed(group, name, megabytes, partial(_built, workspace, argv, scratch))
            _fresh(scratch)

        def ours() -> None:
            _timed(group, OURS, megabytes, lambda: workspace.build(scratch / "store", name="measured"))

        in_rounds(benchmark, ours, others=others, rounds=options.builds, group=group)
        shutil.rmtree(scratch)


def _fresh(directory: Path) -> None:
    if directory.exists():
        shutil.rmtree(directory)
    directory.mkdir()


def _timed(group: Collected, name: str, megabytes: float, work: Callable[[], object]) -> None:
    begin_s = time.perf_counter()
    work()
    group.add(name, megabytes / (time.perf_counter() - begin_s))


def _built(workspace: Workspace, argv: list[str], scratch: Path) -> None:
    workspace.command(argv)
    workspace.command(["sync", *(str(path) for path in scratch.iterdir())])
