"""Ctrl-C at any moment of `zos run`: it ends in time, says so, and nothing is left, at the node and here.

Moments are not measured by a clock. On the client's side the signal comes at its n-th audited operation (PEP 578), for
n over all of them; on the node's side while the hub holds back the answer that the start is waiting for.
"""

from __future__ import annotations

import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from flist.manifest import SignedManifest
from tests.e2e.node_tool import TIMEOUT_S, Hub, Node, Reading, make_variant

pytestmark = pytest.mark.root

# Everything is imported before operations are counted: an import is not a moment of a run.
CLIENT = """
import os, signal, sys
import aiohttp, uvloop, rich.console, zos_core.commands, zos_core.attach, flist.names, zos_core.base.keyring
import zos_core.base.verbs as verbs
at, seen = int(sys.argv.pop(1)), 0
def hook(event, arguments):
    global seen
    seen += 1
    if seen == at:
        os.kill(os.getpid(), signal.SIGINT)
entries = verbs.installed_entries()
for entry in entries:
    entry.load()
sys.addaudithook(hook)
status = verbs.run(sys.argv[1:], entries)
print(f"operations: {seen}", file=sys.stderr)
sys.exit(status)
"""
# One in so many moments is tried in each run of the suite, beginning at a random one: over time all of them are.
MOMENTS = 16


@pytest.fixture(scope="module")
def baseline(node: Node) -> list[str]:
    """What the module's node has when nothing runs; the image is mounted by then."""
    assert node.run("--rm", "small", command=["true"]).status == 0
    return node.footprint()


@pytest.fixture
def unchanged(node: Node, baseline: list[str]) -> Iterator[Node]:
    """The module's node, which has nothing more when the test is over."""
    yield node
    node.wait_footprint(baseline)


def run_client(node: Node, at: int, *command: str) -> subprocess.CompletedProcess[str]:
    """`zos run --rm` of a command, with SIGINT at its operation `at` (0: never)."""
    arguments = ["run", "--instance", node.instance, "--store", str(node.store), "--rm", "small", "--", *command]
    return subprocess.run(
        [sys.executable, "-c", CLIENT, str(at), *arguments], capture_output=True, text=True, timeout=TIMEOUT_S
    )


def test_at_every_operation_of_the_client(unchanged: Node) -> None:
    node = unchanged
    whole = run_client(node, 0, "true")
    assert whole.returncode == 0, whole.stderr
    operations = int(whole.stderr.rpartition("operations: ")[2])
    step = max(1, operations // MOMENTS)
    first = secrets.randbelow(step) + 1
    statuses = []
    for at in range(first, operations + 1, step):
        done = run_client(node, at, "true")
        told = f"SIGINT at operation {at} of {operations}: {done.stdout}{done.stderr}"
        assert done.returncode in (0, 130), told  # 0: it came when the program had ended
        assert "Traceback" not in done.stderr, told
        assert node.names() == [], told
        statuses.append(done.returncode)
    assert len(statuses) >= MOMENTS
    assert statuses[0] == 130


@pytest.fixture(scope="module")
def image(store: Path) -> SignedManifest:
    """The image `small`, as it was signed."""
    return SignedManifest.parse((store.parent / "small.flist").read_bytes())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=lambda number: number.name)
@pytest.mark.parametrize("kind", ["name", "manifest", "meta", "index", "locator", "pack"])
def test_while_the_start_waits_for_the_hub(
    unchanged: Node, hub: Hub, image: SignedManifest, tmp_path: Path, kind: str, number: signal.Signals
) -> None:
    """`pack`: the image is mounted, and the launch waits for the first bytes of its program."""
    hub.gated = lambda path: path.startswith(f"/{kind}/")
    hub.gate.clear()
    name = "small" if kind in ("name", "manifest") else str(make_variant(image, tmp_path))
    reading = Reading(unchanged.start("--rm", name, store=hub.url, command=["/late/busybox-00", "true"]))
    hub.wait_waiting(1)
    reading.process.send_signal(number)
    status = reading.end()
    hub.gate.set()
    assert status == 128 + number, reading.err
    assert "nothing is left of it" in reading.err
    assert unchanged.names() == []


def test_it_goes_to_the_program_once_that_runs(unchanged: Node) -> None:
    script = "trap 'echo heard; exit 42' INT; echo ready; while true; do sleep 0.05; done"
    reading = Reading(unchanged.start("--rm", "small", command=["sh", "-c", script]))
    reading.wait_lines(1)
    reading.process.send_signal(signal.SIGINT)
    assert reading.end() == 42, reading.err
    assert reading.lines == ["ready", "heard"]


def test_the_second_one_kills(unchanged: Node) -> None:
    script = "trap 'echo deaf' INT; echo ready; while true; do sleep 0.05; done"
    reading = Reading(unchanged.start("--rm", "small", command=["sh", "-c", script]))
    reading.wait_lines(1)
    reading.process.send_signal(signal.SIGINT)
    reading.wait_lines(2)
    reading.process.send_signal(signal.SIGINT)
    assert reading.end() == 128 + signal.SIGKILL, reading.err
