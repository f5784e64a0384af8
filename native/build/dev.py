"""Development build in place: `python native/build/dev.py [--release] [rust|cy|ffi|programs ...]`.

Without a kind it builds all four. Debug profiles by default: seconds instead of minutes, overflow and debug checks
on. `--release` uses the profiles that ship.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from native.build import zos_build

KINDS = ("rust", "cy", "ffi", "programs")


def build_rust(*, release: bool) -> None:
    """Build the PyO3 library for this interpreter and put it beside the facades."""
    env = dict(os.environ, PYO3_PYTHON=sys.executable)
    profile = "release" if release else "dev"
    zos_build.run(
        [
            *("cargo", "build", "--manifest-path", str(zos_build.MANIFEST), "--package", "zos-native", "--lib"),
            *("--profile", profile, "--target-dir", str(zos_build.target_dir())),
        ],
        what=f"PyO3 library ({profile})",
        env=env,
    )
    for other in zos_build.NATIVE.glob("_rust.*.so"):
        other.unlink()
    made = zos_build.target_dir() / ("release" if release else "debug") / "lib_rust.so"
    shutil.copyfile(made, zos_build.NATIVE / f"_rust{zos_build.SUFFIX}")


def main(arguments: list[str]) -> int:
    """Build the kinds asked for; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--release", action="store_true", help="the profiles that ship, instead of debug ones")
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=f"any of {', '.join(KINDS)} (all)")
    options = parser.parse_args(arguments)
    unknown = sorted(set(options.kinds) - set(KINDS))
    if unknown:
        parser.error(f"unknown kind {unknown[0]}; known: {', '.join(KINDS)}")
    steps: dict[str, Callable[[], None]] = {
        "rust": lambda: build_rust(release=options.release),
        "cy": zos_build.build_cython,
        "ffi": zos_build.build_cffi,
        "programs": lambda: zos_build.build_programs("program" if options.release else "dev"),
    }
    try:
        for kind in options.kinds or KINDS:
            steps[kind]()
    except zos_build.BuildFailed as error:
        print(f"zos_build: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
