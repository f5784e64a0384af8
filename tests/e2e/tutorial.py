"""Runs the commands of pages of `docs/` as their reader would, and compares what they print with what the page says.

    python -m tests.e2e.tutorial docs/tutorial.md [PAGE ...]       as root; --learn prints what was really printed

How a page says it is in `page.py`. A page has a machine of its own as far as it can tell: `alone.sh` gives it
namespaces, an empty /run/zos and an empty /var/lib/zos, in which there is a new home directory. Below sudo the
terminals are the caller's, and what asks for root in them asks sudo.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.e2e.page import CTRL_C, RETURNED, Differs, Page, Step, matches, read_page
from tests.e2e.terminal import Terminal
from zos_core.base.paths import Account, account

__all__ = ["ROOT", "main", "run_page"]

ROOT = Path(__file__).resolve().parents[2]


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
    pages = [(path, read_page(path)) for path in paths]  # a page of a test's own is for root's eyes alone
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
    for path, page in pages:
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
