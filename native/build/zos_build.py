"""PEP 517 and 660 backend: compile what maturin does not know, then let maturin make the wheel.

Four kinds of output go into one wheel: the PyO3 library (maturin), Cython units (`native/cy/*.pyx`), cffi units in
API mode (`native/ffi/build_*.py`) and the programs (`native/bin/zos-init`, static, and `native/bin/zos-io`). The last
three are built in place, where maturin's `include` patterns find them; git ignores them.

Facts this rests on are in the design notes (`build`): maturin runs by bare name, units of another Python must
go before packing, and an explicit `--target` keeps `+crt-static` away from build scripts and procedural macros.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import sysconfig
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import maturin

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]

NATIVE = Path(__file__).resolve().parent.parent
MANIFEST = NATIVE / "Cargo.toml"
SUFFIX = str(sysconfig.get_config_var("EXT_SUFFIX"))

Settings = Mapping[str, Any] | None


class BuildFailed(RuntimeError):
    """A compiler failed or made nothing; the message says which, its own output stands above."""


@dataclass(frozen=True, slots=True)
class Program:
    """One native program: the crate that holds it, the file it becomes, and flags for its target."""

    package: str
    file: str
    rustflags: tuple[str, ...] = ()


PROGRAMS = (
    # Static, at a fixed address: runs as PID 1 of a node and inside containers, where no library can be relied on.
    Program("init", "zos-init", ("-Ctarget-feature=+crt-static", "-Crelocation-model=static")),
    # Dynamic: the fetcher resolves names, which a static glibc cannot.
    Program("io", "zos-io"),
)


def say(text: str) -> None:
    """One line of progress on stderr, where pip shows it with -v and on failure."""
    print(f"zos_build: {text}", file=sys.stderr, flush=True)


def run(command: list[str], *, what: str, env: Mapping[str, str] | None = None, cwd: Path = NATIVE) -> None:
    """Run one compiler; its output passes through.

    Raises:
        BuildFailed: it ended with another status than 0, or is not there.
    """
    say(what)
    try:
        done = subprocess.run(command, env=dict(env) if env is not None else None, cwd=cwd, check=False)
    except FileNotFoundError as error:
        raise BuildFailed(f"{what}: {command[0]} is not on PATH; run `make setup`") from error
    if done.returncode != 0:
        raise BuildFailed(f"{what}: {' '.join(command)} ended with status {done.returncode}")


def host_triple() -> str:
    """The target triple of the Rust compiler in use, or `CARGO_BUILD_TARGET` when a cross build names one."""
    named = os.environ.get("CARGO_BUILD_TARGET")
    if named:
        return named
    try:
        answer = subprocess.run(["rustc", "-vV"], capture_output=True, text=True, check=True).stdout
    except (FileNotFoundError, subprocess.CalledProcessError) as error:
        raise BuildFailed("rustc does not answer; run `make setup`") from error
    for line in answer.splitlines():
        if line.startswith("host: "):
            return line.removeprefix("host: ")
    raise BuildFailed(f"rustc -vV names no host: {answer!r}")


def target_dir() -> Path:
    """Where cargo puts what it builds: `CARGO_TARGET_DIR` or native/target."""
    return Path(os.environ.get("CARGO_TARGET_DIR") or NATIVE / "target").absolute()


def forget_other_pythons(folder: Path) -> None:
    """Remove compiled units that this interpreter cannot load, or that no longer have a source."""
    for unit in sorted(folder.glob("*.so")):
        stem = unit.name.split(".", 1)[0]
        known = (folder / f"{stem}.pyx").exists() or (folder / f"build_{stem.removeprefix('_')}.py").exists()
        if not unit.name.endswith(SUFFIX) or not known:
            unit.unlink()


def stale(product: Path, sources: list[Path]) -> bool:
    """Whether `product` is absent or older than one of its sources (or than this backend)."""
    if not product.exists():
        return True
    made = product.stat().st_mtime_ns
    return any(source.stat().st_mtime_ns > made for source in [*sources, Path(__file__)])


def build_cython() -> None:
    """Compile every `native/cy/*.pyx` beside its source."""
    folder = NATIVE / "cy"
    forget_other_pythons(folder)
    for source in sorted(folder.glob("*.pyx")):
        product = folder / f"{source.stem}{SUFFIX}"
        own = sorted(folder.glob(f"{source.stem}*_impl.[ch]")) + sorted(folder.glob("*.pxd"))
        if not stale(product, [source, *own]):
            continue
        # A fresh interpreter for each unit: compilers keep global state. The script is beside this file.
        script = Path(__file__).with_name("cython_unit.py")
        run([sys.executable, str(script), str(source), str(product)], what=f"Cython unit {source.stem}")
        if not product.exists():
            raise BuildFailed(f"Cython unit {source.stem}: {product.name} was not made")


def build_cffi() -> None:
    """Compile every `native/ffi/build_*.py` (API mode) beside its source; each script names an `FFI` `ffibuilder`."""
    folder = NATIVE / "ffi"
    forget_other_pythons(folder)
    for source in sorted(folder.glob("build_*.py")):
        unit = f"_{source.stem.removeprefix('build_')}"
        product = folder / f"{unit}{SUFFIX}"
        if not stale(product, [source, *sorted(folder.glob("*.h")), *sorted(folder.glob("*_impl.c"))]):
            continue
        script = Path(__file__).with_name("cffi_unit.py")
        run([sys.executable, str(script), str(source), str(product)], what=f"cffi unit {unit}")
        if not product.exists():
            raise BuildFailed(f"cffi unit {unit}: {product.name} was not made")


def build_programs(profile: str = "program") -> None:
    """Build the programs with a cargo profile and put them, mode 755, into native/bin."""
    triple = host_triple()
    folder = NATIVE / "bin"
    folder.mkdir(exist_ok=True)
    for program in PROGRAMS:
        env = dict(os.environ)
        flags = [*env.get("RUSTFLAGS", "").split(), *program.rustflags]
        if flags:
            env["RUSTFLAGS"] = " ".join(flags)
        run(
            [
                *("cargo", "build", "--manifest-path", str(MANIFEST), "--package", program.package),
                *("--bin", program.file, "--profile", profile, "--target", triple, "--target-dir", str(target_dir())),
            ],
            what=f"program {program.file} ({profile})",
            env=env,
        )
        made = target_dir() / triple / ("debug" if profile == "dev" else profile) / program.file
        if not made.exists():
            raise BuildFailed(f"program {program.file}: cargo made no {made}")
        # Renamed into place: a running node keeps the file it was started from.
        fresh = folder / f".{program.file}.new"
        shutil.copyfile(made, fresh)
        fresh.chmod(0o755)
        fresh.replace(folder / program.file)
    for file in folder.iterdir():
        if file.name not in {program.file for program in PROGRAMS}:
            file.unlink()


def build_beside_maturin(profile: str = "program") -> None:
    """Everything but the PyO3 library, in place."""
    build_cython()
    build_cffi()
    build_programs(profile)


def find_tools() -> None:
    """Put the interpreter's folder first on PATH (maturin runs by bare name), then a private Rust from `make setup`."""
    folders = [Path(sys.executable).parent, NATIVE.parent / ".cache" / "rust" / "bin"]
    there = [str(folder) for folder in folders if folder.is_dir()]
    os.environ["PATH"] = os.pathsep.join([*there, os.environ.get("PATH", os.defpath)])


def build_wheel(wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None) -> str:
    """PEP 517. The library that an editable install left in native/ stays there: maturin does not pack it."""
    build_beside_maturin()
    return str(maturin.build_wheel(wheel_directory, config_settings, metadata_directory))


def build_editable(
    wheel_directory: str, config_settings: Settings = None, metadata_directory: str | None = None
) -> str:
    """PEP 660: the same outputs in place, and a wheel that only points here."""
    build_beside_maturin()
    return str(maturin.build_editable(wheel_directory, config_settings, metadata_directory))


find_tools()

# Hooks that need nothing of ours but the tools.
build_sdist = maturin.build_sdist
get_requires_for_build_wheel = maturin.get_requires_for_build_wheel
get_requires_for_build_editable = maturin.get_requires_for_build_editable
get_requires_for_build_sdist = maturin.get_requires_for_build_sdist
prepare_metadata_for_build_wheel = maturin.prepare_metadata_for_build_wheel
prepare_metadata_for_build_editable = maturin.prepare_metadata_for_build_editable
