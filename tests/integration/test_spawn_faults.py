"""Every step of a launch, an exec and each mount fails, or its process is killed there: nothing of it is left.

The real spawn fails on purpose where it is told to (SPAWN-FAULT).
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.hold_tool import parent_of
from tests.integration.spawn_kit import IMAGE, Refused, Tree, running, wait_empty

pytestmark = pytest.mark.root

ENOMEM = 12
STEPS_MAX = 400
TRIES_MAX = 50
KINDS = (str(ENOMEM), "kill")


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    """With a file that orders faults."""
    directory = tmp_path_factory.mktemp("faults")
    (directory / "order").touch()
    with running(directory, "--faults", str(directory / "order")) as tree:
        tree.mount_extracted()
        tree.launch("target", "/bin/sleep", "1000")
        yield tree


class Left:
    """What a request could leave: descriptors and mounts of spawn, names and children of hold, processes."""

    def __init__(self, tree: Tree) -> None:
        self.tree = tree

    def now(self) -> dict[str, object]:
        """Counted when spawn has nothing more to do."""
        with pytest.raises(Refused):  # which makes no helper: behind it the last one has been put away
            try:
                self.tree.spawn.do("no-such-operation")
            except ConnectionError:  # the fault met what spawn did after its answer, and was its end
                come_back(self.tree)
                self.tree.spawn.do("no-such-operation")
        spawn = self.tree.service()["pid"]
        return {
            "descriptors": descriptors_of(spawn),
            "mounts": len(Path(f"/proc/{spawn}/mountinfo").read_text().splitlines()),
            "names": self.tree.hold.do("list", prefix="")["names"],
            "children": [child["name"] for child in self.tree.hold.do("children")["children"]],
            "processes": len(children_of(parent_of(spawn))),
            "helpers": children_of(spawn),
        }

    def check(self, before: dict[str, object], when: str) -> None:
        """As before, as soon as spawn has put away what it has just answered with."""
        for _ in range(TRIES_MAX):
            if (now := self.now()) == before:
                return
        assert now == before, when


def children_of(pid: int) -> list[str]:
    """Those of which hold knows nothing, too."""
    return Path(f"/proc/{pid}/task/{pid}/children").read_text().split()


def descriptors_of(pid: int) -> list[str]:
    """What a process has open, without the numbers of sockets."""
    links = [os.readlink(f"/proc/{pid}/fd/{number}") for number in os.listdir(f"/proc/{pid}/fd")]
    return sorted(link.partition(":")[0] if link.startswith("socket:") else link for link in links)


def order(tree: Tree, text: str) -> None:
    path = tree.directory / "order"
    path.write_text(text)


def attempt(tree: Tree, op: str, body: dict[str, Any]) -> Refused | ConnectionError | None:
    """The request: None when it was carried out, else how it failed; a spawn that died is dialled again."""
    try:
        tree.spawn.do(op, **body)
    except Refused as refused:
        return refused
    except ConnectionError as gone:
        come_back(tree)
        return gone
    return None


def come_back(tree: Tree) -> None:
    """Return when a successor of a spawn that died answers."""
    order(tree, "")
    tree.hold.event("service")
    tree.reconnect()
    tree.spawn.do("probe")


def drain(tree: Tree, name: str) -> None:
    """Wait for the end of a process of that name, if hold has it, and forget its output."""
    alive = [child["name"] for child in tree.hold.do("children")["children"]]
    if name in alive:
        with contextlib.suppress(Refused):  # it has ended meanwhile
            tree.hold.do("kill", name=name, signal=9)
    known = [exit_["name"] for exit_ in tree.hold.do("exits", after=tree.seen_exits)["exits"]]
    if name in alive or name in known:
        tree.seen_exits = tree.wait_exit(name)["seq"]
    tree.hold.do("drop", names=[f"log/{name}/stdout", f"log/{name}/stderr"])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["spawn", "child"])
def test_a_launch_that_fails_at_any_step_leaves_nothing(tree: Tree, side: str, kind: str) -> None:
    left = Left(tree)
    order(tree, "")
    before = left.now()
    for step in range(1, STEPS_MAX):
        name = f"f-{side}-{kind}-{step}"
        body = tree.launch_body(name, "/bin/true")
        order(tree, f"{side} {step} {kind}")
        failure = attempt(tree, "launch", body)
        order(tree, "")
        if failure is None and side == "child":
            drain(tree, name)
            assert step > 20, "the launch has more steps than that"
            break
        if isinstance(failure, Refused):
            assert failure.step or kind == "kill", f"step {step}: {failure}"
            assert kind == "kill" or failure.errno == ENOMEM or failure.code != "spawn.step", f"step {step}: {failure}"
        drain(tree, name)
        left.check(before, f"{side} {step} {kind}: {failure}")
        wait_empty(tree.cgroup / name)
        if failure is None:
            break
    else:
        raise AssertionError("the launch never got through")
    assert step > 5, "faults were not made"
    assert tree.run("exit 4")[0] == 4


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("side", ["spawn", "helper", "child"])
def test_an_exec_that_fails_at_any_step_leaves_nothing(tree: Tree, side: str, kind: str) -> None:
    left = Left(tree)
    order(tree, "")
    before = left.now()
    for step in range(1, STEPS_MAX):
        name = f"target/exec-{step}"
        body = {
            "name": name, "generation": 1, "target": "target", "args": [b"/bin/true"], "env": [b"PATH=/bin"],
            "cwd": b"/", "user": {"uid": 0, "gid": 0, "groups": []}, "capabilities": [],
            "cgroup": str(tree.cgroup / "target"),
        }  # fmt: skip
        order(tree, f"{side} {step} {kind}")
        failure = attempt(tree, "exec", body)
        order(tree, "")
        if isinstance(failure, Refused) and kind != "kill":
            assert failure.step, f"{side} {step}: {failure}"
        drain(tree, name)
        left.check(before, f"{side} {step} {kind}: {failure}")
        if failure is None:
            break
    else:
        raise AssertionError("the exec never got through")
    assert step > 1


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    ("op", "body"),
    [
        ("fuse_open", {"image": "aa" * 32}),
        ("netns", {"name": "faulty"}),
        ("mount_image", {"image": "bb" * 32, "provider": "extract", "meta": None, "blob": None, "tree": "tree"}),
        ("remove", {"path": "containers/rubbish"}),
    ],
)
def test_a_mount_or_namespace_that_fails_at_any_step_leaves_nothing(
    tree: Tree, op: str, body: dict[str, Any], kind: str
) -> None:
    left = Left(tree)
    order(tree, "")
    rubbish = tree.state / "containers/rubbish/deep"
    before = left.now()
    for step in range(1, STEPS_MAX):
        rubbish.mkdir(parents=True, exist_ok=True)
        order(tree, f"helper {step} {kind}")
        failure = attempt(tree, op, body)
        order(tree, "")
        if failure is None:
            break
        assert isinstance(failure, Refused)
        if kind != "kill":
            assert failure.step or failure.code == "spawn.bad-path", f"step {step}: {failure}"
        left.check(before, f"{op} {step} {kind}: {failure}")
    else:
        raise AssertionError(f"{op} never got through")
    assert step > 1, "no step was taken by the helper"
    if "image" in body:
        tree.spawn.do("forget_image", image=body["image"])
    tree.hold.do("drop", names=["netns/faulty", "rtnl/faulty"])
    left.check(before, "at the end")
    assert IMAGE not in str(body)
