"""The commands that a page of `docs/` shows, and what it says that they print.

The conventions, which `docs/tutorial.md` states for its readers:

- A fenced block of kind `console` is run. A line `$ COMMAND` is typed in the first terminal, `NAME$ COMMAND` in the one
  called NAME; a line `> MORE` goes on with the command. Every terminal is one shell, which begins in the checkout.
- Lines below a command are what it prints. `...` alone in a line stands for any number of lines, within a line for any
  text. Nothing below means that it prints nothing.
- A command ends with status 0, unless an error (`zos: `) is among what it prints; then it must fail. Where the command
  itself asks for `$?` it may end as it likes.
- `NAME$ ^C` presses Ctrl-C there, and a prompt alone, `NAME$`, says that it came back by itself. The command before it
  lasts until then: what it prints is awaited, its end is not. Below is what is printed after that.
- A block after `<!-- not run: REASON -->` is not run; blocks of another kind never are.
- Commands between `<!-- before` and `-->` are run unseen, to make what the page takes for granted; they must succeed.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["CTRL_C", "RETURNED", "Differs", "Page", "Step", "matches", "read_page"]

PROMPT = re.compile(r"(?P<terminal>[a-z]*)\$(?: (?P<command>.*))?\Z")
FENCE = re.compile(r"```(?P<kind>\S*)\Z")
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+) -->\Z")
BEFORE, BEFORE_END = "<!-- before", "-->"
CTRL_C = "^C"
RETURNED = ""


class Differs(Exception):
    """A page breaks the conventions, or a command did not do what the page says."""


@dataclass
class Step:
    """One command; `lasts`: it goes on until Ctrl-C is pressed in its terminal."""

    line: int
    terminal: str
    command: str
    expected: list[str] = field(default_factory=list)
    lasts: bool = False
    unseen: bool = False

    @property
    def shall_fail(self) -> bool | None:
        """Whether its status has to be another than 0; None: the page shows the status itself."""
        if "$?" in self.command:
            return None
        return not self.unseen and any(line.startswith("zos: ") for line in self.expected)


@dataclass
class Page:
    """The commands of a page in their order, and why others of it are not run."""

    path: Path
    steps: list[Step] = field(default_factory=list)
    not_run: list[str] = field(default_factory=list)


def read_page(path: Path) -> Page:
    """The commands of a page.

    Raises:
        Differs: a block that breaks the conventions.
    """
    page = Page(path)
    block: list[Step] | None = None  # the one that is being read, unless it is not run
    end: str | None = None  # the line that ends it
    reason: str | None = None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if end is not None:
            if line == end:
                page.steps += block or []
                block, end = None, None
            elif block is not None:
                _read_line(line, number, block, path)
        elif line == BEFORE:
            block, end = [], BEFORE_END
        elif fence := FENCE.match(line):
            end = "```"
            if fence["kind"] == "console" and reason is None:
                block = []
            elif reason is not None:
                page.not_run.append(f"{path.name}:{number}: {reason}")
            reason = None
        elif line.strip():
            found = NOT_RUN.match(line)
            reason = found["reason"] if found else None
        if end == BEFORE_END:
            for step in block or []:
                step.unseen = True
    if end is not None:
        raise Differs(f"{path.name}: a block has no end")
    for step, later in _pairs(page.steps):
        step.lasts = later is not None and later.command in (CTRL_C, RETURNED)
    return page


def _read_line(line: str, number: int, block: list[Step], path: Path) -> None:
    prompt = PROMPT.match(line)
    if prompt:
        block.append(Step(number, prompt["terminal"], prompt["command"] or RETURNED))
    elif not block:
        raise Differs(f"{path.name}:{number}: output before any command")
    elif line.startswith("> ") and not block[-1].expected:
        block[-1].command += "\n" + line[2:]
    else:
        block[-1].expected.append(line)


def _pairs(steps: Sequence[Step]) -> Iterator[tuple[Step, Step | None]]:
    """Each step, with the next one in the same terminal."""
    for at, step in enumerate(steps):
        yield step, next((later for later in steps[at + 1 :] if later.terminal == step.terminal), None)


def matches(expected: Sequence[str], printed: Sequence[str]) -> bool:
    """Whether lines are those of a page, in which `...` stands for anything."""
    # Column by column over the printed lines: which numbers of them may be spent when so many expected ones are.
    may = {0}
    for want in expected:
        if want.strip() == "...":
            may = set(range(min(may), len(printed) + 1)) if may else may
        else:
            pattern = re.compile(".*".join(re.escape(part) for part in want.rstrip().split("...")) + r"\s*\Z")
            may = {at + 1 for at in may if at < len(printed) and pattern.match(printed[at])}
    return len(printed) in may
