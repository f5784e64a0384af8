"""The one command `zos`: what a verb is, and `main`, which finds, parses and runs it.

A part declares its verbs in its `cli.py` and registers each top-level name in the entry-point group `zos.verbs`:

    [project.entry-points."zos.verbs"]
    flist = "flist.cli:FLIST"          # a Group: zos flist build, zos flist inspect ...
    ps = "zos_core.cli:PS"             # a Verb

`cli.py` imports nothing but this module: handlers are named as "module:function" and imported when their verb is
called. `zos --help` imports no part at all: it reads the summaries out of the declarations' source.

    BUILD = Verb(
        summary="Build an flist from a directory tree",
        handler="flist.commands:build",                   # (arguments: Namespace, console: Console) -> int | None
        arguments=(argument("tree", metavar="TREE", help="the directory"), argument("-o", "--output", ...)),
        examples=(("zos flist build ./root -o web.flist", "build and sign"),),
    )

A handler may be a coroutine function; it runs on uvloop. Data goes to stdout through `console.emit`, everything else
to stderr. A ZosError becomes `zos: message` and `hint: ...` and its class's exit status; with --json an object
{"error": {...}} on stdout. Ctrl-C ends with 130, SIGTERM with 143.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.util
import inspect
import os
import signal
import sys
from collections.abc import Callable, Coroutine, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TextIO, TypeVar

from native.errors import ZosError
from zos_core.base.errors import UsageError, zos_error_in

if TYPE_CHECKING:
    from zos_core.base.progress import Progress

__all__ = ["Argument", "Console", "Entry", "Group", "Verb", "argument", "installed_entries", "main", "run_async"]

ENTRY_POINTS = "zos.verbs"
INTERRUPTED = 130
TERMINATED = 143
SHELLS = ("bash", "zsh", "fish")
SUGGESTION_CUTOFF = 0.6
SHORT = len("-it")  # so few letters resemble anything
STATUSES = "0 if it worked, 2 if the command line is wrong, 130 after Ctrl-C, else the error's (docs/errors.md)"

T = TypeVar("T")


# --- Declarations --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Argument:
    """One argument of a verb: names and options as of `argparse.ArgumentParser.add_argument`.

    `complete` is "file", "dir", or "module:function", which gets the words before and returns candidates; options'
    `choices` need nothing.
    """

    names: tuple[str, ...]
    options: Mapping[str, Any]
    complete: str = "file"

    @property
    def is_option(self) -> bool:
        """Whether it begins with a dash."""
        return self.names[0].startswith("-")

    @property
    def dest(self) -> str:
        """Its name among the parsed arguments, as argparse derives it."""
        name = next((name for name in self.names if name.startswith("--")), self.names[0])
        return str(self.options.get("dest") or name.lstrip("-").replace("-", "_"))

    @property
    def takes_value(self) -> bool:
        """Whether a word follows the option."""
        return self.options.get("action", "store") in ("store", "append")


def argument(*names: str, complete: str = "file", **options: Any) -> Argument:
    """An argument; see `Argument`."""
    return Argument(names, options, complete)


def _own_status(error: ZosError) -> int:
    return error.exit_status


@dataclass(frozen=True, slots=True, kw_only=True)
class Verb:
    """A command that does something.

    Attributes:
        summary: one line.
        handler: "module:function", imported when called.
        arguments: without the common ones, which every verb has (--json, --quiet; --plan if `plans`). A verb may have a
            --json FILE of its own; it then prints text, and errors as text, whatever the file gets.
        examples: command lines and what they do; at least one.
        details: paragraphs for --help.
        statuses: what its exit status says, where that is not `STATUSES`.
        plans: the verb changes more than one thing and can say what it would do (`console.plan`).
        command: what follows `--` is kept as `arguments.command`, a list; the handler refuses an empty one.
        exit_status_of: maps an error to a status; only `zos run` and `zos exec` differ from the error's own.
    """

    summary: str
    handler: str
    arguments: tuple[Argument, ...] = ()
    examples: tuple[tuple[str, str], ...]
    details: str = ""
    statuses: str = STATUSES
    plans: bool = False
    command: bool = False
    exit_status_of: Callable[[ZosError], int] = _own_status


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Verbs of one noun; `details` are paragraphs for --help, where the noun needs them."""

    summary: str
    verbs: Mapping[str, Verb]
    details: str = ""


