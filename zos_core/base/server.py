"""An HTTP server from a table of endpoints, on sockets that listen already (hold keeps them) or that are made here.

A handler takes its endpoint's path parameters (`str`), `query` and `body` (where the endpoint has them) and, if it
wants to know who asks, `caller`, all as keyword arguments with those very types, and returns the response type; for a
stream it returns or is an async iterator of bytes. A handler that does not fit its endpoint is an error at start.

    async def logs(*, caller: Caller, name: str, query: LogQuery) -> AsyncIterator[bytes]: ...

    async with Server({LOGS: logs}, title="zos node", authorize=only_owner) as server:
        await server.listen(sock)

GET handlers are cancelled when their client goes away; others run to their end, so that nobody's Ctrl-C leaves half a
change. A stream's headers leave with its first chunk (b"" if there is none yet to say), errors before that are problem
documents, errors after it cut the connection, which a client sees as such.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import inspect
import logging
import os
import resource
import socket
import struct
import sys
import time
import typing
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import ip_address
from types import NoneType, TracebackType
from typing import Any, Self

from aiohttp import hdrs, web
from aiohttp.http_exceptions import HttpProcessingError

from native.errors import ZosError
from zos_core.base.document import decode_json, encode_json
from zos_core.base.endpoint import Endpoint, Problem, query_from_text
from zos_core.base.errors import (
    AddressInUse,
    DescriptorsExhausted,
    DocumentInvalid,
    Internal,
    RequestTimeout,
    ServerBusy,
    UsageError,
    is_out_of_descriptors,
    zos_error_in,
)
from zos_core.base.nonces import NonceStore
from zos_core.base.openapi import openapi
from zos_core.base.request_signature import Message, Verified, check_body, verify
from zos_core.base.threads import in_thread

__all__ = [
    "Caller",
    "Handler",
    "HandlerMismatch",
    "Server",
    "Verifier",
    "cut_off",
    "listen_tcp",
    "problem_response",
]

HEAD_TIMEOUT_S = 20.0  # for the head of a request, also the longest idle time of a connection
BODY_TIMEOUT_S = 30.0
BODY_SLOWEST_BYTES_S = 64 * 1024  # a body of octets gets a second more for each so many bytes that it may have
WRITE_TIMEOUT_S = 30.0  # for one chunk: a client that reads slower than a chunk in this time is cut off
SHUTDOWN_TIMEOUT_S = 5.0
REFUSAL_TIMEOUT_S = 1.0
CONNECTIONS_MAX = 1024
DESCRIPTORS_RESERVED = 32  # what new connections leave to the requests that are under way
BACKLOG = 128
HTTP_PORT = 80
UNIX_AUTHORITY = "zos"  # what `Client` says over a unix socket
UCRED = struct.Struct("3i")  # struct ucred, unix(7)
LINGER = struct.Struct("2i")  # struct linger, socket(7)

Handler = Callable[..., Any]
Authorize = Callable[["Caller", Endpoint[Any]], None]

_log = logging.getLogger(__name__)
_http_log = logging.getLogger(f"{__name__}.http")
# What is no HTTP is answered with 400: no fault of ours, and anybody could fill the log with it.
_http_log.addFilter(lambda record: not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError)))


class HandlerMismatch(TypeError):
    """A handler does not fit its endpoint: a fault in our own code, found at start."""


@dataclass(frozen=True, slots=True)
class Caller:
    """Who is at the other end: by SO_PEERCRED on a unix socket, else only an address.

    Attributes:
        uid, gid, pid: of the process that connected, or None over TCP.
        address: IP address over TCP, or None.
        public: the public key by which the request is signed; None unless the endpoint is `signed`.
    """

    uid: int | None = None
    gid: int | None = None
    pid: int | None = None
    address: str | None = None
    public: bytes | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Verifier:
    """What a server needs to verify signed requests (docs/spec/request-signature.md).

    Attributes:
        known: whether a public key may speak here.
        nonces: remembers what was seen, over restarts.
        names: authorities, `HOST[:PORT]` in lower case, by which clients call this server beside its addresses.
        clock_ns: nanoseconds since the epoch.
    """

    known: Callable[[bytes], bool]
    nonces: NonceStore
    names: Collection[str] = ()
    clock_ns: Callable[[], int] = time.time_ns


class Server:
    """Serves a table of endpoints on any number of sockets; an async context manager, clean on exit."""

    def __init__(
        self,
        handlers: Mapping[Endpoint[Any], Handler],
        *,
        title: str,
        authorize: Authorize,
        routes: Sequence[web.RouteDef] = (),
        connections_max: int = CONNECTIONS_MAX,
        verifier: Verifier | None = None,
    ) -> None:
        """Checks every handler.

        Args:
            handlers: the table.
            title: of the OpenAPI document, which is served at /openapi.json.
            authorize: raises a ZosError (`Forbidden`) for a caller who may not use an endpoint.
            routes: raw aiohttp routes beside the table, for objects; their ZosErrors become problem documents too.
            connections_max: more are answered 503 and closed, as are those for which hardly a descriptor is left.
            verifier: verifies the requests to `signed` endpoints; needed where there is one.

        Raises:
            HandlerMismatch: a handler does not fit.
        """
        self._authorize = authorize
        self._verifier = verifier
        self._connections_max = connections_max
        self._title = title
        self._servers: list[asyncio.AbstractServer] = []
        self._group = asyncio.TaskGroup()
        document = encode_json(openapi(list(handlers), title=title))

        async def describe(request: web.Request) -> web.StreamResponse:
            return web.Response(body=document, content_type="application/json")

        app = web.Application(middlewares=[_problems])
        app.router.add_get("/openapi.json", describe)
        for endpoint, handler in handlers.items():
            _check(endpoint, handler)
            if endpoint.signed and verifier is None:
                raise HandlerMismatch(f"{endpoint} is signed, and the server has no verifier")
            app.router.add_route(endpoint.method, endpoint.path, self._route(endpoint, handler))
        app.router.add_routes(routes)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_http_log,
            handler_cancellation=True,
            keepalive_timeout=HEAD_TIMEOUT_S,
            shutdown_timeout=SHUTDOWN_TIMEOUT_S,
            auto_decompress=False,  # nobody needs compressed requests, and nobody can send a bomb
        )

    async def __aenter__(self) -> Self:
        await self._group.__aenter__()
        await self._runner.setup()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.close()
        try:
            await self._runner.cleanup()
        finally:
            # Without the block's own error, which the group would only wrap; changes in flight get time to end.
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(SHUTDOWN_TIMEOUT_S):
                    await self._group.__aexit__(None, None, None)

    async def listen(self, sock: socket.socket) -> None:
        """Accept on a TCP or unix stream socket that listens already; it is closed with the server, never unlinked."""
        loop = asyncio.get_running_loop()
        if sock.family == socket.AF_UNIX:
            # From 3.13 on asyncio would delete the socket's file, which is not ours.
            keep: dict[str, Any] = {"cleanup_socket": False} if sys.version_info >= (3, 13) else {}
            server: asyncio.AbstractServer = await loop.create_unix_server(self._accept, sock=sock, **keep)
        else:
            server = await loop.create_server(self._accept, sock=sock, backlog=BACKLOG)
        self._servers.append(server)

    def _accept(self) -> asyncio.BaseProtocol:
        server = self._runner.server
        assert server is not None
        if len(server.connections) >= self._connections_max:
            return _Refusal(ServerBusy("too many connections", hint="try again later"))
        if _is_scarce():
            return _Refusal(DescriptorsExhausted.here("answer a client", process=self._title))
        return server()

    def _route(
        self, endpoint: Endpoint[Any], handler: Handler
    ) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
        wants_caller = "caller" in inspect.signature(handler).parameters

        async def route(request: web.Request) -> web.StreamResponse:
            caller = _caller(request)
            verified: Verified | None = None
            if endpoint.signed:
                verified = await self._verified(request)
                caller = replace(caller, public=verified.public)
            self._authorize(caller, endpoint)
            arguments: dict[str, Any] = dict(request.match_info)
            if wants_caller:
                arguments["caller"] = caller
            _refuse_surplus(endpoint, request)
            if endpoint.query is not None:
                arguments["query"] = query_from_text(_single(request), endpoint.query)
            data = b""
            if endpoint.request is not None:
                data = await _read_body(request, endpoint)
            if verified is not None:
                check_body(verified, data)
            if endpoint.request is bytes:
                arguments["body"] = data
            elif endpoint.request is not None:
                arguments["body"] = decode_json(data, endpoint.request, what="request body")
            result = handler(**arguments)
            if endpoint.stream:
                chunks = await result if inspect.isawaitable(result) else result
                return await _stream(request, chunks, endpoint.media_type)
            if endpoint.method == "GET":
                answer = await result
            else:
                answer = await self._to_the_end(result, str(endpoint))
            if endpoint.response is None:
                return web.Response(status=204)
            return web.Response(body=encode_json(answer), content_type="application/json")

        return route

    async def _verified(self, request: web.Request) -> Verified:
        """Who signed the head of the request; the nonce is remembered before anything is done (REQSIG-8)."""
        verifier = self._verifier
        assert verifier is not None
        now_s = verifier.clock_ns() // 1_000_000_000
        audiences = {*verifier.names, *_own_authorities(request)}
        verified = verify(_message(request), known=verifier.known, audiences=audiences, now_s=now_s)
        await in_thread(verifier.nonces.remember, verified, now_s=now_s)
        return verified

    async def _to_the_end(self, work: Coroutine[Any, Any, Any], name: str) -> Any:
        """The result of `work`, which runs on in the server's own group when the client goes away."""
        outcome: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._group.create_task(_resolve(work, outcome), name=name)
        return await asyncio.shield(outcome)


