"""Handlers of `zos bench`: each turns words into calls, and what these find into tables, files and a status."""

from __future__ import annotations

import argparse
import dataclasses
import io
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich import box
from rich.console import Console as RichConsole
from rich.markup import escape
from rich.table import Table

from bench import budgets, results, tables
from bench.errors import GroupUnavailable, MeasureFailed, PeerMissing, ResultsInvalid
from bench.options import FULL, QUICK, Options
from bench.peers.cache import Cache, cache_directory
from bench.peers.catalog import CATALOG, PeerSpec, find
from bench.results import Group, Report
from bench.suite import Suite, choose, installed_suites
from native._choice import REFERENCE
from zos_core.base.atomic_file import make_directories, write_atomic
from zos_core.base.document import Record, encode_json
from zos_core.base.elevate import require_root
from zos_core.base.errors import UsageError
from zos_core.base.paths import account
from zos_core.base.verbs import Console

__all__ = ["WORSE", "compare", "group_names", "list_groups", "peer_names", "peers", "report", "run"]

WORSE = 110
"""Exit status of `compare` when something got worse."""
INTERRUPTED = 130
STDOUT = "-"


# --- list ----------------------------------------------------------------------------------------------------------


class GroupListed(Record, frozen=True, kw_only=True):
    """A line of `zos bench list`."""

    name: str
    summary: str
    root: str | None
    peers: list[str]
    missing_peers: list[str]


def group_names(words: Sequence[str]) -> list[str]:
    """For completion."""
    return [entry.name for entry in installed_suites()]


def peer_names(words: Sequence[str]) -> list[str]:
    """For completion."""
    return [spec.name for spec in CATALOG]


def list_groups(arguments: argparse.Namespace, console: Console) -> None:
    """`zos bench list`."""
    cache = _cache(arguments)
    rows = [["group", "what", "needs", "peers (missing ones in brackets)"]]
    for name, suite in choose(installed_suites(), []).items():
        missing = [peer for peer in suite.peers if not _is_here(cache, peer)]
        listed = GroupListed(
            name=name, summary=suite.summary, root=suite.root, peers=list(suite.peers), missing_peers=missing
        )
        console.emit(listed)
        peers_text = ", ".join(f"({peer})" if peer in missing else peer for peer in suite.peers)
        rows.append([name, suite.summary, "root" if suite.root else "", peers_text or "-"])
    if not console.json:
        console.emit(None, _text_table(rows, words=True))


def _is_here(cache: Cache, peer: str) -> bool:
    try:
        cache.find(find(peer))
    except PeerMissing:
        return False
    return True


# --- run -----------------------------------------------------------------------------------------------------------


def run(arguments: argparse.Namespace, console: Console) -> int:
    """`zos bench run`."""
    from bench.run import require_extras

    suites = choose(installed_suites(), arguments.groups)
    require_extras()
    options = _options(arguments)
    suites, left_out = _available(suites, named=bool(arguments.groups))
    suites, without_root = _for_this_user(suites, named=bool(arguments.groups))
    cache = _cache(arguments)

    from bench.recorder import Recorder
    from bench.run import Run

    to_stdout = arguments.json == STDOUT

    def show(group: Group) -> None:
        if not to_stdout:
            console.emit(None, _group_text(group))
        for doubt in tables.doubts(group):
            console.note(f"warning: {group.key}: {doubt}")

    recorder = Recorder(
        say=lambda text: console.note(f"> {text}"),
        show=show,
        quiet_wait_s=options.quiet_wait_s,
        progress=console.progress(),
    )
    for reason in (*left_out, *without_root):
        recorder.skip(reason)
    found = Run(suites, options, cache, recorder).measure(sys.argv[1:])
    verdicts = [
        verdict
        for verdict in budgets.judge(budgets.load(), found.groups, found.machine.features)
        if any(group.key == verdict.budget.group for group in found.groups) or not verdict.applies
    ]
    written = _keep(found, cache, None if to_stdout else arguments.json)
    if to_stdout:
        print(encode_json(found).decode(), file=console.out, flush=True)
    else:
        console.emit(None, _summary_text(found, verdicts))
    for path in written:
        console.note(f"results: {path}")
    if found.interrupted:
        return INTERRUPTED
    if found.failed:
        raise MeasureFailed(
            f"{len(found.failed)} measures broke off: {found.failed[0]}",
            hint="the results name each; their traces stand above",
            failed=found.failed,
        )
    return 0


