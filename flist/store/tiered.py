"""Several stores as one: the first that has an object gives it."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from pathlib import Path
from types import TracebackType
from typing import Self, TypeVar

from flist.store.errors import ObjectInvalid, ObjectMissing, StoreReadOnly, StoreUnavailable
from flist.store.protocol import Store

__all__ = ["TieredStore"]

T = TypeVar("T")


class TieredStore:
    """Reads from `stores` in order; writes nothing."""

    def __init__(self, stores: Sequence[Store]) -> None:
        """`stores`: at least one."""
        self._stores = tuple(stores)
        self._stack = AsyncExitStack()

    @property
    def name(self) -> str:
        """All names."""
        return ", ".join(store.name for store in self._stores)

    @property
    def addresses(self) -> list[str]:
        """Of all, in order."""
        return [address for store in self._stores for address in store.addresses]

    @property
    def scratch(self) -> Path | None:
        """There is none."""
        return None

    async def has(self, path: str) -> bool:
        """Whether any store has it."""

        async def ask(store: Store) -> bool:
            if not await store.has(path):
                raise ObjectMissing(f"{path} is not in {store.name}", path=path)
            return True

        try:
            return await self._first(ask)
        except ObjectMissing:
            return False

    async def get(self, path: str, *, limit: int | None = None) -> bytes:
        """As `Store.get`."""
        return await self._first(lambda store: store.get(path, limit=limit))

    async def put(self, path: str, data: bytes) -> None:
        """Refused."""
        raise StoreReadOnly("several stores as one take no objects", path=path)

    async def put_file(self, path: str, source: Path) -> None:
        """Refused."""
        await self.put(path, b"")

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            for store in self._stores:
                await stack.enter_async_context(store)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def _first(self, ask: Callable[[Store], Awaitable[T]]) -> T:
        """The first answer. When there is none, a store that could not be asked says more than one that lacks it."""
        failures: list[ObjectMissing | ObjectInvalid | StoreUnavailable] = []
        for store in self._stores:
            try:
                return await ask(store)
            except (ObjectMissing, ObjectInvalid, StoreUnavailable) as error:
                failures.append(error)
        raise next((each for each in failures if not isinstance(each, ObjectMissing)), failures[0])
