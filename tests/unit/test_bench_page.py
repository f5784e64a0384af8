"""Pages and plots: golden, well-formed, without a script; what is missing is no number anywhere."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath
from xml.etree import ElementTree

import msgspec
import pytest

from bench import page, plot
from bench.budgets import Budget, judge
from bench.results import Group, Noise, Row
from bench.standing import losses, standings
from tests.bench_reports import MACHINE, group, report

VECTORS = Path(__file__).resolve().parents[1] / "vectors/bench"
SVG = "{http://www.w3.org/2000/svg}"
GOALS = [
    Budget(group="erasure.encode", row="zos", baseline="ISA-L", at_least=1.25, goal="G1", source="a page"),
    Budget(group="erasure.encode", row="zos", baseline="XOR", at_least=0.9, goal="G2", source="a page"),
    Budget(group="erasure.encode", row="zos", baseline="zfec", at_least=2.0, goal="G3", source="a page"),
    Budget(group="sign", row="zos", at_most=9.0, goal="G7", needs=["avx512ifma"], source="a page"),
]


def texts(svg: str) -> list[str]:
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("name", ["performance.md", "performance/goals.svg", "performance/erasure.encode.svg"])
def test_the_report_is_what_it_was(name: str) -> None:
    """To change it on purpose: `python -m tests.bench_golden`, and look at the pages."""
    made = page.files(report(), judge(GOALS, report().groups, MACHINE.features))
    assert made[PurePosixPath(name)] == (VECTORS / Path(name).name).read_text()


def test_the_files_of_a_report_are_those_that_its_pages_show() -> None:
    made = page.files(report(), judge(GOALS, report().groups, MACHINE.features))
    shown = re.findall(r"!\[[^\]]*\]\(([^)]+)\)", made[PurePosixPath("performance.md")])
    assert {PurePosixPath(name) for name in shown} == {name for name in made if name.suffix == ".svg"}


def test_the_page_needs_nothing_else_and_escapes_what_it_shows() -> None:
    text = page.html(report(), judge(GOALS, report().groups, MACHINE.features))
    assert "<script" not in text
    assert "http://" not in text.replace("http://www.w3.org/2000/svg", "")
    assert "Encode &lt;16+4&gt; &amp; more" in text
    assert "<16+4>" not in text
    assert "Missing peers, which have no figures here: zfec." in text
    assert '<td class="missed">missed</td>' in text
    assert "this CPU has no avx512ifma" in text


def test_a_plot_is_well_formed_and_names_axis_unit_and_rows() -> None:
    made = plot.group_plot(group())
    assert made is not None
    shown = texts(made)
    assert "GB/s (more is better)" in shown
    assert {"zos", "ISA-L", "XOR", "Encode <16+4> & more", "40.0", "30.0"} <= set(shown)
    assert "zfec" not in shown
    root = ElementTree.fromstring(made)
    assert root.find(f"{SVG}title") is not None
    assert "prefers-color-scheme:dark" in made


def bars(svg: str) -> list[float]:
    found = ElementTree.fromstring(svg).iter(f"{SVG}rect")
    return [float(bar.attrib["width"]) for bar in found if bar.attrib["class"] in ("z-ours", "z-peer", "z-roof")]


def test_bars_begin_at_zero_and_are_as_long_as_their_values() -> None:
    made = plot.group_plot(group())
    assert made is not None
    ours, bare, theirs, roof = bars(made)
    assert ours / theirs == pytest.approx(40 / 30, rel=0.01)
    assert bare / ours == pytest.approx(1.1, rel=0.01)
    assert roof / theirs == pytest.approx(56 / 30, rel=0.01)


def test_values_far_apart_are_points_on_an_axis_that_says_logarithmic() -> None:
    made = plot.group_plot(group(theirs=0.4))
    assert made is not None
    assert bars(made) == []
    assert "GB/s (more is better, logarithmic)" in texts(made)
    assert sum("circle" in element.tag for element in ElementTree.fromstring(made).iter()) == 4


@pytest.mark.parametrize(
    "rows",
    [
        [],
        [Row(name="zos", unit="ms", values=[1.0])],
        [Row(name="zos", unit="ms", values=[1.0]), Row(name="other", unit="MB", values=[1.0])],
        [Row(name="zos", unit="ms", values=[0.0]), Row(name="other", unit="ms", values=[0.0])],
        [Row(name="zos", unit="ms", values=[1.0]), Row(name="other", unit="ms", missing="missing: not here")],
    ],
)
def test_what_cannot_be_set_beside_each_other_has_no_plot(rows: list[Row]) -> None:
    assert plot.group_plot(Group(key="x", title="X", rows=rows)) is None


def test_goals_are_marked_by_shape_and_word() -> None:
    made = plot.goals_plot(judge(GOALS, [group()], MACHINE.features))
    assert made is not None
    shown = texts(made)
    assert "1.33 reached" in shown
    assert "0.714 missed" in shown
    assert not [text for text in shown if "G3" in text or "G7" in text]


def test_losses_are_beyond_noise_and_the_worst_first() -> None:
    near, worst, won = group("near", theirs=40.0), group("worst", theirs=80.0), group("won")
    slower = group("slower", theirs=50.0)
    assert [one.group.key for one in losses([near, slower, worst, won])] == ["worst", "slower"]
    assert len(standings([near, worst, won])) == 3
    text = page.markdown(report(worst), [])
    assert "ISA-L is 2.00 times as good as zos" in text
    assert "To none of the 1 peers' rows" in page.markdown(report(won), [])


def test_the_page_says_what_its_intervals_cover() -> None:
    for made in (page.markdown(report(), []), page.html(report(), [])):
        assert "90 % bootstrap interval over the rounds of one process" in made
        assert "where memory lies changes from run to run and is not in it" in made


def test_the_page_says_the_command_that_it_is_from() -> None:
    words = ["bench", "run", "--peers", "--prefer", "--tree", "/a tree", ";", "zos", "bench", "run", "sign"]
    made = page.markdown(msgspec.structs.replace(report(), arguments=words), [])
    assert "from what `zos bench run --peers --prefer --tree '/a tree'; zos bench run sign` found" in made


def test_a_key_that_is_no_name_of_a_file_gets_one_of_its_own() -> None:
    keys = ["a/b", "a:b", "a-b", "x" * 400, "x" * 401, "../../etc", ""]
    made = page.files(report(*(group(key) for key in keys)), [])
    plots = [path for path in made if path.suffix == ".svg"]
    assert len(plots) == len(keys)
    assert all(len(path.name) < 200 and path.parent == PurePosixPath("performance") for path in plots)
    assert PurePosixPath("performance/a-b.svg") in plots


@pytest.mark.parametrize("value", [5e-324, 1e-300, 1e100])
def test_the_ends_of_what_a_file_may_hold_are_shown_or_left_out(value: float) -> None:
    rows = [Row(name="zos", unit="ms", values=[value] * 3), Row(name="other", unit="ms", values=[value / 2] * 3)]
    made = plot.group_plot(Group(key="x", title="X", rows=rows))
    assert (made is None) == (value < 1)
    page.html(report(Group(key="x", title="X", rows=rows, baselines=["other"])), [])


def test_noise_is_said_at_the_top() -> None:
    loud = msgspec.structs.replace(group(), noise=Noise(load=(7.5, 8.0), jitter=0.5))
    made = page.markdown(report(loud), [])
    assert "1 of 1 groups were measured on a busy machine (in the worst, the same work varied by 50%)" in made
    assert "busy machine" not in page.markdown(report(), [])
