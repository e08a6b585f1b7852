"""Search parameters asked of one version in memory: what a topic fires by, and what a subscription filters by.

The rules are those of the search (`record/search/query_values.py`, FHIR R4 search.html 3.1.1.4), on the index rows of
the version. What cannot be told from these alone is refused: chains, `_has`, `_list`, `_filter`, full text, and the
modifiers that ask a terminology.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias
from urllib.parse import parse_qsl

from wetread.errors import InvalidInput, Unsupported
from wetread.record.lossless import is_text
from wetread.record.search import row_values
from wetread.record.search.index import ON_OWN_COLUMN, Extraction
from wetread.record.search.index_rows import here
from wetread.record.search.parameters import FULL_TEXT, SearchParameter, parameters_of, resource_types
from wetread.record.search.query import MODIFIERS, MOST_PARAMETERS, MOST_VALUES
from wetread.record.search.query_values import split
from wetread.record.search.row_values import Predicate

_BY_TERMINOLOGY: Mapping[str, frozenset[str]] = {"token": frozenset({"in", "not-in", "above", "below"})}
_Asked: TypeAlias = Callable[[Extraction], bool]


@dataclass(frozen=True, slots=True)
class Test:
    """One search parameter: any of `values` must hold, with `:not` none.

    `kind` is the parameter's (token, reference, ...); `values` are spelt as index rows spell them: a reference as
    `Type/id`, a bare id or an absolute url, a token as `code`, `system|code`, `|code` or `system|`.
    """

    resource_type: str
    param: str
    kind: str
    modifier: str
    values: tuple[str, ...]
    _asked: _Asked = field(repr=False, compare=False)

    @classmethod
    def parse(cls, resource_type: str, name: str, value: str, bases: Sequence[str] = ()) -> Test:
        """Of `name=value`, as in a query; `bases` are the addresses that mean this server. Raises Unsupported, with
        what to do, on what cannot be evaluated."""
        code, _, modifier = name.partition(":")
        parameter = _parameter(resource_type, code, modifier, name)
        values = split(value, ",")
        if len(values) > MOST_VALUES or not is_text(value):
            raise Unsupported(f"{name}: at most {MOST_VALUES} values, without control characters")
        if parameter.kind == "reference":
            values = [here(each, bases) for each in values]
        try:
            asked = _asked(resource_type, parameter, modifier, values)
        except InvalidInput as error:
            raise Unsupported(f"{name}: {error.message}") from error
        normal = tuple(row_values.normal(each, modifier, parameter) for each in values)
        return cls(resource_type, code, parameter.kind, modifier, normal, asked)

    def passes(self, version: Extraction) -> bool:
        """Whether it holds of a version of its type."""
        return self._asked(version)


def parsed(resource_type: str, query: str, bases: Sequence[str] = ()) -> tuple[Test, ...]:
    """Of `param=value&...`; all must hold. Raises Unsupported."""
    pairs = parse_qsl(query, keep_blank_values=True)
    if len(pairs) > MOST_PARAMETERS:
        raise Unsupported(f"more than {MOST_PARAMETERS} parameters")
    return tuple(Test.parse(resource_type, name, value, bases) for name, value in pairs)


def _parameter(resource_type: str, code: str, modifier: str, name: str) -> SearchParameter:
    if resource_type not in resource_types():
        raise Unsupported(f"{resource_type[:64]!r} is no type whose resources are stored here")
    if "." in name or code in ("_has", "_list", "_filter"):
        raise Unsupported(f"{name}: chains, _has, _list and _filter look beyond the resource; name its own parameters")
    parameter = parameters_of(resource_type).get(code)
    if parameter is None:
        raise Unsupported(f"{resource_type} has no search parameter {code!r}; see GET metadata")
    if code in FULL_TEXT:
        raise Unsupported(f"{code}: full text is searched, not subscribed to")
    of_type = parameter.kind == "reference" and modifier in resource_types()
    known = ("missing", "not") if code in ON_OWN_COLUMN else MODIFIERS[parameter.kind]
    if modifier and not of_type and modifier not in known:
        raise Unsupported(f"{name}: the modifier :{modifier} is not supported for {code}")
    if modifier in _BY_TERMINOLOGY.get(parameter.kind, ()):
        raise Unsupported(f"{name}: value sets and hierarchies may change; list the codes, with commas between them")
    return parameter


def _asked(resource_type: str, parameter: SearchParameter, modifier: str, values: list[str]) -> _Asked:
    """Raises InvalidInput."""
    if modifier == "missing":
        return _missing(resource_type, parameter, values)
    if parameter.kind == "composite":
        one_of = [_composite(resource_type, parameter, value) for value in values]
        return lambda version: any(each(version) for each in one_of)
    rows_of = f"{parameter.code}:of-type" if modifier == "of-type" else parameter.code
    predicates = [row_values.of_value(value, modifier, parameter) for value in values]
    wanted = modifier != "not"

    def asked(version: Extraction) -> bool:
        rows = [row[1:] for row in version.rows(parameter.code) if row[0] == rows_of]
        return any(holds(row) for holds in predicates for row in rows) is wanted

    return asked


def _missing(resource_type: str, parameter: SearchParameter, values: list[str]) -> _Asked:
    if values not in (["true"], ["false"]):
        raise InvalidInput(":missing takes true or false", location=parameter.code)
    codes = [part.code for part in _parts(resource_type, parameter)]
    wanted = values == ["false"]
    return lambda version: all(version.rows(code) for code in codes) is wanted


def _composite(resource_type: str, parameter: SearchParameter, value: str) -> _Asked:
    """All parts hold; where the parameter looks into a repeating element, of one and the same of it."""
    parts, values = _parts(resource_type, parameter), split(value, "$")
    if len(values) != len(parts):
        raise InvalidInput(f"expected {'$'.join(parameter.components)}", location=parameter.code)
    checks = [(part, row_values.of_value(v, "", part)) for part, v in zip(parts, values, strict=True)]
    if not parameter.items:
        return lambda version: all(_rows(part, holds, version) for part, holds in checks)

    def asked(version: Extraction) -> bool:
        found = [{row[-1] for row in _rows(part, holds, version)} for part, holds in checks]
        return bool(set.intersection(*found))

    return asked


def _rows(part: SearchParameter, holds: Predicate, version: Extraction) -> list[tuple[Any, ...]]:
    return [row for row in version.rows(part.code) if row[0] == part.code and holds(row[1:])]


def _parts(resource_type: str, parameter: SearchParameter) -> list[SearchParameter]:
    own = parameters_of(resource_type)
    return [own[code] for code in parameter.components] or [parameter]
