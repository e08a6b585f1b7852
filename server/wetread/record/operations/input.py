"""What a caller gives an operation: a query string, a Parameters resource, or one resource (FHIR R4 operations.html
3.2.0.3), read by the operation's table."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any

from wetread.errors import InvalidInput
from wetread.record import lossless
from wetread.record.operations.operations import Operation, Parameter
from wetread.record.search.index import date_range

_OF_HTTP = frozenset({"_format", "_pretty", "_cursor"})
_TEXTS = frozenset({"string", "uri", "url", "canonical", "code", "id", "oid", "uuid", "markdown"})
_DATES = frozenset({"date", "dateTime", "instant"})
_NUMBERS = {"integer": -(2**31), "unsignedInt": 0, "positiveInt": 1}
_DATATYPES = frozenset({"Coding", "CodeableConcept", "Meta"})
_WHOLE = re.compile(r"[+-]?\d{1,10}", re.ASCII)


@dataclass(slots=True)
class Given:
    """Inputs by name, each of the type that the table says. `search` has the search parameters, as they came."""

    values: dict[str, list[Any]] = field(default_factory=dict)
    search: list[tuple[str, str]] = field(default_factory=list)
    cursor: str = ""

    def one(self, name: str) -> Any:
        """A value; None where it was not given."""
        return next(iter(self.values.get(name, ())), None)

    def text(self, name: str) -> str:
        return str(self.one(name) or "")

    def number(self, name: str, otherwise: int) -> int:
        value = self.one(name)
        return otherwise if value is None else int(value)

    def flag(self, name: str, *, otherwise: bool = False) -> bool:
        value = self.one(name)
        return otherwise if value is None else bool(value)

    def every(self, name: str) -> list[Any]:
        return self.values.get(name, [])


def read(operation: Operation, query: Sequence[tuple[str, str]], body: Mapping[str, Any] | None = None) -> Given:
    """Raises InvalidInput that names the parameter: unknown, of the wrong type, or given too often."""
    given = Given()
    for name, text in query:
        if name == "_cursor":
            given.cursor = text
        elif name in _OF_HTTP:
            continue
        elif parameter := operation.input(name):
            given.values.setdefault(name, []).append(_from_text(parameter, text))
        elif operation.searches:
            given.search.append((name, text))
        else:
            raise _unknown(operation, name)
    if body is not None:
        _from_body(operation, body, given)
    for parameter in operation.inputs:
        if parameter.max == "1" and len(given.values.get(parameter.name, ())) > 1:
            raise InvalidInput(f"{parameter.name} may be given once", location=f"http.{parameter.name}")
        if parameter.min and parameter.name not in given.values:
            raise InvalidInput(f"{parameter.name} is needed", location=f"http.{parameter.name}")
    return given


def _unknown(operation: Operation, name: str) -> InvalidInput:
    names = ", ".join(p.name for p in operation.inputs)
    if not re.fullmatch(r"[A-Za-z_][\w.:\-]{0,63}", name, re.ASCII):
        name = "a name of wrong form"
    return InvalidInput(
        f"${operation.code} takes no parameter {name!r} here; it takes {names}", location=f"http.{name}"
    )


def _from_body(operation: Operation, body: Mapping[str, Any], given: Given) -> None:
    if body.get("resourceType") != "Parameters":
        parameter = operation.input(operation.body) if operation.body else None
        if parameter is None or parameter.type not in ("Resource", body.get("resourceType")):
            raise InvalidInput("the body of this operation is a Parameters resource", location="resourceType")
        given.values.setdefault(parameter.name, []).append(body)
        return
    members = body.get("parameter", [])
    if not isinstance(members, list):
        raise InvalidInput("Parameters.parameter is a list", location="Parameters.parameter")
    for number, member in enumerate(members):
        where = f"Parameters.parameter[{number}]"
        if not isinstance(member, dict) or not isinstance(member.get("name"), str):
            raise InvalidInput("a parameter has a name", location=f"{where}.name")
        name = member["name"]
        if parameter := operation.input(name):
            given.values.setdefault(name, []).append(_from_member(parameter, member, where))
        elif operation.searches:
            given.search.append((name, _search_text(member, where)))
        elif name not in _OF_HTTP:
            raise _unknown(operation, name)


def _search_text(member: Mapping[str, Any], where: str) -> str:
    value = next((v for k, v in member.items() if k.startswith("value")), None)
    match value:
        case bool():
            return "true" if value else "false"
        case str() | int() | Decimal():
            return str(value)
        case {"reference": str(reference)}:
            return reference
        case {"system": str(system), "code": str(code)}:
            return f"{system}|{code}"
        case {"code": str(code)}:
            return code
    raise InvalidInput("a search parameter is given as a string", location=where)


def _from_member(parameter: Parameter, member: Mapping[str, Any], where: str) -> Any:
    kind = next((k.removeprefix("value") for k in member if k.startswith("value")), "")
    if parameter.type in _DATATYPES:
        value = member.get(f"value{parameter.type}")
        if isinstance(value, dict):
            return _checked_datatype(parameter, value, where)
    elif parameter.type[0].isupper():
        value = member.get("resource")
        if isinstance(value, dict) and parameter.type in ("Resource", value.get("resourceType")):
            return value
    elif kind and _fits(kind[0].lower() + kind[1:], parameter.type):
        value = member[f"value{kind}"]
        if isinstance(value, bool) and parameter.type == "boolean":
            return value
        if isinstance(value, str | int) and not isinstance(value, bool):
            return _from_text(parameter, str(value), where)
    raise _wrong(parameter, where)


def _fits(given: str, wanted: str) -> bool:
    """Clients do not tell a uri, a canonical, a code and a string apart, nor one whole number from another."""
    return any(given in kinds and wanted in kinds for kinds in (_TEXTS, _DATES, _NUMBERS)) or given == wanted


def _checked_datatype(parameter: Parameter, value: Mapping[str, Any], where: str) -> Mapping[str, Any]:
    codings = value.get("coding", []) if parameter.type == "CodeableConcept" else [value]
    if parameter.type != "Meta" and not (
        isinstance(codings, list)
        and all(
            isinstance(c, dict) and all(isinstance(c.get(k, ""), str) for k in ("system", "code", "display", "version"))
            for c in codings
        )
    ):
        raise _wrong(parameter, where)
    return value


def _from_text(parameter: Parameter, text: str, where: str = "") -> Any:
    where = where or f"http.{parameter.name}"
    if not lossless.is_text(text):
        raise _wrong(parameter, where)
    match parameter.type:
        case "boolean" if text in ("true", "false"):
            return text == "true"
        case kind if kind in _NUMBERS and _WHOLE.fullmatch(text) and _NUMBERS[kind] <= int(text) < 2**31:
            return int(text)
        case kind if kind in _DATES:
            try:
                date_range(text.replace(" ", "+"))
            except ValueError as error:
                raise _wrong(parameter, where) from error
            return text.replace(" ", "+")
        case kind if kind in _TEXTS and text:
            return text
    raise _wrong(parameter, where)


def _wrong(parameter: Parameter, where: str) -> InvalidInput:
    return InvalidInput(f"{parameter.name} is not a {parameter.type}, as this operation takes it", location=where)