def _available(suites: Mapping[str, Suite], *, named: bool) -> tuple[dict[str, Suite], list[str]]:
    """The groups whose modules are here, and why the others are not.

    Raises:
        GroupUnavailable: a group that was named is not here.
    """
    found, left = {}, []
    for name, suite in suites.items():
        try:
            suite.paths()
        except GroupUnavailable as error:
            if named:
                raise
            left.append(f"group {name}: {error.message}")
        else:
            found[name] = suite
    return found, left


def _for_this_user(suites: Mapping[str, Suite], *, named: bool) -> tuple[dict[str, Suite], list[str]]:
    """The groups that can run, and why the others cannot. May start the command again under sudo.

    Raises:
        NeedRoot: a group that was named needs root, and there is no sudo.
    """
    reasons = {name: suite.root for name, suite in suites.items() if suite.root is not None}
    if not reasons or os.geteuid() == 0:
        return dict(suites), []
    if named or shutil.which("sudo") is not None:
        name, why = next(iter(reasons.items()))
        require_root(f"group {name} {why}")
    left = [f"group {name} {why}, which needs root" for name, why in reasons.items()]
    return {name: suite for name, suite in suites.items() if name not in reasons}, left


def _options(arguments: argparse.Namespace) -> Options:
    """The options of a run.

    Raises:
        UsageError: a number of rounds below 1, a tree that is no directory, a FILE in none, or ZOS_NATIVE=reference.
    """
    tree: Path | None = None
    if arguments.tree is not None:
        tree = Path(arguments.tree).resolve()
        if not tree.is_dir():
            raise UsageError(f"{arguments.tree} is no directory", hint="--tree takes a root file system")
    if arguments.json not in (None, STDOUT) and not Path(arguments.json).absolute().parent.is_dir():
        raise UsageError(f"{Path(arguments.json).parent} is no directory", hint="--json FILE is written into one")
    if REFERENCE:
        raise UsageError(
            "ZOS_NATIVE=reference: the twins in Python would be measured under the names of the compiled kernels",
            hint="unset ZOS_NATIVE",
        )
    options = dataclasses.replace(
        QUICK if arguments.quick else FULL,
        peers=arguments.peers,
        tree=tree,
        preferred=arguments.prefer,
        quiet_wait_s=min(arguments.quiet_wait, 1.0) if arguments.quick else arguments.quiet_wait,
    )
    if arguments.rounds is not None:
        if arguments.rounds < 1:
            raise UsageError(f"{arguments.rounds} rounds are none", hint="--rounds takes 1 and more")
        asked = arguments.rounds  # however long they take
        options = dataclasses.replace(options, rounds=asked, starts=asked, group_s=math.inf)
    return options


def _keep(found: Report, cache: Cache, also: str | None) -> list[Path]:
    """Write the results into the cache and to FILE; they belong to whoever called, also through sudo."""
    owner = account(os.environ).owner
    paths = []
    if found.groups:
        stem = found.begun.replace(":", "").replace(" ", "-")
        make_directories(cache.results, owner=owner)
        paths.append(cache.results / f"{stem}.json")
    if also is not None:
        paths.append(Path(also))
    for path in paths:
        results.save(path, found, owner=owner)
    return paths


# --- compare, report -----------------------------------------------------------------------------------------------


def compare(arguments: argparse.Namespace, console: Console) -> int:
    """`zos bench compare`: 0, or `WORSE` when something got worse."""
    from bench.comparison import compare as compare_reports
    from bench.comparison import comparison_cells, summary_lines

    if not 0 <= arguments.threshold < 100:
        raise UsageError(f"{arguments.threshold} % is no threshold", hint="--threshold takes 0 to 100")
    before, after = (results.load(Path(name)) for name in (arguments.before, arguments.after))
    found = compare_reports(before, after, threshold=arguments.threshold / 100)
    if console.json:
        console.emit(found)
    else:
        console.emit(None, _text_table(comparison_cells(found, everything=arguments.all)))
        for line in summary_lines(found):
            console.emit(None, line)
    return WORSE if found.worse else 0


