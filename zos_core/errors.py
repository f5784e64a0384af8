"""Errors of the node as a whole."""

from __future__ import annotations

from native.errors import ZosError

__all__ = ["StateOnTmpfs"]


class StateOnTmpfs(ZosError):
    """The state directory is on a file system that cannot carry it."""

    code, http_status, exit_status = "node.state-on-tmpfs", 500, 60
