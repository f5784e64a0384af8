"""The statistics and tables of the measures, and our seccomp profile in OCI's words."""

from __future__ import annotations

import errno
import json
import random

import msgspec
import pytest

from bench import seccomp_profile, tables
from bench.budgets import BUDGETS, Budget, judge, load
from bench.results import Group, Machine, Noise, Report, Row
from bench.series import quantile, ratio

MACHINE = Machine(
    kernel="6.18", cpu="a cpu", cpus=2, memory_mib=4096, file_system="ext4", virtual="kvm", versions={"zos": "0.1.0"}
)


def group(**changes: object) -> Group:
    rows = [
        Row(name="ours", unit="ms", values=[2.0, 4.0, 3.0]),
        Row(name="theirs", unit="ms", values=[8.0, 8.0, 8.0]),
        Row(name="absent", unit="ms", missing="missing: no such program here"),
    ]
    made = Group(key="start", title="Start", rows=rows, baselines=["theirs", "absent"])
    return msgspec.structs.replace(made, **changes)


def made_report(*groups: Group) -> Report:
    return Report(
        begun="2025-01-01 00:00:00", seconds=12.3, arguments=[], machine=MACHINE, image="270 MB", groups=[*groups]
    )


@pytest.mark.parametrize(
    ("values", "share", "expected"),
    [
        ([5.0], 0.9, 5.0),
        ([1.0, 2.0], 0.5, 1.5),
        ([3.0, 1.0, 2.0], 0.0, 1.0),
        ([3.0, 1.0, 2.0], 1.0, 3.0),
        ([float(n) for n in range(11)], 0.1, 1.0),
        ([float(n) for n in range(11)], 0.9, 9.0),
    ],
)
def test_a_quantile_lies_between_its_neighbours(values: list[float], share: float, expected: float) -> None:
    assert quantile(values, share) == pytest.approx(expected)


@pytest.mark.parametrize(("values", "share"), [([], 0.5), ([1.0], 1.5), ([1.0], -0.1)])
def test_a_quantile_of_nothing_is_refused(values: list[float], share: float) -> None:
    with pytest.raises(ValueError):
        quantile(values, share)


def test_a_ratio_is_that_of_the_medians_and_lies_in_its_interval() -> None:
    found = ratio([2.0, 4.0, 3.0], [8.0, 6.0, 4.0])
    assert found.value == 0.5
    assert found.low <= found.value <= found.high
    assert found == ratio([2.0, 4.0, 3.0], [8.0, 6.0, 4.0])


def test_noise_that_hits_both_sides_of_a_round_does_not_widen_the_interval() -> None:
    draw = random.Random(1)
    noise = [1 + draw.random() * 9 for _ in range(40)]
    theirs = [10 * one for one in noise]
    assert ratio(noise, theirs).low == pytest.approx(0.1)
    assert ratio(noise, theirs).high == pytest.approx(0.1)
    # Without rounds to go by, the same samples leave more open.
    assert ratio(noise, theirs[1:]).high > 0.11


@pytest.mark.parametrize(("values", "baseline"), [([], [1.0]), ([1.0], []), ([0.0], [1.0]), ([1.0], [-1.0])])
def test_a_ratio_without_positive_values_is_refused(values: list[float], baseline: list[float]) -> None:
    with pytest.raises(ValueError):
        ratio(values, baseline)


def test_what_is_missing_is_said_and_is_never_a_number() -> None:
    table = tables.cells(group())
    assert table[0] == ["", "unit", "n", "p10", "median", "p90", "/ theirs", "/ absent"]
    assert table[3] == [
        "absent",
        "ms",
        "0",
        "missing",
        "missing: no such program here",
        "missing",
        "missing",
        "missing",
    ]
    assert table[1][6].startswith("0.38 (")
    assert table[1][7] == "missing"
    assert table[2][6] == "1"


def test_a_row_without_samples_or_reason_is_missing_too() -> None:
    rows = [Row(name="ours", unit="ms"), Row(name="theirs", unit="ms", values=[1.0, 2.0])]
    assert tables.cells(group(rows=rows))[1][3:7] == ["missing", "not measured", "missing", "missing"]


def test_a_table_of_single_values_has_one_column_of_them() -> None:
    rows = [Row(name="hold", unit="MiB", values=[1.6]), Row(name="spawn", unit="MiB")]
    table = tables.cells(group(rows=rows, baselines=[]))
    assert table == [["", "unit", "value"], ["hold", "MiB", "1.60"], ["spawn", "MiB", "not measured"]]


def test_speed_is_how_much_faster_than_the_baseline_a_row_is() -> None:
    assert tables.cells(group(direction="speed"))[1][6].startswith("2.67 (")
    assert tables.cells(group(direction="rate"))[1][6].startswith("0.38 (")


