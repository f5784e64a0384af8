"""`zos doctor`: tries everything that a node needs, says what it means, and ends with 0 or 77."""

from __future__ import annotations

import argparse
import os

from zos_core.base.elevate import require_root
from zos_core.base.errors import UsageError
from zos_core.base.paths import Instance
from zos_core.base.verbs import Console
from zos_core.doctor.machine import machine_findings
from zos_core.doctor.report import Finding, Report, Row, report_on
from zos_core.doctor.trial import TRIAL_FEATURES, trial, trial_not_tried

__all__ = ["CANNOT", "doctor", "examine"]

# A test driver's "skipped": no fault of zos, and no error class has it.
CANNOT = 77
_MARKS = {True: "yes", False: "no", None: "-"}


async def doctor(arguments: argparse.Namespace, console: Console) -> int:
    """Try, report, and say by the exit status whether containers can run."""
    fields = {name: field for name, field, *_ in TRIAL_FEATURES}
    for name in arguments.without:
        if name not in fields:
            raise UsageError(f"nothing is called {name!r}", hint=f"one of {', '.join(fields)}")
    if arguments.without:
        require_root("zos doctor tries these features by mounts")
    report = await examine(without=[fields[name] for name in arguments.without])
    console.emit(report, _text(report))
    return 0 if report.containers else CANNOT


async def examine(*, without: list[str]) -> Report:
    """Everything that can be tried as this user; nothing is left."""
    machine = os.uname()
    findings = machine_findings(Instance().state_dir.parent)
    probe = None
    works = {finding.name: finding.works for finding in findings}
    if not works["root"]:
        findings += trial_not_tried("needs root")
    elif not works["state"]:
        findings += trial_not_tried("the state directory is on tmpfs")
    else:
        more, probe = await trial(without=without)
        findings += more
    return report_on(findings, probe, kernel=machine.release, architecture=machine.machine, uid=os.geteuid())


def _text(report: Report) -> str:
    lines = [
        f"Linux {report.kernel}, {report.architecture}, as {'root' if report.uid == 0 else f'uid {report.uid}'}",
        "",
    ]
    width = max(len(finding.name) for finding in report.findings)
    for finding in report.findings:
        lines.append(f"{_MARKS[finding.works]:>3}  {finding.name:<{width}}  {_sentence(finding)}")
    lines += ["", f"in use: row {report.row.number}", *_row(report.row)]
    if report.better is not None:
        lines += [f"better: row {report.better.number}", *_row(report.better)]
    if report.takes is not None:
        lines.append(f"  takes:      {report.takes}")
    lines.append("")
    if report.containers:
        lines.append("Containers can run here.")
    else:
        lines.append(f"Containers cannot run here. {report.problem}")
        if report.command is not None:
            lines.append(f"This would help: {report.command}")
    return "\n".join(lines)


def _sentence(finding: Finding) -> str:
    if finding.works is None:
        return f"{finding.found}. Means: {finding.means}."
    return f"{finding.tried}: {finding.found}. Means: {finding.means}."


def _row(row: Row) -> list[str]:
    return [f"  images:     {row.images}", f"  containers: {row.containers}"]
