"""The hub's table of typed endpoints; objects are raw routes beside it."""

from __future__ import annotations

from zos_core.base.document import Record
from zos_core.base.endpoint import Endpoint

__all__ = ["STATISTICS", "HubStatistics", "KindStatistics"]


class KindStatistics(Record, frozen=True, kw_only=True):
    """Requests for one kind of object, and bytes of bodies sent, since the hub started."""

    requests: int = 0
    bytes_sent: int = 0


class HubStatistics(Record, frozen=True, kw_only=True):
    """Sums, and the same for each kind of object that was asked for. Headers are not counted."""

    requests: int
    bytes_sent: int
    by_kind: dict[str, KindStatistics]


STATISTICS = Endpoint("GET", "/v1/statistics", response=HubStatistics, summary="Requests and bytes by kind of object")
