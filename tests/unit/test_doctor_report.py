"""From findings to a row and to what would help."""

from __future__ import annotations

import pytest

from zos_core.base.programs import Probe
from zos_core.doctor.report import Finding, Report, report_on, row_of
from zos_core.doctor.trial import trial_not_tried

GOOD = {"fuse", "erofs", "erofs_file_backed", "loop_control", "detached_layers", "overlay"}


def probe(*missing: str) -> Probe:
    assert set(missing) <= GOOD
    reasons = {name: f"{name} is not here" for name in missing}
    return Probe(kernel="6.1", **{name: name not in missing for name in GOOD}, reasons=reasons)


def finding(name: str, works: bool | None, command: str | None = None) -> Finding:
    return Finding(name=name, works=works, tried="t", found=f"{name} found", means="m", command=command)


def judge(*findings: Finding, of: Probe | None) -> Report:
    return report_on(findings, of, kernel="6.1", architecture="x86_64", uid=0)


@pytest.mark.parametrize(
    ("missing", "pidfd_exit", "row"),
    [
        ((), True, 1),
        ((), False, 2),
        (("detached_layers",), True, 2),
        (("detached_layers",), False, 2),
        (("erofs_file_backed", "detached_layers"), False, 3),
        (("erofs_file_backed",), True, 3),
        (("loop_control",), True, 1),
        (("fuse",), True, 4),
        (("erofs",), True, 4),
        (("loop_control", "erofs_file_backed"), False, 4),
    ],
)
def test_doctor_report_row(missing: tuple[str, ...], pidfd_exit: bool, row: int) -> None:
    found = row_of(probe(*missing), pidfd_exit=pidfd_exit)
    assert found.number == row
    assert ("detached mounts" in found.containers) == ("detached_layers" not in missing)
    assert ("also by pidfd" in found.containers) == pidfd_exit


def test_doctor_report_what_a_better_row_takes() -> None:
    best = judge(finding("pidfd-exit", True), finding("container", True), of=probe())
    assert (best.row.number, best.better, best.takes) == (1, None, None)
    debian13 = judge(finding("pidfd-exit", False), finding("container", True), of=probe("detached_layers"))
    assert debian13.better is not None
    assert debian13.better.number == 1
    assert debian13.takes == "Linux 6.15 or later; here: pidfd-exit: pidfd-exit found"
    debian12 = judge(finding("erofs-file-backed", False), of=probe("erofs_file_backed"))
    assert debian12.better is not None
    assert debian12.better.number == 2
    assert debian12.takes is not None
    assert "6.12" in debian12.takes
    locked = judge(finding("fuse", False), of=probe("fuse"))
    assert locked.better is not None
    assert locked.better.number == 2
    assert locked.takes == "what is missing here: fuse: fuse found"
    none = judge(finding("root", False, "sudo zos doctor"), of=None)
    assert (none.row.number, none.better, none.takes) == (5, None, "root: the rest can be tried then")


def test_doctor_report_what_a_container_can_do_without() -> None:
    optional = ["limits", "fuse", "erofs", "loop", "detached-layers", "pidfd-exit", "fanotify", "user-namespaces"]
    report = judge(*(finding(name, False, "c") for name in optional), finding("container", True), of=probe())
    assert (report.containers, report.problem, report.command) == (True, None, None)


@pytest.mark.parametrize(
    "name", ["root", "namespaces", "proc", "seccomp", "state", "tree", "overlay", "cgroups", "network"]
)
def test_doctor_report_what_each_container_needs(name: str) -> None:
    report = judge(finding("fuse", False, "no"), finding(name, False, "yes"), finding("container", True), of=probe())
    assert (report.containers, report.problem, report.command) == (False, f"{name}: {name} found", "yes")


def test_doctor_report_what_was_not_tried_is_no_problem_and_no_proof() -> None:
    report = judge(finding("state", False, "mount"), *trial_not_tried("tmpfs"), of=None)
    assert (report.containers, report.command) == (False, "mount")
    nothing = judge(*trial_not_tried("nobody tried"), of=None)
    assert (nothing.containers, nothing.problem) == (False, "no container could be tried")