def report(arguments: argparse.Namespace, console: Console) -> int:
    """`zos bench report`."""
    from bench import page

    paths = [Path(name) for name in arguments.results] or [_latest(_cache(arguments))]
    found = results.merge([results.load(path) for path in paths])
    verdicts = budgets.judge(budgets.load(), found.groups, found.machine.features)
    owner = account(os.environ).owner
    directory = Path(arguments.output)
    for path, text in page.files(found, verdicts).items():
        target = directory / path
        make_directories(target.parent, owner=owner)
        write_atomic(target, text.encode(), owner=owner)
        console.emit({"file": str(target)}, str(target))
    return 0


def _latest(cache: Cache) -> Path:
    kept = sorted(cache.results.glob("*.json")) if cache.results.is_dir() else []
    if not kept:
        raise ResultsInvalid("there are no results yet", hint="zos bench run")
    return kept[-1]


# --- peers ---------------------------------------------------------------------------------------------------------


class PeerListed(Record, frozen=True, kw_only=True):
    """A line of `zos bench peers`."""

    name: str
    kind: str
    summary: str
    version: str | None = None
    missing: str | None = None


def peers(arguments: argparse.Namespace, console: Console) -> int:
    """`zos bench peers list|install`."""
    from bench.peers import install

    cache = _cache(arguments)
    specs = _chosen_peers(arguments.names)
    if arguments.action == "install":
        if console.plan:
            for line in install.plan(specs, cache):
                console.emit({"step": line}, line)
            return 0
        install.install(specs, cache, progress=console.progress(), note=console.note, owner=account(os.environ).owner)
    listed = [_listed(spec, cache) for spec in specs]
    for one in listed:
        console.emit(one)
    if not console.json:
        rows = [[one.name, one.version or "missing", one.missing or one.summary] for one in listed]
        console.emit(None, _text_table([["peer", "version", "what it is, or why it is missing"], *rows], words=True))
    missing = [one.name for one in listed if one.missing is not None]
    if missing and arguments.action == "install":
        raise PeerMissing(f"not installed: {', '.join(missing)}", hint="why stands in the table", peers=missing)
    return 0


def _chosen_peers(names: Sequence[str]) -> list[PeerSpec]:
    """Peers by their own names and by those of groups; all of them where none is named."""
    groups = {entry.name: entry for entry in installed_suites()}
    chosen: list[str] = []
    for name in names:
        if name in groups and all(spec.name != name for spec in CATALOG):
            chosen += groups[name].load().peers
        else:
            chosen.append(name)
    return [find(name) for name in dict.fromkeys(chosen)] if names else list(CATALOG)


def _listed(spec: PeerSpec, cache: Cache) -> PeerListed:
    try:
        installed = cache.find(spec)
    except PeerMissing as error:
        why = f"{error.message}: {error.hint}" if error.hint else error.message
        return PeerListed(name=spec.name, kind=spec.kind, summary=spec.summary, missing=why)
    return PeerListed(name=spec.name, kind=spec.kind, summary=spec.summary, version=installed.version)


# --- text ----------------------------------------------------------------------------------------------------------


def _cache(arguments: argparse.Namespace) -> Cache:
    given = getattr(arguments, "cache", None)
    return Cache(Path(given).resolve() if given else cache_directory(os.environ))


def _group_text(group: Group) -> str:
    beside = [tables.load_line(group), *(f"{row.name}: {row.note}" for row in group.rows if row.note)]
    return "\n".join([group.title, _text_table(tables.cells(group)), *(f"  {line}" for line in beside), ""])


def _summary_text(found: Report, verdicts: Sequence[budgets.Verdict]) -> str:
    parts = []
    if verdicts:
        parts += ["goals (reported, not gated)", _text_table(tables.budget_cells(verdicts), words=True)]
    if found.peers:
        parts += ["peers", _text_table(tables.peer_cells(found), words=True)]
    parts += [*tables.machine_lines(found), *(f"skipped: {reason}" for reason in found.skipped)]
    return "\n".join([*parts, *(f"broke off: {reason}" for reason in found.failed)])


def _text_table(cells: Sequence[Sequence[str]], *, words: bool = False) -> str:
    """Columns under their heads, the first two to the left; all of them where they are words."""
    width = shutil.get_terminal_size((160, 24)).columns if sys.stdout.isatty() else 160
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(cells[0]):
        table.add_column(head, justify="left" if words or number < 2 else "right")
    for row in cells[1:]:
        table.add_row(*(escape(cell) for cell in row))
    stream = io.StringIO()
    RichConsole(file=stream, width=width, color_system=None, highlight=False).print(table)
    return stream.getvalue().rstrip("\n")
