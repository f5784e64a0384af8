"""A store behind a URL: a hub, or any web server that has the same paths and serves ranges.

aiohttp is imported by the first store that is opened: it takes longer to import than most commands take in all.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from flist.store.errors import ObjectInvalid, ObjectMissing, StoreReadOnly, StoreUnavailable
from flist.store.paths import check_path, size_max
from flist.store.protocol import SLOWEST_BYTES_S

if TYPE_CHECKING:
    import aiohttp

__all__ = ["HttpStore"]

CONNECT_TIMEOUT_S = 5.0
SILENCE_TIMEOUT_S = 15.0  # without one byte
HEAD_TIMEOUT_S = 30.0
REDIRECTS_MAX = 3
CONNECTIONS_MAX = 16


class HttpStore:
    """Reads objects from `url`. Nothing is believed: whoever asks verifies what comes."""

    def __init__(self, url: str) -> None:
        """`url`: http or https; the paths of objects are appended."""
        self._url = url.rstrip("/")
        self._session: aiohttp.ClientSession | None = None

    @property
    def name(self) -> str:
        """The URL."""
        return self._url

    @property
    def addresses(self) -> list[str]:
        """The URL."""
        return [self._url]

    @property
    def scratch(self) -> Path | None:
        """There is none."""
        return None

    async def has(self, path: str) -> bool:
        """Whether the object is there."""
        try:
            async with self._asked("HEAD", path, 0):
                return True
        except ObjectMissing:
            return False

    async def get(self, path: str, *, limit: int | None = None) -> bytes:
        """The whole object; errors as of `Store.get`."""
        most = size_max(path) if limit is None else limit
        async with self._asked("GET", path, most) as response:
            if response.status != 200:
                raise self._unavailable(path, f"HTTP status {response.status}")
            return await self._read(response, path, most)

    async def put(self, path: str, data: bytes) -> None:
        """Refused: publishing is a protocol of its own."""
        raise StoreReadOnly(f"{self._url} takes no objects from here", hint="build into a directory")

    async def put_file(self, path: str, source: Path) -> None:
        """Refused, as `put`."""
        await self.put(path, b"")

    async def __aenter__(self) -> Self:
        import aiohttp

        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=CONNECTIONS_MAX),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S, sock_read=SILENCE_TIMEOUT_S),
            headers={"Accept-Encoding": "identity"},
            auto_decompress=False,
        )
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._session is not None:
            await self._session.close()

    @asynccontextmanager
    async def _asked(self, method: str, path: str, most: int) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer whose head has come; the rest, at most `most` bytes, has a deadline of its own."""
        if self._session is None:
            raise RuntimeError("HttpStore is used outside of its `async with`")
        check_path(path)
        import aiohttp
        from yarl import URL

        from zos_core.base.remote_http import connect_reason

        url = URL(f"{self._url}/{path}", encoded=True)
        request = self._session.request(method, url, max_redirects=REDIRECTS_MAX)
        try:
            async with asyncio.timeout(HEAD_TIMEOUT_S) as deadline, request as response:
                if response.status == 404:
                    raise ObjectMissing(f"{path} is not at {self._url}", path=path)
                if response.status >= 400:
                    raise self._unavailable(path, f"HTTP status {response.status}")
                expected = min(response.content_length or most, most)
                now_s = asyncio.get_running_loop().time()
                deadline.reschedule(now_s + HEAD_TIMEOUT_S + expected / SLOWEST_BYTES_S)
                yield response
        except TimeoutError as error:  # aiohttp's own timeouts are of this class, too
            raise self._unavailable(path, "it is too slow") from error
        except aiohttp.ClientConnectorError as error:
            raise self._unavailable(path, connect_reason(error)) from error
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise self._unavailable(path, str(error) or type(error).__name__) from error

    async def _read(self, response: aiohttp.ClientResponse, path: str, limit: int) -> bytes:
        if (response.content_length or 0) > limit:
            raise self._too_long(path, limit)
        data = bytearray()
        while piece := await response.content.readany():
            data += piece
            if len(data) > limit:
                raise self._too_long(path, limit)
        return bytes(data)

    def _too_long(self, path: str, limit: int) -> ObjectInvalid:
        return ObjectInvalid(f"{self._url}/{path} is longer than {limit} bytes", path=path)

    def _unavailable(self, path: str, why: str) -> StoreUnavailable:
        return StoreUnavailable(f"{self._url}: {why}", hint="is the hub reachable?", path=path)
