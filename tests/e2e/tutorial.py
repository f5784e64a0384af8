"""Runs the commands of a page of `docs/` as its reader would, and compares what they print with what the page says.

    python -m tests.e2e.tutorial docs/tutorial.md [PAGE ...]       as root; --learn prints what was really printed

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

A page has a machine of its own as far as it can tell: `alone.sh` gives it namespaces, an empty /run/zos and an empty
/var/lib/zos, in which there is a new home directory. Below sudo the terminals are the caller's, and what asks for root
in them asks sudo.
"""

from __future__ import annotations

import argparse
import os
import queue
import re
import secrets
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path

from zos_core.base.paths import Account, account

__all__ = ["ROOT", "Differs", "Page", "Step", "Terminal", "main", "matches", "read_page", "run_page"]

ROOT = Path(__file__).resolve().parents[2]
# Of one command. Slow machines fetch and build slowly; a reader would have given up.
STEP_TIMEOUT_S = 120.0
END_TIMEOUT_S = 10.0
PROMPT = re.compile(r"(?P<terminal>[a-z]*)\$(?: (?P<command>.*))?\Z")
FENCE = re.compile(r"```(?P<kind>\S*)\Z")
NOT_RUN = re.compile(r"<!-- not run: (?P<reason>.+) -->\Z")
BEFORE, BEFORE_END = "<!-- before", "-->"
CTRL_C = "^C"
RETURNED = ""


class Differs(Exception):
    """A command did not do what the page says."""


# --- What a page says ----------------------------------------------------------------------------------------------


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


# --- Terminals -----------------------------------------------------------------------------------------------------


