"""The client of a table of endpoints, over a unix socket or HTTP. One `Client` keeps its connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from yarl import URL

from zos_core.base.document import Document, decode_json, encode_json
from zos_core.base.endpoint import Endpoint, Problem, Query, RemoteProblem, query_to_text
from zos_core.base.errors import DocumentInvalid, Forbidden, RequestTimeout, Unreachable
from zos_core.base.frame import socket_address

__all__ = ["Client", "connect_reason"]

CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
RESPONSE_BYTES_MAX = 64 << 20  # a list of everything that a node can run is far below
CHUNK_BYTES = 65_536
NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})

R = TypeVar("R")


class Client:
    """Calls the endpoints of one server; an async context manager."""

    def __init__(self, address: Path | str) -> None:
        """`address`: path of a unix socket, or an http(s) URL to which the endpoints' paths are appended."""
        self._address = address
        self._stack = contextlib.AsyncExitStack()
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> Self:
        async with contextlib.AsyncExitStack() as stack:
            if isinstance(self._address, Path):
                try:
                    path = stack.enter_context(socket_address(self._address))
                except OSError as error:
                    raise self._unreachable(error) from error
                connector: aiohttp.BaseConnector = aiohttp.UnixConnector(path)
                self._base = "http://zos"
            else:
                connector = aiohttp.TCPConnector()
                self._base = self._address.rstrip("/")
            self._session = await stack.enter_async_context(
                aiohttp.ClientSession(
                    connector=connector,
                    timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_TIMEOUT_S),
                    auto_decompress=False,
                )
            )
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._stack.aclose()

    async def call(
        self,
        endpoint: Endpoint[R],
        *,
        path: Mapping[str, str] = NO_PARAMETERS,
        query: Query | None = None,
        body: Document | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> R:
        """Ask, and wait for the answer: the endpoint's response type, or None where it has none.

        Raises:
            RemoteProblem: the server's error, with the server's code and exit status.
            Unreachable: nobody listens (`absent`), or the connection broke.
            Forbidden: the caller may not so much as connect to the unix socket.
            RequestTimeout: no whole answer within `timeout_s`.
            DocumentInvalid: the answer is not what the endpoint says.
        """
        async with self._translated(endpoint), asyncio.timeout(timeout_s):
            async with self._request(endpoint, path, query, body) as response:
                data = await _read(response)
                if endpoint.response is None:
                    return None  # type: ignore[return-value]  # R is None then, which no type can say
                return decode_json(data, endpoint.response, what=f"answer to {endpoint}")

    @contextlib.asynccontextmanager
    async def stream(
        self,
        endpoint: Endpoint[None],
        *,
        path: Mapping[str, str] = NO_PARAMETERS,
        query: Query | None = None,
        body: Document | None = None,
        timeout_s: float = CALL_TIMEOUT_S,
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """The chunks of a stream; leaving the block ends it. `timeout_s` is for the head of the answer only.

        Raises:
            as `call`; Unreachable also when the server breaks off in the middle.
        """
        async with contextlib.AsyncExitStack() as stack:
            async with self._translated(endpoint), asyncio.timeout(timeout_s):
                response = await stack.enter_async_context(self._request(endpoint, path, query, body))
            yield self._chunks(endpoint, response)

    async def _chunks(self, endpoint: Endpoint[Any], response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
        async with self._translated(endpoint):
            while chunk := await response.content.readany():
                yield chunk

    @contextlib.asynccontextmanager
    async def _request(
        self, endpoint: Endpoint[Any], path: Mapping[str, str], query: Query | None, body: Document | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("Client is used outside of its `async with`")
        headers = {"Accept": "application/json, application/problem+json"}
        if body is not None:
            headers["Content-Type"] = "application/json"
        async with self._session.request(
            endpoint.method,
            URL(self._base + endpoint.fill(path), encoded=True),
            params=None if query is None else query_to_text(query),
            data=None if body is None else encode_json(body),
            headers=headers,
            allow_redirects=False,
        ) as response:
            if not 200 <= response.status < 300:
                raise _problem(await _read(response), response.status)
            yield response

    @contextlib.asynccontextmanager
    async def _translated(self, endpoint: Endpoint[Any]) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError as error:  # aiohttp's timeouts derive from it, so it comes first
            raise RequestTimeout(f"{self._address} did not answer {endpoint} in time") from error
        except (aiohttp.ClientError, OSError) as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: BaseException) -> Unreachable | Forbidden:
        local = isinstance(self._address, Path)
        cause = error.os_error if isinstance(error, aiohttp.ClientConnectorError) else error
        number = cause.errno if isinstance(cause, OSError) else None
        if local and number in (errno.EACCES, errno.EPERM):
            return Forbidden(
                f"{self._address} belongs to another user",
                hint="the user who ran zos up may use it, and root; or start your own with --instance",
            )
        reason = connect_reason(error) if isinstance(error, aiohttp.ClientConnectorError) else str(error)
        return Unreachable(
            f"{self._address}: {reason}",
            hint="is the instance up? `zos up` starts it" if local else None,
            absent=number in (errno.ENOENT, errno.ECONNREFUSED),
        )


def connect_reason(error: aiohttp.ClientConnectorError) -> str:
    """Why a connection could not be made, in the system's words: aiohttp's and the loop's name their internals."""
    cause = error.os_error
    return os.strerror(cause.errno) if cause.errno else str(cause)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    data = bytearray()
    while piece := await response.content.readany():
        data += piece
        if len(data) > RESPONSE_BYTES_MAX:
            raise DocumentInvalid(f"an answer is longer than {RESPONSE_BYTES_MAX} bytes")
    return bytes(data)


def _problem(data: bytes, status: int) -> RemoteProblem:
    try:
        problem = decode_json(data, Problem, what="error answer")
    except DocumentInvalid:  # not one of our servers: a proxy, or something else altogether
        problem = Problem(code=f"http.{status}", message=f"HTTP status {status}")
    return RemoteProblem.from_problem(problem, status)