async def _resolve(work: Coroutine[Any, Any, Any], outcome: asyncio.Future[Any]) -> None:
    try:
        result = await work
    except asyncio.CancelledError:
        outcome.cancel()
        raise
    except Exception as error:  # noqa: BLE001 (whoever waits for the outcome gets it; here it must not end the group)
        outcome.set_exception(error)
        outcome.exception()  # retrieved: the client may be gone
    else:
        outcome.set_result(result)


# --- Start-up checks -----------------------------------------------------------------------------------------------


def _check(endpoint: Endpoint[Any], handler: Handler) -> None:
    signature = inspect.signature(handler)
    hints = typing.get_type_hints(getattr(handler, "__func__", handler))
    expected: dict[str, Any] = dict.fromkeys(endpoint.parameters, str)
    if endpoint.query is not None:
        expected["query"] = endpoint.query
    if endpoint.request is not None:
        expected["body"] = endpoint.request
    found = {name: hints.get(name) for name in signature.parameters}
    if found.pop("caller", Caller) is not Caller or found != expected:
        raise HandlerMismatch(f"{endpoint}: the handler takes {found}, the endpoint gives {expected}")
    returned = hints.get("return")
    if endpoint.stream:
        fits = typing.get_origin(returned) is AsyncIterator and typing.get_args(returned) == (bytes,)
    else:
        fits = inspect.iscoroutinefunction(handler) and returned == (endpoint.response or NoneType)
    if not fits:
        raise HandlerMismatch(f"{endpoint}: the handler returns {returned}")


