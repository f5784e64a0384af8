"""Progress as lines, as bars and as nothing."""

from __future__ import annotations

import io

import pytest

from zos_core.base.progress import SILENT, Bars, Lines, choose, size_text


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1.0 kB"),
        (99_949, "99.9 kB"),
        (99_950, "100 kB"),
        (999_499, "999 kB"),
        (999_500, "1.0 MB"),
        (270_000_000, "270 MB"),
        (5 * 10**12, "5.0 TB"),
    ],
)
def test_sizes(count: int, text: str) -> None:
    assert size_text(count) == text


def test_lines_come_now_and_then_and_at_the_end() -> None:
    times = iter([0.0, 1.0, 6.0, 7.0, 10.0])
    stream = io.StringIO()
    with Lines(stream, clock_s=lambda: next(times)).task("packing", total=4000, unit="bytes") as task:
        task.advance(1000)
        task.advance(1000)
        task.advance(1000)
    assert stream.getvalue() == "packing: 2.0 kB of 4.0 kB, 50 %\npacking: 3.0 kB in 10.0 s\n"


def test_a_total_may_come_later() -> None:
    times = iter([0.0, 6.0, 12.0, 13.0])
    stream = io.StringIO()
    with Lines(stream, clock_s=lambda: next(times)).task("files") as task:
        task.advance(1)
        task.expect(4)
        task.advance(1)
    assert stream.getvalue().splitlines()[:2] == ["files: 1", "files: 2 of 4, 50 %"]


def test_what_was_never_counted_has_no_amount() -> None:
    times = iter([0.0, 1.5])
    stream = io.StringIO()
    with Lines(stream, clock_s=lambda: next(times)).task("reading the tree"):
        pass
    assert stream.getvalue() == "reading the tree: 1.5 s\n"


def test_work_that_fails_has_no_last_line() -> None:
    stream = io.StringIO()
    with pytest.raises(ValueError), Lines(stream).task("files"):
        raise ValueError
    assert stream.getvalue() == ""


def test_what_fits_a_stream() -> None:
    assert choose(io.StringIO(), quiet=True) is SILENT
    assert isinstance(choose(io.StringIO(), quiet=False), Lines)

    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    terminal = Terminal()
    bars = choose(terminal, quiet=False)
    assert isinstance(bars, Bars)
    for unit in ("bytes", "items"):
        with bars.task("packing", total=10, unit=unit) as task:
            task.advance(5)
            task.expect(20)
    with SILENT.task("nothing") as task:
        task.advance(1)
        task.expect(2)
