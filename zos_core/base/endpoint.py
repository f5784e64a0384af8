"""One typed table of endpoints gives the routes of a server, the calls of a client and an OpenAPI document.

A part declares its endpoints once, as constants beside its documents:

    PS = Endpoint("GET", "/v1/containers", response=Containers, summary="List containers")
    STOP: Endpoint[None] = Endpoint("POST", "/v1/containers/{name}/stop", request=Stop, summary="Stop a container")
    LOGS: Endpoint[None] = Endpoint("GET", "/v1/containers/{name}/logs", query=LogQuery, stream=True, summary="...")

and hands `{PS: self.ps, ...}` to a `server.Server`; a client says `await client.call(PS)`. This module is pure.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import KW_ONLY, dataclass
from typing import Any, Generic, Literal, TypeVar
from urllib.parse import quote

import msgspec

from native.errors import ContextValue, ZosError
from zos_core.base.document import Document, Record
from zos_core.base.errors import DocumentInvalid
from zos_core.base.text import printable

__all__ = ["Endpoint", "Problem", "Query", "RemoteProblem", "query_from_text", "query_to_text"]

REQUEST_BYTES_MAX = 1 << 20  # documents are small; what is larger is an object and has its own route
PARAMETER = re.compile(r"\{([a-z_]+)\}")

R_co = TypeVar("R_co", covariant=True)
Query = Document
"""Queries are flat: fields of str, int, float, bool or None."""
Q = TypeVar("Q", bound=Query)


@dataclass(frozen=True, eq=False)
class Endpoint(Generic[R_co]):
    """One operation of an HTTP API; `R_co` is what a call returns: the response, or None for 204 and for streams.

    Attributes:
        method: GET changes nothing, and is cancelled when its client goes away; the others run to their end.
        path: template, `{name}` stands for one segment and arrives as a `str`.
        summary: one line for people.
        request: type of the JSON body, `bytes` for a body of octets, or None for no body.
        query: type of the query string, or None for none.
        response: type of the JSON answer, or None for 204.
        stream: the answer is a stream of bytes instead, of `media_type`.
        errors: the errors that a caller should expect, for the OpenAPI document.
        request_bytes_max: longer bodies are refused with 413.
        signed: the request carries a signature of its caller's key (docs/spec/request-signature.md).
    """

    method: Literal["GET", "POST", "PUT", "DELETE"]
    path: str
    _: KW_ONLY
    request: type[Document] | type[bytes] | None = None
    query: type[Query] | None = None
    response: type[R_co] | None = None
    stream: bool = False
    media_type: str = "application/octet-stream"
    summary: str = ""
    errors: tuple[type[ZosError], ...] = ()
    request_bytes_max: int = REQUEST_BYTES_MAX
    signed: bool = False

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or not self.summary:
            raise ValueError(f"{self.method} {self.path}: a path begins with '/', and there is a summary")
        if self.stream and self.response is not None:
            raise ValueError(f"{self}: a stream has no response type")
        if self.method == "GET" and self.request is not None:
            raise ValueError(f"{self}: GET has no body")

    def __str__(self) -> str:
        return f"{self.method} {self.path}"

    @property
    def parameters(self) -> tuple[str, ...]:
        """Names in the path template, in order."""
        return tuple(PARAMETER.findall(self.path))

    def fill(self, values: Mapping[str, str]) -> str:
        """The path with `values` in place of the parameters, percent-encoded.

        Raises:
            ValueError: other names than the template has: a fault in our own code.
        """
        if set(values) != set(self.parameters):
            raise ValueError(f"{self}: parameters {sorted(values)} were given")
        return PARAMETER.sub(lambda match: _segment(values[match[1]]), self.path)


def _segment(value: str) -> str:
    # "." and ".." would be resolved away by every URL library on the way, so they are never sent as they are.
    if value in ("", ".", ".."):
        raise DocumentInvalid(f"{value!r} cannot be part of a path")
    return quote(value, safe="", errors="surrogateescape")  # bytes of a command line that are no UTF-8


class Problem(Record, frozen=True, kw_only=True):
    """Body of every error answer (application/problem+json): the attributes of a ZosError."""

    code: str
    message: str
    hint: str | None = None
    retryable: bool = False
    exit_status: int = 1
    context: dict[str, ContextValue] = msgspec.field(default_factory=dict)

    @classmethod
    def of(cls, error: ZosError) -> Problem:
        """What is said of `error` to a client."""
        context = {name: printable(value) if isinstance(value, str) else value for name, value in error.context.items()}
        return cls(
            code=error.code,
            message=printable(error.message),
            hint=None if error.hint is None else printable(error.hint),
            retryable=error.retryable,
            exit_status=error.exit_status,
            context=context,
        )


class RemoteProblem(ZosError):
    """A server's error answer: `code`, `exit_status` and the rest are those of the error that the server raised."""

    code = "http.problem"

    @classmethod
    def from_problem(cls, problem: Problem, http_status: int) -> RemoteProblem:
        """An error whose attributes are the server's; statuses that no class may have become 1.

        Its text is printable, whoever the server is.
        """
        exit_status = problem.exit_status
        attributes = {
            "code": printable(problem.code),
            "http_status": http_status,
            "exit_status": exit_status if 0 < exit_status < 125 and exit_status != 77 else 1,
            "retryable": problem.retryable,
        }
        # A class for one error: ZosError's attributes belong to classes, and whoever maps errors reads them there.
        hint = None if problem.hint is None else printable(problem.hint)
        error: RemoteProblem = type("RemoteProblem", (cls,), attributes)(printable(problem.message), hint=hint)
        error.context = dict(problem.context)
        return error


def query_to_text(query: Query) -> dict[str, str]:
    """Fields of a query that are not None, as text."""
    values: dict[str, Any] = msgspec.to_builtins(query)
    return {
        name: str(value).lower() if isinstance(value, bool) else str(value)
        for name, value in values.items()
        if value is not None
    }


def query_from_text(values: Mapping[str, str], type_: type[Q]) -> Q:
    """The inverse of `query_to_text`.

    Raises:
        DocumentInvalid: an unknown field, or text that is not of its field's type.
    """
    try:
        return msgspec.convert(dict(values), type_, strict=False)
    except msgspec.ValidationError as error:
        raise DocumentInvalid(f"query: {error}") from error
