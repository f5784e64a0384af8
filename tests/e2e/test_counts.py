"""Nothing accumulates from run to run, and instances beside each other never touch."""

from __future__ import annotations

import pytest

from tests.e2e.node_tool import Node, Reading
from tests.soak.count_runs import compare

pytestmark = [pytest.mark.root, pytest.mark.timeout(240)]

RUNS = 4


def test_counts_are_those_after_the_first_run(own_node: Node) -> None:
    first, last = compare(own_node, RUNS)
    assert last == first


def test_the_end_of_one_instance_is_nothing_to_another(node: Node, own_node: Node) -> None:
    started = Reading(node.start("--name", "stays", "small", command=["sh", "-c", "echo up; cat; sleep 1000"]))
    started.wait_lines(1)
    names = ["stays", "same"]
    for each in (node, own_node):
        done = each.run("-d", "--name", "same", "-p", "127.0.0.1:0:80", "small", command=["sleep", "1000"])
        assert done.status == 0, done.err
    addresses = {each.inspect("same")["network"]["address"] for each in (node, own_node)}
    assert len(addresses) == 2, addresses
    own_node.zos("rm", "--force", "same")
    assert sorted(node.names()) == sorted(names)
    done = own_node.zos("down", "--grace", "1")
    assert done.status == 0, done.err
    assert sorted(node.names()) == sorted(names)
    assert all(node.inspect(name)["status"] == "running" for name in names)
    inside = node.zos("exec", "same", "--", "echo", "in")
    assert (inside.status, inside.out) == (0, "in\n"), inside.err
    for name in names:
        assert node.zos("rm", "--force", name).status == 0
    assert started.end() != 0
    own_node.up()