# --- One request ---------------------------------------------------------------------------------------------------


@web.middleware
async def _problems(
    request: web.Request, handler: Callable[[web.Request], Awaitable[web.StreamResponse]]
) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:  # of aiohttp's router: no such path, no such method
        if error.status < 400:
            raise
        status, problem = error.status, Problem(code=f"http.{error.status}", message=error.reason)
        return problem_response(problem, status, allow=error.headers.get(hdrs.ALLOW))
    except ConnectionError:
        cut_off(request, reset=False)
        return web.Response()  # nobody gets it; an exception would be logged as a fault of ours
    except Exception as error:  # noqa: BLE001 (the edge: what is not ours is logged and answered with 500)
        known = zos_error_in(error)
        if known is None:
            _log.exception("%s %s", request.method, request.path)
            known = Internal("internal error", hint="the server's log has the details")
        return problem_response(Problem.of(known), known.http_status)


def problem_response(problem: Problem, status: int, *, allow: str | None = None) -> web.Response:
    """An error answer; the connection is closed, because the request's body may be half read."""
    response = web.Response(body=encode_json(problem), status=status, content_type="application/problem+json")
    if allow is not None:
        response.headers[hdrs.ALLOW] = allow
    response.force_close()
    return response


def _caller(request: web.Request) -> Caller:
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    with _own_socket(transport) as sock:
        if sock.family != socket.AF_UNIX:
            return Caller(address=request.remote)
        pid, uid, gid = UCRED.unpack(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, UCRED.size))
    return Caller(uid=uid, gid=gid, pid=pid)


