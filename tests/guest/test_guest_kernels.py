"""Stock Debian kernels with systemd and full cgroup v2: our wheel, installed without network, is put through its paces.

`make test` runs a smoke set on Debian 12's and 13's own kernels, both at once (ZOS_GUEST=none: without). `make guest`
(ZOS_GUEST=all) runs the whole, on the newest kernel of trixie-backports too. One boot runs all checks of one.
"""

from __future__ import annotations

import faulthandler
import os
import platform
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.guest.qemu import (
    IMAGE_TIMEOUT_S,
    PASSED,
    WHEELS_TIMEOUT_S,
    Image,
    boot,
    checks_disk,
    image_of,
    installed_image_of,
    keep,
    wheels_of,
)

ASKED = os.environ.get("ZOS_GUEST") or "smoke"
SMOKE_TIMEOUT_S = 900
WHOLE_TIMEOUT_S = 3600
# Image, its release's Python, the kernel that it must be at least.
MACHINES = {
    "bookworm": ("bookworm", (6, 1)),
    "trixie": ("trixie", (6, 12)),
    "trixie-backports": ("trixie", (6, 15)),
}
INSIDE = "tests/guest/inside/test_core.py"
# What fits into four minutes for both machines: a zos command takes a second and a half there.
SMOKE = [
    f"{INSIDE}::{name}"
    for name in (
        "test_doctor_finds_the_row_of_this_kernel",
        "test_from_the_hub_to_the_end",
        "test_killed_while_an_image_is_read[blockd]",
        "test_memory_max_ends_the_whole_container",
    )
]
WHOLE = [
    INSIDE,
    "tests/e2e/test_run.py",
    "tests/e2e/test_survival.py",
    "tests/integration/test_native_kernel.py",
    "tests/integration/test_doctor.py",
    "tests/integration/test_host_cgroup.py",
    "tests/integration/test_spawn_launch.py",
    "tests/integration/test_spawn_exec.py",
    "tests/integration/test_spawn_image.py",
    "tests/integration/test_blockd_serve.py",
    "tests/integration/test_blockd_death.py",
    "tests/integration/test_network_wiring.py",
    "tests/integration/test_flist_cli_verbs.py",
]


@dataclass(frozen=True, kw_only=True)
class Guest:
    """A machine that can be booted: its disk, and the one with its checks."""

    machine: str
    image: Image
    disk: Path
    directory: Path

    @classmethod
    def prepared(cls, machine: str, selection: Sequence[str], directory: Path, *, installed: bool) -> Guest:
        """With our wheel in its disk already, or with the wheels beside the checks."""
        suite, at_least = MACHINES[machine]
        image = installed_image_of(machine) if installed else image_of(machine)
        assert image.version >= at_least, image.release
        directory.mkdir()
        disk = checks_disk(directory, None if installed else wheels_of(suite), selection)
        return cls(machine=machine, image=image, disk=disk, directory=directory)

    def check(self, *, timeout_s: float) -> str:
        """Boot it, run its checks; returns what to say of it, or the story of what failed as an AssertionError."""
        release = self.image.release
        run = boot(self.image, self.disk, self.directory, timeout_s=timeout_s)
        if run.status != PASSED:
            where = keep(f"{self.machine}-{release}", run)
            raise AssertionError(f"Linux {release}: {run.story()}\nthe whole console is in {where}")
        outcomes = {check["check"]: check["outcome"] for check in run.checks}
        passed = [name for name, outcome in outcomes.items() if outcome == "passed"]
        skipped = [f"{check['check']}: {check['detail']}" for check in run.checks if check["outcome"] == "skipped"]
        assert run.failed == []
        assert outcomes["install"] == "passed"
        assert any("test_from_the_hub_to_the_end" in name for name in passed), outcomes
        assert not any("tests/guest/" in line for line in skipped), skipped
        said = f"Linux {release}: {len(passed)} passed in {run.seconds:.0f} s"
        return "\n  skipped ".join([said, *skipped])


@pytest.mark.slow
@pytest.mark.timeout(2 * (IMAGE_TIMEOUT_S + WHEELS_TIMEOUT_S) + SMOKE_TIMEOUT_S + 120)
def test_the_core_path_on_stock_kernels(tmp_path: Path) -> None:
    if ASKED != "smoke":
        pytest.skip(f"ZOS_GUEST={ASKED}: the smoke set was not asked for")
    if platform.machine() != "x86_64":
        pytest.skip(f"the guests' wheels are made here, and this machine is {platform.machine()}")
    faulthandler.cancel_dump_traceback_later()  # longer than any other test, and not because it hangs
    guests = [Guest.prepared(name, SMOKE, tmp_path / name, installed=True) for name in ("bookworm", "trixie")]
    with ThreadPoolExecutor(len(guests)) as pool:
        runs = [pool.submit(guest.check, timeout_s=SMOKE_TIMEOUT_S) for guest in guests]
    failures = [str(error) for run in runs if (error := run.exception()) is not None]
    if failures:
        pytest.fail("\n".join(failures), pytrace=False)
    print(*(run.result() for run in runs), sep="\n")


@pytest.mark.slow
@pytest.mark.timeout(IMAGE_TIMEOUT_S + WHEELS_TIMEOUT_S + WHOLE_TIMEOUT_S + 120)
@pytest.mark.parametrize("machine", list(MACHINES))
def test_the_whole_on_a_stock_kernel(machine: str, tmp_path: Path) -> None:
    if ASKED != "all":
        pytest.skip("`make guest` runs the whole")
    print(Guest.prepared(machine, WHOLE, tmp_path / machine, installed=False).check(timeout_s=WHOLE_TIMEOUT_S))
