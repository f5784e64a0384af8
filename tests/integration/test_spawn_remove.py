"""Removing trees, and images that try to lead spawn elsewhere (docs/spec/spawn.md)."""

from __future__ import annotations

import os
import shutil
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.spawn_kit import Client, Refused, Tree, make_tree, running

pytestmark = pytest.mark.root


@pytest.fixture(scope="module", params=["detached", "attached"])
def tree(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Tree]:
    more = () if request.param == "detached" else ("--without", "detached_layers")
    with running(tmp_path_factory.mktemp("spawn"), *more) as tree:
        yield tree


def test_remove_takes_all_and_follows_nothing(tree: Tree, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/file").write_text("x")
    top = tree.state / "rm"
    (top / "a/b/c").mkdir(parents=True)
    for n in range(300):
        (top / f"a/{n}").write_text("x")
    (top / "a/link").symlink_to(tmp_path / "outside")
    (top / "a/b/loop").symlink_to("..")
    os.mkfifo(top / "a/fifo")
    os.mknod(top / "a/null", 0o020600, os.makedev(1, 3))
    (top / "a/b/closed").mkdir(mode=0)
    (top / "a/b/sealed").mkdir()
    (top / "a/b/sealed/x").write_text("x")
    (top / "a/b/sealed").chmod(0)
    tree.spawn.do("remove", path="rm")
    assert not top.exists()
    assert (tmp_path / "outside/file").read_text() == "x"
    tree.spawn.do("remove", path="rm")
    tree.spawn.do("remove", path="never/was")
    (tree.state / "one").write_text("x")
    (tree.state / "link").symlink_to(tmp_path / "outside")
    tree.spawn.do("remove", path="one")
    tree.spawn.do("remove", path="link")
    assert not (tree.state / "one").exists()
    assert not (tree.state / "link").is_symlink()
    assert (tmp_path / "outside/file").exists()


def test_remove_reaches_any_depth(tree: Tree) -> None:
    """A container must not be able to make what cannot be removed: deeper than PATH_MAX, wide at each level."""
    here = os.open(".", os.O_RDONLY | os.O_DIRECTORY)
    try:
        (tree.state / "deep").mkdir()
        os.chdir(tree.state / "deep")
        for n in range(1_000):
            name = f"level-{n:04d}"
            Path("file").touch()
            os.mkdir(name)
            os.chdir(name)
    finally:
        os.fchdir(here)
        os.close(here)
    tree.spawn.do("remove", path="deep")
    assert not (tree.state / "deep").exists()


def test_remove_refuses_what_leads_out(tree: Tree, tmp_path: Path) -> None:
    (tree.state / "out").symlink_to(tmp_path)
    (tmp_path / "keep").write_text("x")
    for path in ("../x", "/etc", "a/../../x", "", ".", "a/"):
        with pytest.raises(Refused) as caught:
            tree.spawn.do("remove", path=path)
        assert caught.value.code == "spawn.bad-path"
    with pytest.raises(Refused) as caught:
        tree.spawn.do("remove", path="out/keep")
    assert caught.value.step == "open-parent"
    assert (tmp_path / "keep").exists()


def test_remove_of_an_overlay(tree: Tree) -> None:
    make_tree(tree.state / "plain")
    image = "11" * 32
    tree.spawn.do("mount_image", image=image, provider="extract", tree="plain")
    assert tree.run("rm -r /etc /tmp; mkdir /new; echo x > /new/file", name="ov", image=image)[0] == 0
    assert (tree.state / "containers/ov/work").exists()
    tree.spawn.do("remove", path="containers/ov")
    assert not (tree.state / "containers/ov").exists()


@pytest.mark.parametrize("name", ["dev", "proc", "sys", "etc"])
@pytest.mark.parametrize("kind", ["absolute", "relative", "file"])
def test_mount_points_that_are_no_directories(tree: Tree, tmp_path: Path, name: str, kind: str) -> None:
    """CVE-2026-41579, CVE-2019-19921: an image whose /dev or /proc is a link to a directory of the host."""
    trap = tmp_path / "trap"
    trap.mkdir()
    source = tree.state / f"trap-{name}-{kind}"
    make_tree(source)
    shutil.rmtree(source / name, ignore_errors=True)
    if kind == "file":
        (source / name).write_text("")
    else:
        (source / name).symlink_to(trap if kind == "absolute" else f"../../../../../../..{trap}")
    image = (name + kind).encode().hex().ljust(64, "0")
    tree.spawn.do("mount_image", image=image, provider="extract", tree=source.name)
    with pytest.raises(Refused) as caught:
        tree.launch(f"t-{name}-{kind}", "/bin/true", image=image)
    assert caught.value.code == "spawn.bad-path"
    assert f"/{name}" in str(caught.value)
    assert list(trap.iterdir()) == []
    assert tree.wait_exit(f"t-{name}-{kind}")["code"] == 125
    tree.spawn.do("forget_image", image=image)
    tree.spawn.do("remove", path=source.name)


def test_etc_files_are_not_written_through_links(tree: Tree, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    make_tree(tree.state / "links")
    for name in ("hosts", "hostname"):
        (tree.state / "links/etc" / name).symlink_to(victim)
    image = "12" * 32
    tree.spawn.do("mount_image", image=image, provider="extract", tree="links")
    assert tree.run("cat /etc/hostname", image=image) == (0, "box\n", "")
    assert victim.read_text() == "mine"


def test_layers_that_are_links(tree: Tree, tmp_path: Path) -> None:
    make_tree(tree.state / "base")
    image = "13" * 32
    tree.spawn.do("mount_image", image=image, provider="extract", tree="base")
    (tree.state / "elsewhere").symlink_to(tmp_path)
    (tree.state / "containers/lk").mkdir(parents=True)
    (tree.state / "containers/lk/upper").symlink_to(tmp_path)
    for changes in ({"upper": "elsewhere/upper"}, {}):
        with pytest.raises(Refused) as caught:
            tree.launch("lk", "/bin/true", image=image, **changes)
        assert (caught.value.code, caught.value.step) == ("spawn.step", "upper")
        tree.wait_exit("lk")
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_none(tree: Tree) -> None:
    """Whatever a connection says, the others are served."""
    path = tree.directory / "run/spawn.sock"
    for bytes_ in (
        b"x",
        struct.pack("<HI", 1, 5) + b"abcd",
        struct.pack("<HI", 2, 1) + b"\x80",
        struct.pack("<HI", 1, 1) + b"\x80",
        struct.pack("<HI", 1, 1) + b"\xc1",
        struct.pack("<HI", 1, 4) + b"\xdf\xff\xff\xff",
    ):
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
            sock.connect(str(path))
            sock.send(bytes_)
            assert sock.recv(1) == b""
    client = Client(path)
    client.send("probe", {})
    client.close()
    assert tree.spawn.do("probe")["overlay"]
    with pytest.raises(Refused) as caught:
        tree.spawn.do("netns", name=5)
    assert caught.value.code == "frame.bad-body"


def test_a_hundred_connections(tree: Tree) -> None:
    """Above the limit of 64 each is told so (FRAME-10), and new ones are let in when some have gone."""
    path = tree.directory / "run/spawn.sock"
    clients = [Client(path) for _ in range(100)]
    for client in clients[64:]:
        client.receive()
        assert client.answers[0][0]["error"]["code"] == "frame.too-many-clients"
    for client in clients[:60]:
        assert client.do("remove", path="nothing") == {}
    for client in clients:
        client.close()
    while True:
        last = Client(path)
        try:
            assert last.do("remove", path="nothing") == {}
            break
        except ConnectionError:
            continue  # it came before spawn had seen the others go
        finally:
            last.close()
