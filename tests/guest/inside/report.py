"""pytest plugin inside a guest: one JSON object for each check, to the second serial port."""

from __future__ import annotations

import json

import pytest

PORT = "/dev/ttyS1"
DETAIL_MAX = 6000


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    """One line when a test has ended, or could not be set up, or did not clean up."""
    skipped = report.outcome == "skipped"
    if (report.when != "call" and report.outcome == "passed") or (skipped and report.when == "teardown"):
        return
    detail = str(report.longrepr[2]) if isinstance(report.longrepr, tuple) else report.longreprtext
    said = {
        "check": report.nodeid,
        "outcome": report.outcome,
        "seconds": round(report.duration, 1),
        "detail": detail[-DETAIL_MAX:],
    }
    with open(PORT, "w") as port:
        port.write(json.dumps(said) + "\n")
