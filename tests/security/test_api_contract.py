"""The node's API against its own OpenAPI document: schemathesis makes requests from it, good ones and bad ones."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import socketserver
import threading
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok
from schemathesis.generation import GenerationMode
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.e2e.node_tool import Node
from zos_core.base.paths import Instance

pytestmark = pytest.mark.root

EXAMPLES = int(os.environ.get("ZOS_TEST_EXAMPLES", "8"))
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# It would end the node; tests/e2e has it.
LEFT_OUT = {("POST", "/v1/node/down")}
CHUNK = 65_536
# An end that says nothing for so long says nothing more.
IDLE_S = 20.0
# What is longer is no other request to the node, but takes schemathesis seconds to think of: it made this test wait.
ITEMS_MAX = 3
LENGTH_MAX = 64


class Relay(socketserver.ThreadingTCPServer):
    """Loopback to a unix socket, byte by byte: schemathesis speaks TCP alone."""

    daemon_threads = True
    path: str


class Both(socketserver.BaseRequestHandler):
    """One connection: until both ends have said all."""

    server: Relay

    def handle(self) -> None:
        with socket.socket(socket.AF_UNIX) as far:
            far.settimeout(IDLE_S)
            self.request.settimeout(IDLE_S)
            far.connect(self.server.path)
            back = threading.Thread(target=copy, args=(far, self.request))
            back.start()
            copy(self.request, far)
            back.join()


def copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):  # an end that is gone has nothing more to say
        while data := source.recv(CHUNK):
            target.sendall(data)
    with contextlib.suppress(OSError):
        target.shutdown(socket.SHUT_WR)


@pytest.fixture
def url(attacked: Node) -> Iterator[str]:
    """The API over loopback; the node sees root, who started this."""
    with Relay(("127.0.0.1", 0), Both) as server:
        server.path = str(Instance(attacked.instance).api_socket)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


def test_every_endpoint_does_what_its_document_says(attacked: Node, url: str) -> None:
    with urllib.request.urlopen(f"{url}/openapi.json", timeout=10) as answer:
        document: dict[str, Any] = json.load(answer)
    shorten(document["components"])
    schema = schemathesis.openapi.from_dict(document)
    asked: dict[str, set[int]] = {}
    try:
        # What takes containers away comes last.
        for operation in sorted(operations(schema), key=lambda each: each.method.upper() == "DELETE"):
            asked[operation.label] = try_out(operation, url)
    finally:
        for name in attacked.names():
            assert attacked.zos("rm", "-f", name).status == 0
    assert len(asked) == sum(len(methods) for methods in document["paths"].values()) - len(LEFT_OUT)
    print(asked)
    assert all(statuses for statuses in asked.values())
    assert {200, 400, 404} <= set().union(*asked.values())


def shorten(schema: Any) -> None:
    """Let lists and strings be short, in a document as decoded."""
    if isinstance(schema, list):
        for each in schema:
            shorten(each)
    if isinstance(schema, dict):
        for longest, shortest, most in (("maxItems", "minItems", ITEMS_MAX), ("maxLength", "minLength", LENGTH_MAX)):
            if isinstance(schema.get(longest), int):
                schema[longest] = max(min(schema[longest], most), schema.get(shortest, 0))
        for each in schema.values():
            shorten(each)


def operations(schema: Any) -> Iterator[Any]:
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        if (operation.method.upper(), operation.path) not in LEFT_OUT:
            yield operation


def bound(case: Any) -> None:
    """None of the requests has us wait because it asks for that."""
    query = case.query if isinstance(case.query, dict) else {}
    if isinstance(query.get("timeout_s"), int | float):
        query["timeout_s"] = min(query["timeout_s"], 0.1)
    if "follow" in query:
        query["follow"] = "false" if query["follow"] in (True, "true") else query["follow"]
    image = case.body.get("image") if isinstance(case.body, dict) else None
    if isinstance(image, dict) and str(image.get("store", "")).startswith("http"):
        image["store"] = "http://127.0.0.1:1"  # nobody listens there


def try_out(operation: Any, url: str) -> set[int]:
    """Requests that the document allows, and such that it forbids; the statuses of the answers."""
    seen: set[int] = set()
    for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):

        @seed(20_260_701)
        @settings(
            max_examples=EXAMPLES,
            deadline=None,
            database=None,
            phases=[Phase.explicit, Phase.generate],
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy(generation_mode=mode))
        def ask(case: Any) -> None:
            bound(case)
            answer = case.call(base_url=url, timeout=10)
            seen.add(answer.status_code)
            case.validate_response(answer, checks=CHECKS)

        try:
            ask()
        except Unsatisfiable:
            continue
    return seen
