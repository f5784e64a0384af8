"""The client of a table of endpoints, over a unix socket (`local_http`) or to a URL (`remote_http`)."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from urllib.parse import urlencode

from zos_core.base.document import Document, decode_json, encode_json
from zos_core.base.endpoint import Endpoint, Problem, Query, RemoteProblem, query_to_text
from zos_core.base.errors import DocumentInvalid, Forbidden, RequestTimeout, Unreachable
from zos_core.base.local_http import LocalTransport

if TYPE_CHECKING:
    from zos_core.base.request_signature import Signer

__all__ = ["Client"]

CALL_TIMEOUT_S = 60.0
RESPONSE_BYTES_MAX = 64 << 20  # a list of everything that a node can run is far below
NO_PARAMETERS: Mapping[str, str] = MappingProxyType({})

R = TypeVar("R")


class _Response(Protocol):
    """An answer whose head has come; `read` gives its body piece by piece, and an empty piece at the end."""

    @property
    def status(self) -> int: ...
    async def read(self) -> bytes: ...


class _Transport(Protocol):
    """Where requests go; both of its kinds raise OSError and TimeoutError, and nothing else.

    Attributes:
        authority: as the Host field and signatures have it.
        prefix: what comes before the path of each endpoint.
    """

    authority: str
    prefix: str

    async def __aenter__(self) -> Self: ...
    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...
    def request(
        self, method: str, target: str, headers: Mapping[str, str], body: bytes | None
    ) -> contextlib.AbstractAsyncContextManager[_Response]: ...


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
        self._transport: _Transport | None = None

    async def __aenter__(self) -> Self:
        if isinstance(self._address, Path):
            self._transport = LocalTransport(self._address)
        else:
            from zos_core.base.remote_http import RemoteTransport  # aiohttp, for who needs it

            try:
                self._transport = RemoteTransport(self._address)
            except ValueError as error:  # without a host, with a port that cannot be
                raise Unreachable(
                    f"{self._address!r} names no server: {error}", hint="such as http://127.0.0.1:7080"
                ) from error
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.__aexit__(kind, error, trace)

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
            yield await stack.enter_async_context(contextlib.aclosing(self._chunks(endpoint, response)))

    async def _chunks(self, endpoint: Endpoint[Any], response: _Response) -> AsyncGenerator[bytes]:
        async with self._translated(endpoint):
            while chunk := await response.read():
                yield chunk

    @contextlib.asynccontextmanager
    async def _request(
        self, endpoint: Endpoint[Any], path: Mapping[str, str], query: Query | None, body: Document | bytes | None
    ) -> AsyncIterator[_Response]:
        transport = self._transport
        if transport is None:
            raise RuntimeError("Client is used outside of its `async with`")
        location = transport.prefix + endpoint.fill(path)
        text = urlencode(query_to_text(query)) if query is not None else ""
        headers = {"Accept": "application/json, application/problem+json"}
        data = body if body is None or isinstance(body, bytes) else encode_json(body)
        if data is not None:
            headers["Content-Type"] = "application/octet-stream" if isinstance(body, bytes) else "application/json"
        if endpoint.signed:
            headers |= self._signature(endpoint, transport.authority, location, text, data or b"")
        target = f"{location}?{text}" if text else location
        async with transport.request(endpoint.method, target, headers, data) as response:
            if not 200 <= response.status < 300:
                problem = _problem(await _read(response), response.status)
                if problem.hint and not isinstance(self._address, Path):  # advice of others is not ours
                    problem.hint = f"{self._address} says: {problem.hint}"
                raise problem
            yield response

    def _signature(self, endpoint: Endpoint[Any], authority: str, path: str, query: str, body: bytes) -> dict[str, str]:
        # Here, as it brings libsodium, which calls to a node have no use for.
        from zos_core.base.request_signature import NONCE_BYTES, Message

        if self._signer is None:
            raise RuntimeError(f"{endpoint} is signed, and this Client has no signer")
        message = Message(method=endpoint.method, authority=authority, path=path, query=query, fields={})
        now_s = self._clock_ns() // 1_000_000_000
        return self._signer.sign(message, body, now_s=now_s, nonce=secrets.token_bytes(NONCE_BYTES))

    @contextlib.asynccontextmanager
    async def _translated(self, endpoint: Endpoint[Any]) -> AsyncIterator[None]:
        try:
            yield
        except TimeoutError as error:  # an OSError, so it comes first
            raise RequestTimeout(f"{self._address} did not answer {endpoint} in time") from error
        except OSError as error:
            raise self._unreachable(error) from error

    def _unreachable(self, error: OSError) -> Unreachable | Forbidden:
        local = isinstance(self._address, Path)
        if local and error.errno in (errno.EACCES, errno.EPERM):
            return Forbidden(
                f"{self._address} belongs to another user",
                hint="the user who ran zos up may use it, and root; or start your own with --instance",
            )
        # In the system's words: the loop's name its internals.
        reason = os.strerror(error.errno) if error.errno else error.strerror or str(error)
        return Unreachable(
            f"{self._address}: {reason}",
            hint="no node answers there: `zos up` starts one; of another instance, say --instance" if local else None,
            absent=error.errno in (errno.ENOENT, errno.ECONNREFUSED),
        )


async def _read(response: _Response) -> bytes:
    data = bytearray()
    while piece := await response.read():
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
