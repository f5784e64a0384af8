"""One run: pytest over the modules of the chosen groups, with pytest-benchmark below, and the report of it."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

from bench.errors import ExtrasMissing
from bench.results import PeerSeen, Report
from bench.suite import Suite

if TYPE_CHECKING:
    import pytest

    from bench.options import Options
    from bench.peers.cache import Cache
    from bench.recorder import Recorder
    from bench.workspace import Workspace

__all__ = ["Run", "require_extras"]

PLUGIN = "zos-bench"
EXTRAS = ("pytest", "pytest_benchmark")
PYTEST_OPTIONS = [
    *("-c", str(Path(__file__).with_name("pytest.ini")), "--rootdir", str(Path(__file__).parent)),
    *("-p", "no:cacheprovider", "-p", "no:terminal", "-p", "no:faulthandler", "-s", "--assert=plain"),
    # Results are ours to keep (bench.results); the plugin would make a folder for them wherever one stands.
    *("--benchmark-storage", "file:///dev/null"),
    *("--benchmark-enable", "--benchmark-quiet", "-W", "ignore::pytest_benchmark.logger.PytestBenchmarkWarning"),
]


def require_extras() -> None:
    """Say what is missing before anything is begun.

    Raises:
        ExtrasMissing: pytest or pytest-benchmark cannot be imported.
    """
    for name in EXTRAS:
        try:
            import_module(name)
        except ImportError as error:
            raise ExtrasMissing(
                f"the measures need {name.replace('_', '-')}, which is not installed",
                hint="pip install 'zos[bench]', or in a checkout: make setup",
            ) from error


class Run:
    """A run, which is a plugin of pytest too: `bench.fixtures` asks it for what measures share."""

    def __init__(self, suites: Mapping[str, Suite], options: Options, cache: Cache, recorder: Recorder) -> None:
        from bench.peers.arena import Arena

        self.options = options
        self.recorder = recorder
        self.arena = Arena(cache=cache, witness=recorder)
        self.failed: list[str] = []
        self._workspace: Workspace | None = None
        self._suites = suites
        self._of_path = {str(path): name for name, suite in suites.items() for path in suite.paths()}
        self._done, self._total = 0, 0
        self._begin_s = time.monotonic()
        recorder.label = self._label

    def workspace(self) -> Workspace:
        """The directory and instance of this run; made when a measure first asks for it.

        Raises:
            Failed: there is no disk for it.
        """
        from bench import machine
        from bench.workspace import Workspace

        if self._workspace is None:
            prefer = machine.prefer_instance if self.options.preferred else lambda instance: None
            self._workspace = Workspace(say=self.recorder.say, given_tree=self.options.tree, prefer=prefer)
        return self._workspace

    def measure(self, arguments: list[str]) -> Report:
        """Run everything; what was found, also when it was broken off. Takes away what the measures made."""
        import pytest

        from bench import fixtures, machine

        begun, begin_s = datetime.now(UTC).strftime("%Y-%m-%d %H:%M:%S"), time.monotonic()
        if self.options.preferred:
            machine.prefer()
        interrupted, image = True, ""
        terminate = signal.signal(signal.SIGTERM, _interrupt)
        interrupt = signal.getsignal(signal.SIGINT)
        try:
            with _without_git():
                status = pytest.main([*PYTEST_OPTIONS, *self._of_path], plugins=[_Named(self), fixtures])
            interrupted = status == pytest.ExitCode.INTERRUPTED
            if not interrupted and status not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
                self.failed.append(f"pytest ended with {status!r}")
            image = "" if interrupted else self._image()
        except KeyboardInterrupt:
            self.recorder.say("interrupted")
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, signal.SIG_IGN)
            self._close()
            signal.signal(signal.SIGTERM, terminate)
            signal.signal(signal.SIGINT, interrupt)
        return Report(
            begun=begun,
            seconds=time.monotonic() - begin_s,
            arguments=arguments,
            interrupted=interrupted,
            machine=machine.describe(self.recorder.paths),
            image=image,
            groups=self.recorder.groups,
            peers=self._peers(),
            skipped=self.recorder.skipped,
            failed=self.failed,
        )

    def _image(self) -> str:
        space = self._workspace
        if space is None or not (space.directory / "store").exists():
            return ""
        return f"{space.tree_bytes() / 1e6:.0f} MB of files, {space.store_bytes() / 1e6:.0f} MB stored"

    def _close(self) -> None:
        if self._workspace is not None:
            self.recorder.say("taking everything away again")
            self.failed += [f"left behind: {left}" for left in self._workspace.close()]

    def _peers(self) -> list[PeerSeen]:
        """What the measures asked for, and what else of the suites' peers is missing: nothing is left out silently."""
        from bench.errors import PeerMissing
        from bench.peers.catalog import find

        seen = dict(self.recorder.peers)
        if self.options.peers:
            for name in (name for suite in self._suites.values() for name in suite.peers if name not in seen):
                try:
                    seen[name] = PeerSeen(name=name, version=self.arena.cache.find(find(name)).version)
                except PeerMissing as error:
                    seen[name] = PeerSeen(name=name, missing=error.message)
        return list(seen.values())

    def _label(self, title: str) -> str:
        """A title with where in the run we are and about how long the rest takes."""
        where = f"{title} [{self._done + 1} of {self._total}"
        if self._done:
            left_s = (time.monotonic() - self._begin_s) / self._done * (self._total - self._done)
            where += f", about {_duration(left_s)} left"
        return f"{where}]"

    # --- hooks of pytest -------------------------------------------------------------------------------------------

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        """How many measures there are."""
        self._total = len(session.items)
        self._begin_s = time.monotonic()

    def pytest_runtest_setup(self, item: pytest.Item) -> None:
        """Which group's measures come."""
        self.recorder.suite = self._of_path.get(str(item.path), "")

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count; keep what broke off."""
        if report.when == "teardown":
            self._done += 1
        if report.failed:
            self._broken(report.nodeid, report.longreprtext)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        """Keep what could not even be imported."""
        if report.failed:
            self._broken(report.nodeid, report.longreprtext)

    def _broken(self, name: str, text: str) -> None:
        last = next((line for line in reversed(text.splitlines()) if line.strip()), "no reason was given")
        reason = next((line[1:].strip() for line in text.splitlines() if line.startswith("E ")), last)
        self.failed.append(f"{name.rpartition('/')[2]}: {reason}")
        self.recorder.say(f"{text}\n{name} broke off")


@contextmanager
def _without_git() -> Iterator[None]:
    """pytest-benchmark has git describe the checkout when it is loaded, which writes the index anew: as root, a user's.

    What we say of the commit is `bench.machine`'s.
    """
    before = os.environ.get("GIT_DIR")
    os.environ["GIT_DIR"] = os.devnull
    try:
        yield
    finally:
        os.environ.pop("GIT_DIR")
        if before is not None:
            os.environ["GIT_DIR"] = before


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


class _Named:
    """Registers the run under the name by which the fixtures find it."""

    def __init__(self, run: Run) -> None:
        self._run = run

    def pytest_configure(self, config: pytest.Config) -> None:
        """Make the run known."""
        config.pluginmanager.register(self._run, PLUGIN)
