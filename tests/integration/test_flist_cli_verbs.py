"""`zos flist` and `zos hub` as a person uses them: a hub in a process of its own, JSON, refusals, help."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from flist.manifest import SignedManifest
from flist.names import NameRecord, sign_record
from tests.mounts import in_own_mount_namespace, mount
from tests.zos_tool import Zos
from zos_core.base.errors import DiskFull
from zos_core.base.keyring import Keyring


@pytest.fixture
def zos(tmp_path: Path) -> Zos:
    return Zos(tmp_path)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    root = tmp_path / "My Tree"
    (root / "bin").mkdir(parents=True)
    (root / "bin" / "tool").write_bytes(b"#!/bin/sh\n" * 10_000)
    (root / "bin" / "tool").chmod(0o755)
    (root / "link").symlink_to("bin/tool")
    return root


def test_the_whole_way(zos: Zos, tree: Path) -> None:
    status, out, err = zos.run("flist", "build", tree, "-o", "web.flist", "--name", "web")
    assert status == 0, err
    assert "revision 1" in out
    assert "packing: 100 kB in" in err
    file = SignedManifest.parse((zos.home / "web.flist").read_bytes())
    with zos.hub() as url:
        shown = zos.json("flist", "inspect", "web", "--store", url)
        assert shown["digest"] == file.digest.hex()
        assert [each["trusted"] for each in shown["signatures"]] == [True]
        assert zos.json("flist", "verify", "web", "--store", url)["bytes_verified"] == 100_000
        assert zos.json("flist", "verify", "web.flist", "--store", url)["digest"] == file.digest.hex()
        zos.json("flist", "extract", "web", "out", "--store", url)
    assert (zos.home / "out" / "bin" / "tool").read_bytes() == (tree / "bin" / "tool").read_bytes()
    assert os.readlink(zos.home / "out" / "link") == "bin/tool"
    for verb in ("inspect", "verify"):
        assert zos.run("flist", verb, "web")[0] == 0


def test_revisions_go_up(zos: Zos, tree: Path) -> None:
    first = zos.json("flist", "build", tree)
    assert first["name"].endswith("/my-tree")
    assert (first["revision"], first["tag"]) == (1, "latest")
    again = zos.json("flist", "build", tree, "--revision", "1")
    assert again["digest"] == first["digest"]
    second = zos.json("flist", "build", tree)
    assert (second["revision"], second["units_new"]) == (2, 0)
    assert zos.json("flist", "build", tree, "--revision", "2")["digest"] == second["digest"]
    assert zos.json("flist", "inspect", "my-tree")["previous"] == first["digest"]
    error = zos.json("flist", "build", tree, "--revision", "1", status=45)["error"]
    assert error["code"] == "flist.revision-not-new"
    (tree / "new").write_bytes(b"new")
    error = zos.json("flist", "build", tree, "--revision", "2", status=45)["error"]
    assert error["code"] == "flist.revision-not-new"
    assert zos.json("flist", "build", tree, "--name", "my-tree:other")["revision"] == 1
    pinned = f"my-tree@{first['digest']}"
    assert zos.json("flist", "inspect", pinned)["revision"] == 1


def test_a_plan_changes_nothing(zos: Zos, tree: Path) -> None:
    plan = zos.json("flist", "build", tree, "--plan")
    assert (plan["inodes"], plan["data_bytes"], plan["units"], plan["revision"]) == (4, 100_000, 1, 1)
    assert not zos.store.exists()


def test_another_ones_image_is_not_believed(zos: Zos, tree: Path, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = Zos(tmp_path / "other")
    zos.json("flist", "build", tree, "--name", "web", "-o", "web.flist")
    error = other.json("flist", "verify", "web", "--store", zos.store, status=39)["error"]
    assert error["code"] == "flist.untrusted-publisher"
    file = zos.home / "web.flist"
    assert other.json("flist", "verify", file, "--store", zos.store, status=39)["error"]["code"] == error["code"]
    assert other.json("flist", "verify", file, "--store", zos.store, "--unsigned")["signed_by"] is None
    assert other.json("flist", "inspect", file)["signatures"][0]["trusted"] is False
    assert other.run("flist", "verify", "web", "--store", zos.store, "--unsigned")[0] == 2


def test_changed_files_are_refused(zos: Zos, tree: Path) -> None:
    zos.json("flist", "build", tree, "--name", "web", "-o", "web.flist")
    data = (zos.home / "web.flist").read_bytes()
    for changed, status, code in [
        (data[:-1] + bytes([data[-1] ^ 1]), 38, "flist.signature-invalid"),
        (data + b"\0", 20, "flist.manifest-invalid"),
        (data[:-1], 20, "flist.manifest-invalid"),
        (data[:100], 20, "flist.manifest-invalid"),
        (b"not an flist", 20, "flist.manifest-invalid"),
        (b"", 20, "flist.manifest-invalid"),
        (bytes(1 << 20), 10, "file.too-large"),
    ]:
        (zos.home / "bad.flist").write_bytes(changed)
        assert zos.json("flist", "verify", "bad.flist", status=status)["error"]["code"] == code


@pytest.mark.parametrize("name", ["a/../b", "..", "/x", "a//b", "x" * 300, "web@12", "web:", "WEB"])
def test_bad_names(zos: Zos, tree: Path, name: str) -> None:
    for argv in (("inspect", name), ("build", tree, "--name", name)):
        error = zos.json("flist", *argv, status=34)["error"]
        assert error["code"] == "flist.name-invalid"
        assert error["hint"]
    assert not zos.store.exists()


@pytest.mark.parametrize(
    ("argv", "status", "code"),
    [
        (("flist", "inspect", "nobody/nothing"), 35, "flist.name-unknown"),
        (("flist", "inspect", "gone.flist"), 1, "os.error"),
        (("flist", "build", "gone"), 25, "flist.tree-unreadable"),
        (("flist", "verify", "web", "--store", "http://127.0.0.1:1"), 41, "store.unavailable"),
        (("flist", "build", ".", "--name", "hub/a/b"), 2, "cli.usage"),
        (("flist", "build", ".", "--store", "http://127.0.0.1:1"), 41, "store.unavailable"),
        (("hub", "serve", "--store", "gone"), 41, "store.unavailable"),
        (("hub", "serve", "--store", ".", "--listen", "nonsense"), 2, "cli.usage"),
    ],
)
def test_refusals(zos: Zos, argv: tuple[str, ...], status: int, code: str) -> None:
    error = zos.json(*argv, status=status)["error"]
    assert error["code"] == code


def test_a_port_in_use(zos: Zos) -> None:
    with zos.hub("--store", ".") as url:
        error = zos.json("hub", "serve", "--store", ".", "--listen", url.removeprefix("http://"), status=11)["error"]
    assert error["code"] == "http.address-in-use"


def test_extracting_into_a_full_directory(zos: Zos, tree: Path) -> None:
    zos.json("flist", "build", tree, "--name", "web")
    assert zos.json("flist", "extract", "web", tree, status=44)["error"]["code"] == "flist.extract-failed"
    assert sorted(os.listdir(tree)) == ["bin", "link"]


@pytest.mark.parametrize("verb", ["build", "inspect", "verify", "extract", "sign", "publish", "mount", "unmount"])
def test_every_verb_has_help_with_an_example(zos: Zos, verb: str) -> None:
    status, out, _ = zos.run("flist", verb, "--help")
    assert status == 0
    assert f"zos flist {verb}" in out.partition("examples:")[2]


@pytest.mark.parametrize("streams", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-", "2>/dev/full", "<&- 2>/dev/full"])
def test_closed_and_full_streams_change_no_work(zos: Zos, tree: Path, streams: str) -> None:
    """As cron, or a careless service manager, starts it: no file that we open takes the place of a stream."""
    done = zos.shell("flist", "build", tree, "--name", "web", streams=streams)
    assert (done.returncode, "Assertion" in done.stderr) == (0, False), done
    if ">&-" not in streams.replace("2>&-", ""):
        assert "revision 1" in done.stdout
    assert zos.json("flist", "inspect", "web")["revision"] == 1


@pytest.mark.parametrize("json", [[], ["--json"]])
@pytest.mark.parametrize("verb", ["inspect", "verify"])
def test_a_full_stdout_is_said_once(zos: Zos, tree: Path, verb: str, json: list[str]) -> None:
    zos.json("flist", "build", tree, "--name", "web")
    done = zos.shell("flist", verb, "web", "--quiet", *json, streams=">/dev/full")
    assert done.returncode == DiskFull.exit_status, done
    said = ["", ""] if json else ["zos: the disk is full: No space left on device", "hint: df says which one"]
    assert [line.partition(";")[0] for line in [*done.stderr.splitlines(), "", ""]][:2] == said, done


def test_help_into_a_full_stdout(zos: Zos) -> None:
    done = zos.shell("flist", "--help", streams=">/dev/full")
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("kind", ["pack", "meta", "index", "locator"])
def test_a_damaged_store_is_mended_by_building_anew(zos: Zos, tree: Path, kind: str) -> None:
    zos.json("flist", "build", tree, "--name", "web")
    before = {path: path.read_bytes() for path in (zos.store / kind).iterdir()}
    for path, data in before.items():
        middle = len(data) // 2
        path.write_bytes(data[:middle] + bytes([data[middle] ^ 0x55]) + data[middle + 1 :])
    found = zos.run("flist", "verify", "web")
    assert found[0] not in (0, 1), found
    if kind == "pack":
        assert "zos flist build --anew" in found[2]
    zos.json("flist", "build", tree, "--name", "web", "--anew")
    assert zos.json("flist", "verify", "web")["revision"] == 2
    assert {path: path.read_bytes() for path in (zos.store / kind).iterdir()} == before


def damage(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0x55
    path.write_bytes(data)


# In the head, in the document, in the key, in the signature.
@pytest.mark.parametrize("at", [0, 20, -70, -1])
def test_a_damaged_name_is_mended_by_building_anew(zos: Zos, tree: Path, at: int) -> None:
    first = zos.json("flist", "build", tree, "--name", "web")
    record = zos.store / "name" / first["name"] / "latest"
    damage(record, at)
    assert zos.run("flist", "build", tree, "--name", "web")[0] not in (0, 1)
    assert zos.json("flist", "build", tree, "--name", "web", "--anew")["revision"] == 2
    assert zos.json("flist", "verify", "web")["revision"] == 2


def test_a_strangers_name_is_no_damage(zos: Zos, tree: Path) -> None:
    first = zos.json("flist", "build", tree, "--name", "web")
    record = zos.store / "name" / first["name"] / "latest"
    stranger = Keyring(zos.home / "stranger", publisher=first["name"].partition("/")[0]).own_key()
    other = NameRecord(name=first["name"], tag="latest", digest=bytes.fromhex(first["digest"]), revision=7)
    record.write_bytes(sign_record(other, stranger))
    error = zos.json("flist", "build", tree, "--name", "web", "--anew", status=39)["error"]
    assert error["code"] == "flist.untrusted-publisher"


def test_a_damaged_manifest_is_mended_by_building_anew(zos: Zos, tree: Path) -> None:
    first = zos.json("flist", "build", tree, "--name", "web")
    manifest = zos.store / "manifest" / first["digest"]
    for harm in (lambda: damage(manifest, 40), manifest.unlink):
        harm()
        assert zos.run("flist", "build", tree, "--name", "web", "--revision", "1")[0] not in (0, 1)
        again = zos.json("flist", "build", tree, "--name", "web", "--revision", "1", "--anew")
        assert again["digest"] == first["digest"]
        assert zos.json("flist", "verify", "web")["revision"] == 1
    second = zos.json("flist", "build", tree, "--name", "web")
    (zos.store / "manifest" / second["digest"]).unlink()
    error = zos.json("flist", "build", tree, "--name", "web", "--revision", "2", "--anew", status=45)["error"]
    assert "leave --revision out" in error["hint"]
    assert zos.json("flist", "build", tree, "--name", "web", "--anew")["revision"] == 3
    assert zos.json("flist", "verify", "web")["revision"] == 3


@pytest.mark.parametrize(("given", "status"), [("0", 2), ("-1", 2), (str(2**63), 2), (str(2**64), 2), ("many", 2)])
def test_revisions_that_cannot_be(zos: Zos, tree: Path, given: str, status: int) -> None:
    error = zos.json("flist", "build", tree, "--name", "web", f"--revision={given}", status=status)["error"]
    assert error["code"] == "cli.usage"


def test_after_the_highest_revision_there_is_none(zos: Zos, tree: Path) -> None:
    zos.json("flist", "build", tree, "--name", "web", "--revision", str(2**63 - 1))
    error = zos.json("flist", "build", tree, "--name", "web", status=45)["error"]
    assert (error["code"], error["hint"]) == ("flist.revision-not-new", "choose another name, or tag")


def test_a_store_that_is_a_file(zos: Zos, tree: Path) -> None:
    (zos.home / "file").write_text("")
    for argv in (("build", tree), ("verify", "web")):
        error = zos.json("flist", *argv, "--store", zos.home / "file", status=2)["error"]
        assert error["message"] == f"{zos.home}/file is no directory"


@pytest.mark.root
def test_what_is_mounted_inside_is_told_also_to_the_quiet(zos: Zos, tree: Path) -> None:
    inside = tree / "a\x1b[31m\nzos: all is well"
    inside.mkdir()

    def build() -> tuple[int, str, str]:
        mount("tmpfs", inside)
        done = zos.shell("flist", "build", tree, "--quiet", streams="")
        return done.returncode, done.stdout, done.stderr

    status, _, said = in_own_mount_namespace(build)
    assert status == 0
    assert said == r"/a\x1b[31m\nzos: all is well: another file system is mounted there; " + (
        "in the image it is an empty directory\n"
    )
