"""Sockets, files and names of a node, attacked from a container, by another user, and by requests."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import socket
import stat
import subprocess
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.e2e.node_tool import Node
from tests.integration.spawn_kit import Refused, Tree
from tests.security.kit import ALL_CAPABILITIES, run_inside, run_outside, verdicts
from zos_core.base.errors import DocumentInvalid
from zos_core.base.paths import Instance
from zos_core.containers.errors import NoSuchContainer

pytestmark = pytest.mark.root

NOBODY = 65534


def pids_of(node: Node) -> list[int]:
    """Every process of the node's tree."""
    with node.hold() as hold:
        pids = [service["pid"] for service in hold.ask("services")["services"]]
    return [node.pid("hold"), *(pid for pid in pids if pid)]


def abstract_sockets(pids: list[int]) -> list[str]:
    """Names of abstract unix sockets that these processes have open."""
    inodes = set()
    for pid in pids:
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = os.readlink(entry)
            except FileNotFoundError:
                continue  # closed meanwhile
            if target.startswith("socket:["):
                inodes.add(target[8:-1])
    lines = [line.split() for line in Path("/proc/net/unix").read_text().splitlines()[1:]]
    return [line[7] for line in lines if len(line) > 7 and line[6] in inodes and line[7].startswith("@")]


# --- 14: CVE-2020-15257 ----------------------------------------------------------------------------------------------


def test_no_process_of_a_node_has_an_abstract_socket(attacked: Node) -> None:
    assert abstract_sockets(pids_of(attacked)) == []
    with socket.socket(socket.AF_UNIX) as control:
        control.bind("\0zos-attack-control")
        assert abstract_sockets([os.getpid()]) == ["@zos-attack-control"]


def test_a_container_in_the_hosts_network_reaches_no_socket(attacked: Node, tree: Tree, programs: Path) -> None:
    """Where network namespaces do not part them: by path, and by every abstract name that there is."""
    paths = [str(path) for path in Instance(attacked.instance).run_dir.glob("*.sock")]
    paths += [str(path) for path in (tree.directory / "run").glob("*.sock")]
    assert len(paths) > 6
    with socket.socket(socket.AF_UNIX) as control:
        control.bind("\0zos-attack-control")
        control.listen(8)
        inside = verdicts(run_inside(tree, "entry", "connect", *paths, "@zos-attack-control", netns=None))
        assert inside.pop("@zos-attack-control") == "ok", "the control: this container shares the network of the host"
    assert set(inside.values()) == {"ENOENT"}
    outside = verdicts(run_outside(programs, "entry", "connect", *paths))
    assert set(outside.values()) == {"ok"}, "the control: root of the host connects to each"


def test_other_users_reach_no_socket(attacked: Node, programs: Path) -> None:
    paths = [str(path) for path in Instance(attacked.instance).run_dir.glob("*.sock")]
    for path in (programs, *programs.parents):
        if not path.stat().st_mode & 0o001:
            path.chmod(path.stat().st_mode | 0o011)
    answers = verdicts(run_outside(programs, "entry", "connect", *paths, user=NOBODY))
    assert len(answers) > 4
    assert set(answers.values()) == {"EACCES"}
    assert set(verdicts(run_outside(programs, "entry", "connect", *paths)).values()) == {"ok"}, "the control: root"


# --- 25: CVE-2021-41091, 41103 ---------------------------------------------------------------------------------------


def test_layers_are_closed_to_other_users(attacked: Node, programs: Path) -> None:
    """A setuid program that a container made, or that an image brought, is no program of the host's users."""
    make = "cp /bin/entry /root/suid 2>/dev/null || cat /bin/entry > /root/suid; chmod 6755 /root/suid; exec sleep 1000"
    started = attacked.run("-d", "--name", "layer", "--provider", "extract", "attack", command=["sh", "-c", make])
    assert started.status == 0, started.err
    state = Path(f"/var/lib/zos/{attacked.instance}")
    layer = state / "containers/layer/upper/root/suid"
    images = list(state.glob("images/*/tree/bin/entry"))
    for _ in range(200):
        if layer.exists() and layer.stat().st_mode & stat.S_ISUID:
            break
        attacked.zos("exec", "layer", "--", "true")
    assert layer.stat().st_mode & 0o7777 == 0o6755
    assert images, "the extracted image"
    for program in (layer, *images):
        with pytest.raises(PermissionError):
            subprocess.run([program, "caps"], user=NOBODY, check=True)
        assert subprocess.run([program, "caps"], capture_output=True, check=True).stdout, "the control: it is a program"
    for directory in ("containers", "containers/layer", "images", "log"):
        path = state / directory
        opened = subprocess.run(["ls", path], user=NOBODY, capture_output=True, text=True)
        assert opened.returncode != 0, f"{path} can be listed by anybody"
    assert attacked.zos("rm", "-f", "layer").status == 0


# --- 28: names -------------------------------------------------------------------------------------------------------