Declared = Verb | Group


@dataclass(frozen=True, slots=True)
class Entry:
    """A top-level name and where its declaration is: "module:NAME"."""

    name: str
    value: str

    def load(self) -> Declared:
        """Import the declaration.

        Raises:
            TypeError: it is no Verb and no Group: a fault in our own code.
        """
        declared = _import(self.value)
        if not isinstance(declared, (Verb, Group)):
            raise TypeError(f"entry point {self.name} = {self.value} is no Verb and no Group")
        return declared

    def summary(self) -> str:
        """The declared `summary`, read from the source without importing it; "" if it cannot be found."""
        module, _, name = self.value.partition(":")
        try:
            return _summary_in(_source_of(module), name)
        except (OSError, SyntaxError, ValueError, ImportError):
            return ""


def installed_entries() -> list[Entry]:
    """What the installed parts have registered, sorted by name.

    The entry points of https://packaging.python.org/specifications/entry-points/, of every distribution that is
    installed in a folder of sys.path; as there, the first folder wins. importlib.metadata finds the same, but brings
    the email package with it, which took a quarter of a `zos ps`.
    """
    found: dict[str, str] = {}
    for folder in sys.path:
        try:
            names = sorted(name for name in os.listdir(folder or ".") if name.endswith((".dist-info", ".egg-info")))
        except OSError:  # not there, no folder, not ours to read
            continue
        for name in names:
            for point, value in _registered(Path(folder, name, "entry_points.txt"), ENTRY_POINTS):
                found.setdefault(point, value)
    return [Entry(name, value) for name, value in sorted(found.items())]


def _registered(file: Path, group: str) -> Iterator[tuple[str, str]]:
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except OSError:  # most distributions have none
        return
    current = ""
    for line in map(str.strip, lines):
        if line.startswith("["):
            current = line.strip("[] ")
        elif current == group and "=" in line and not line.startswith("#"):
            name, value = line.split("=", 1)
            yield name.strip(), value.partition("[")[0].strip()  # extras are not looked at any more


def _import(value: str) -> Any:
    module, _, name = value.partition(":")
    return getattr(importlib.import_module(module), name)


def _source_of(module: str) -> str:
    top, *rest = module.split(".")
    spec = importlib.util.find_spec(top)  # of a top-level name this imports nothing
    if spec is None or not spec.submodule_search_locations:
        raise ImportError(module)
    return Path(spec.submodule_search_locations[0], *rest).with_suffix(".py").read_text(encoding="utf-8")


def _summary_in(source: str, name: str) -> str:
    import ast

    for statement in ast.parse(source).body:
        if isinstance(statement, ast.Assign):
            targets: list[ast.expr] = statement.targets
        elif isinstance(statement, ast.AnnAssign):
            targets = [statement.target]
        else:
            continue
        if any(isinstance(target, ast.Name) and target.id == name for target in targets):
            for keyword in statement.value.keywords if isinstance(statement.value, ast.Call) else ():
                if keyword.arg == "summary" and isinstance(keyword.value, ast.Constant):
                    return str(keyword.value.value)
    return ""


