"""Search parameters as SQL (FHIR R4 search.html 3.1.1.4): conditions on `resource r`, values always bound.

Every condition is a set of keys: `r.key IN (SELECT ... FROM index_... i WHERE ...)`. Subqueries name their own `r` and
`i`, which hide the outer ones; so a condition holds inside another (chains, `_has`) as it stands.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput, Unsupported
from wetread.record.compartment import visible, visible_of
from wetread.record.condition import TRUE, Condition, all_of, any_of, none_of
from wetread.record.lossless import is_text
from wetread.record.search import query_values, text
from wetread.record.search.date_spans import few_dates, span
from wetread.record.search.index import ON_OWN_COLUMN
from wetread.record.search.index_rows import here
from wetread.record.search.indexed import indexed as indexed
from wetread.record.search.indexed import of_types as of_types
from wetread.record.search.indexed import on_own_columns as on_own_columns
from wetread.record.search.parameters import (
    FULL_TEXT,
    SearchParameter,
    common_parameters,
    is_canonical,
    parameters_of,
    resource_types,
)
from wetread.record.search.query_values import TABLES
from wetread.record.search.query_values import split as split
from wetread.record.search.query_values import unescape as unescape
from wetread.record.terminology import terminology
from wetread.store.database import Connection

MOST_VALUES = 500
MOST_PARAMETERS = 100
DEEPEST_CHAIN = 8

MODIFIERS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "token": ("missing", "not", "text", "in", "not-in", "above", "below", "of-type"),
        "string": ("missing", "exact", "contains", "text"),
        "uri": ("missing", "below", "above"),
        "reference": ("missing", "identifier", "[type]"),
        "date": ("missing",),
        "number": ("missing",),
        "quantity": ("missing",),
        "composite": ("missing",),
    }
)
"""What is supported: the modifiers of each kind of parameter."""
SUPPORTED_KINDS = tuple(MODIFIERS)
NOT_SUPPORTED: Mapping[str, str] = MappingProxyType(
    {
        "_query": "there are no named queries here",
        "_contained": "contained resources are not searched",
        "_containedType": "contained resources are not searched",
        "near": "there is no search by distance here; search by address",
    }
)
"""Parameters of R4 that are refused rather than ignored: leaving them out would give more than was asked for."""


@dataclass(frozen=True, slots=True)
class Question:
    """Who asks, and where: what a condition depends on beyond its own text."""

    conn: Connection
    reader: Reader
    base_url: str = ""

    @property
    def bases(self) -> tuple[str, ...]:
        """The addresses that lead here."""
        return (self.base_url, *self.conn.bases) if self.base_url else self.conn.bases


async def matching(
    conn: Connection, reader: Reader, resource_type: str, params: Sequence[tuple[str, str]], base_url: str = ""
) -> Condition:
    """Every search parameter as one condition on `resource r`, its type not among it.

    Raises Forbidden where a chain touches a type that the reader may not search, InvalidInput for an unknown
    parameter, a modifier or value that does not fit, Unsupported.
    """
    if len(params) > MOST_PARAMETERS:
        raise InvalidInput(f"more than {MOST_PARAMETERS} parameters in one search")
    question = Question(conn, reader, base_url)
    few = await few_dates(conn, (resource_type,), params)
    return all_of(await conditions(question, (resource_type,), params, few))


async def conditions(
    question: Question, types: tuple[str, ...], params: Sequence[tuple[str, str]], few: Mapping[str, Sequence[str]]
) -> list[Condition]:
    """Each search parameter as a condition; the bounds of those dates of which there are few (`few_dates`) as one."""
    own = common_parameters(types)
    found = [span(types, own[name], values) for name, values in few.items()]
    plain = [(name, value) for name, value in params if name not in few or "," in value]
    return found + [await condition(question, types, name, value) for name, value in plain]


def known(types: Sequence[str], name: str) -> bool:
    """Whether a parameter is one that all the types have, a chain, one of `_has`, `_list` and `_filter`, or one that we
    refuse to ignore."""
    code = name.partition(":")[0].partition(".")[0]
    return code in ("_has", "_list", "_filter") or code in NOT_SUPPORTED or code in common_parameters(tuple(types))


async def condition(question: Question, types: tuple[str, ...], name: str, value: str, depth: int = 0) -> Condition:
    """One search parameter, of resources of any of the types. Raises as `matching` does."""
    code, _, modifier = name.partition(":")
    if not is_text(value):
        raise InvalidInput("a value holds a NUL or an unpaired surrogate, which no resource may hold", location=code)
    if depth > DEEPEST_CHAIN:
        raise InvalidInput(f"a chain has at most {DEEPEST_CHAIN} links", location=name)
    if code == "_has":
        return await _has(question, types, name, value, depth)
    if "." in name:
        return await _chained(question, types, name, value, depth)
    if code == "_list":
        return _listed(question, value)
    if name == "_filter":
        from wetread.record.search import filters  # which is made of what stands here

        return await filters.condition(question, types, value, depth)
    if code in NOT_SUPPORTED:
        raise Unsupported(NOT_SUPPORTED[code], location=f"http.{code}")
    parameter = common_parameters(types).get(code)
    if parameter is None:
        raise InvalidInput(f"{' and '.join(types[:3])} has no search parameter {code!r}", location=code)
    return await _plain(question, types, parameter, modifier, value)


async def _plain(
    question: Question, types: tuple[str, ...], parameter: SearchParameter, modifier: str, value: str
) -> Condition:
    code = parameter.code
    if parameter.code in FULL_TEXT:
        if modifier:
            raise InvalidInput(f"{code} takes no modifier", location=code)
        return text.condition(code, value)
    of_type = parameter.kind == "reference" and modifier in resource_types()
    known_modifiers = _OF_OWN_COLUMN if code in ON_OWN_COLUMN else MODIFIERS[parameter.kind]
    if modifier and not of_type and modifier not in known_modifiers:
        raise InvalidInput(f"the modifier :{modifier} is not supported for {code}", location=f"{code}:{modifier}")
    if modifier == "missing":
        return missing(types, parameter, value)
    values = split(value, ",")
    if len(values) > MOST_VALUES:
        raise InvalidInput(f"more than {MOST_VALUES} values for one parameter; ask in several searches", location=code)
    if parameter.kind == "composite":
        return any_of([composite(types, parameter, v) for v in values])
    if parameter.kind == "token" and modifier in _BY_TERMINOLOGY:
        matches = any_of([await by_terminology(question, parameter, modifier, v) for v in values])
    else:
        if parameter.kind == "reference":
            values = [here(v, question.bases) for v in values]
        matches = any_of([query_values.of_value(v, modifier, parameter) for v in values])
    negate = modifier in ("not", "not-in")
    if code in ON_OWN_COLUMN:
        own = on_own_columns(matches)
        return none_of(own) if negate else own
    rows = f"{code}:of-type" if modifier == "of-type" else code
    return indexed(types, parameter.kind, rows, matches, negate=negate)


_OF_OWN_COLUMN = ("missing", "not")


def missing(types: Sequence[str], parameter: SearchParameter, value: str) -> Condition:
    if value not in ("true", "false"):
        raise InvalidInput(":missing takes true or false", location=parameter.code)
    present = all_of([_present(part) for part in _parts(types, parameter)])
    return none_of(present) if value == "true" else present


def _present(parameter: SearchParameter) -> Condition:
    if parameter.code in ON_OWN_COLUMN:
        return TRUE
    table = TABLES[parameter.kind]
    sql = "EXISTS (SELECT FROM " + table + " i WHERE i.resource_key = r.key AND i.param = %s)"
    return Condition(sql, (parameter.code,))


def _parts(types: Sequence[str], parameter: SearchParameter) -> list[SearchParameter]:
    own = parameters_of(types[0])
    return [own[code] for code in parameter.components] or [parameter]


def composite(types: Sequence[str], parameter: SearchParameter, value: str) -> Condition:
    """All parts hold of one resource; where the parameter looks into a repeating element, of one and the same of it."""
    parts = _parts(types, parameter)
    values = split(value, "$")
    if len(values) != len(parts):
        raise InvalidInput(f"expected {'$'.join(parameter.components)}", location=parameter.code)
    matches = [
        (p, query_values.of_value(v, "", p)) for p, v in zip(parts, values, strict=True)
    ]  # fmt: skip
    if not parameter.items:
        return all_of([indexed(types, p.kind, p.code, m) for p, m in matches])
    (first, own), *others = matches
    for other, theirs in others:
        inner = "i.param = %s AND (" + theirs.sql + ")"
        within = Condition(
            "(i.resource_key, i.item) IN (SELECT i.resource_key, i.item FROM " + TABLES[other.kind] + " i WHERE "
            + of_types("i", types).sql + " AND " + inner + ")",
            (*of_types("i", types).args, other.code, *theirs.args),
        )  # fmt: skip
        own = all_of([own, within])
    return indexed(types, first.kind, first.code, own)


_BY_TERMINOLOGY = frozenset({"in", "not-in", "above", "below"})


async def by_terminology(question: Question, parameter: SearchParameter, modifier: str, value: str) -> Condition:
    if modifier in ("in", "not-in"):
        codes = await terminology.codes_of(question.conn, unescape(value))
    else:
        system, bar, code = unescape(value).rpartition("|")
        system = system if bar else parameter.system_of(code)
        if not system or not code:
            raise InvalidInput(f":{modifier} takes system|code", location=parameter.code)
        related = terminology.subsumed if modifier == "below" else terminology.subsuming
        codes = await related(question.conn, system, code)
    pairs = [(system, code) for system, listed in codes.listed.items() for code in listed]
    listed = Condition(
        "(i.system, i.code) IN (SELECT * FROM unnest(%s::text[], %s::text[]))",
        ([system for system, _ in pairs], [code for _, code in pairs]),
    )
    whole = [
        Condition("i.system = %s AND i.code <> '' AND i.code <> ALL (%s)", (system, list(but)))
        for system, but in codes.whole.items()
    ]
    return any_of([listed, *whole])


def _listed(question: Question, value: str) -> Condition:
    question.reader.require_some("s", "List")
    if value.startswith("$"):
        raise Unsupported("there are no functional lists here; name a List by its id", location="http._list")
    seen = visible(question.reader, "List", "s")
    return Condition(
        "(r.resource_type, r.id) IN (SELECT i.target_type, i.target_id FROM index_reference i"
        " JOIN resource r ON r.key = i.resource_key WHERE i.resource_type = 'List' AND i.param = 'item'"
        " AND i.url = '' AND i.target_id <> '' AND r.resource_type = 'List' AND NOT r.deleted AND r.id = %s AND ("
        + seen.sql
        + "))",
        (value.removeprefix("List/"), *seen.args),
    )


async def _has(question: Question, types: tuple[str, ...], name: str, value: str, depth: int) -> Condition:
    """`_has:Observation:patient:code=x`: what some Observation refers to as its patient (FHIR R4 3.1.1.4.9)."""
    parts = name.split(":", 3)
    if len(parts) != 4 or parts[1] not in resource_types():
        raise InvalidInput("expected _has:Type:reference-parameter:parameter", location=name)
    _, source, code, rest = parts
    question.reader.require_some("s", source)
    parameter = parameters_of(source).get(code)
    if parameter is None or parameter.kind != "reference":
        raise InvalidInput(f"{source} has no reference parameter {code!r}", location=name)
    wanted = await condition(question, (source,), rest, value, depth + 1)
    inner = all_of([visible(question.reader, source, "s"), wanted])
    by_id = Condition(
        "(r.resource_type, r.id) IN (SELECT i.target_type, i.target_id FROM index_reference i"
        " JOIN resource r ON r.key = i.resource_key WHERE i.resource_type = %s AND i.param = %s AND i.url = ''"
        " AND i.target_id <> '' AND i.target_type = ANY (%s) AND NOT r.deleted AND (" + inner.sql + "))",
        (source, code, list(types), *inner.args),
    )
    if not is_canonical(parameter):
        return by_id
    by_url = Condition(
        "r.key IN (SELECT u.resource_key FROM index_uri u WHERE u.resource_type = ANY (%s) AND u.param = 'url'"
        " AND u.uri IN (SELECT i.url FROM index_reference i JOIN resource r ON r.key = i.resource_key"
        " WHERE i.resource_type = %s AND i.param = %s AND i.url <> '' AND NOT r.deleted AND (" + inner.sql + ")))",
        (list(types), source, code, *inner.args),
    )
    return any_of([by_id, by_url])


async def _chained(question: Question, types: tuple[str, ...], name: str, value: str, depth: int) -> Condition:
    """`subject:Patient.name=x`: what refers to some Patient of that name (FHIR R4 3.1.1.4.8)."""
    head, _, rest = name.partition(".")
    return await linked(question, types, head, rest, lambda to: condition(question, to, rest, value, depth + 1))


async def linked(
    question: Question,
    types: tuple[str, ...],
    head: str,
    rest: str,
    follow: Callable[[tuple[str, ...]], Awaitable[Condition]],
) -> Condition:
    """What refers, by the parameter `head` (`subject` or `subject:Patient`), to something that `follow` gives the
    condition of; `rest` begins with the parameter that this asks for. Raises as `matching` does."""
    name = f"{head}.{rest}"
    code, _, named = head.partition(":")
    parameter = common_parameters(types).get(code)
    if parameter is None or parameter.kind != "reference":
        raise InvalidInput(f"{' and '.join(types[:3])} has no reference parameter {code!r}", location=name)
    if named and named not in resource_types():
        raise InvalidInput("expected parameter:Type.parameter, of a type that is stored here", location=name)
    groups = _targets(question.reader, parameter, named, rest)
    if not groups:
        raise InvalidInput(f"nothing that {code!r} refers to has the search parameter that follows", location=name)
    found = []
    for targets in groups:
        found.append(all_of([visible_of(question.reader, targets, "s"), await follow(targets)]))
    own = of_types("i", types)
    one_of = any_of(found)
    by_id = Condition(
        "r.key IN (SELECT i.resource_key FROM index_reference i WHERE " + own.sql + " AND i.param = %s"
        " AND i.url = '' AND i.target_id <> '' AND (i.target_type, i.target_id) IN"
        " (SELECT r.resource_type, r.id FROM resource r WHERE NOT r.deleted AND (" + one_of.sql + ")))",
        (*own.args, code, *one_of.args),
    )
    if not is_canonical(parameter):
        return by_id
    by_url = Condition(
        "r.key IN (SELECT i.resource_key FROM index_reference i WHERE " + own.sql + " AND i.param = %s"
        " AND i.url <> '' AND i.url IN (SELECT u.uri FROM index_uri u JOIN resource r ON r.key = u.resource_key"
        " WHERE u.param = 'url' AND NOT r.deleted AND (" + one_of.sql + ")))",
        (*own.args, code, *one_of.args),
    )
    return any_of([by_id, by_url])


def _targets(reader: Reader, parameter: SearchParameter, named: str, rest: str) -> list[tuple[str, ...]]:
    """The types that a chain may go on to, those together whose parameter is of one kind.

    Raises Forbidden where the reader may search none of them.
    """
    if named:
        reader.require_some("s", named)
        return [(named,)]
    code = rest.partition(".")[0].partition(":")[0]
    targets = [t for t in parameter.targets if t in resource_types() and known((t,), code)]
    allowed = [t for t in targets if reader.may_some("s", t)]
    if targets and not allowed:
        reader.require_some("s", targets[0])
    by_kind: dict[str, list[str]] = {}
    for target in allowed:
        own = parameters_of(target).get(code)
        by_kind.setdefault(own.kind if own else "", []).append(target)
    return [tuple(group) for group in by_kind.values()]
