"""The command-line kit: finding, parsing, running, refusing, completing."""

from __future__ import annotations

import importlib.metadata
import json
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest

from zos_core.base.verbs import Entry, Verb, argument, installed_entries, run

ENTRIES = [Entry("greet", "tests.sample_verbs:GREET"), Entry("sample", "tests.sample_verbs:SAMPLE")]
Capture = pytest.CaptureFixture[str]
LARGE = ("aiohttp", "yarl", "pycparser", "rich.progress", "jeepney", "importlib.metadata")


def test_help_lists_verbs_without_importing_them(capfd: Capture) -> None:
    code = (
        "import sys; from zos_core.base.verbs import Entry, run;"
        "status = run(['--help'], [Entry('flist', 'flist.cli:FLIST')]);"
        "print([name for name in sys.modules if name.split('.')[0] in ('flist', 'aiohttp', 'msgspec', 'asyncio')]);"
        "sys.exit(status)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "flist       Build, look at, verify, extract and mount images" in done.stdout
    assert done.stdout.endswith("[]\n")


@pytest.mark.parametrize(
    "argv", [["ps"], ["run", "--store", "/nonexistent", "image", "--", "true"], ["logs", "name"], ["stop", "name"]]
)
def test_what_a_node_is_asked_needs_no_large_library(argv: list[str]) -> None:
    """Nothing that takes long to import, and that such a command has no use for."""
    code = (
        "import sys; from zos_core.base.verbs import installed_entries, run;"
        f"status = run([{argv[0]!r}, '--instance', 'no-such-node', *{argv[1:]!r}], installed_entries());"
        f"print(status, [name for name in {LARGE} if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "no node answers there" in done.stderr
    status, _, found = done.stdout.strip().partition(" ")
    assert (int(status) != 0, found) == (True, "[]")


def test_entries_are_those_that_importlib_finds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for folder, name, text in (
        (
            "first",
            "other-1.dist-info",
            "[zos.verbs]\nagain = other.cli:FIRST\n# no = comment\n[console_scripts]\nx = y:z\n",
        ),
        ("first", "plain-1.dist-info", "[console_scripts]\nplain = plain:main\n"),
        ("second", "other-0.dist-info", "[zos.verbs]\nagain = other.cli:SECOND\n"),
        ("second", "more-1.egg-info", "[gui_scripts]\nx = y:z\n\n[zos.verbs]\n  more=more.cli:MORE [extra]\n"),
    ):
        (tmp_path / folder / name).mkdir(parents=True)
        (tmp_path / folder / name / "entry_points.txt").write_text(text)
    (tmp_path / "second" / "none-1.dist-info").mkdir()
    for folder in ("missing", "second", "first"):
        monkeypatch.syspath_prepend(tmp_path / folder)
    theirs = {
        point.name: f"{point.module}:{point.attr}" for point in importlib.metadata.entry_points(group="zos.verbs")
    }
    ours = {entry.name: entry.value for entry in installed_entries()}
    assert ours == theirs
    assert (ours["again"], ours["more"], "no" in ours) == ("other.cli:FIRST", "more.cli:MORE", False)


@pytest.mark.parametrize("argv", [[], ["-h"], ["--help"], ["help"]])
def test_top_help(argv: list[str], capfd: Capture) -> None:
    assert run(argv, ENTRIES) == 0
    out, err = capfd.readouterr()
    assert "Greet somebody" in out
    assert "Verbs for tests" in out
    assert err == ""


def test_group_and_verb_help_show_examples(capfd: Capture) -> None:
    assert run(["sample"], ENTRIES) == 0
    assert "Show a command" in capfd.readouterr().out
    assert run(["sample", "greet", "--help"], ENTRIES) == 0
    out = capfd.readouterr().out
    assert "zos greet jane\n      say hello to jane" in out
    assert "--plan" in out
    assert "exit status:\n  0 if it worked, 2 if the command line is wrong" in out


def test_help_tells_of_a_noun_and_of_a_status_of_its_own(capfd: Capture) -> None:
    assert run(["sample", "--help"], ENTRIES) == 0
    assert "Verbs for tests.\n\nA sample is no command of zos.\n\nverbs:" in capfd.readouterr().out
    assert run(["sample", "command", "--help"], ENTRIES) == 0
    out = capfd.readouterr().out
    assert out.startswith("usage: zos sample command [-h] [--json] [-q] -- CMD [ARG...]\n")
    assert out.endswith("exit status:\n  99, whatever is wrong\n")


def test_data_goes_to_stdout_and_notes_to_stderr(capfd: Capture) -> None:
    assert run(["greet", "jane", "--status", "7"], ENTRIES) == 7
    assert capfd.readouterr() == ("hello jane\n", "greeting\n")
    assert run(["greet", "jane", "--quiet", "--plan"], ENTRIES) == 0
    assert capfd.readouterr() == ("hello jane (plan)\n", "")


def test_json(capfd: Capture) -> None:
    assert run(["sample", "greet", "jane", "--json"], ENTRIES) == 0
    assert json.loads(capfd.readouterr().out) == {"text": "hello jane"}


@pytest.mark.parametrize(
    ("argv", "shown"),
    [
        ([], " -> None False"),
        (["a", "b"], "a b -> None False"),
        (["a", "--loud", "b", "--json", "out", "c"], "a b c -> out True"),
        (["--json", "-", "a"], "a -> - False"),
    ],
)
def test_a_list_of_words_goes_on_after_an_option_and_json_may_be_a_file(
    argv: list[str], shown: str, capfd: Capture
) -> None:
    assert run(["sample", "words", *argv], ENTRIES) == 0
    assert capfd.readouterr().out == f"{shown}\n"


def test_a_verb_whose_json_is_a_file_tells_errors_as_text(capfd: Capture) -> None:
    assert run(["sample", "words", "--json", "out", "refuse"], ENTRIES) == 61
    assert capfd.readouterr() == ("", "zos: no such word\nhint: another\n")
    assert run(["sample", "words", "--json"], ENTRIES) == 2
    assert run(["sample", "words", "--help"], ENTRIES) == 0
    assert "--json FILE" in capfd.readouterr().out


def test_errors_have_their_status_and_hint(capfd: Capture) -> None:
    assert run(["greet", "nobody"], ENTRIES) == 61
    assert capfd.readouterr() == ("", "zos: nobody is there\nhint: knock\n")
    assert run(["greet", "nobody", "--json"], ENTRIES) == 61
    problem = json.loads(capfd.readouterr().out)["error"]
    assert (problem["code"], problem["hint"], problem["exit_status"]) == ("test.refused", "knock", 61)


def test_a_fault_of_ours_is_told_apart(capfd: Capture) -> None:
    assert run(["greet", "bug"], ENTRIES) == 1
    err = capfd.readouterr().err
    assert "Traceback" in err
    assert "unexpected ZeroDivisionError" in err


def test_errors_of_the_system_have_no_traceback(capfd: Capture) -> None:
    assert run(["greet", "missing"], ENTRIES) == 1
    assert capfd.readouterr().err == "zos: /does/not/exist: No such file or directory\n"


def test_signals(capfd: Capture) -> None:
    assert run(["greet", "interrupt"], ENTRIES) == 130
    assert capfd.readouterr().err == "zos: interrupted\n"
    assert run(["greet", "terminate"], ENTRIES) == 143


@pytest.mark.parametrize(
    ("argv", "hint"),
    [
        (["gret"], "did you mean 'greet'?"),
        (["xyzzy"], "`zos --help` lists them"),
        (["sample", "comand"], "did you mean 'command'?"),
        (["greet", "jane", "--staus", "1"], "did you mean --status?"),
        (["greet"], "see `zos greet --help`"),
        (["greet", "jane", "--status", "x"], "see `zos greet --help`"),
        (["greet", "jane", "--stat", "1"], "did you mean --status?"),
        (["completion", "csh"], "one of bash, zsh, fish: zos completion bash"),
    ],
)
def test_misuse(argv: list[str], hint: str, capfd: Capture) -> None:
    assert run(argv, ENTRIES) == 2
    assert capfd.readouterr().err.endswith(f"hint: {hint}\n")


def test_what_follows_two_dashes_is_the_command(capfd: Capture) -> None:
    assert run(["sample", "command", "--", "ls", "--json", "--", "-x"], ENTRIES) == 0
    assert capfd.readouterr().out == "['ls', '--json', '--', '-x']\n"
    assert run(["sample", "command", "--bad"], ENTRIES) == 99


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["ls", "-l"], "a command stands after --, as in: zos sample command ... -- ls -l"),
        (["-it"], "see `zos sample command --help`"),
        (["--jsn"], "did you mean --json?"),
    ],
)
def test_a_command_without_two_dashes_is_told_where_it_stands(words: list[str], hint: str, capfd: Capture) -> None:
    assert run(["sample", "command", *words], ENTRIES) == 99
    assert capfd.readouterr().err.endswith(f"hint: {hint}\n")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        (["gr"], ["greet"]),
        ([""], ["greet", "sample", "completion"]),
        (["sample", "c"], ["command"]),
        (["sample", "greet", "--st"], ["--status"]),
        (["sample", "greet", "--colour", ""], ["red", "green"]),
        (["greet", "j"], ["jane", "john"]),
        (["sample", "command", "--", "x"], []),
        (["nothing", "x"], []),
        (["completion", "z"], ["zsh"]),
        ([], ["greet", "sample", "completion"]),
    ],
)
def test_completion(words: list[str], offered: list[str], capfd: Capture) -> None:
    assert run(["__complete", *words], ENTRIES) == 0
    assert [line.partition("\t")[0] for line in capfd.readouterr().out.splitlines() if line] == offered


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_scripts(shell: str, capfd: Capture) -> None:
    assert run(["completion", shell], ENTRIES) == 0
    assert "zos __complete" in capfd.readouterr().out


