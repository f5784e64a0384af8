"""Progress of long work, on stderr: bars on a terminal (rich), a line now and then elsewhere, nothing when asked so.

Library code takes a `Progress` and says

    with progress.task("packing", total=n, unit="bytes") as task:
        task.advance(k)

What becomes of it is the command line's business. `advance` may be called from any thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Literal, Protocol, TextIO

__all__ = ["SILENT", "Bars", "Lines", "Progress", "Silent", "Task", "Unit", "choose", "size_text"]

LINE_INTERVAL_S = 5.0

Unit = Literal["bytes", "items"]


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, count: int) -> None:
        """`count` more bytes or items are done."""

    def expect(self, total: int) -> None:
        """The total is known now."""


class Progress(Protocol):
    """Where progress is shown."""

    def task(self, label: str, *, total: int | None = None, unit: Unit = "items") -> AbstractContextManager[Task]:
        """Work that is shown from entering the block to leaving it."""


def choose(stream: TextIO, *, quiet: bool) -> Progress:
    """What fits `stream`: a terminal gets bars if rich is there (a node has none)."""
    if quiet:
        return SILENT
    if stream.isatty():
        try:
            return Bars(stream)
        except ImportError:
            pass
    return Lines(stream)


def size_text(count: int) -> str:
    """Bytes for people: "812 B", "4.1 MB" (powers of ten, as disks and links are measured)."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 999.5:
            return f"{size:.0f} {unit}" if unit == "B" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


class _NoTask:
    def advance(self, count: int) -> None:
        return

    def expect(self, total: int) -> None:
        return


class Silent:
    """Shows nothing."""

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: Unit = "items") -> Iterator[Task]:
        """Work that nobody sees."""
        yield _NoTask()


SILENT = Silent()


class Lines:
    """Plain lines: now and then while a task runs, and one at its end."""

    def __init__(self, stream: TextIO, *, clock_s: Callable[[], float] = time.monotonic) -> None:
        """`clock_s`: monotonic seconds."""
        self._stream = stream
        self._clock_s = clock_s

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: Unit = "items") -> Iterator[Task]:
        """Work that says how far it is every few seconds."""
        task = _LineTask(label, total, unit, self._stream, self._clock_s)
        yield task
        task.end()


class _LineTask:
    def __init__(self, label: str, total: int | None, unit: Unit, stream: TextIO, clock_s: Callable[[], float]) -> None:
        self._label, self._total, self._unit = label, total, unit
        self._stream, self._clock_s = stream, clock_s
        self._done = 0
        self._began_s = self._said_s = clock_s()
        self._lock = threading.Lock()

    def advance(self, count: int) -> None:
        with self._lock:
            self._done += count
            now_s = self._clock_s()
            if now_s - self._said_s >= LINE_INTERVAL_S:
                self._said_s = now_s
                self._say(self._state())

    def expect(self, total: int) -> None:
        self._total = total

    def end(self) -> None:
        passed_s = self._clock_s() - self._began_s
        # Of what was never counted there is no amount: "reading the tree: 0" would be no truth.
        amount = f"{self._amount(self._done)} in " if self._done or self._unit == "bytes" else ""
        self._say(f"{amount}{passed_s:.1f} s")

    def _say(self, text: str) -> None:
        with suppress(OSError):  # the work is no worse where it cannot be shown
            print(f"{self._label}: {text}", file=self._stream, flush=True)

    def _state(self) -> str:
        if not self._total:
            return self._amount(self._done)
        return f"{self._amount(self._done)} of {self._amount(self._total)}, {100 * self._done // self._total} %"

    def _amount(self, count: int) -> str:
        return size_text(count) if self._unit == "bytes" else str(count)


class Bars:
    """Bars on a terminal, gone when their task ends."""

    def __init__(self, stream: TextIO) -> None:
        """Raises ImportError where rich is not installed."""
        import rich.console
        import rich.progress

        self._progress = rich.progress
        self._console = rich.console.Console(file=stream)

    @contextmanager
    def task(self, label: str, *, total: int | None = None, unit: Unit = "items") -> Iterator[Task]:
        """Work with a bar of its own."""
        kit = self._progress
        columns: list[Any] = [kit.TextColumn("{task.description}"), kit.BarColumn()]
        if unit == "bytes":
            columns += [kit.DownloadColumn(), kit.TransferSpeedColumn()]
        else:
            columns += [kit.MofNCompleteColumn()]
        columns.append(kit.TimeRemainingColumn())
        with kit.Progress(*columns, console=self._console, transient=True) as bars:
            number = bars.add_task(label, total=total)

            class BarTask:
                def advance(self, count: int) -> None:
                    bars.advance(number, count)

                def expect(self, total: int) -> None:
                    bars.update(number, total=total)

            yield BarTask()
