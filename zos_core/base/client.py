"""The client of a table of endpoints, over a unix socket or HTTP. One `Client` keeps its connections."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import io
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self, TypeVar

import aiohttp
from yarl import URL

from zos_core.base.document import Document, decode_json, encode_json
from zos_core.base.endpoint import Endpoint, Problem, Query, RemoteProblem, query_to_text
from zos_core.base.errors import DocumentInvalid, Forbidden, RequestTimeout, Unreachable
from zos_core.base.frame import socket_address
from zos_core.base.request_signature import NONCE_BYTES, Message, Signer

__all__ = ["Client", "connect_reason"]

CALL_TIMEOUT_S = 60.0
CONNECT_TIMEOUT_S = 5.0
RESPONSE_BYTES_MAX = 64 << 20  # a list of everything that a node can run is far below
CHUNK_BYTES = 65_536
NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})

R = TypeVar("R")


class Client:
    """Calls the endpoints of one server; an async context manager."""

    def __init__(
        self, address: Path | str, *, signer: Signer | None = None, clock_ns: Callable[[], int] = time.time_ns
    ) -> None:
        """Connects when something is asked.

        Args:
            address: path of a unix socket, or an http(s) URL to which the endpoints' paths are appended.
            signer: signs requests to the endpoints that want it.
            clock_ns: nanoseconds since the epoch, for signatures.
        """
        self._address = address
        self._signer = signer
        self._clock_ns = clock_ns
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
        body: Document | bytes | None = None,
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
        body: Document | bytes | None = None,
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
        self, endpoint: Endpoint[Any], path: Mapping[str, str], query: Query | None, body: Document | bytes | None
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        if self._session is None:
            raise RuntimeError("Client is used outside of its `async with`")
        url = URL(self._base + endpoint.fill(path), encoded=True)
        if query is not None:
            url = url.update_query(query_to_text(query))
        headers = {"Accept": "application/json, application/problem+json"}
        data = body if body is None or isinstance(body, bytes) else encode_json(body)
        if data is not None:
            headers["Content-Type"] = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        if endpoint.signed:
            headers |= self._signature(endpoint, url, data or b"")
        async with self._session.request(
            endpoint.method,
            url,
            # A file, because aiohttp sends bytes in one piece and complains of large ones.
            data=io.BytesIO(data) if data is not None and len(data) > CHUNK_BYTES else data,
            headers=headers,
            allow_redirects=False,
        ) as response:
            if not 200 <= response.status < 300:
                raise _problem(await _read(response), response.status)
            yield response

    def _signature(self, endpoint: Endpoint[Any], url: URL, body: bytes) -> dict[str, str]:
        if self._signer is None:
            raise RuntimeError(f"{endpoint} is signed, and this Client has no signer")
        message = Message(
            method=endpoint.method,
            authority=url.host_port_subcomponent or "",
            path=url.raw_path,
            query=url.raw_query_string,
            fields={},
        )
        now_s = self._clock_ns() // 1_000_000_000
        return self._signer.sign(message, body, now_s=now_s, nonce=secrets.token_bytes(NONCE_BYTES))

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
            hint="no node answers there: `zos up` starts one; of another instance, say --instance" if local else None,
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
