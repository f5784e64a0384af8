"""An OpenAPI 3.1 document from a table of endpoints. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec

from zos_core.base.endpoint import Endpoint, Problem

__all__ = ["openapi"]

SIGNATURE_FIELDS = ("Content-Digest", "Signature-Input", "Signature")


def openapi(endpoints: Sequence[Endpoint[Any]], *, title: str) -> dict[str, Any]:
    """The document of an API that has `endpoints`."""
    types: list[type[Any]] = [Problem, *_types(endpoints)]
    schemas, components = msgspec.json.schema_components(types, ref_template="#/components/schemas/{name}")
    schema_of = dict(zip(types, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schema_of, components)
    return {
        "openapi": "3.1.0",
        "info": {"title": title, "version": _version()},
        "paths": paths,
        "components": {"schemas": components},
    }


def _types(endpoints: Sequence[Endpoint[Any]]) -> list[type[Any]]:
    found: dict[type[Any], None] = {}
    for endpoint in endpoints:
        for type_ in (endpoint.request, endpoint.query, endpoint.response):
            if type_ is not None and type_ is not bytes:
                found[type_] = None
    return list(found)


def _operation(
    endpoint: Endpoint[Any], schema_of: dict[type[Any], dict[str, Any]], components: dict[str, Any]
) -> dict[str, Any]:
    operation: dict[str, Any] = {"summary": endpoint.summary, "responses": _responses(endpoint, schema_of)}
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string"}} for name in endpoint.parameters
    ]
    if endpoint.query is not None:
        query = components[endpoint.query.__name__]
        required = set(query.get("required", ()))
        parameters += [
            {"name": name, "in": "query", "required": name in required, "schema": schema}
            for name, schema in query["properties"].items()
        ]
    if endpoint.signed:
        parameters += [
            {"name": name, "in": "header", "required": True, "schema": {"type": "string"}} for name in SIGNATURE_FIELDS
        ]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.request is bytes:
        content = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
        operation["requestBody"] = {"required": True, "content": content}
    elif endpoint.request is not None:
        operation["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema_of[endpoint.request]}},
        }
    return operation


def _responses(endpoint: Endpoint[Any], schema_of: dict[type[Any], dict[str, Any]]) -> dict[str, Any]:
    responses: dict[str, Any] = {}
    if endpoint.stream:
        responses["200"] = {"description": "a stream", "content": {endpoint.media_type: {"schema": {}}}}
    elif endpoint.response is None:
        responses["204"] = {"description": "done"}
    else:
        content = {"application/json": {"schema": schema_of[endpoint.response]}}
        responses["200"] = {"description": endpoint.summary, "content": content}
    problem = {"application/problem+json": {"schema": schema_of[Problem]}}
    for status in sorted({error.http_status for error in endpoint.errors}):
        codes = sorted(error.code for error in endpoint.errors if error.http_status == status)
        responses[str(status)] = {"description": ", ".join(codes), "content": problem}
    responses["default"] = {"description": "a problem", "content": problem}
    return responses


def _version() -> str:
    try:
        return version("zos")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "0"
