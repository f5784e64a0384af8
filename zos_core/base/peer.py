"""A native program of the tree as seen by who asks it: one that may die and come back while it is asked.

The programs' operations are idempotent but for those that make a process; so a request is asked again of the successor
when the one who had it died, and only the others raise `PeerGone`.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, TypeVar

from zos_core.base.document import Document, Record
from zos_core.base.errors import PeerGone, RemoteError
from zos_core.base.frame import Reconnecting

__all__ = ["Peer", "Requester"]

# spawn.md: each of these makes a process, and may have made it before its answer was lost.
ASKED_ONCE = frozenset({"launch", "exec"})
HOLD_GONE = "hold.gone"

R = TypeVar("R", bound=Record)


class Requester(Protocol):
    """Something that answers requests: a `Peer`, or a `Channel` where the connection is the peer's life."""

    async def request(
        self, op: str, body: Document, *, fds: Sequence[int] = (), reply: type[R], timeout_s: float
    ) -> tuple[R, list[int]]:
        """Send one request and wait for its reply and descriptors, which are then the caller's."""


class Peer:
    """`Requester` over a socket that a successor takes over."""

    def __init__(self, path: Path) -> None:
        self._connection = Reconnecting(path)

    async def request(
        self, op: str, body: Document, *, fds: Sequence[int] = (), reply: type[R], timeout_s: float
    ) -> tuple[R, list[int]]:
        """As `Reconnecting.request`; repeated when the peer died, unless the operation makes a process.

        Raises:
            PeerGone: also when the peer says that hold, without which it can do nothing of this, has died.
        """
        try:
            return await self._connection.request(
                op, body, fds=fds, reply=reply, timeout_s=timeout_s, repeat=op not in ASKED_ONCE
            )
        except RemoteError as error:
            if error.remote_code != HOLD_GONE:
                raise
            raise PeerGone(f"{op}: hold has died", hint=error.hint, sent=True) from error

    async def aclose(self) -> None:
        """Close the connection."""
        await self._connection.aclose()
