"""A store on a file system that does not answer holds up nothing of the node but the starts from it."""

from __future__ import annotations

from pathlib import Path

from tests.e2e.node_tool import TIMEOUT_S, Node
from tests.mounts import dead_file_system

STARTS = 12


def test_starts_from_a_dead_store_hold_up_nothing_else(store: Path, tmp_path: Path) -> None:
    node = Node(store=store, config=store)
    node.up()
    with dead_file_system(tmp_path / "dead"):
        try:
            started = [
                node.start("--name", f"dead-{number}", "small", store=str(tmp_path / "dead"), command=["true"])
                for number in range(STARTS)
            ]
            while len(node.names()) < STARTS:
                assert all(each.poll() is None for each in started)
            done = node.run("--rm", "small", command=["echo", "alive"])
            assert (done.status, done.out) == (0, "alive\n"), done.err
            assert node.zos("rm", "-f", "dead-0").status == 0
            assert "dead-0" not in node.names()
        finally:
            node.down()
        for each in started:
            _, err = each.communicate(timeout=TIMEOUT_S)
            assert each.returncode != 0, err