def _message(request: web.Request) -> Message:
    """The head as it came: the target is not decoded, so that what is verified is what was signed."""
    path, _, query = request.raw_path.partition("?")
    fields: dict[str, str] = {}
    for name, value in request.headers.items():
        key = name.lower()
        fields[key] = f"{fields[key]}, {value}" if key in fields else value
    return Message(
        method=request.method, authority=request.headers.get(hdrs.HOST, ""), path=path, query=query, fields=fields
    )


def _own_authorities(request: web.Request) -> set[str]:
    """How a client may have called this very socket: by its address, or as localhost."""
    transport = request.transport
    if transport is None:
        raise ConnectionResetError("the client is gone")
    with _own_socket(transport) as sock:
        if sock.family == socket.AF_UNIX:
            return {UNIX_AUTHORITY}
        host, port = sock.getsockname()[:2]
    hosts = {f"[{host}]" if ":" in host else host}
    address = ip_address(host.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None)
    if mapped is not None:
        hosts.add(str(mapped))
    if address.is_loopback or (mapped is not None and mapped.is_loopback):
        hosts.add("localhost")
    return {f"{each}:{port}" for each in hosts} | (hosts if port == HTTP_PORT else set())


def _refuse_surplus(endpoint: Endpoint[Any], request: web.Request) -> None:
    if endpoint.query is None and request.query_string:
        raise DocumentInvalid(f"{endpoint} takes no query")
    if endpoint.request is None and request.can_read_body:
        raise DocumentInvalid(f"{endpoint} takes no body")


def _single(request: web.Request) -> Mapping[str, str]:
    values = dict(request.query)
    if len(values) != len(request.query):
        raise DocumentInvalid("a query names a field twice")
    return values


async def _read_body(request: web.Request, endpoint: Endpoint[Any]) -> bytes:
    limit = endpoint.request_bytes_max
    timeout_s = BODY_TIMEOUT_S + (limit / BODY_SLOWEST_BYTES_S if endpoint.request is bytes else 0)
    data = bytearray()
    try:
        async with asyncio.timeout(timeout_s):
            while piece := await request.content.readany():
                data += piece
                if len(data) > limit:
                    raise _TooLong(f"the body is longer than {limit} bytes", limit=limit)
    except TimeoutError as error:
        raise RequestTimeout(f"the body did not arrive within {timeout_s:g} s") from error
    return bytes(data)


class _TooLong(DocumentInvalid):
    code, http_status = "http.body-too-long", 413


