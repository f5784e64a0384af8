"""The pages for people are true: every command of them is typed, and prints what they say."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.page import CTRL_C, Differs, matches, read_page
from tests.e2e.tutorial import ROOT, run_page

DOCS = ROOT / "docs"
# One run of the tutorial takes half a minute on two busy cores.
TIMEOUT_S = 600
STEPS_MIN = 15
PAGES = ["tutorial.md", "guides/images.md", "guides/publishing.md", "guides/containers.md"]


def run_pages(*pages: Path) -> tuple[int, str]:
    """As `make tutorial` does; the status and all that was printed."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.e2e.tutorial", *map(str, pages)],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=TIMEOUT_S,
    )
    return done.returncode, done.stdout


@pytest.mark.root
@pytest.mark.timeout(TIMEOUT_S)
@pytest.mark.parametrize("name", PAGES)
def test_pages_do_what_they_say(name: str) -> None:
    page = DOCS / name
    assert len(read_page(page).steps) > STEPS_MIN, "there is something to run"
    status, printed = run_pages(page)
    assert status == 0, printed
    assert f"{page.name}: {len(read_page(page).steps)} commands did what it says" in printed


@pytest.mark.root
@pytest.mark.timeout(TIMEOUT_S)
def test_a_wrong_tutorial_is_found(tmp_path: Path) -> None:
    """The control: the same text with one digit changed fails there, and says what came instead."""
    text = (DOCS / "tutorial.md").read_text()
    wrong = tmp_path / "wrong.md"
    wrong.write_text(text.replace("box:latest  revision 1\n", "box:latest  revision 2\n"))
    status, printed = run_pages(wrong)
    assert status == 1, printed
    assert "FAILED: wrong.md:" in printed
    assert "$ zos flist build ~/tour/box\nit should print" in printed
    assert "box:latest  revision 1" in printed.partition("and printed")[2]
    assert "hub serve" not in printed, "nothing is run after what is wrong"


def run_text(text: str, tmp_path: Path) -> int:
    """Run a page of these words here, in plain shells."""
    path = tmp_path / "page.md"
    path.write_text(text)
    return run_page(read_page(path), cwd=tmp_path, env={"PATH": os.environ["PATH"], "HOME": str(tmp_path)})


def block(*lines: str) -> str:
    return "\n".join(["```console", *lines, "```", ""])


# One program that says it is there: the shell itself would hear a Ctrl-C that comes before the next one has begun.
SERVICE = "sh -c 'echo up; exec sleep 1000'"
GOOD = {
    "output": block("$ echo one; echo two", "one", "two"),
    "a session": block("$ cd / && X=7", "$ echo $PWD $X", "/ 7"),
    "wildcards": block("$ seq 9", "1", "...", "9", "$ echo pid $$ here", "pid ... here", "$ seq 3", "..."),
    "no newline at the end": block("$ printf abc", "abc"),
    "an error": block("$ echo 'zos: no' >&2; false", "zos: no"),
    "a status that is shown": block("$ false; echo $?", "1"),
    "more lines": block("$ cat <<END", "> a", "> END", "a"),
    "another terminal": block(
        f"bg$ {SERVICE}; echo down", "up", "$ echo here", "here", "bg$ ^C", "down", "bg$ echo on", "on"
    ),
    "a terminal that returns": block("bg$ cat pipe", "$ mkfifo pipe; echo x > pipe", "bg$", "x")
    .replace("bg$ cat pipe", "$ mkfifo p\nbg$ cat p")
    .replace("$ mkfifo pipe; echo x > pipe", "$ echo x > p"),
    "unseen": "<!-- before\n$ echo 3 > n\n-->\n" + block("$ cat n", "3"),
    "not run": "<!-- not run: it would hurt -->\n" + block("$ exit 1"),
    "other blocks": "```sh\nexit 1\n```\n" + block("$ true"),
}
WRONG = {
    "other output": (block("$ echo one", "two"), "it should print"),
    "less output": (block("$ echo one", "one", "two"), "it should print"),
    "more output": (block("$ echo one; echo two", "one"), "it should print"),
    "output where none is said": (block("$ echo one"), "it should print"),
    "a status": (block("$ false"), "ended with 1"),
    "an error that does not come": (block("$ echo 'zos: no'", "zos: no"), "ended with 0"),
    "a program that is not there": (block("$ no-such-program-here", "..."), "ended with 127"),
    "a service that ends": (block("bg$ echo up", "up", "more", "bg$ ^C"), "it ended with 0"),
    "the end of a service": (block(f"bg$ {SERVICE}; echo off", "up", "bg$ ^C", "down"), "it should print"),
    "a shell that ends": (block("$ exit 0"), "shell has ended"),
    "unseen": ("<!-- before\n$ false\n-->\n" + block("$ true"), "ended with 1"),
    "output first": (block("one", "$ echo one"), "before any command"),
    "a block without end": ("```console\n$ true\n", "has no end"),
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_a_true_page_passes(text: str, tmp_path: Path) -> None:
    run_text(text, tmp_path)


@pytest.mark.parametrize(("text", "said"), WRONG.values(), ids=WRONG)
def test_a_wrong_page_fails(text: str, said: str, tmp_path: Path) -> None:
    with pytest.raises(Differs, match=said):
        run_text(text, tmp_path)


def test_no_page_shows_a_session_that_is_not_run() -> None:
    shown = [str(path.relative_to(DOCS)) for path in DOCS.rglob("*.md") if "```console" in path.read_text()]
    assert sorted(shown) == sorted(PAGES)


def test_what_is_not_run_says_why() -> None:
    """Of the tutorial only the first and the last command are not run: set-up, and what takes set-up away."""
    page = read_page(DOCS / "tutorial.md")
    assert len(page.not_run) == 2
    assert {step.terminal for step in page.steps} == {"", "hub", "logs", "jane"}
    assert [step.command for step in page.steps if step.terminal == "hub"][-1] == CTRL_C
    assert matches(["a...c"], ["abc"])
    assert not matches(["a...c"], ["abd"])
