"""What every store can do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

__all__ = ["SLOWEST_BYTES_S", "Addressed", "Store"]

SLOWEST_BYTES_S = 64 << 10
"""A store that is slower on the average is given up."""


class Addressed(Protocol):
    """What an image is read from, by `native.fetch`: a store, or several in order (STORE-6)."""

    @property
    def addresses(self) -> Sequence[str]:
        """Directories as absolute paths and URLs, in order."""


class Store(Addressed, Protocol):
    """Objects by path (`paths.check_path`). An async context manager: a store may hold connections."""

    @property
    def name(self) -> str:
        """The store for people: its directory or URL."""

    @property
    def scratch(self) -> Path | None:
        """A directory from which `put_file` is a rename; None where there is none."""

    async def has(self, path: str) -> bool:
        """Whether the object is there.

        Raises:
            StoreUnavailable: the store cannot be asked.
        """

    async def get(self, path: str, *, limit: int | None = None) -> bytes:
        """The whole object.

        Args:
            path: of the object.
            limit: bytes that the caller can take; by default what an object of this kind can have.

        Raises:
            ObjectMissing: it is not there.
            ObjectInvalid: it is longer than `limit`.
            StoreUnavailable: the store cannot be read, or is too slow.
        """

    async def put(self, path: str, data: bytes) -> None:
        """Write an object, durable and visible at once or not at all.

        Raises:
            StoreReadOnly, StoreUnavailable: it could not be written.
        """

    async def put_file(self, path: str, source: Path) -> None:
        """The same from a finished and synced file, which is gone afterwards."""

    async def __aenter__(self) -> Self:
        """Begin to use the store."""

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close what was opened."""
