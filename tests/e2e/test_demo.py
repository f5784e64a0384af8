"""`make demo`, as it is run: a real Debian root file system, two containers, and nothing left."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]
# A new root file system takes half a minute, more where the packages come slowly.
TIMEOUT_S = 900


@pytest.mark.timeout(TIMEOUT_S)
def test_the_demo_keeps_its_promises() -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed (make setup installs it)")
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.demo"], cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "numpy" in done.stdout
    assert "It runs: Django" in done.stdout
    assert "Nothing is left of it" in done.stdout
