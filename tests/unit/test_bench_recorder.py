"""Groups while they are measured: kept as far as they came, with roles, noise and reasons."""

from __future__ import annotations

import itertools

import pytest

from bench.errors import MeasureFailed
from bench.recorder import Recorder
from bench.results import Group, decode
from tests.bench_reports import report
from zos_core.base.document import encode_json


@pytest.fixture
def shown() -> list[Group]:
    return []


@pytest.fixture
def recorder(shown: list[Group], monkeypatch: pytest.MonkeyPatch) -> Recorder:
    monkeypatch.setattr("bench.recorder.wait_quiet", lambda seconds: 0.125)
    ticks = iter([(1000, 500, 0), (1200, 600, 50)])
    monkeypatch.setattr("bench.recorder.cpu_times", lambda: next(ticks))
    return Recorder(say=lambda text: None, show=shown.append, quiet_wait_s=0.0, suite="erasure")


def test_a_group_has_roles_reasons_and_the_noise_it_was_measured_in(
    recorder: Recorder, shown: list[Group], monkeypatch: pytest.MonkeyPatch
) -> None:
    probes = itertools.cycle([1.0, 1.0, 1.0, 1.0, 2.0])
    monkeypatch.setattr("bench.recorder.probe_s", lambda: next(probes))
    rows = [("zos", "ms"), ("peer", "ms"), ("gone", "ms"), ("floor", "ms")]
    with recorder.group("k", "T", rows, baselines=["peer", "gone"], roofs=["floor"]) as group:
        for _ in range(10):
            group.next_round()
            group.add_ms("zos", 2e6)
        group.missing("gone", "missing: not here")
        group.note("zos", "hot")
    (made,) = shown
    assert recorder.groups == [made]
    assert [(row.name, row.role) for row in made.rows] == [
        ("zos", "ours"),
        ("peer", "peer"),
        ("gone", "peer"),
        ("floor", "roof"),
    ]
    assert made.rows[0].values == [2.0] * 10
    assert (made.rows[0].note, made.rows[2].missing) == ("hot", "missing: not here")
    assert (made.suite, made.noise.busy, made.noise.stolen) == ("erasure", 0.125, 0.25)
    assert made.noise.jitter == pytest.approx(1.0)


def test_what_broke_off_is_kept_as_far_as_it_came(recorder: Recorder) -> None:
    with pytest.raises(ZeroDivisionError), recorder.group("k", "T", [("zos", "ms")]) as group:
        group.add("zos", 1.0)
        raise ZeroDivisionError
    assert [row.values for row in recorder.groups[0].rows] == [[1.0]]


def test_a_row_that_was_not_come_to_says_so_and_the_file_can_be_read(recorder: Recorder) -> None:
    with pytest.raises(ZeroDivisionError), recorder.group("k", "T", [("zos", "ms"), ("peer", "ms")]) as group:
        group.add("zos", 1.0)
        raise ZeroDivisionError
    done, left = recorder.groups[0].rows
    assert (done.missing, left.missing) == (None, "missing: not measured, or broken off before")
    decode(encode_json(report(*recorder.groups)), what="it")


def test_what_has_no_sample_is_no_group(recorder: Recorder, shown: list[Group]) -> None:
    with recorder.group("k", "T", [("zos", "ms")]) as group:
        group.missing("zos", "missing: not here")
    assert shown == recorder.groups == []


def test_baselines_of_ours_are_no_peers(recorder: Recorder) -> None:
    rows = [("zos", "ms"), ("zos, twin", "ms"), ("peer", "ms")]
    with recorder.group("k", "T", rows, baselines=["zos, twin", "peer"], peers=["peer"]) as group:
        group.add("zos", 1.0)
    assert [row.role for row in recorder.groups[0].rows] == ["ours", "ours", "peer"]


def test_a_reason_is_told_once_however_many_groups_it_skips() -> None:
    said: list[str] = []
    recorder = Recorder(say=said.append, show=lambda group: None, quiet_wait_s=0)
    for reason in ("needs root", "needs root", "no such peer", "needs root"):
        recorder.skip(reason)
    assert recorder.skipped == ["needs root", "no such peer"]
    assert said == ["skipped: needs root", "skipped: no such peer"]


def test_names_that_are_taken_are_a_fault_of_the_measure(recorder: Recorder) -> None:
    with recorder.group("k", "T", [("zos", "ms")]) as group:
        group.add("zos", 1.0)
    with pytest.raises(MeasureFailed), recorder.group("k", "T", [("zos", "ms")]):
        pass
    with pytest.raises(MeasureFailed), recorder.group("other", "T", [("zos", "ms"), ("zos", "ms")]):
        pass


def test_peers_are_written_down_with_version_or_reason(recorder: Recorder) -> None:
    recorder.saw_peer("isa-l", missing="not installed")
    recorder.saw_peer("isa-l", version="2.31.1")
    assert (recorder.peers["isa-l"].version, recorder.peers["isa-l"].missing) == ("2.31.1", None)