BAD_NAMES = [
    "..",
    ".",
    "",
    "/",
    "a/b",
    "../x",
    "a\0b",
    "a\n",
    "-a",
    ".a",
    "a b",
    "ä",
    "a" * 300,
    "%2e%2e",
    "a:b",
    "a@b",
]


# What is asked of a container, and of its first exec.
BELOW_A_NAME = ["/wait?timeout_s=0", "/logs", "/exec/1/wait?timeout_s=0", "/exec/1/logs"]


def ask(node: Node, method: str, path: str, body: Any = None) -> tuple[int, Any]:
    """One request over the node's socket, written as it is: no library tidies the path."""
    with contextlib.closing(http.client.HTTPConnection("node")) as connection:
        answer = send(connection, node, method, path, body)
        return answer.status, json.loads(answer.read() or b"null")


def status_of(node: Node, method: str, path: str) -> int:
    """What is said of a request, whatever the answer's body, which may have no end."""
    with contextlib.closing(http.client.HTTPConnection("node")) as connection:
        return send(connection, node, method, path).status


def send(
    connection: http.client.HTTPConnection, node: Node, method: str, path: str, body: Any = None
) -> http.client.HTTPResponse:
    connection.sock = socket.socket(socket.AF_UNIX)
    connection.sock.connect(str(Instance(node.instance).api_socket))
    data = None if body is None else json.dumps(body)
    connection.request(method, path, data, {"Content-Type": "application/json"})
    return connection.getresponse()


def everything(node: Node) -> list[str]:
    roots = (Path(f"/var/lib/zos/{node.instance}"), Instance(node.instance).run_dir)
    return sorted(str(path) for root in roots for path in root.rglob("*") if "/log/" not in str(path))


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_could_be_paths_are_refused_before_anything_is_made(attacked: Node, name: str) -> None:
    before = everything(attacked)
    request = {"request_id": "0" * 32, "name": name, "image": {"store": str(attacked.store)}, "args": ["true"]}
    status, said = ask(attacked, "POST", "/v1/containers", request)
    assert (status, said["code"]) == (400, DocumentInvalid.code), said
    assert everything(attacked) == before


def test_a_good_name_passes_that_gate(attacked: Node) -> None:
    """The control: the very request, with a name that is one, fails only for its image."""
    request = {"request_id": "0" * 32, "name": "a.b_c+d-e", "image": {"store": str(attacked.store)}, "args": ["true"]}
    status, said = ask(attacked, "POST", "/v1/containers", request)
    assert said["code"] != DocumentInvalid.code, (status, said)


@pytest.mark.parametrize("name", ["..", "%2e%2e", "..%2f..", "%2fetc", "a%00b", "a" * 300, "%ff"])
@pytest.mark.parametrize("rest", ["", *BELOW_A_NAME, "/exec/..%2f1/logs"])
def test_names_in_paths_lead_to_no_file(attacked: Node, name: str, rest: str) -> None:
    status, said = ask(attacked, "GET", f"/v1/containers/{name}{rest}")
    assert status in (400, 404, 405), (status, said)
    assert said["code"] in (NoSuchContainer.code, DocumentInvalid.code, "http.404", "http.405"), said


def test_the_name_of_a_container_is_answered_in_each_of_these_paths(attacked: Node) -> None:
    """The control: it is the name for which the requests above are refused."""
    assert attacked.run("-d", "--name", "named", "attack", command=["sleep", "1000"]).status == 0
    assert attacked.zos("exec", "named", "--", "true").status == 0
    answers = {rest: status_of(attacked, "GET", f"/v1/containers/named{rest}") for rest in ["", *BELOW_A_NAME]}
    assert attacked.zos("rm", "-f", "named").status == 0
    assert set(answers.values()) == {200}, answers


def test_spawn_and_hold_take_no_path_for_a_name(tree: Tree) -> None:
    before = sorted(str(path) for path in tree.directory.rglob("*"))
    for name in ["", "a b", "a\0b", "a" * 300, "ä"]:
        body = {"name": "x", "generation": 1} | msgspec.to_builtins(tree_launch(tree)) | {"name": name}
        with pytest.raises(Refused) as caught:
            tree.spawn.do("launch", **body)
        assert caught.value.code == "frame.bad-body", name
    for path in ["..", "../x", "/etc", "a/../../x", "a//b", "", ".", "a\0b", "a" * 5000]:
        with pytest.raises(Refused) as caught:
            tree.spawn.do("remove", path=path)
        assert caught.value.code in ("spawn.bad-path", "frame.bad-body"), path
    after = sorted(str(path) for path in tree.directory.rglob("*"))
    assert [path for path in after if path not in before] == [str(tree.state / "containers/x")]
    # The control: the very requests with a good name, and a good path.
    tree.spawn.do("launch", **tree_launch(tree))
    tree.wait_exit("x")
    upper = tree.state / "containers/x/upper"
    assert upper.is_dir()
    tree.spawn.do("remove", path="containers/x/upper")
    assert not upper.exists()


def tree_launch(tree: Tree) -> dict[str, Any]:
    return tree.launch_body("x", "/bin/true", capabilities=ALL_CAPABILITIES)
