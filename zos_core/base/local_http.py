"""HTTP/1.1 over a unix socket, a connection for each request; h11 knows the protocol.

What a command asks its node goes this way: aiohttp, which `remote_http` has, takes longer to import than the rest of
such a command takes in all.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Self

import h11

from zos_core.base.frame import socket_address

__all__ = ["CONNECT_TIMEOUT_S", "LocalResponse", "LocalTransport"]

CONNECT_TIMEOUT_S = 5.0
CHUNK_BYTES = 65_536


class LocalTransport:
    """Requests to whoever listens at the path of a unix socket."""

    authority = "zos"
    prefix = ""

    def __init__(self, path: Path) -> None:
        """Connects when something is asked."""
        self._path = path

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        """Nothing is kept between requests."""

    @contextlib.asynccontextmanager
    async def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> AsyncIterator[LocalResponse]:
        """Send a request; the answer, whose head has come. Leaving the block breaks off what has not.

        Raises:
            OSError: nobody listens, or the connection broke; with the number of connect(2) where that failed.
            TimeoutError: the connection was not taken within `CONNECT_TIMEOUT_S`.
        """
        with socket_address(self._path) as address:
            async with asyncio.timeout(CONNECT_TIMEOUT_S):
                reader, writer = await asyncio.open_unix_connection(address)
        try:
            state = h11.Connection(h11.CLIENT)
            length = [] if body is None else [("Content-Length", str(len(body)))]
            head = [("Host", self.authority), ("Connection", "close"), *headers.items(), *length]
            sent = [state.send(h11.Request(method=method, target=target, headers=head))]
            if body:
                sent.append(state.send(h11.Data(data=body)))
            sent.append(state.send(h11.EndOfMessage()))
            writer.writelines(data for data in sent if data)
            response = LocalResponse(reader, state)
            await response.begin()
            yield response
        finally:
            writer.transport.abort()


class LocalResponse:
    """An answer: its status, and its body piece by piece."""

    def __init__(self, reader: asyncio.StreamReader, state: h11.Connection) -> None:
        """Of one request, which was sent."""
        self._reader = reader
        self._state = state
        self.status = 0

    async def begin(self) -> None:
        """Wait for the head."""
        while not isinstance(event := await self._next(), h11.Response):
            if not isinstance(event, h11.InformationalResponse):
                raise ConnectionResetError("the connection ended before an answer")
        self.status = event.status_code

    async def read(self) -> bytes:
        """The next piece; empty at the end.

        Raises:
            OSError: the connection broke before it.
        """
        event = await self._next()
        return bytes(event.data) if isinstance(event, h11.Data) else b""

    async def _next(self) -> object:
        try:
            while (event := self._state.next_event()) is h11.NEED_DATA:
                self._state.receive_data(await self._reader.read(CHUNK_BYTES))
        except h11.RemoteProtocolError as error:
            raise ConnectionResetError(f"the connection broke off: {error}") from error
        return event
