"""Shell completion in real shells, asked as the Tab key asks: bash always, zsh and fish where they are installed."""

from __future__ import annotations

import os
import pty
import select
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

BIN = Path(sys.executable).parent
SHELL_TIMEOUT_S = 60.0
# Words before the cursor, and what is offered.
OFFERS = {
    ("fl",): {"flist"},
    ("flist", "ver"): {"verify"},
    ("flist", "un"): {"unmount"},
    ("run", "--provider", ""): {"file", "loop", "full", "extract"},
    ("run", "--mem"): {"--memory"},
    ("completion", ""): {"bash", "zsh", "fish"},
    ("bench", "run", "era"): {"erasure"},
    # A publisher of the keyring: the words come from code of the part.
    ("trust", "remove", "ja"): {"jane"},
}
# Files are the shell's to offer: a word of ours here would hide them.
FILES = [("flist", "build", "tre"), ("run", "web", "--", "tre")]


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A user who trusts Jane, in a directory with a tree."""
    made = tmp_path_factory.mktemp("home")
    (made / "tree").mkdir()
    zos = [str(BIN / "zos"), "trust", "add", "jane"]
    key = "ed25519:8a88e3dd7409f195fd52db2d3cba5d72ca6709bf1d94121bf3748801b40f6f5c"
    subprocess.run([*zos, key], env=environment(made), check=True, stdout=subprocess.DEVNULL)
    return made


def environment(home: Path) -> dict[str, str]:
    return {
        "HOME": str(home),
        "XDG_CONFIG_HOME": str(home / "config"),
        "PATH": f"{BIN}:{os.environ['PATH']}",
        "TERM": "dumb",
        "LANG": "C.UTF-8",
    }


def need(shell: str) -> str:
    found = shutil.which(shell)
    if found is None:
        pytest.skip(f"{shell} is not installed")
    return found


def bash_offers(home: Path, words: tuple[str, ...]) -> set[str]:
    """What readline would get: the function that `complete -F` names, called with the words and the cursor."""
    script = (
        'eval "$(zos completion bash)"; [[ $(complete -p zos) =~ "-o default -F "([a-z_]+) ]] || exit 9;'
        'COMP_WORDS=(zos "$@"); COMP_CWORD=$#; COMP_LINE="${COMP_WORDS[*]}"; COMP_POINT=${#COMP_LINE};'
        '"${BASH_REMATCH[1]}" zos "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}";'
        '((${#COMPREPLY[@]})) && printf "%s\\n" "${COMPREPLY[@]}"; true'
    )
    done = subprocess.run(
        [need("bash"), "--noprofile", "--norc", "-c", script, "bash", *words],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=SHELL_TIMEOUT_S,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return set(done.stdout.splitlines())


@pytest.mark.parametrize("words", OFFERS, ids=" ".join)
def test_bash_offers_words(home: Path, words: tuple[str, ...]) -> None:
    assert bash_offers(home, words) == OFFERS[words]


@pytest.mark.parametrize("words", FILES, ids=" ".join)
def test_bash_is_left_its_files(home: Path, words: tuple[str, ...]) -> None:
    assert bash_offers(home, words) == set()


@pytest.mark.parametrize("words", [*OFFERS, *FILES], ids=" ".join)
def test_fish_offers_words_and_files(home: Path, words: tuple[str, ...]) -> None:
    done = subprocess.run(
        [need("fish"), "--no-config", "-c", f"zos completion fish | source; complete -C '{' '.join(('zos', *words))}'"],
        env=environment(home),
        cwd=home,
        capture_output=True,
        text=True,
        timeout=SHELL_TIMEOUT_S,
    )
    offered = {line.partition("\t")[0] for line in done.stdout.splitlines()}
    assert offered == OFFERS.get(words, {"tree/"}), done.stderr


class Screen:
    """An interactive shell on a terminal of its own."""

    def __init__(self, command: list[str], *, home: Path) -> None:
        master, slave = pty.openpty()
        self._terminal = master
        self._process = subprocess.Popen(
            command,
            stdin=slave,
            stdout=slave,
            stderr=slave,
            env=environment(home),
            cwd=home,
            start_new_session=True,
        )
        os.close(slave)
        self._shown = ""

    def type(self, keys: str, *, until: str) -> None:
        """Press keys; returns when this is shown after that."""
        self._shown = ""
        os.write(self._terminal, keys.encode())
        deadline_s = time.monotonic() + SHELL_TIMEOUT_S
        while until not in self._shown:
            ready, _, _ = select.select([self._terminal], [], [], max(deadline_s - time.monotonic(), 0))
            assert ready, f"{until!r} was not shown, but {self._shown!r}"
            self._shown += os.read(self._terminal, 4096).decode(errors="replace")

    def close(self) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._terminal)


@pytest.mark.parametrize(
    ("typed", "shown"),
    [
        ("zos flist ver", "zos flist verify "),
        ("zos trust remove ja", "zos trust remove jane "),
        ("zos run --mem", "zos run --memory "),
        ("zos flist build tre", "zos flist build tree/"),
    ],
)
def test_zsh_completes_at_the_tab_key(home: Path, typed: str, shown: str) -> None:
    (home / ".zshrc").write_text(
        'autoload -Uz compinit && compinit -u -D; eval "$(zos completion zsh)"; PS1="ready> "\n'
    )
    screen = Screen([need("zsh"), "-i"], home=home)
    try:
        screen.type("", until="ready> ")
        screen.type(f"{typed}\t", until=shown.removeprefix(typed))
    finally:
        screen.close()


@pytest.mark.parametrize(("typed", "rest"), [("zos flist ver", "ify "), ("zos flist build tre", "e/")])
def test_bash_completes_at_the_tab_key(home: Path, typed: str, rest: str) -> None:
    """The same with readline: what a person sees."""
    (home / ".bashrc").write_text(
        'eval "$(zos completion bash)"; PS1="ready> "; bind "set enable-bracketed-paste off"\n'
    )
    screen = Screen([need("bash"), "--rcfile", str(home / ".bashrc"), "-i"], home=home)
    try:
        screen.type("", until="ready> ")
        screen.type(f"{typed}\t", until=typed + rest)
    finally:
        screen.close()
