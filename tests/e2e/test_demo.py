"""`make demo`, as it is run: a real Debian root file system, two containers, and nothing left, however it ends."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.spawn_kit import make_tree
from zos_core.base.paths import account

pytestmark = pytest.mark.root

ROOT = Path(__file__).resolve().parents[2]
DEMO = [str(ROOT / ".ci/demo")]
# A new root file system takes half a minute, more where the packages come slowly.
TIMEOUT_S = 900
INTERRUPTED_S = 120
STEPS = [
    "is in",  # the image is there already
    "serving the store",
    "starting the node",
    "running python3",
    "running a Django page",
]
LAST_STEP = "taking everything away again"


@pytest.fixture(scope="module")
def state() -> Iterator[Path]:
    """A directory on a disk, for the state of a node."""
    directory = Path(tempfile.mkdtemp(prefix="zos-demo-", dir="/var/tmp"))
    yield directory
    shutil.rmtree(directory)


@pytest.mark.timeout(TIMEOUT_S)
def test_the_demo_keeps_its_promises() -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed (make setup installs it)")
    done = subprocess.run(DEMO, cwd=ROOT, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "numpy" in done.stdout
    assert "It runs: Django" in done.stdout
    assert "Nothing is left of it" in done.stdout


@pytest.fixture(scope="module")
def image() -> None:
    """The demo's image is in the caller's store."""
    if not (account().home / ".cache/zos/demo-store/name").is_dir():
        pytest.skip("the demo has not built its image here")


@pytest.mark.timeout(INTERRUPTED_S)
def test_not_a_thing_is_left_of_it(image: None, state: Path) -> None:
    """Every mount, process, namespace, socket, loop, link, sysctl and file, before and after, in a world of its own."""
    command = [str(ROOT / "tests/e2e/alone.sh"), str(state), *DEMO, "--alone"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=INTERRUPTED_S)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Nothing is left of it" in done.stdout


def interrupted(step: str, *arguments: str, status: int = 130) -> list[str]:
    """What it said when Ctrl-C was pressed at the beginning of a step, and once more while things are taken away."""
    process = subprocess.Popen(
        [*DEMO, *arguments],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    assert process.stdout is not None
    said: list[str] = []
    try:
        for line in process.stdout:
            said.append(line.rstrip())
            if step in line or LAST_STEP in line:
                os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to all that are in the foreground
        assert process.wait(timeout=INTERRUPTED_S) == status, "\n".join(said)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()
    return said


@pytest.mark.timeout(INTERRUPTED_S)
@pytest.mark.parametrize("step", STEPS)
def test_ctrl_c_takes_everything_away(image: None, step: str) -> None:
    said = interrupted(step)
    assert any(step in line for line in said)
    assert "interrupted" in said
    assert any("Nothing is left of it" in line for line in said), said


@pytest.mark.timeout(INTERRUPTED_S)
def test_ctrl_c_at_the_end_changes_nothing(image: None) -> None:
    said = interrupted(LAST_STEP, status=0)
    assert any("What ran, and how" in line for line in said)
    assert any("Nothing is left of it" in line for line in said), said


@pytest.mark.timeout(INTERRUPTED_S)
def test_ctrl_c_while_the_tree_is_made(tmp_path: Path) -> None:
    if shutil.which("mmdebstrap") is None:
        pytest.skip("mmdebstrap is not installed (make setup installs it)")
    before = set(Path("/var/tmp").glob("zos-demo-tree-*"))
    said = interrupted("making a Debian root file system", "--store", str(tmp_path))
    assert any("Nothing is left of it" in line for line in said), said
    assert set(Path("/var/tmp").glob("zos-demo-tree-*")) <= before
    assert not (tmp_path / "name").exists()


@pytest.mark.timeout(INTERRUPTED_S)
def test_ctrl_c_while_the_image_is_built(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    make_tree(tree)
    said = interrupted("building the flist", "--store", str(tmp_path / "store"), "--tree", str(tree))
    assert any("Nothing is left of it" in line for line in said), said
    assert not [path for path in tmp_path.rglob("*") if path.name.startswith(".tmp-")]


def test_the_world_of_its_own_tells_what_is_left(state: Path) -> None:
    """The comparison is one that can fail: what a command leaves behind is seen."""
    script = (
        "import subprocess, sys; from tests.e2e.machine import snapshot; before = snapshot();"
        "subprocess.run(['sh', '-c', 'mkdir /var/lib/zos/left; mount -t tmpfs left /mnt; sleep 1000 &'], check=True);"
        "print('\\n'.join(before.difference(snapshot(), instance='none', alone=True)))"
    )
    command = [str(ROOT / "tests/e2e/alone.sh"), str(state), sys.executable, "-c", script]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=60)
    kinds = {line.partition(":")[0] for line in done.stdout.splitlines()}
    assert kinds == {"+mounts", "+processes", "+state"}, done.stdout + done.stderr


def test_on_a_machine_that_cannot_it_says_so_in_one_line() -> None:
    line = 'mkdir -p /var/lib/zos; mount -t tmpfs state /var/lib/zos; exec "$0" -m tests.e2e.demo'
    done = subprocess.run(
        ["unshare", "--mount", "sh", "-ec", line, sys.executable], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 77, done.stdout + done.stderr
    (said,) = done.stdout.splitlines()
    assert said.startswith("containers cannot run here: state: a file system in memory (tmpfs)")
    assert "mount DISK /var/lib/zos" in said