async def _stream(request: web.Request, chunks: AsyncIterator[bytes], media_type: str) -> web.StreamResponse:
    response: web.StreamResponse | None = None
    try:
        async for chunk in chunks:
            if response is None:
                response = await _begin(request, media_type)
            if chunk:
                async with asyncio.timeout(WRITE_TIMEOUT_S):
                    await response.write(chunk)
        if response is None:
            response = await _begin(request, media_type)
        async with asyncio.timeout(WRITE_TIMEOUT_S):
            await response.write_eof()
    except Exception as error:
        if response is None:
            raise  # nothing was sent yet: a problem document can still be
        if zos_error_in(error) is None and not isinstance(error, (ConnectionError, TimeoutError)):
            _log.exception("%s %s broke off", request.method, request.path)
        # Without a last chunk, so that the client knows.
        cut_off(request, reset=isinstance(error, TimeoutError))
    finally:
        close = getattr(chunks, "aclose", None)
        if close is not None:
            await close()
    return response


def cut_off(request: web.Request, *, reset: bool) -> None:
    """End a connection at once, whatever is under way.

    `reset`: with a TCP reset, for a client that does not read: else the kernel keeps what was sent to it for minutes.
    """
    transport = request.transport
    if transport is None:
        return
    with _own_socket(transport) as sock:
        if reset and sock.family != socket.AF_UNIX:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER.pack(1, 0))
    transport.abort()


def _is_scarce() -> bool:
    """Whether so few descriptors are left that the requests under way need them.

    The kernel gives the lowest free number: all below it are taken.
    """
    try:
        newest = os.open("/", os.O_PATH | os.O_CLOEXEC)
    except OSError as error:
        if not is_out_of_descriptors(error):
            raise
        return True
    os.close(newest)
    return newest + DESCRIPTORS_RESERVED >= resource.getrlimit(resource.RLIMIT_NOFILE)[0]


def _own_socket(transport: asyncio.BaseTransport) -> socket.socket:
    """The transport's socket once more: the loops' own socket objects have no options. Close it."""
    return socket.socket(fileno=os.dup(transport.get_extra_info("socket").fileno()))


async def _begin(request: web.Request, media_type: str) -> web.StreamResponse:
    response = web.StreamResponse()
    response.content_type = media_type
    await response.prepare(request)
    return response


class _Refusal(asyncio.Protocol):
    """Answers a connection above a limit with 503 when it asks something, and closes it."""

    def __init__(self, why: ZosError) -> None:
        self._why = why

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = typing.cast(asyncio.Transport, transport)  # uvloop's has no such base class
        self._timer = asyncio.get_running_loop().call_later(REFUSAL_TIMEOUT_S, self._transport.abort)

    def data_received(self, data: bytes) -> None:
        if self._transport.is_closing():
            return
        body = encode_json(Problem.of(self._why))
        head = "HTTP/1.1 503 Service Unavailable\r\nContent-Type: application/problem+json\r\nConnection: close\r\n"
        self._transport.write(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        self._transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        self._timer.cancel()


# --- Sockets -------------------------------------------------------------------------------------------------------


def listen_tcp(address: str) -> socket.socket:
    """A listening TCP socket at `HOST:PORT` or `[IPV6]:PORT`; port 0 takes a free one.

    Raises:
        UsageError: not an address.
        AddressInUse: somebody listens there.
    """
    host, separator, port = address.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65535:
        raise UsageError(f"{address!r} is not ADDRESS:PORT", hint="such as 127.0.0.1:7080 or [::1]:7080")
    host = host.removeprefix("[").removesuffix("]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, int(port)))
        sock.listen(BACKLOG)
    except OSError as error:
        sock.close()
        if error.errno == errno.EADDRINUSE:
            raise AddressInUse(
                f"{address} is in use", hint="choose another port, or stop what listens there"
            ) from error
        raise UsageError(f"cannot listen on {address}: {error.strerror or error}") from error
    return sock