# --- What a handler sees -------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Console:
    """How a verb talks: data to `out`, notes and progress to `err`.

    Attributes:
        json: --json was given: `emit` prints JSON, one value per line.
        plan: --plan was given: say what would be done, do nothing.
        quiet: --quiet was given: no notes, no progress; warnings are said.
    """

    json: bool = False
    plan: bool = False
    quiet: bool = False
    out: TextIO = field(default_factory=lambda: sys.stdout)
    err: TextIO = field(default_factory=lambda: sys.stderr)

    def emit(self, value: object, text: str | None = None) -> None:
        """One result: `value` (a Record) with --json, else `text`, or nothing if that is None."""
        if self.json:
            from zos_core.base.document import encode_json

            print(encode_json(value).decode(), file=self.out, flush=True)
        elif text is not None:
            print(text, file=self.out, flush=True)

    def note(self, text: str) -> None:
        """A line for a person who watches; the work is no worse where it cannot be shown."""
        if not self.quiet:
            self.warn(text)

    def warn(self, text: str) -> None:
        """A line that --quiet does not keep back: the result is not all that somebody may expect."""
        with suppress(OSError):
            print(text, file=self.err, flush=True)

    def progress(self) -> Progress:
        """Where to report progress; silent with --json and --quiet."""
        from zos_core.base import progress

        return progress.choose(self.err, quiet=self.quiet or self.json)


