"""The FHIR face as an OpenAPI 3.1 document: for tools that know HTTP and not FHIR, fuzzers among them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from wetread import __version__
from wetread.api.fhir_format import JSON, XML
from wetread.record import patch
from wetread.record.search.parameters import resource_types

_FORM = "application/x-www-form-urlencoded"
_TEXT = {"type": "string"}
_PATTERNS = {"id": r"^[A-Za-z0-9\-.]{1,64}$", "version": r"^[0-9]{1,9}$"}
_FAILURES = {
    "400": "content or parameters break a rule",
    "401": "no valid token",
    "403": "the token does not open this",
    "404": "not here",
    "405": "not done at this path",
    "406": "only JSON is spoken",
    "409": "the state forbids it",
    "410": "deleted",
    "412": "a precondition does not hold",
    "413": "too large",
    "415": "only JSON is read",
    "422": "understood, but not done here",
    "503": "passing: send it again",
}
_WHATS = {"type": "of a type", "id": "of a resource", "version": "of a version", "inner": "in a compartment"}
_OF_READS = ("_summary", "_elements", "_format", "_pretty")
_OF_HISTORY = ("_count", "_since", "_at", *_OF_READS)
_OF_SEARCH = ("_count", "_sort", "_total", "_include", "_revinclude", "_id", "_lastUpdated", *_OF_READS)
_HEADERS = ("If-Match", "If-None-Match", "If-None-Exist", "If-Modified-Since", "Prefer")
_OF_WRITES = ("If-Match", "Prefer")


def document(base_url: str, paths: Mapping[str, Iterable[str]]) -> dict[str, Any]:
    """The document of paths and their methods. In braces stand `type`, `id`, `version`, and `inner`, a type or `*`."""
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Wetread, FHIR R4",
            "version": __version__,
            "description": "Its CapabilityStatement at /metadata says more: search parameters, operations, profiles.",
        },
        "servers": [{"url": base_url}],
        "security": [{"bearer": []}],
        "paths": {f"/{path}": _path(path, methods) for path, methods in paths.items()},
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": {
                "Resource": {
                    "type": "object",
                    "required": ["resourceType"],
                    "properties": {"resourceType": {"enum": sorted(resource_types())}, "id": _TEXT},
                },
                "Bundle": _typed("Bundle", type={"enum": ["batch", "transaction"]}, entry={"type": "array"}),
                "OperationOutcome": _typed("OperationOutcome", issue={"type": "array", "minItems": 1}),
                "Parameters": _typed("Parameters", parameter={"type": "array"}),
                "Patch": {"type": "array", "items": _OPERATION},
            },
        },
    }


_OPERATION = {
    "type": "object",
    "required": ["op", "path"],
    "properties": {
        "op": {"enum": ["add", "remove", "replace", "move", "copy", "test"]},
        "path": _TEXT,
        "from": _TEXT,
        "value": {},
    },
}


def _typed(name: str, **members: Any) -> dict[str, Any]:
    required = ["resourceType", *members]
    return {"type": "object", "required": required, "properties": {"resourceType": {"const": name}, **members}}


def _path(path: str, methods: Iterable[str]) -> dict[str, Any]:
    names = [step[1:-1] for step in path.split("/") if step.startswith("{")]
    item: dict[str, Any] = {method.lower(): _operation(path, names, method) for method in methods}
    if names:
        item["parameters"] = [{"name": name, "in": "path", "required": True, "schema": _step(name)} for name in names]
    return item


def _step(name: str) -> dict[str, Any]:
    if name in _PATTERNS:
        return {"type": "string", "pattern": _PATTERNS[name]}
    return {"type": "string", "enum": [*sorted(resource_types()), *(("*",) if name == "inner" else ())]}


def _operation(path: str, names: list[str], method: str) -> dict[str, Any]:
    body = _body(path, method)
    return {
        "summary": f"{method} {_WHATS[names[-1]] if names else 'of the system'}{_kind(path)}",
        "parameters": [
            {"name": name, "in": "header" if name in _HEADERS else "query", "schema": _TEXT}
            for name in _parameters(path, names, method)
        ],
        **({"requestBody": {"required": True, "content": body}} if body else {}),
        "responses": {
            **{code: {"description": text} for code, text in _successes(method).items()},
            **{code: _failure(text) for code, text in _FAILURES.items()},
        },
    }


def _kind(path: str) -> str:
    return ", history" if path.endswith("_history") else ", search" if path.endswith("_search") else ""


def _parameters(path: str, names: list[str], method: str) -> tuple[str, ...]:
    match method:
        case "GET" if path == "metadata":
            return ("mode", "_format", "_pretty")
        case "GET" if path.endswith("_history"):
            return _OF_HISTORY
        case "GET" if names[-1:] in (["id"], ["version"]):
            return (*_OF_READS, "If-None-Match", "If-Modified-Since")
        case "GET":
            return (*_OF_SEARCH, "Prefer")
        case "POST" if path.endswith("_search"):
            return ("Prefer",)
        case "POST":
            return ("If-None-Exist", "Prefer") if names else ("Prefer",)
    return _OF_WRITES if names[-1:] == ["id"] else ("_id", "identifier", *_OF_WRITES)


def _body(path: str, method: str) -> dict[str, Any]:
    match method:
        case "POST" if path.endswith("_search"):
            return {_FORM: {"schema": {"type": "object", "additionalProperties": _TEXT}}}
        case "PATCH":
            return {
                patch.MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/Patch"}},
                **_in_each_form("Parameters"),
            }
        case "POST" | "PUT":
            schema = "Resource" if path else "Bundle"
            return _in_each_form(schema)
    return {}


def _successes(method: str) -> dict[str, str]:
    match method:
        case "DELETE":
            return {"200": "deleted, with an outcome", "204": "deleted"}
        case "POST" | "PUT":
            return {"200": "done", "201": "created"}
        case "GET":
            return {"200": "here it is", "304": "the caller has it"}
    return {"200": "done"}


def _failure(text: str) -> dict[str, Any]:
    return {"description": text, "content": _in_each_form("OperationOutcome")}


def _in_each_form(schema: str) -> dict[str, Any]:
    return {form: {"schema": {"$ref": f"#/components/schemas/{schema}"}} for form in (JSON, XML)}
