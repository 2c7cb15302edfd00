"""The OpenAPI document, made from the table of routes and the classes that check what is sent."""

from collections.abc import Sequence
from typing import Any

import msgspec

from steerec.service.calls import Route
from steerec.service.gate import SCOPES
from steerec.service.meanings import in_path, meaning_of
from steerec.version import __version__

PROBLEM = {
    "description": "what is wrong, in words: what was given, what was expected, what to do",
    "content": {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}},
}
_PROBLEM_SCHEMA = {
    "type": "object",
    "required": ["type", "title", "status", "detail", "instance"],
    "properties": {
        "type": {"type": "string", "description": "about:blank: the status says it"},
        "title": {"type": "string", "description": "the status in words"},
        "status": {"type": "integer", "description": "of HTTP"},
        "detail": {"type": "string", "description": PROBLEM["description"]},
        "instance": {"type": "string", "description": "id under which the logs speak of the call"},
    },
}
_STREAMED = {
    "application/x-ndjson": {"schema": {"type": "string"}},
}


def document(routes: Sequence[Route]) -> dict[str, Any]:
    """OpenAPI 3.1 of these routes."""
    kinds = {
        kind
        for route in routes
        for kind in (route.query, route.body, route.many, route.answer)
        if kind is not None
    }
    ordered = sorted(kinds, key=lambda kind: kind.__name__)
    schemas, components = msgspec.json.schema_components(
        ordered, ref_template="#/components/schemas/{name}"
    )
    for name, schema in components.items():
        for field, kind in schema.get("properties", {}).items():
            if meaning := meaning_of(name, field):
                kind["description"] = meaning
    refs = dict(zip(ordered, schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for route in routes:
        spot = paths.setdefault(route.path, {})
        spot[route.method.lower()] = _operation(route, refs, components)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "steerec",
            "version": __version__,
            "description": "A recommender that learns from every click, can be steered, and "
            "proves each change.",
        },
        "paths": paths,
        "components": {
            "schemas": {**components, "Problem": _PROBLEM_SCHEMA},
            "securitySchemes": {
                "key": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
            },
        },
    }


def _operation(route: Route, refs: dict[Any, Any], components: dict[str, Any]) -> dict[str, Any]:
    summary, _, rest = route.described.partition("\n")
    told: dict[str, Any] = {
        "operationId": route.handle.__name__,
        "tags": [route.tag],
        "summary": summary.rstrip("."),
        "description": f"{' '.join(rest.split())}\n\nScope: `{route.scope}` "
        f"({SCOPES[route.scope]}).".strip(),
        "parameters": [*in_path(route.path), *_in_query(route, components)],
        "responses": _responses(route, refs),
    }
    if route.scope != "open":
        told["security"] = [{"key": []}]
    if route.body is not None:
        schema = refs[route.body]
        if route.many is not None:
            schema = {"anyOf": [schema, refs[route.many]]}
        content: dict[str, Any] = {"schema": schema}
        if route.example is not None:
            content["example"] = dict(route.example)
        told["requestBody"] = {"required": True, "content": {"application/json": content}}
    return {**told, **route.more}


def _responses(route: Route, refs: dict[Any, Any]) -> dict[str, Any]:
    content = _STREAMED
    if route.answer is not None:
        content = {"application/json": {"schema": refs[route.answer]}}
    return answers(content, route.status)


def answers(content: dict[str, Any], status: int = 200) -> dict[str, Any]:
    """The responses of an operation that answers with this, or with a problem."""
    return {str(int(status)): {"description": "done", "content": content}, "default": PROBLEM}


def _in_query(route: Route, components: dict[str, Any]) -> list[dict[str, Any]]:
    schema = components.get(route.query.__name__, {})
    return [
        {
            "name": name,
            "in": "query",
            "required": False,
            "description": kind.get("description", ""),
            "schema": {key: value for key, value in kind.items() if key != "description"},
        }
        for name, kind in schema.get("properties", {}).items()
    ]
