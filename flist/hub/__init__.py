"""The hub: a store over HTTP (docs/spec/hub.md)."""

from flist.hub.endpoints import STATISTICS, HubStatistics, KindStatistics
from flist.hub.server import serve_hub

__all__ = ["STATISTICS", "HubStatistics", "KindStatistics", "serve_hub"]