def test_two_samples_have_no_interval() -> None:
    rows = [Row(name="ours", unit="ms", values=[1.0, 1.0]), Row(name="theirs", unit="ms", values=[2.0, 2.0])]
    assert tables.cells(group(rows=rows))[1][6] == "0.50"


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.00123, "0.00123"), (0.0456, "0.0456"), (0.5, "0.500"), (3.14159, "3.14"), (42.42, "42.4"), (12345.6, "12,346")],
)
def test_values_are_printed_with_few_figures(value: float, text: str) -> None:
    assert tables.value_text(value) == text


def budget(**changes: object) -> Budget:
    made = Budget(group="start", row="ours", baseline="theirs", at_most=0.4, source="a page")
    return msgspec.structs.replace(made, **changes)


@pytest.mark.parametrize(
    ("changes", "verdict"),
    [
        ({}, "reached"),
        ({"at_most": 0.3}, "missed"),
        ({"at_most": None, "at_least": 0.5}, "missed"),
        ({"baseline": None, "at_most": 3.0}, "reached"),
        ({"baseline": "absent"}, "missing"),
        ({"row": "absent"}, "missing"),
        ({"row": "unheard of"}, "missing"),
        ({"group": "unheard of"}, "missing"),
    ],
)
def test_budgets_are_judged(changes: dict[str, object], verdict: str) -> None:
    assert [one.outcome for one in judge([budget(**changes)], [group()])] == [verdict]


def test_a_quiet_machine_is_not_called_noisy() -> None:
    assert "noisy" not in tables.load_line(group(noise=Noise(load=(0.3, 2.5), busy=0.05)))
    assert "noisy" in tables.load_line(group(noise=Noise(load=(0.3, 0.3), busy=0.5)))


def test_a_report_survives_its_json() -> None:
    made = made_report(group())
    assert msgspec.json.decode(msgspec.json.encode(made), type=Report) == made


def test_the_budgets_that_ship_can_be_read() -> None:
    assert len(load(BUDGETS)) > 10


def test_our_seccomp_profile_becomes_one_for_oci() -> None:
    profile = {
        "format": "zos-seccomp-1",
        "otherwise": "EPERM",
        "capabilities": ["CAP_CHOWN"],
        "rules": [
            {"name": "a", "action": "allow", "syscalls": ["read", "write"]},
            {"name": "b", "action": "allow", "argument": {"index": 0, "one_of": [1, 2]}, "syscalls": ["socket"]},
            {"name": "c", "action": "allow", "argument": {"index": 0, "none_of_bits": 48}, "syscalls": ["clone"]},
            {"name": "d", "when": {"capability": "CAP_SYS_BOOT"}, "action": "allow", "syscalls": ["reboot"]},
            {
                "name": "e",
                "when": {"without_capability": "CAP_SYS_ADMIN"},
                "action": "errno",
                "errno": "ENOSYS",
                "syscalls": ["clone3"],
            },
            {"name": "f", "when": {"architecture": "x86_64"}, "action": "allow", "syscalls": ["arch_prctl"]},
        ],
    }
    made = seccomp_profile.oci_seccomp(profile, machine="aarch64")
    assert made["defaultAction"] == "SCMP_ACT_ERRNO"
    assert made["defaultErrnoRet"] == errno.EPERM
    assert made["architectures"] == ["SCMP_ARCH_AARCH64"]
    assert [rule["names"] for rule in made["syscalls"]] == [
        ["read", "write"],
        ["socket"],
        ["socket"],
        ["clone"],
        ["clone3"],
    ]
    assert made["syscalls"][2]["args"] == [{"index": 0, "value": 2, "op": "SCMP_CMP_EQ"}]
    assert made["syscalls"][3]["args"] == [{"index": 0, "value": 48, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ"}]
    assert made["syscalls"][4]["errnoRet"] == errno.ENOSYS


@pytest.mark.parametrize(
    "rule",
    [
        {"name": "a", "action": "log", "syscalls": ["read"]},
        {"name": "a", "action": "allow", "when": {"moon": "full"}, "syscalls": ["read"]},
        {"name": "a", "action": "allow", "argument": {"index": 0, "less": 1}, "syscalls": ["read"]},
    ],
)
def test_a_rule_in_unknown_words_is_refused(rule: dict[str, object]) -> None:
    profile = {"format": "zos-seccomp-1", "otherwise": "EPERM", "capabilities": [], "rules": [rule]}
    with pytest.raises(ValueError):
        seccomp_profile.oci_seccomp(profile, machine="x86_64")


def test_the_profile_that_ships_can_be_translated() -> None:
    made = seccomp_profile.oci_seccomp(json.loads(seccomp_profile.DATA.read_text()), machine="x86_64")
    allowed = {name for rule in made["syscalls"] if rule["action"] == "SCMP_ACT_ALLOW" for name in rule["names"]}
    assert {"read", "execve", "clone", "chroot"} <= allowed
    assert not {"mount", "clone3", "bpf", "reboot"} & allowed
