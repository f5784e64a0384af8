"""Which of hold's exits were taken up, and how far hold may forget them (docs/spec/hold.md, `exits` and `ack`)."""

from __future__ import annotations

__all__ = ["ExitLedger"]


class ExitLedger:
    """Each exit is taken up once, however often hold tells of it: as an event, in a list, in both in any order. Pure.

    hold forgets every exit up to the number that is acknowledged. So nothing is acknowledged before everything that
    hold had kept is taken up, and nothing at or above an exit that is still worked on.
    """

    def __init__(self) -> None:
        self._open: set[int] = set()
        # Above `_forgotten`, and dealt with.
        self._closed: set[int] = set()
        self._forgotten = 0
        self._complete = False

    def take(self, seq: int) -> bool:
        """Whether the exit `seq` is to be worked on now: False if it is already, or has been."""
        if seq <= self._forgotten or seq in self._open or seq in self._closed:
            return False
        self._open.add(seq)
        return True

    def complete(self) -> None:
        """Everything that hold had kept is taken up: what comes from now on has a higher number."""
        self._complete = True

    def close(self, seq: int) -> int | None:
        """The exit `seq` is dealt with; up to which number hold may forget, or None when there is none yet."""
        self._open.discard(seq)
        if seq > self._forgotten:
            self._closed.add(seq)
        if not self._complete:
            return None
        if self._open:
            self._forgotten = max(self._forgotten, min(self._open) - 1)
        else:
            self._forgotten = max([self._forgotten, *self._closed])
        self._closed = {other for other in self._closed if other > self._forgotten}
        return self._forgotten or None
