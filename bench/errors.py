"""Errors of the measures. Exit statuses 111-119; `zos bench compare` ends with 110 when something got worse."""

from __future__ import annotations

from native.errors import ZosError

__all__ = [
    "BudgetsInvalid",
    "ExtrasMissing",
    "GroupUnavailable",
    "GroupUnknown",
    "MeasureFailed",
    "PeerFailed",
    "PeerMissing",
    "PeerUnknown",
    "ResultsInvalid",
    "ResultsVersion",
]


class GroupUnknown(ZosError):
    """No part has registered measures by that name."""

    code, http_status, exit_status = "bench.group-unknown", 404, 111


class GroupUnavailable(ZosError):
    """A group is registered, and its module cannot be found or is no `Suite`."""

    code, http_status, exit_status = "bench.group-unavailable", 500, 111


class PeerUnknown(ZosError):
    """The catalogue has no peer of that name."""

    code, http_status, exit_status = "bench.peer-unknown", 404, 112


class PeerMissing(ZosError):
    """A peer is not installed, or cannot be installed here; the message says why."""

    code, http_status, exit_status = "bench.peer-missing", 404, 112


class PeerFailed(ZosError):
    """A peer's program broke off, took too long, or answered outside the protocol (docs/spec/bench-peer.md)."""

    code, http_status, exit_status = "bench.peer-failed", 502, 113


class ResultsInvalid(ZosError):
    """A file that is not what `zos bench run` writes (docs/spec/bench-results.md)."""

    code, http_status, exit_status = "bench.results-invalid", 422, 114


class ResultsVersion(ZosError):
    """Results of another version of the format than this zos reads (BENCH-RESULTS-2)."""

    code, http_status, exit_status = "bench.results-version", 422, 115


class BudgetsInvalid(ZosError):
    """A file of budgets that cannot be used."""

    code, http_status, exit_status = "bench.budgets-invalid", 422, 116


class ExtrasMissing(ZosError):
    """What only benchmarkers need is not installed: pytest and pytest-benchmark."""

    code, http_status, exit_status = "bench.extras-missing", 501, 117


class MeasureFailed(ZosError):
    """At least one measure broke off; what the others found has been written."""

    code, http_status, exit_status = "bench.measure-failed", 500, 118
