"""The words between a measure and a peer's program, docs/spec/bench-peer.md. Pure: no process, no pipe."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from bench.errors import PeerFailed

__all__ = ["VERSION", "Answer", "Hello", "Work", "parse_answer", "parse_hello", "prepare_line", "run_line"]

VERSION = 1
WORD_BYTES_MAX = 4096


@dataclass(frozen=True, slots=True)
class Work:
    """What is asked of a peer: the name of the work and its whole numbers (BENCH-PEER-4)."""

    name: str
    parameters: Mapping[str, int]

    def __str__(self) -> str:
        return " ".join([self.name, *(f"{key}={value}" for key, value in self.parameters.items())])


@dataclass(frozen=True, slots=True)
class Hello:
    """What a program says first: its peer's name and version, and the works that it knows."""

    peer: str
    version: str
    works: frozenset[str]


@dataclass(frozen=True, slots=True)
class Answer:
    """`ok` with its fields, or `missing` with a reason."""

    fields: Mapping[str, str]
    missing: str | None = None

    def integer(self, name: str) -> int:
        """A whole number that is not negative.

        Raises:
            PeerFailed: it is not there, or is none.
        """
        text = self.fields.get(name, "")
        if not text.isascii() or not text.isdecimal():
            raise PeerFailed(f"the answer has {name}={text!r} where a number belongs", field=name)
        return int(text)


def prepare_line(work: Work, input_path: str) -> str:
    """The request to get ready for a work on the bytes of a file (BENCH-PEER-3)."""
    words = ["prepare", work.name, input_path, *(f"{key}={value}" for key, value in work.parameters.items())]
    if any(not word or any(letter.isspace() for letter in word) for word in words):
        raise PeerFailed(f"a word of {' '.join(words)!r} is empty or has a space in it")
    return " ".join(words) + "\n"


def run_line(count: int) -> str:
    """The request to do the work `count` times and tell how long that took (BENCH-PEER-5)."""
    return f"run {count}\n"


def parse_hello(line: str) -> Hello:
    """The first line of a program: `hello PROTOCOL peer=... version=... works=a,b` (BENCH-PEER-2).

    Raises:
        PeerFailed: something else, or another version of the protocol.
    """
    word, _, rest = line.rstrip("\n").partition(" ")
    version, _, rest = rest.partition(" ")
    if word != "hello":
        raise PeerFailed(f"the program began with {line[:200]!r}")
    if version != str(VERSION):
        raise PeerFailed(
            f"the program speaks version {version} of the protocol, not {VERSION}",
            hint="install it again: zos bench peers install",
        )
    fields = _fields(rest)
    if not {"peer", "version", "works"} <= fields.keys():
        raise PeerFailed(f"the program began with {line[:200]!r}")
    return Hello(fields["peer"], fields["version"], frozenset(fields["works"].split(",")))


def parse_answer(line: str) -> Answer:
    """`ok key=value ...`, `missing REASON` or `error REASON` (BENCH-PEER-6).

    Raises:
        PeerFailed: an error, or another line.
    """
    word, _, rest = line.rstrip("\n").partition(" ")
    if word == "ok":
        return Answer(_fields(rest))
    if word == "missing":
        return Answer({}, missing=rest or "no reason was given")
    if word == "error":
        raise PeerFailed(rest or "no reason was given")
    raise PeerFailed(f"the program answered {line[:200]!r}")


def _fields(text: str) -> dict[str, str]:
    fields = {}
    for word in text.split():
        key, equals, value = word.partition("=")
        if not equals or not key or len(word) > WORD_BYTES_MAX:
            raise PeerFailed(f"the program answered {word[:200]!r}")
        fields[key] = value
    return fields