def run_async(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop to its end. SIGINT and SIGTERM cancel it, so that everything is cleaned up.

    Raises:
        KeyboardInterrupt: SIGINT.
        Terminated: SIGTERM.
    """
    try:
        return _run_async(main)
    finally:
        main.close()  # a signal may have come before it began


def _run_async(main: Coroutine[Any, Any, T]) -> T:
    import asyncio

    import uvloop

    from zos_core.base.signals import signals_to

    heard: signal.Signals | None = None

    async def guarded() -> T:
        task = asyncio.current_task()
        assert task is not None

        def end(number: signal.Signals) -> None:
            nonlocal heard
            heard = heard or number
            if not task.cancelling():  # once: what is cleaned up now is not disturbed
                task.cancel()

        try:
            with signals_to(end):
                return await main
        finally:  # the work is done: leaving the loop is not to be broken off in its middle
            signal.signal(signal.SIGINT, signal.SIG_IGN)

    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            try:
                return runner.run(guarded())
            finally:  # nor is closing it, also where the coroutine never began
                signal.signal(signal.SIGINT, signal.SIG_IGN)
    except asyncio.CancelledError as error:
        if heard == signal.SIGTERM:
            raise Terminated from error
        if heard == signal.SIGINT:
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


class Terminated(BaseException):
    """SIGTERM ended `run_async`."""


# --- The command ---------------------------------------------------------------------------------------------------


def main(argv: Sequence[str] | None = None, entries: Sequence[Entry] | None = None) -> int:
    """The console script `zos`; returns the exit status. `entries`: the top-level names, else those installed."""
    _open_standard_streams()
    status = run(list(sys.argv[1:] if argv is None else argv), installed_entries() if entries is None else entries)
    return status if _flush_standard_streams() else status or 1


def _open_standard_streams() -> None:
    """Put /dev/null where a standard descriptor is closed.

    The next file that is opened, which may be one of the event loop's, would be taken for that stream.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # gets the lowest free number, which is this one
    sys.stdin = sys.stdin or open(0, closefd=False)  # noqa: SIM115 (for as long as the program runs)
    sys.stdout = sys.stdout or open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w", closefd=False)  # noqa: SIM115


def _flush_standard_streams() -> bool:
    """Whether all that was said on stdout could be written. What could not be, Python does not try again at exit."""
    written = True
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            _discard(stream)
            written = written and stream is not sys.stdout
    return written


def _discard(stream: TextIO) -> None:
    """What is written to a stream from now on, and what is still in its buffer, goes nowhere."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, stream.fileno())
    os.close(null)


def run(argv: list[str], entries: Sequence[Entry]) -> int:
    """`zos` with `argv` (without the program's name) and these top-level names."""
    options = argv[: argv.index("--")] if "--" in argv else argv
    console = Console(json="--json" in options, quiet="--quiet" in options or "-q" in options)
    verb: Verb | None = None
    try:
        found = _find(argv, {entry.name: entry for entry in entries})
        if isinstance(found, str):
            if found:  # no candidates are no line
                print(found.rstrip())
            return 0
        verb, name, rest = found
        if _json_is_a_file(verb):
            console = replace(console, json=False)
        return _call(verb, name, rest)
    except _HelpShown:
        return 0
    except KeyboardInterrupt:
        print("zos: interrupted", file=console.err)
        return INTERRUPTED
    except Terminated:
        return TERMINATED
    except BrokenPipeError:  # whoever reads our output has gone
        _discard(sys.stdout)
        return 1
    except Exception as error:  # noqa: BLE001 (the edge of the program)
        return _report(error, console, verb)


def _report(error: Exception, console: Console, verb: Verb | None) -> int:
    known = zos_error_in(error)
    if known is None and isinstance(error, OSError):
        known = _SystemError(f"{error.filename}: {error.strerror}" if error.filename else str(error))
    if known is None:
        import traceback

        with suppress(OSError):
            traceback.print_exception(error, file=console.err)
        known = _Bug(f"unexpected {type(error).__name__}: {error}", hint="this is a fault in zos: please report it")
    status = known.exit_status if verb is None else verb.exit_status_of(known)
    with suppress(OSError):  # it may be of that very stream; the status tells as well
        if console.json:
            from zos_core.base.endpoint import Problem

            console.emit({"error": Problem.of(known)})
        else:
            hint = f"\nhint: {known.hint}" if known.hint else ""
            print(f"zos: {known.message}{hint}", file=console.err, flush=True)
    return status


class _SystemError(ZosError):
    code = "os.error"


class _Bug(ZosError):
    code = "zos.bug"


class _HelpShown(Exception):
    """argparse has printed the help."""


def _find(argv: list[str], entries: Mapping[str, Entry]) -> tuple[Verb, str, list[str]] | str:
    """The verb, its full name and its arguments; or a text to print."""
    if not argv or argv[0] in ("-h", "--help", "help"):
        return _top_help(entries)
    if argv[0] == "--version":
        return f"zos {_version()}"
    if argv[0] == "completion":
        return _completion(argv[1:])
    if argv[0] == "__complete":
        return "\n".join(_candidates(argv[1:], entries))
    name, rest = argv[0], argv[1:]
    if name not in entries:
        raise UsageError(f"there is no verb {name!r}", hint=_suggest(name, [*entries, "completion"], "zos --help"))
    declared = entries[name].load()
    if isinstance(declared, Verb):
        return declared, name, rest
    if not rest or rest[0] in ("-h", "--help", "help"):
        return _group_help(name, declared)
    if rest[0] not in declared.verbs:
        hint = _suggest(rest[0], list(declared.verbs), f"zos {name} --help")
        raise UsageError(f"there is no verb {rest[0]!r} in `zos {name}`", hint=hint)
    return declared.verbs[rest[0]], f"{name} {rest[0]}", rest[1:]


def _call(verb: Verb, name: str, rest: list[str]) -> int:
    command: list[str] = []
    if verb.command and "--" in rest:
        cut = rest.index("--")
        rest, command = rest[:cut], rest[cut + 1 :]
    parser = _parser(verb, name)
    # `zos bench run erasure --quick sign`: a list of words may go on after an option, which parse_args does not take.
    listed = any(one.options.get("nargs") in ("*", "+") for one in verb.arguments if not one.is_option)
    arguments = parser.parse_intermixed_args(rest) if listed else parser.parse_args(rest)
    for one in verb.arguments:
        value = getattr(arguments, one.dest)
        if value == "" or (isinstance(value, list) and "" in value):
            raise UsageError(f"{one.names[0]} is empty", hint="an empty variable of the shell, perhaps")
    if verb.command:
        arguments.command = command
    json = not _json_is_a_file(verb) and arguments.json
    console = Console(json=json, quiet=arguments.quiet, plan=getattr(arguments, "plan", False))
    handler = _import(verb.handler)
    if inspect.iscoroutinefunction(handler):
        status = run_async(handler(arguments, console))
    else:
        status = handler(arguments, console)
    return int(status or 0)


class _Parser(argparse.ArgumentParser):
    known_options: tuple[str, ...] = ()
    takes_command = False

    def error(self, message: str) -> NoReturn:
        unknown = message.partition("unrecognized arguments: ")[2].split()
        wrong = [word for word in unknown if word.startswith("-")]
        hint = f"see `{self.prog} --help`"
        if unknown and self.takes_command and not unknown[0].startswith("-"):  # zos run web ls -l
            hint = f"a command stands after --, as in: {self.prog} ... -- {' '.join(unknown)}"
        elif wrong and len(wrong[0]) > SHORT:
            close = _close(wrong[0].partition("=")[0], self.known_options)
            hint = f"did you mean {close}?" if close else hint
        raise UsageError(message, hint=hint)

    def exit(self, status: int = 0, message: str | None = None) -> NoReturn:
        raise _HelpShown


def _parser(verb: Verb, name: str) -> _Parser:
    examples = "\n".join(f"  {line}\n      {what}" for line, what in verb.examples)
    parser = _Parser(
        prog=f"zos {name}",
        description="\n\n".join(text for text in (verb.summary + ".", verb.details) if text),
        epilog=f"examples:\n{examples}\n\nexit status:\n  {verb.statuses}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    for one in (*verb.arguments, *_common(verb)):
        parser.add_argument(*one.names, **one.options)
    parser.known_options = tuple(word for one in (*verb.arguments, *_common(verb)) for word in one.names)
    if verb.command:
        parser.takes_command = True
        parser.usage = f"{parser.format_usage().removeprefix('usage: ').strip()} -- CMD [ARG...]"
    return parser


def _json_is_a_file(verb: Verb) -> bool:
    """Whether the verb has a --json of its own, which names a file (`-`: stdout) and leaves the rest as text."""
    return any("--json" in one.names for one in verb.arguments)


def _common(verb: Verb) -> list[Argument]:
    common = [argument("-q", "--quiet", action="store_true", help="print no notes and no progress")]
    if not _json_is_a_file(verb):
        common.insert(
            0, argument("--json", action="store_true", help="print results and errors as JSON, one value per line")
        )
    if verb.plans:
        common.append(argument("--plan", action="store_true", help="say what would be done, and do nothing"))
    return common


# --- Help ----------------------------------------------------------------------------------------------------------


_FIRST_STEPS = {
    "zos doctor": "can this machine run containers?",
    "zos flist build DIR --name web": "make an image of a directory",
    "zos up": "start the node, which runs containers",
    "zos run --rm web -- CMD": "run a command in a container of that image",
}


def _top_help(entries: Mapping[str, Entry]) -> str:
    rows = {name: entry.summary() for name, entry in entries.items()}
    rows["completion"] = "Print a completion script for bash, zsh or fish"
    return (
        "usage: zos VERB ...\n       zos --version\n\n"
        "zos turns a machine into a stateless cloud node: containers from images that are fetched while they run.\n"
        f"\nverbs:\n{_table(rows)}\n\n"
        f"to begin:\n{_table(_FIRST_STEPS)}\n\n"
        "`zos VERB --help` explains a verb, its exit status too, and shows examples. --json prints results and errors\n"
        "for programs, --quiet no notes. docs/tutorial.md takes ten minutes; docs/errors.md explains every error.\n"
    )


def _group_help(name: str, group: Group) -> str:
    rows = {verb_name: verb.summary for verb_name, verb in group.verbs.items()}
    first = next((verb.examples[0][0] for verb in group.verbs.values()), "")
    about = "\n\n".join(text for text in (f"{group.summary}.", group.details) if text)
    return (
        f"usage: zos {name} VERB ...\n\n{about}\n\nverbs:\n{_table(rows)}\n\nexample:\n  {first}\n\n"
        f"`zos {name} VERB --help` explains a verb.\n"
    )


def _table(rows: Mapping[str, str]) -> str:
    width = max((len(name) for name in rows), default=0)
    return "\n".join(f"  {name:<{width}}  {summary}".rstrip() for name, summary in rows.items())


def _version() -> str:
    import importlib.metadata

    try:
        return importlib.metadata.version("zos")
    except importlib.metadata.PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"


def _close(word: str, words: Sequence[str]) -> str | None:
    import difflib

    return next(iter(difflib.get_close_matches(word, words, n=1, cutoff=SUGGESTION_CUTOFF)), None)


def _suggest(word: str, words: Sequence[str], help_: str) -> str:
    close = _close(word, words)
    return f"did you mean {close!r}?" if close else f"`{help_}` lists them"


# --- Completion ----------------------------------------------------------------------------------------------------

_SCRIPTS = {
    "bash": """\
_zos() {
    local IFS=$'\\n'
    COMPREPLY=($(zos __complete "${COMP_WORDS[@]:1:COMP_CWORD}" 2>/dev/null | cut -f1))
}
complete -o default -F _zos zos
""",
    "zsh": """\
#compdef zos
_zos() {
    local -a found
    found=("${(@f)$(zos __complete "${(@)words[2,CURRENT]}" 2>/dev/null | cut -f1)}")
    if [[ -n "$found" ]]; then compadd -- $found; else _files; fi
}
compdef _zos zos
""",
    "fish": """\
function __zos_complete
    set -l found (zos __complete (commandline -opc)[2..] (commandline -ct) 2>/dev/null)
    if test (count $found) -gt 0
        printf '%s\\n' $found
    else
        __fish_complete_path (commandline -ct)
    end
end
complete -c zos -f -a '(__zos_complete)'
""",
}


_COMPLETION_HELP = """\
usage: zos completion {bash|zsh|fish}

Print a script that makes the Tab key complete verbs, options, their values, containers and publishers.

examples:
  eval "$(zos completion bash)"
      in this shell; as a line of ~/.bashrc in every one
  eval "$(zos completion zsh)"
      as a line of ~/.zshrc, after compinit
  zos completion fish | source
      as a line of ~/.config/fish/config.fish
"""


def _completion(words: list[str]) -> str:
    if len(words) != 1 or words[0] not in _SCRIPTS:
        if words and words[0] in ("-h", "--help"):
            return _COMPLETION_HELP
        raise UsageError("which shell?", hint=f"one of {', '.join(SHELLS)}: zos completion bash")
    return _SCRIPTS[words[0]]


def _candidates(words: list[str], entries: Mapping[str, Entry]) -> list[str]:
    """Lines "candidate" or "candidate<TAB>what it is" for the last of `words`; none lets the shell offer files."""
    *before, current = words or [""]
    if not before:
        offered = {name: entry.summary() for name, entry in entries.items()} | {"completion": ""}
        return _offer(offered, current)
    if before[0] not in entries:
        return _offer(dict.fromkeys(SHELLS, ""), current) if before == ["completion"] else []
    declared = entries[before[0]].load()
    used = before[1:]
    if isinstance(declared, Group):
        if not used:
            return _offer({name: verb.summary for name, verb in declared.verbs.items()}, current)
        if used[0] not in declared.verbs:
            return []
        declared, used = declared.verbs[used[0]], used[1:]
    return [] if "--" in used else _candidates_of(declared, used, current)


def _candidates_of(verb: Verb, used: list[str], current: str) -> list[str]:
    options = [one for one in (*verb.arguments, *_common(verb)) if one.is_option]
    for one in options:
        if used and used[-1] in one.names and one.takes_value:
            return _values(one, used, current)
    if current.startswith("-"):
        return _offer({one.names[-1]: str(one.options.get("help", "")) for one in options}, current)
    positional = [one for one in verb.arguments if not one.is_option]
    return _values(positional[0], used, current) if positional else []


def _values(one: Argument, used: list[str], current: str) -> list[str]:
    if "choices" in one.options:
        return _offer(dict.fromkeys(map(str, one.options["choices"]), ""), current)
    if ":" not in one.complete:
        return []
    return _offer(dict.fromkeys(_import(one.complete)(used), ""), current)


def _offer(offered: Mapping[str, str], prefix: str) -> list[str]:
    return [f"{name}\t{what}".rstrip("\t") for name, what in offered.items() if name.startswith(prefix)]
