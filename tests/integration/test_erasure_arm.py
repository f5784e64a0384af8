"""The crate's own tests, NEON among them, built for AArch64 and run under qemu-user."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TARGET = "aarch64-unknown-linux-gnu"
LINKER = "aarch64-linux-gnu-gcc"
BUILD_TIMEOUT_S = 900


def tools() -> dict[str, str]:
    """Where what is needed is, or the test is skipped. `ZOS_RUSTC_AARCH64` names a rustc with a std for the target."""
    rustc = os.environ.get("ZOS_RUSTC_AARCH64") or shutil.which("rustc")
    emulator = shutil.which("qemu-aarch64-static") or shutil.which("qemu-aarch64")
    if rustc is None:
        pytest.skip("no rustc")
    if emulator is None:
        pytest.skip("no qemu-aarch64: apt-get install qemu-user-static")
    if shutil.which(LINKER) is None:
        pytest.skip(f"no {LINKER}: apt-get install gcc-aarch64-linux-gnu libc6-dev-arm64-cross")
    asked = [rustc, "--print", "target-libdir", "--target", TARGET]
    libraries = Path(subprocess.run(asked, capture_output=True, text=True, check=True).stdout.strip())
    if not any(libraries.glob("libstd-*.rlib")):
        pytest.skip(f"{rustc} has no std for {TARGET}: apt-get install libstd-rust-web-dev:arm64, with rustc-web")
    return {"RUSTC": rustc, "RUNNER": emulator}


@pytest.mark.slow
@pytest.mark.timeout(BUILD_TIMEOUT_S)
def test_erasure_neon_under_qemu() -> None:
    found = tools()
    prefix = f"CARGO_TARGET_{TARGET.upper().replace('-', '_')}"
    environment = {
        **os.environ,
        "RUSTC": found["RUSTC"],
        "CARGO_TARGET_DIR": str(ROOT / "native/target/aarch64-tests"),
        f"{prefix}_LINKER": LINKER,
        f"{prefix}_RUNNER": found["RUNNER"],
        # A static program needs no libraries of the other architecture.
        f"{prefix}_RUSTFLAGS": " ".join(["-C target-feature=+crt-static", os.environ.get("ZOS_RUSTFLAGS_AARCH64", "")]),
    }
    command = ["cargo", "test", "--manifest-path", str(ROOT / "native/Cargo.toml"), "--package", "erasure"]
    done = subprocess.run(
        [*command, "--target", TARGET, "--", "--nocapture"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=BUILD_TIMEOUT_S - 20,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    passed = re.search(r"test result: ok\. (\d+) passed", done.stdout)
    assert passed is not None, done.stdout
    assert int(passed[1]) >= 10
    # On AArch64 the paths of x86 are skipped, and NEON is not.
    assert "skipped: this machine has not the instructions of avx2" in done.stdout
    assert "instructions of neon" not in done.stdout
