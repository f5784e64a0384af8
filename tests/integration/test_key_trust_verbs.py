"""`zos key` and `zos trust` as a person uses them."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from nacl.signing import SigningKey

from tests.zos_tool import ENTRIES, Zos
from zos_core.base.keyring import key_id
from zos_core.base.verbs import run

KEY, SECOND, *MORE = (key_id(bytes(SigningKey(bytes([n]) * 32).verify_key)) for n in range(18))


@pytest.fixture
def zos(tmp_path: Path) -> Zos:
    (tmp_path / "one").mkdir()
    return Zos(tmp_path / "one")


@pytest.fixture
def other(tmp_path: Path) -> Zos:
    (tmp_path / "two").mkdir()
    return Zos(tmp_path / "two")


def lines(zos: Zos, *argv: str | Path) -> list[dict[str, Any]]:
    status, out, err = zos.run(*argv, "--json")
    assert (status, err) == (0, "")
    return [json.loads(line) for line in out.splitlines()]


def test_a_key_is_made_shown_and_trusted(zos: Zos) -> None:
    shown = zos.json("key", "show")
    assert zos.json("key", "show") == shown
    assert stat.S_IMODE(os.stat(shown["file"]).st_mode) == 0o600
    assert lines(zos, "trust", "list") == [{"publisher": shown["publisher"], "key": shown["key"], "own": True}]
    status, out, _ = zos.run("key", "show")
    assert (status, out) == (0, f"{shown['publisher']} {shown['key']}\n{shown['file']}\n")


def test_a_key_goes_to_another_machine(zos: Zos, other: Zos, tmp_path: Path) -> None:
    error = zos.json("key", "export", tmp_path / "key.json", status=17)["error"]
    assert (error["code"], error["hint"]) == ("key.invalid", "`zos key show` makes one")
    mine = zos.json("key", "show")["key"]
    assert zos.json("key", "export", tmp_path / "key.json")["key"] == mine
    assert stat.S_IMODE(os.stat(tmp_path / "key.json").st_mode) == 0o600
    assert zos.json("key", "export", tmp_path / "key.json", status=17)["error"]["code"] == "key.exists"
    zos.json("key", "export", tmp_path / "key.json", "--force")

    theirs = other.json("key", "show")["key"]
    error = other.json("key", "import", tmp_path / "key.json", status=17)["error"]
    assert error["code"] == "key.exists"
    assert theirs in error["message"]
    assert other.json("key", "show")["key"] == theirs
    assert other.json("key", "import", tmp_path / "key.json", "--replace")["key"] == mine
    assert other.json("key", "import", tmp_path / "key.json")["key"] == mine, "the same key again is no change"
    assert {each["key"]: each["own"] for each in lines(other, "trust", "list")} == {mine: True, theirs: False}
    assert stat.S_IMODE(os.stat(other.json("key", "show")["file"]).st_mode) == 0o600


def test_a_key_goes_through_a_pipe(zos: Zos, other: Zos) -> None:
    mine = zos.json("key", "show")["key"]
    done = zos.shell("key", "export", "-", streams="| cat")
    assert json.loads(done.stdout)["kind"] == "ed25519"
    (other.home / "piped").write_text(done.stdout)
    assert other.shell("key", "import", "-", "--json", streams="< piped").returncode == 0
    assert other.json("key", "show")["key"] == mine


def test_a_key_comes_by_a_pipe_with_a_path(zos: Zos, other: Zos) -> None:
    """Such as `zos key import <(gpg -d key.gpg)`."""
    mine = zos.json("key", "show")["key"]
    reading, writing = os.pipe()
    with open(reading, "rb"):
        with open(writing, "w") as pipe:
            pipe.write(zos.shell("key", "export", "-", streams="").stdout)
        assert other.json("key", "import", f"/dev/fd/{reading}")["key"] == mine


@pytest.mark.parametrize("argv", [("key", "import", "fifo"), ("flist", "verify", "fifo.flist"), ("key", "show")])
def test_a_pipe_in_the_place_of_a_file_keeps_nobody_waiting(zos: Zos, argv: tuple[str, ...]) -> None:
    shown = Path(zos.json("key", "show")["file"])
    for name in ("fifo", "fifo.flist"):
        os.mkfifo(zos.home / name)
    if argv == ("key", "show"):
        shown.unlink()
        os.mkfifo(shown, 0o600)
    done = zos.shell(*argv, "--json", streams="")
    error = json.loads(done.stdout)["error"]
    assert (done.returncode, error["code"]) == (10, "file.not-regular"), done
    assert error["hint"]


def test_an_export_takes_the_place_of_files_alone(zos: Zos, tmp_path: Path) -> None:
    zos.json("key", "show")
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "directory").mkdir()
    for name in ("fifo", "directory"):
        error = zos.json("key", "export", "--force", tmp_path / name, status=2)["error"]
        assert (error["code"], str(tmp_path / name) in error["message"]) == ("cli.usage", True)
        assert not (tmp_path / name).is_file()
    (tmp_path / "link").symlink_to("kept.json")
    for _ in range(2):  # the first makes the file that the link names, the second replaces it
        zos.json("key", "export", "--force", tmp_path / "link")
        assert (tmp_path / "link").is_symlink()
        assert json.loads((tmp_path / "kept.json").read_bytes())["kind"] == "ed25519"
    error = zos.json("key", "export", tmp_path / "none" / "key.json", status=1)["error"]
    assert error["message"] == f"{tmp_path}/none/key.json: No such file or directory"


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"", "document.invalid"),
        (b"{}", "document.invalid"),
        (b'{"version":2,"kind":"ed25519","seed":"' + b"A" * 43 + b'=","publisher":"x"}', "document.invalid"),
        (b'{"version":1,"kind":"rsa","seed":"' + b"A" * 43 + b'=","publisher":"x"}', "document.invalid"),
        (b'{"version":1,"kind":"ed25519","seed":"AAAA","publisher":"x"}', "document.invalid"),
        (b'{"version":1,"kind":"ed25519","seed":"' + b"A" * 43 + b'=","publisher":"../x"}', "document.invalid"),
        (b"x" * 5000, "file.too-large"),
    ],
)
def test_what_is_no_key_changes_nothing(zos: Zos, tmp_path: Path, data: bytes, code: str) -> None:
    (tmp_path / "bad").write_bytes(data)
    before = zos.json("key", "show")
    for options in ((), ("--replace",)):
        assert zos.json("key", "import", tmp_path / "bad", *options, status=10)["error"]["code"] == code
    assert zos.json("key", "show") == before


def test_trust_is_given_and_taken(zos: Zos) -> None:
    assert zos.json("trust", "add", "jane", KEY) == {"publisher": "jane", "key": KEY, "own": False}
    zos.json("trust", "add", "jane", KEY)
    zos.json("trust", "add", "jane", SECOND)
    zos.json("trust", "add", "joe", KEY)
    assert [(each["publisher"], each["key"]) for each in lines(zos, "trust", "list")] == [
        ("jane", KEY),
        ("jane", SECOND),
        ("joe", KEY),
    ]
    assert [each["key"] for each in lines(zos, "trust", "remove", "jane", KEY)] == [KEY]
    assert zos.json("trust", "remove", "jane", KEY, status=17)["error"]["code"] == "key.not-trusted"
    assert [each["key"] for each in lines(zos, "trust", "remove", "jane")] == [SECOND]
    error = zos.json("trust", "remove", "jane", status=17)["error"]
    assert (error["code"], error["hint"]) == ("key.not-trusted", "`zos trust list` shows who is")
    assert [each["publisher"] for each in lines(zos, "trust", "list")] == ["joe"]


def test_the_own_key_stays_trusted(zos: Zos) -> None:
    own = zos.json("key", "show")
    for argv in (("remove", own["publisher"]), ("remove", own["publisher"], own["key"])):
        assert zos.json("trust", *argv, status=17)["error"]["code"] == "key.invalid"
    assert len(lines(zos, "trust", "list")) == 1


@pytest.mark.parametrize(
    ("argv", "status", "code"),
    [
        (("trust", "add", "jane", "ed25519:short"), 17, "key.invalid"),
        (("trust", "add", "jane", KEY.upper()), 17, "key.invalid"),
        (("trust", "add", "jane", "ed25519:" + "00" * 32), 17, "key.invalid"),
        (("trust", "add", "../jane", KEY), 17, "key.invalid"),
        (("trust", "add", "Jane", KEY), 17, "key.invalid"),
        (("trust", "add", "jane"), 2, "cli.usage"),
        (("key", "import", "gone"), 1, "os.error"),
        (("key", "frobnicate"), 2, "cli.usage"),
    ],
)
def test_refusals(zos: Zos, argv: tuple[str, ...], status: int, code: str) -> None:
    assert zos.json(*argv, status=status)["error"]["code"] == code


def test_a_publisher_has_at_most_16_keys(zos: Zos) -> None:
    for key in MORE:
        zos.json("trust", "add", "jane", key)
    assert zos.json("trust", "add", "jane", KEY, status=17)["error"]["code"] == "key.invalid"


def test_a_stranger_is_told_what_to_say(zos: Zos, other: Zos, tmp_path: Path) -> None:
    (tmp_path / "tree").mkdir()
    built = zos.json("flist", "build", tmp_path / "tree", "--name", "web")
    other.json("key", "show")
    own = zos.json("key", "show")
    # The login name is the same in both homes, the key is not.
    error = other.json("flist", "inspect", "web", "--store", zos.store, status=39)["error"]
    command = error["hint"].partition("zos ")[2]
    assert command == f"trust add {own['publisher']} {own['key']}"
    other.json(*command.split())
    assert other.json("flist", "inspect", "web", "--store", zos.store)["digest"] == built["digest"]


VERBS = [("key", verb) for verb in ("show", "export", "import")]
VERBS += [("trust", verb) for verb in ("add", "list", "remove")]


@pytest.mark.parametrize(("noun", "verb"), VERBS)
def test_every_verb_has_help_with_an_example(zos: Zos, noun: str, verb: str) -> None:
    status, out, _ = zos.run(noun, verb, "--help")
    assert status == 0
    assert f"zos {noun} {verb}" in out.partition("examples:")[2]


def test_completion_knows_verbs_and_publishers(zos: Zos, capsys: pytest.CaptureFixture[str]) -> None:
    zos.json("trust", "add", "jane", KEY)
    for words, offered in [
        (("key", "i"), "import"),
        (("trust", ""), "remove"),
        (("trust", "remove", "j"), "jane"),
        (("flist", "publish", "--h"), "--hub"),
        (("hub", "serve", "--pub"), "--publishers"),
    ]:
        status, out, _ = zos.run("__complete", *words)
        assert status == 0
        assert offered in [line.partition("\t")[0] for line in out.splitlines()], words
    assert run(["key"], ENTRIES) == 0
    assert "export" in capsys.readouterr().out
