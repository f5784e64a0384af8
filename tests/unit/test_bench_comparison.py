"""Two runs beside each other: a change is one only beyond noise, threshold and the drift of the machine."""

from __future__ import annotations

import msgspec
import pytest

from bench.comparison import Change, compare, comparison_cells, summary_lines
from bench.results import Group, Noise, Row
from tests.bench_reports import group, report


def change(before: Group, after: Group, row: str = "zos", threshold: float = 0.05) -> Change:
    found = compare(report(before), report(after), threshold=threshold)
    return next(one for one in found.changes if one.row == row)


@pytest.mark.parametrize(
    ("ours", "verdict"), [(40.0, "same"), (39.0, "same"), (36.0, "worse"), (44.0, "better"), (20.0, "worse")]
)
def test_a_rate_that_falls_is_worse(ours: float, verdict: str) -> None:
    assert change(group(), group(ours=ours)).verdict == verdict


def test_a_time_that_falls_is_better() -> None:
    slow, fast = (msgspec.structs.replace(group(ours=value), direction="cost") for value in (40.0, 20.0))
    assert change(slow, fast).verdict == "better"
    assert change(slow, fast).ratio == pytest.approx(2.0)
    assert change(fast, slow).verdict == "worse"


def test_the_threshold_is_the_callers() -> None:
    assert change(group(), group(ours=36.0), threshold=0.2).verdict == "same"
    assert change(group(), group(ours=39.0), threshold=0.01).verdict == "worse"


def test_a_slower_machine_is_no_slower_program() -> None:
    """All fell by a fifth, the peers too: the machine did."""
    found = change(group(), group(ours=32.0, theirs=24.0, roof=44.8))
    assert found.drift == pytest.approx(0.8)
    assert found.verdict == "same"


def test_a_faster_machine_does_not_hide_a_slower_program() -> None:
    found = change(group(), group(ours=30.0, theirs=33.0, roof=61.6))
    assert found.verdict == "worse"
    assert found.drift == pytest.approx(1.1)


def test_noise_within_a_run_is_no_change() -> None:
    wild = [10.0, 70.0, 12.0, 65.0, 38.0, 9.0, 72.0]
    noisy = msgspec.structs.replace(group(), rows=[Row(name="zos", unit="GB/s", values=wild)], baselines=[])
    calm = msgspec.structs.replace(group(), rows=[Row(name="zos", unit="GB/s", values=[34.0] * 7)], baselines=[])
    found = change(calm, noisy)
    assert found.low is not None
    assert found.low < 0.95
    assert found.verdict == "same"


def one_row(*values: float, missing: str | None = None) -> Group:
    row = Row(name="zos", unit="faults", values=[*values], missing=missing)
    return Group(key="faults", title="Faults", rows=[row])


@pytest.mark.parametrize(
    ("before", "after", "verdict"), [(0.0, 0.0, "same"), (0.0, 3.0, "worse"), (3.0, 0.0, "better")]
)
def test_zeros_have_no_ratio_and_a_verdict(before: float, after: float, verdict: str) -> None:
    found = change(one_row(before, before), one_row(after, after))
    assert (found.verdict, found.ratio) == (verdict, None)


def test_a_row_that_is_gone_fails_and_a_new_one_does_not() -> None:
    there, gone = one_row(1.0, 1.0), one_row(missing="missing: broke")
    found = compare(report(there), report(gone), threshold=0.05)
    assert [one.verdict for one in found.worse] == ["gone"]
    assert [one.verdict for one in compare(report(gone), report(there), threshold=0.05).changes] == ["new"]
    assert compare(report(gone), report(gone), threshold=0.05).worse == []


def test_peers_that_got_slower_do_not_fail_a_run() -> None:
    found = compare(report(group()), report(group(theirs=15.0)), threshold=0.05)
    assert next(one for one in found.changes if one.row == "ISA-L").verdict == "worse"
    assert found.worse == []


def test_groups_that_only_one_run_has_are_told_and_fail_nothing() -> None:
    found = compare(report(group("a"), group("b")), report(group("b"), group("c")), threshold=0.05)
    assert (found.only_before, found.only_after, found.worse) == (["a"], ["c"], [])
    text = "\n".join(summary_lines(found))
    assert "only in A: a" in text
    assert "only in B: c" in text


def test_the_summary_warns_of_another_machine_and_of_noise() -> None:
    loud = msgspec.structs.replace(group(ours=20.0), noise=Noise(load=(9.0, 9.0), busy=1.0, jitter=0.8))
    after = report(loud)
    after = msgspec.structs.replace(after, machine=msgspec.structs.replace(after.machine, cpu="another"))
    found = compare(report(), after, threshold=0.05)
    text = "\n".join(summary_lines(found))
    assert "not the same machine (cpu)" in text
    assert "1 groups were measured on a busy machine: erasure.encode" in text
    assert comparison_cells(found)[1][7] == "worse, noisy"


@pytest.mark.parametrize("what", ["unit", "direction"])
def test_values_of_another_kind_are_not_compared(what: str) -> None:
    before = after = group(ours=20.0)
    if what == "unit":
        rows = [msgspec.structs.replace(row, unit="MB/s") for row in after.rows]
        after = msgspec.structs.replace(group(), rows=rows)
    else:
        after = msgspec.structs.replace(group(), direction="cost")
    found = change(before, after)
    assert (found.verdict, found.ratio, found.drift) == ("not comparable", None, None)
    whole = compare(report(before), report(after), threshold=0.05)
    assert "4 rows have another unit or direction than before" in "\n".join(summary_lines(whole))
    assert comparison_cells(whole)[1][7] == "not comparable"


def test_the_summary_says_what_the_noise_does_not_cover() -> None:
    text = "\n".join(summary_lines(compare(report(), report(), threshold=0.05)))
    assert "where memory lies changes from run to run and is not in that noise" in text


def test_another_code_path_is_told() -> None:
    after = report()
    machine = msgspec.structs.replace(after.machine, paths={"erasure": "avx2", "other": "x"})
    found = compare(report(), msgspec.structs.replace(after, machine=machine), threshold=0.05)
    assert found.other_paths == ["erasure gfni-512, then avx2"]
    assert "not the same code paths (erasure gfni-512, then avx2)" in "\n".join(summary_lines(found))
    assert compare(report(), report(), threshold=0.05).other_paths == []


def test_the_table_has_what_changed_and_on_demand_everything() -> None:
    found = compare(report(), report(group(ours=20.0)), threshold=0.05)
    assert [row[1] for row in comparison_cells(found)] == ["row", "zos", "zos, bare"]
    everything = comparison_cells(found, everything=True)
    assert [row[1] for row in everything] == ["row", "zos", "zos, bare", "(ISA-L)", "(zfec)", "(XOR)"]
    assert everything[4][2:4] == ["missing", "missing"]
    assert everything[1][5].startswith("0.50x (")
