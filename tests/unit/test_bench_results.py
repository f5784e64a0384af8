"""The file of results: read whole or refused, merged only for one machine."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bench.errors import ResultsInvalid, ResultsVersion
from bench.results import Group, Report, Row, decode, load, merge, save
from tests.bench_reports import group, report
from zos_core.base.document import encode_json

VECTOR = Path(__file__).resolve().parents[1] / "vectors/bench/results-2.json"


def changed(**changes: Any) -> bytes:
    made = json.loads(VECTOR.read_text())
    made.update(changes)
    return json.dumps(made).encode()


def test_the_vector_is_what_is_written_and_read(tmp_path: Path) -> None:
    """To change the format on purpose: another version, another vector."""
    made = report()
    save(tmp_path / "results.json", made)
    assert (tmp_path / "results.json").read_bytes() == VECTOR.read_bytes()
    assert load(VECTOR) == made


def test_fields_of_later_days_are_ignored() -> None:
    assert decode(changed(colour="blue"), what="it") == report()


@pytest.mark.parametrize("version", [1, 3, -1])
def test_another_version_is_refused_with_both_numbers(version: int) -> None:
    with pytest.raises(ResultsVersion) as caught:
        decode(changed(version=version), what="it")
    assert f"version {version}" in caught.value.message
    assert caught.value.message.endswith("this zos reads 2")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"[]",
        b"\xff\xfe",
        b"{}",
        b'{"version": "2"}',
        b'{"version": 2}',
        changed(groups=3),
        changed(machine=None),
    ],
)
def test_what_is_no_results_is_refused(data: bytes) -> None:
    with pytest.raises(ResultsInvalid):
        decode(data, what="it")


@pytest.mark.parametrize("changes", [{"baselines": ["nobody"]}, {"headline": "nobody"}, {"rows": group().rows * 2}])
def test_a_group_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    broken = msgspec.structs.replace(report(), groups=[msgspec.structs.replace(group(), **changes)])
    with pytest.raises(ResultsInvalid):
        decode(encode_json(broken), what="it")


@pytest.mark.parametrize(
    "groups",
    [
        [group("a"), group("b"), group("a")],
        [msgspec.structs.replace(group(), rows=[*group().rows, Row(name="empty", unit="GB/s")])],
        [msgspec.structs.replace(group(), rows=[Row(name="zos", unit="GB/s", values=[1e308])], baselines=[])],
        [msgspec.structs.replace(group(), rows=[Row(name="zos", unit="GB/s", values=[-1e101])], baselines=[])],
    ],
    ids=["a key twice", "neither samples nor a reason", "too much", "too little"],
)
def test_groups_that_say_nothing_or_two_things_are_refused(groups: list[Group]) -> None:
    with pytest.raises(ResultsInvalid):
        decode(encode_json(report(*groups)), what="it")


def test_a_file_too_long_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bench.results.FILE_BYTES_MAX", 100)
    with pytest.raises(ResultsInvalid):
        load(VECTOR)


def test_runs_of_one_machine_become_one_and_the_later_group_counts() -> None:
    first, second = group(key="a"), group(key="b")
    again = msgspec.structs.replace(second, title="measured again")
    merged = merge([report(first, second), report(again)])
    assert [one.title for one in merged.groups] == [first.title, "measured again"]
    assert merged.seconds == 2 * report().seconds
    words = report().arguments
    assert merged.arguments == [*words, ";", "zos", *words]


def test_runs_of_two_machines_are_no_table() -> None:
    other = report()
    other = msgspec.structs.replace(other, machine=msgspec.structs.replace(other.machine, cpu="another cpu"))
    with pytest.raises(ResultsInvalid, match="cpu differ"):
        merge([report(), other])


def test_the_row_to_compare_is_the_first_of_ours_or_the_one_named() -> None:
    def headline(made: Group) -> str | None:
        row = made.headline_row()
        return None if row is None else row.name

    assert headline(group()) == "zos"
    assert headline(msgspec.structs.replace(group(), headline="zos, bare")) == "zos, bare"
    only_peers = [row for row in group().rows if row.role != "ours"]
    assert headline(msgspec.structs.replace(group(), rows=only_peers)) is None


def test_a_report_has_a_version() -> None:
    assert json.loads(encode_json(report()))["version"] == Report.__struct_defaults__[0] == 2
