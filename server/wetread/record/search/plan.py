"""What a search asks for, read from its parameters: conditions, and what steers the result (FHIR R4 3.1.1.5)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from urllib.parse import urlencode

from wetread.errors import InvalidInput
from wetread.record.condition import Condition
from wetread.record.cursors import CURSOR
from wetread.record.search import includes, paging, query, slips
from wetread.record.search.date_spans import few_dates
from wetread.record.search.parameters import common_parameters

DEFAULT_COUNT = 50
MOST_COUNT = 1000
MOST_INCLUDES = 50


@dataclass(slots=True)
class Plan:
    """`applied` is what the self link tells; `ignored` what the server did not know, each with its reason."""

    types: tuple[str, ...]
    count: int = DEFAULT_COUNT
    sort: tuple[paging.Key, ...] = ()
    total: str = ""
    summary: str = ""
    elements: tuple[str, ...] = ()
    cursor_text: str = ""
    conditions: list[Condition] = field(default_factory=list)
    includes: list[includes.Include] = field(default_factory=list)
    applied: list[tuple[str, str]] = field(default_factory=list)
    ignored: list[tuple[str, str]] = field(default_factory=list)
    is_broad: bool = True
    """Whether nothing asked for is likely to leave few resources: a status, a date, a code leave many."""

    @property
    def only_count(self) -> bool:
        return self.count == 0 or self.summary == "count"

    def link(self, relation: str, url: str, cursor: str) -> dict[str, str]:
        params = [*self.applied, *([(CURSOR, cursor)] if cursor else [])]
        return {"relation": relation, "url": url + (f"?{urlencode(params)}" if params else "")}


async def planned(
    question: query.Question, types: tuple[str, ...], params: Sequence[tuple[str, str]], *, strict: bool
) -> Plan:
    """Raises InvalidInput, Forbidden, Unsupported; when `strict`, InvalidInput for what is not known too."""
    if len(params) > query.MOST_PARAMETERS:
        raise InvalidInput(f"more than {query.MOST_PARAMETERS} parameters in one search")
    plan = Plan(types)
    asked: list[tuple[str, str]] = []
    for name, value in params:
        if name == CURSOR:
            plan.cursor_text = value
        elif not value and not name.startswith("_") and query.known(types, name):
            _ignore(plan, name, "this search parameter has no value and was ignored", strict=strict)
        elif _steers(plan, name, value, strict=strict):
            if name not in dict(plan.ignored):
                plan.applied.append((name, str(plan.count) if name == "_count" else value))
        elif query.known(types, name):
            asked.append((name, value))
            plan.applied.append((name, value))
        elif name not in dict(plan.ignored):
            _ignore(plan, name, "this search parameter is not supported and was ignored", strict=strict)
    few = await few_dates(question.conn, types, asked)
    plan.conditions = await query.conditions(question, types, asked, few)
    plan.is_broad = not few and all(_is_broad(plan, name) for name, _ in asked)
    if plan.includes and plan.summary == "text":
        raise InvalidInput("_summary=text goes with no _include (FHIR R4 3.1.1.5.8)", location="http._summary")
    if plan.summary not in ("", "false") and plan.elements:
        raise InvalidInput("ask for _summary or for _elements, not for both", location="http._elements")
    return plan


def _is_broad(plan: Plan, name: str) -> bool:
    """A status, a code, a date may leave many; a reference, a name, an identifier few."""
    parameter = common_parameters(plan.types).get(name)
    if parameter is None or name in ("_id", "identifier"):
        return False
    if name == "_lastUpdated":
        return [key.code for key in plan.sort] == [name]
    return parameter.kind == "token" or parameter.is_single_date


def _ignore(plan: Plan, name: str, reason: str, *, strict: bool) -> None:
    """Raises InvalidInput when `strict`, and always for what may be a slip of a parameter that narrows the result."""
    if strict:
        raise InvalidInput(f"{' and '.join(plan.types[:3])} has no such search parameter", location=f"http.{name}")
    known = (*common_parameters(plan.types), "_has", "_list", "_filter")
    if like := slips.meant(name, slips.WHOSE) or slips.respelt(name, known):
        text = f"this is empty, or no search parameter of what is searched; is {like} meant?"
        raise InvalidInput(text, location=f"http.{name}")
    plan.ignored.append((name, reason))


def _steers(plan: Plan, name: str, value: str, *, strict: bool) -> bool:
    """Takes a parameter that steers the result; false for any other."""
    match name, value:
        case "_count", _:
            plan.count = min(_non_negative(value), MOST_COUNT)
        case "_sort", _:
            try:
                plan.sort = paging.keys(value, common_parameters(plan.types))
            except InvalidInput:
                if strict:
                    raise
                plan.ignored.append((name, "this sort key is not supported and was ignored"))
        case "_total", "none" | "estimate" | "accurate":
            plan.total = value
        case "_summary", "count" | "true" | "text" | "data" | "false":
            plan.summary = value
        case (("_total" | "_summary"), _):
            raise InvalidInput(f"{name} does not take this value here", location=f"http.{name}")
        case "_elements", _:
            plan.elements = tuple(word.strip() for word in value.split(",") if word.strip())
        case (("_format" | "_pretty" | "_type"), _):
            pass
        case _ if name.partition(":")[0] in ("_include", "_revinclude"):
            plan.includes.append(includes.parse(name, value))
            if len(plan.includes) > MOST_INCLUDES:
                raise InvalidInput(f"at most {MOST_INCLUDES} _include and _revinclude", location=f"http.{name}")
        case _:
            return False
    return True


def _non_negative(value: str) -> int:
    if not (value.isascii() and value.isdigit() and len(value) < 10):
        raise InvalidInput("_count takes a whole number", location="http._count")
    return int(value)
