"""Verbs that only tests of the command-line kit know."""

from __future__ import annotations

import argparse
import asyncio
import os
import signal

from native.errors import ZosError
from zos_core.base.document import Record
from zos_core.base.verbs import Console, Group, Verb, argument

__all__ = ["GREET", "NOTHING", "SAMPLE"]


class Greeting(Record, frozen=True, kw_only=True):
    text: str


class Refused(ZosError):
    code, exit_status = "test.refused", 61


async def greet(arguments: argparse.Namespace, console: Console) -> int:
    await asyncio.sleep(0)
    if arguments.who == "nobody":
        raise ExceptionGroup("of a task group", [Refused("nobody is there", hint="knock")])
    if arguments.who == "bug":
        raise ZeroDivisionError("by zero")
    if arguments.who == "interrupt":
        os.kill(os.getpid(), signal.SIGINT)
        await asyncio.sleep(60)
    if arguments.who == "terminate":
        os.kill(os.getpid(), signal.SIGTERM)
        await asyncio.sleep(60)
    if arguments.who == "missing":
        open("/does/not/exist")  # noqa: SIM115
    console.note("greeting")
    console.emit(Greeting(text=f"hello {arguments.who}"), f"hello {arguments.who}{' (plan)' if console.plan else ''}")
    return int(arguments.status)


def command(arguments: argparse.Namespace, console: Console) -> None:
    console.emit(Greeting(text=repr(arguments.command)), repr(arguments.command))


def words(arguments: argparse.Namespace, console: Console) -> None:
    if "refuse" in arguments.words:
        raise Refused("no such word", hint="another")
    console.emit(Greeting(text="never"), f"{' '.join(arguments.words)} -> {arguments.json} {arguments.loud}")


def names(words: list[str]) -> list[str]:
    return ["jane", "john"]


GREET = Verb(
    summary="Greet somebody",
    handler="tests.sample_verbs:greet",
    arguments=(
        argument("who", metavar="WHO", complete="tests.sample_verbs:names"),
        argument("--status", type=int, default=0, help="exit status"),
        argument("--colour", choices=["red", "green"], help="of the greeting"),
    ),
    plans=True,
    examples=(("zos greet jane", "say hello to jane"),),
)
SAMPLE = Group(
    summary="Verbs for tests",
    details="A sample is no command of zos.",
    verbs={
        "greet": GREET,
        "command": Verb(
            summary="Show a command",
            handler="tests.sample_verbs:command",
            command=True,
            exit_status_of=lambda error: 99,
            statuses="99, whatever is wrong",
            examples=(("zos sample command -- ls -l", "show it"),),
        ),
        "words": Verb(
            summary="Show words, in a file as JSON",
            handler="tests.sample_verbs:words",
            arguments=(
                argument("words", nargs="*"),
                argument("--json", metavar="FILE", help="write there"),
                argument("--loud", action="store_true", help="shout"),
            ),
            examples=(("zos sample words a b --json FILE", "show them"),),
        ),
    },
)
NOTHING = 5
