"""A name is resolved once, when a container is made; its document keeps the digest, whatever the name means later."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.node_tool import Node, image_store, zos

pytestmark = pytest.mark.root

SLEEP = ["sh", "-c", "echo ready; while true; do sleep 0.05; done"]


def test_a_new_revision_changes_no_container(node: Node, tmp_path: Path) -> None:
    with image_store(tmp_path) as store:
        first = zos("flist", "inspect", "small", "--store", str(store), "--json").json["digest"]
        done = node.run("-d", "--name", "pinned", "small", command=SLEEP, store=str(store))
        assert done.status == 0, done.err + node.service_logs()
        document = Path(f"/var/lib/zos/{node.instance}/documents")
        (tmp_path / "tree" / "new").write_text("new")
        built = zos("flist", "build", str(tmp_path / "tree"), "--name", "small", "--store", str(store), "--json")
        assert built.status == 0, built.err
        second = built.json["digest"]
        assert second != first
        assert node.inspect("pinned")["image"]["digest"] == first
        kept = [json.loads(path.read_text()) for path in document.iterdir() if "pinned" in path.name]
        assert [each["image"]["digest"] for each in kept] == [first]
        node.kill("supervisor")
        assert node.inspect("pinned")["image"]["digest"] == first
        assert node.run("--name", "next", "small", command=["cat", "/new"], store=str(store)).out == "new"
        assert node.inspect("next")["image"]["digest"] == second
        # The node has seen the second revision: the store may not go back, but a digest may be named.
        name = f"name/{node.inspect('next')['image']['name']}/latest"
        record = (store / name).read_bytes()
        for each in ("pinned", "next"):
            node.zos("stop", "--grace", "0.1", each)
            assert node.zos("rm", each).status == 0
        assert record == (store / name).read_bytes()
        old = node.run("--rm", f"small@{first}", command=["true"], store=str(store))
        assert old.status == 0, old.err


def test_a_store_that_goes_back_is_refused_by_the_node(node: Node, tmp_path: Path) -> None:
    with image_store(tmp_path) as store:
        record = next((store / "name").glob("*/small/latest"))
        old = record.read_bytes()
        (tmp_path / "tree" / "new").write_text("new")
        assert zos("flist", "build", str(tmp_path / "tree"), "--name", "small", "--store", str(store)).status == 0
        assert node.run("--rm", "small", command=["true"], store=str(store)).status == 0
        record.write_bytes(old)
        refused = node.zos("run", "--json", "--store", str(store), "--rm", "small", "--", "true")
        assert refused.status == 125
        assert refused.json["error"]["code"] == "flist.revision-went-back"
        assert node.names() == []
