"""HTTP to a URL: aiohttp, which keeps connections and knows TLS."""

from __future__ import annotations

import contextlib
import io
import os
from collections.abc import AsyncIterator, Iterator, Mapping
from typing import Self

import aiohttp
from yarl import URL

__all__ = ["CONNECT_TIMEOUT_S", "RemoteResponse", "RemoteTransport", "connect_reason"]

CONNECT_TIMEOUT_S = 5.0
PIECE_BYTES_MAX = 65_536


class RemoteTransport:
    """Requests to an http(s) URL, below whose path all targets are."""

    def __init__(self, url: str) -> None:
        """Connects when something is asked."""
        base = URL(url.rstrip("/"), encoded=True)
        self._origin = base.origin()
        self.authority = base.host_port_subcomponent or ""
        self.prefix = base.raw_path.rstrip("/")
        self._stack = contextlib.AsyncExitStack()

    async def __aenter__(self) -> Self:
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S)
        self._session = await self._stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.TCPConnector(), timeout=timeout, auto_decompress=False)
        )
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._stack.aclose()

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[RemoteResponse]:
        """Send a request; the answer, whose head has come. Leaving the block breaks off what has not.

        Raises:
            OSError: nobody listens, or the connection broke.
            TimeoutError: the connection was not taken within `CONNECT_TIMEOUT_S`.
        """
        # A file, because aiohttp sends bytes in one piece and complains of large ones.
        data = io.BytesIO(body) if body is not None and len(body) > PIECE_BYTES_MAX else body
        url = URL(f"{self._origin}{target}", encoded=True)
        with _as_os_errors():
            async with self._session.request(
                method, url, data=data, headers=headers, allow_redirects=False
            ) as response:
                yield RemoteResponse(response)


class RemoteResponse:
    """An answer: its status, and its body piece by piece."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        """Of one request."""
        self._response = response
        self.status = response.status

    async def read(self) -> bytes:
        """The next piece; empty at the end.

        Raises:
            OSError: the connection broke before it.
        """
        with _as_os_errors():
            return await self._response.content.readany()


@contextlib.contextmanager
def _as_os_errors() -> Iterator[None]:
    try:
        yield
    except aiohttp.ClientConnectorError as error:
        number = error.os_error.errno or 0
        raise OSError(max(number, 0), connect_reason(error)) from error  # below 0 is of getaddrinfo(3)
    except TimeoutError:  # aiohttp's are of its own class as well, and say what they are
        raise
    except aiohttp.ClientError as error:
        raise ConnectionResetError(str(error) or type(error).__name__) from error


def connect_reason(error: aiohttp.ClientConnectorError) -> str:
    """Why a connection could not be made, in the system's words: aiohttp's and the loop's name their internals."""
    number = error.os_error.errno or 0
    return os.strerror(number) if number > 0 else str(error.os_error)
