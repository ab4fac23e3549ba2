"""The calls as an OpenAPI description, made from the very checks that they pass, so that it says what holds."""

from __future__ import annotations

import json
from typing import Any

from luigi_spanner._version import __version__
from luigi_spanner.methods import CHANGING, OURS, READING, verbs
from luigi_spanner.server.answers import ANSWERS, UNKNOWN
from luigi_spanner.server.checks import Check, Schema, identifier
from luigi_spanner.server.exchange import LISTINGS
from luigi_spanner.server.validate import MAX_DEPTH, Method, Methods

OPENAPI = "3.1.0"
"""The first release of the specification whose schemas are JSON Schema, null and all."""

FORM = "application/x-www-form-urlencoded"

ABOUT = f"""\
The remote calls of Luigi's central scheduler. Each takes its arguments as one JSON object in the form field `data`, in the body
or in the query, and answers `{{"response": ...}}`. Luigi's own methods are called by GET and POST, which do the same: a GET may
change things, too. A body may also be a `multipart/form-data` form. Of those that are not Luigi's, the ones that change nothing
({", ".join(sorted(READING))}) take arguments that are texts as plain parameters of the query, too: `?task_id=...`. The others
({", ".join(sorted(CHANGING))}) are called by POST alone.

JSON is as Python writes it: `Infinity`, `-Infinity` and `NaN` may stand bare where an argument says so, and in answers.
Arguments nest at most {MAX_DEPTH} levels deep. Long ones belong in the body: the head of a request has at most 64 KiB.

503 means that the outcome is not known. Every reply carries the header `X-Request-Id`: the caller's own if it offered one.
"""

_ERROR: Schema = {
    "type": "object",
    "required": ["error"],
    "properties": {
        "error": {
            "type": "object",
            "required": ["code", "message", "request_id"],
            "properties": {
                "code": {"type": "string", "description": "Stable, for programs."},
                "message": {"type": "string", "description": "A sentence for people."},
                "request_id": {"type": "string"},
            },
        }
    },
}

_FAULTS = {
    "400": "The arguments can never be accepted; nothing has changed.",
    "404": "There is no such task; nothing has changed.",
    "413": "The body, or what would have to be stored, is too large; nothing has changed.",
    "500": "A bug; nothing has changed, and the log has the request id.",
    "503": "The store did not answer in time, or the replica is shutting down: the outcome is unknown.",
}


def describe(methods: Methods) -> dict[str, Any]:
    """The OpenAPI description of these methods."""
    served = sorted(methods.items())
    return {
        "openapi": OPENAPI,
        "info": {"title": "Luigi Spanner", "version": __version__, "description": ABOUT},
        # Relative to where the description is served, so it holds behind a path prefix.
        "servers": [{"url": "../api"}],
        "paths": {f"/{name}": _operations(method) for name, method in served},
        "components": {
            "schemas": {"Error": _ERROR, **{_title(name): _arguments(method) for name, method in served}},
            "responses": {f"Error{status}": _fault(status, why) for status, why in _FAULTS.items()},
        },
    }


def _operations(method: Method) -> dict[str, Any]:
    needed = bool(method.required)
    arguments = {"$ref": f"#/components/schemas/{_title(method.name)}"}
    summary, responses = ANSWERS.get(method.name, UNKNOWN).summary, _responses(method)
    unchanged = {"304": {"description": "What `If-None-Match` names still holds."}} if method.name in LISTINGS else {}
    query = {"name": "data", "in": "query", "required": needed, "content": {"application/json": {"schema": arguments}}}
    form = {"type": "object", "properties": {"data": arguments}, "required": ["data"] if needed else []}
    body = {FORM: {"schema": form, "encoding": {"data": {"contentType": "application/json"}}}}
    operations = {
        "get": {
            "operationId": f"{method.name}_by_get",
            "summary": summary,
            "parameters": [query],
            "responses": {**responses, **unchanged},
        },
        "post": {
            "operationId": method.name,
            "summary": summary,
            "requestBody": {"required": needed, "content": body},
            "responses": responses,
        },
    }
    return {verb: operations[verb] for verb in map(str.lower, verbs(method.name))}


def _arguments(method: Method) -> Schema:
    """What a method takes, all arguments together."""
    properties: dict[str, Any] = {name: _argument(method, name, check) for name, check in sorted(method.checks.items())}
    if method.rest is not None:
        properties["self"] = False
    return {
        "type": "object",
        "required": sorted(method.required),
        "properties": properties,
        "additionalProperties": False if method.rest is None else method.rest.schema,
        **({} if method.rest is None else {"propertyNames": identifier.schema}),
    }


def _argument(method: Method, name: str, check: Check) -> Schema:
    default = method.defaults.get(name)
    try:
        json.dumps(default, allow_nan=False)
    except (TypeError, ValueError):  # Infinity, which no JSON Schema can hold, or whatever a later Luigi has
        return check.schema
    return {**check.schema, "default": default} if name in method.defaults else check.schema


def _responses(method: Method) -> dict[str, Any]:
    reply = {"type": "object", "required": ["response"], "properties": {"response": ANSWERS.get(method.name, UNKNOWN).schema}}
    return {
        "200": {"description": "The answer, once it is durable.", "content": {"application/json": {"schema": reply}}},
        **{
            status: {"$ref": f"#/components/responses/Error{status}"}
            for status in _FAULTS
            if status != "404" or method.name in OURS
        },
    }


def _fault(status: str, why: str) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": why,
        "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
    }
    if status == "503":
        after = {"schema": {"type": "integer"}, "description": "Seconds after which to ask again."}
        described["headers"] = {"Retry-After": after}
    return described


def _title(name: str) -> str:
    """A method's name as a schema is called: AddTask."""
    return "".join(part.capitalize() for part in name.split("_"))