class Terminal:
    """One shell, and what is printed in it: by its commands, on stdout and stderr, in the order in which it comes."""

    def __init__(self, name: str, *, cwd: Path, env: dict[str, str]) -> None:
        self.name = name
        self._mark = secrets.token_hex(8)
        self._process = subprocess.Popen(
            ["bash", "--noprofile", "--norc"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            cwd=cwd,
            env=env,
            text=True,
            encoding="utf-8",
            errors="replace",
            process_group=0,
        )
        self._lines: queue.Queue[str | None] = queue.Queue()
        self._printed: list[str] = []
        self._status: int | None = None
        self._reader = threading.Thread(target=self._read, name=f"terminal {name}", daemon=True)
        self._reader.start()
        # Ctrl-C ends the command and not its shell.
        self._send("trap : INT")

    def _send(self, text: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(text + "\n")
        self._process.stdin.flush()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._lines.put(line.rstrip("\n"))
        self._lines.put(None)

    def type(self, command: str) -> None:
        """Begin a command; the one before has ended."""
        self._printed, self._status = [], None
        # What is printed without a newline at its end must not hide the mark.
        self._send(f"eval {shlex.quote(command)} </dev/null; printf '\\n%s %s\\n' {self._mark} $?")

    def interrupt(self) -> None:
        """Ctrl-C."""
        os.killpg(self._process.pid, signal.SIGINT)

    def wait_end(self) -> tuple[int, list[str]]:
        """Its status and what it has printed, when it has ended.

        Raises:
            Differs: it does not end, or its shell has.
        """
        deadline_s = time.monotonic() + STEP_TIMEOUT_S
        while self._status is None:
            self._take(deadline_s)
        printed = self._printed
        if printed and printed[-1] == "":  # the newline before the mark
            printed = printed[:-1]
        return self._status, printed

    def wait_printed(self, expected: Sequence[str]) -> list[str]:
        """What it has printed, as soon as that is what the page says.

        Raises:
            Differs: it ended, or took too long.
        """
        deadline_s = time.monotonic() + STEP_TIMEOUT_S
        while not matches(expected, self._printed):
            self._take(deadline_s)
            if self._status is not None:
                raise Differs(f"it ended with {self._status} after it had printed\n" + "\n".join(self._printed))
        printed, self._printed = self._printed, []
        return printed

    def _take(self, deadline_s: float) -> None:
        try:
            line = self._lines.get(timeout=max(deadline_s - time.monotonic(), 0))
        except queue.Empty:
            raise Differs(f"nothing more for {STEP_TIMEOUT_S:.0f} s after\n" + "\n".join(self._printed)) from None
        if line is None:
            raise Differs("its shell has ended")
        if line.startswith(self._mark):
            self._status = int(line.split()[1])
        else:
            self._printed.append(line)

    def close(self) -> None:
        """End the shell and whatever it still runs."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        if self._process.poll() is None:
            os.killpg(self._process.pid, signal.SIGTERM)
            self._process.stdin.close()
            try:
                self._process.wait(timeout=END_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                os.killpg(self._process.pid, signal.SIGKILL)
                self._process.wait()
        else:
            self._process.stdin.close()
        self._reader.join(END_TIMEOUT_S)
        self._process.stdout.close()


# --- A run ---------------------------------------------------------------------------------------------------------


def run_page(page: Page, *, cwd: Path, env: dict[str, str], learn: bool = False) -> int:
    """Run every step, in order; returns how many. With `learn` the output is shown, and compared no more.

    Raises:
        Differs: a step did not do what the page says; it names the line.
    """
    terminals: dict[str, Terminal] = {}
    with ExitStack() as stack:
        for step in page.steps:
            if step.terminal not in terminals:
                terminals[step.terminal] = Terminal(step.terminal, cwd=cwd, env=env)
                stack.callback(terminals[step.terminal].close)
            print(f"{step.terminal}$ {step.command}", flush=True)
            try:
                _run_step(step, terminals[step.terminal], learn=learn)
            except Differs as differs:
                raise Differs(f"{page.path.name}:{step.line}: {step.terminal}$ {step.command}\n{differs}") from None
    return len(page.steps)


def _run_step(step: Step, terminal: Terminal, *, learn: bool) -> None:
    if step.command == CTRL_C:
        terminal.interrupt()
    elif step.command != RETURNED:
        terminal.type(step.command)
    if step.lasts:
        printed = terminal.wait_printed([] if learn else step.expected)
        status = 0
    else:
        status, printed = terminal.wait_end()
    if learn:
        print("\n".join(printed), flush=True)
        return
    if not step.unseen and not matches(step.expected, printed):
        raise Differs("it should print\n" + "\n".join(step.expected) + "\nand printed\n" + "\n".join(printed))
    if step.command != CTRL_C and step.shall_fail is not None and (status != 0) != step.shall_fail:
        raise Differs(f"it ended with {status}, having printed\n" + "\n".join(printed))


def _mount_home(home: Path, user: Account) -> None:
    """Put a new home over the user's own: below sudo, home is what the password database says, whatever HOME is.

    A checkout in there stays where it is.
    """
    if ROOT.is_relative_to(user.home):
        checkout = home
        for part in ROOT.relative_to(user.home).parts:
            checkout /= part
            checkout.mkdir()
            os.chown(checkout, user.uid, user.gid)
        subprocess.run(["mount", "--rbind", ROOT, checkout], check=True)
    subprocess.run(["mount", "--rbind", home, user.home], check=True)


def run_in_a_new_home(paths: Sequence[Path], *, learn: bool) -> None:
    """Run pages inside `alone.sh`, with a new home directory, as the user who called sudo.

    Raises:
        Differs: a page is wrong.
    """
    user = account()
    home = Path(tempfile.mkdtemp(prefix="home.", dir="/var/lib/zos"))
    home.chmod(0o755)
    os.chown(home, user.uid, user.gid)
    if user.uid != 0:
        _mount_home(home, user)
        home = user.home
    env = {
        "HOME": str(home),
        "USER": user.name,
        "LOGNAME": user.name,
        "LANG": "C.UTF-8",
        "TERM": "dumb",
        "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    }
    if user.uid == 0:  # whose keys and store would be in /etc and /var/lib
        env |= {"XDG_CONFIG_HOME": f"{home}/.config", "XDG_DATA_HOME": f"{home}/.local/share"}
        if shutil.which("sudo") is None:  # a page tells root to leave it out
            (home / "bin").mkdir()
            (home / "bin/sudo").write_text('#!/bin/sh\nexec "$@"\n')
            (home / "bin/sudo").chmod(0o755)
            env["PATH"] += f":{home}/bin"
    else:
        os.initgroups(user.name, user.gid)
        os.setresgid(user.gid, user.gid, user.gid)
        os.setresuid(user.uid, user.uid, user.uid)
    for path in paths:
        page = read_page(path)
        for reason in page.not_run:
            print(f"not run: {reason}")
        count = run_page(page, cwd=ROOT, env=env, learn=learn)
        print(f"{path.name}: {count} commands did what it says, as {user.name}")


def _whose_checkout() -> dict[str, str]:
    """Our environment; of who called sudo it tells only where that user has this checkout, and so can use it."""
    mine = os.environ.get("SUDO_UID") == str(ROOT.stat().st_uid)
    return {name: value for name, value in os.environ.items() if mine or not name.startswith("SUDO_")}


def main(argv: Sequence[str] | None = None) -> int:
    """The command; 1 if a page is wrong."""
    parser = argparse.ArgumentParser(prog="python -m tests.e2e.tutorial")
    parser.add_argument("pages", metavar="PAGE", nargs="+", type=Path)
    parser.add_argument("--learn", action="store_true", help="print what the commands print, and compare nothing")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args(argv)
    pages = [path.absolute() for path in arguments.pages]
    if arguments.inside:
        try:
            run_in_a_new_home(pages, learn=arguments.learn)
        except Differs as differs:
            print(f"FAILED: {differs}")
            return 1
        return 0
    state = Path(tempfile.mkdtemp(prefix="zos-pages-", dir="/var/tmp"))
    try:
        state.chmod(0o755)
        inside = [sys.executable, "-m", "tests.e2e.tutorial", "--inside", *(["--learn"] if arguments.learn else [])]
        command = [ROOT / "tests/e2e/alone.sh", state, *inside, *pages]
        return subprocess.run(command, cwd=ROOT, env=_whose_checkout(), check=False).returncode
    finally:
        shutil.rmtree(state)


if __name__ == "__main__":
    sys.exit(main())
