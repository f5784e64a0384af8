"""`python -m bench` (`make bench`): measures, tables on the terminal, JSON and Markdown in .cache/bench. As root."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import time
import tomllib
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
from rich import box
from rich.console import Console
from rich.table import Table

from bench import machine, report
from bench.options import Options
from bench.recorder import Recorder
from bench.workspace import HERE, ROOT, Failed, Workspace
from zos_core.base.document import encode_json

PARTS = ("build", "containers", "erasure", "fetch", "hash", "memory", "merkle", "mount", "sign")
QUICK = {"starts": 10, "builds": 1, "fetches": 1, "warm": 3, "cold": 2, "runs": 10}
PYTEST_OPTIONS = [
    *("-c", str(ROOT / "pyproject.toml"), "--rootdir", str(ROOT)),
    *("-o", "python_files=bench_*.py", "-o", "python_functions=bench_*", "-o", "timeout=0"),
    *("-o", "addopts=--strict-config --strict-markers --import-mode=importlib"),
    *("-p", "no:cacheprovider", "-q", "-q", "-s", "--no-header", "--tb=short", "--show-capture=no"),
    *("--benchmark-enable", "--benchmark-quiet", "-W", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning"),
]


class Run:
    """What the measures get as a plugin of pytest."""

    def __init__(self, options: Options, console: Console) -> None:
        def say(text: str) -> None:
            console.print(f"[bold]>[/bold] {text}", highlight=False)

        self.options = options
        prefer = machine.prefer_instance if options.preferred else lambda instance: None
        self.workspace = Workspace(say=say, given_tree=options.tree, prefer=prefer)
        self.recorder = Recorder(say=say, show=lambda group: show(console, group), quiet_wait_s=options.quiet_wait_s)


def show(console: Console, group: report.Group) -> None:
    """Print a group as a table; its title was said when it began."""
    _print_table(console, report.cells(group))
    for line in [report.load_line(group), *(f"{row.name}: {row.note}" for row in group.rows if row.note)]:
        console.print(f"  [dim]{line}[/dim]", highlight=False)
    console.print()


def _print_table(console: Console, cells: list[list[str]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for number, head in enumerate(cells[0]):
        table.add_column(head, justify="left" if number < 2 else "right")
    for row in cells[1:]:
        table.add_row(*row)
    console.print(table, highlight=False, markup=False)


def parse(argv: Sequence[str] | None) -> tuple[Options, list[str]]:
    """Options, and the parts to measure."""
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("--only", action="append", choices=PARTS, help="measure this part alone (may be repeated)")
    parser.add_argument("--quick", action="store_true", help="few rounds: a look in about two minutes")
    parser.add_argument("--rounds", type=int, metavar="N", help="container starts and execs (default 40)")
    parser.add_argument("--tree", type=Path, metavar="DIR", help="a root file system to use; default: a new Debian one")
    parser.add_argument("--output", type=Path, metavar="DIR", default=ROOT / ".cache/bench", help="where results go")
    parser.add_argument(
        "--quiet-wait", type=float, metavar="S", default=10.0, help="wait so long for a quiet machine before each table"
    )
    parser.add_argument(
        "--prefer", action="store_true", help="take precedence over other programs, where they cannot be stopped"
    )
    given = parser.parse_args(argv)
    if given.tree is not None and not given.tree.is_dir():
        parser.error(f"{given.tree} is no directory")
    rounds: dict[str, int] = dict(QUICK) if given.quick else {}
    if given.rounds is not None:
        rounds["starts"] = max(1, given.rounds)
    options = Options(
        **rounds,
        tree=None if given.tree is None else given.tree.resolve(),
        output=given.output.resolve(),
        preferred=given.prefer,
        quiet_wait_s=given.quiet_wait,
    )
    return options, given.only or list(PARTS)


def write(directory: Path, found: report.Report, verdicts: list[report.Verdict]) -> Path:
    """Write JSON and Markdown under the time of the run; they belong to whom the checkout belongs. The page's path."""
    directory.mkdir(parents=True, exist_ok=True)
    stem = directory / found.begun.replace(":", "").replace(" ", "-")
    paths = [stem.with_suffix(".json"), stem.with_suffix(".md")]
    paths[0].write_bytes(msgspec.json.format(encode_json(found), indent=1))
    paths[1].write_text(report.markdown(found, verdicts))
    owner = ROOT.stat()
    if os.geteuid() == 0:
        for path in (*paths, directory, directory.parent):
            if path.stat().st_uid == 0 and (path in paths or path.is_relative_to(ROOT)):
                os.chown(path, owner.st_uid, owner.st_gid)
    return paths[1]


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


def main(argv: Sequence[str] | None = None) -> int:
    """Measure; 0 when everything that was to be measured was, or is missing here."""
    options, parts = parse(argv)
    console = Console(width=None if sys.stdout.isatty() else 160)
    if os.geteuid() != 0:
        console.print("make bench needs root for mounts and containers; run it with sudo at hand, or as root")
        return 1
    signal.signal(signal.SIGTERM, _interrupt)
    begun, begin_s = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"), time.monotonic()
    try:
        if options.preferred:
            machine.prefer()
        run = Run(options, console)
    except Failed as failure:
        console.print(str(failure), highlight=False)
        return 1
    status, interrupted, image = 1, True, "none was built"
    try:
        where = [str(HERE / f"bench_{part}.py") for part in parts]
        status = int(pytest.main([*PYTEST_OPTIONS, *where], plugins=[_Named(run)]))
        interrupted = status == pytest.ExitCode.INTERRUPTED
        if (run.workspace.directory / "store").exists() and not interrupted:
            image = (
                f"{run.workspace.tree_bytes() / 1e6:.0f} MB of files, {run.workspace.store_bytes() / 1e6:.0f} MB stored"
            )
    except KeyboardInterrupt:
        console.print("interrupted")
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, signal.SIG_IGN)
        run.recorder.say("taking everything away again")
        for left in run.workspace.close():
            console.print(f"[red]left behind: {left}[/red]", highlight=False)
            status = status or 1
    found = report.Report(
        begun=begun,
        seconds=time.monotonic() - begin_s,
        arguments=list(sys.argv[1:] if argv is None else argv),
        interrupted=interrupted,
        machine=machine.describe(),
        image=image,
        groups=run.recorder.groups,
        skipped=run.recorder.skipped,
    )
    budgets = msgspec.convert(tomllib.loads((HERE / "budgets.toml").read_text()), report.Budgets)
    verdicts = [one for one in report.judge(budgets.budget, found.groups) if _was_measured(one, found)]
    if verdicts:
        run.recorder.say("budgets (reported, not gated)")
        _print_table(console, report.budget_cells(verdicts))
    for line in [*report.machine_lines(found), *(f"skipped: {reason}" for reason in found.skipped)]:
        console.print(line, highlight=False)
    if found.groups:
        console.print(f"written to {write(options.output, found, verdicts)} and .json", highlight=False, soft_wrap=True)
    return 130 if interrupted else status


def _was_measured(verdict: report.Verdict, found: report.Report) -> bool:
    """Whether the run had this group at all: what was left out by --only is no missing figure."""
    return any(group.key == verdict.budget.group for group in found.groups)


class _Named:
    """Registers the run under the name by which conftest finds it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_configure(self, config: pytest.Config) -> None:
        """Make the run known."""
        config.pluginmanager.register(self._run, "zos-bench")

    def pytest_report_teststatus(self, report: pytest.TestReport) -> tuple[str, str, str] | None:
        """No dots between the tables."""
        return ("passed", "", "") if report.passed else None


if __name__ == "__main__":
    sys.exit(main())
