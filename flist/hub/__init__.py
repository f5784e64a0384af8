"""The hub: a store over HTTP (docs/spec/hub.md), publishing into it (publish.md), its log (hub-log.md)."""

from flist.hub.endpoints import STATISTICS, HubStatistics, KindStatistics
from flist.hub.publishing import Publishing
from flist.hub.server import serve_hub

__all__ = ["STATISTICS", "HubStatistics", "KindStatistics", "Publishing", "serve_hub"]