def test_a_wrong_entry_is_a_fault_of_ours(capfd: Capture) -> None:
    assert run(["nothing"], [Entry("nothing", "tests.sample_verbs:NOTHING")]) == 1
    assert "is no Verb and no Group" in capfd.readouterr().err


def declared_verbs() -> Iterator[tuple[str, Verb]]:
    """Every verb that a part of this checkout has registered."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    for name, value in project["entry-points"]["zos.verbs"].items():
        declared = Entry(name, value).load()
        assert Entry(name, value).summary() == declared.summary
        if isinstance(declared, Verb):
            yield name, declared
        else:
            yield from ((f"{name} {each}", verb) for each, verb in declared.verbs.items())


def test_every_declared_verb_is_complete() -> None:
    """Summaries without a full stop, examples of this very verb, handlers that exist."""
    for name, verb in declared_verbs():
        assert verb.examples, name
        assert not verb.summary.endswith("."), name
        for line, what in verb.examples:
            typed = line.replace('"$(command -v zos)"', "zos")
            assert f"zos {name} " in f"{typed} ", f"{name}: {line}"
            assert what, f"{name}: {line}"
        module, _, function = verb.handler.partition(":")
        assert callable(getattr(import_module(module), function)), verb.handler


def test_every_argument_says_what_it_is() -> None:
    """Help, what its value is, and what holds without it."""
    for name, verb in declared_verbs():
        for one in verb.arguments:
            where = f"zos {name} {one.names[0]}"
            help_ = str(one.options.get("help", ""))
            assert len(help_) > 5, where
            if one.takes_value and one.is_option:
                assert "metavar" in one.options or "choices" in one.options, where
            default = one.options.get("default")
            if default not in (None, [], False):
                assert "default" in help_, f"{where}: the help does not say that the default is {default}"
            if one.options.get("metavar") == "S":
                assert "second" in help_, f"{where}: of which unit?"
            if one.options.get("action") == "append":
                assert "repeated" in help_, where


def test_arguments_know_themselves() -> None:
    assert argument("-x", "--long").is_option
    assert argument("-x").takes_value
    assert not argument("-x", action="store_true").takes_value
    assert not argument("name").is_option
