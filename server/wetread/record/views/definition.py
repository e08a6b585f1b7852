"""ViewDefinitions: what a view selects, compiled to a function from a resource to rows (SQL on FHIR 2.0)."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import product
from typing import Any, TypeAlias

from wetread.errors import InvalidInput, TooCostly
from wetread.record import lossless, structures
from wetread.record.fhirpath import Node, Temporal, plain
from wetread.record.fhirpath.navigation import root
from wetread.record.views.expressions import Constants, Expression, Source, constants_of, expression

Cell: TypeAlias = Any
"""bool, int, Decimal or str; a list of them in a column that is a collection; None for nothing."""
Row: TypeAlias = tuple[Cell, ...]
Rows: TypeAlias = Callable[[Source, Any, int], list[Row]]
"""`rows(source, focus, row_index)`"""

MOST_ROWS = 100_000
"""Of one resource."""
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]*")


@dataclass(frozen=True, slots=True)
class Column:
    """`type` is the name of a FHIR primitive type, empty where the view tells none."""

    name: str
    type: str = ""
    collection: bool = False


@dataclass(frozen=True, slots=True)
class View:
    name: str
    resource_type: str
    columns: tuple[Column, ...]
    where: tuple[tuple[Expression, str], ...]
    select: Rows

    def rows(self, resource: Mapping[str, Any], deadline: float = math.inf) -> list[Row]:
        """The rows of one resource; none where it is of another type. Raises InvalidInput, and TooCostly, also when
        `time.monotonic()` is past the deadline."""
        if resource.get("resourceType") != self.resource_type:
            return []
        node = root(resource)
        source = Source(node, deadline)
        for condition, location in self.where:
            found = [plain(item) for item in condition(source, node, 0)]
            if len(found) > 1 or not all(isinstance(value, bool) for value in found):
                raise InvalidInput("this path gives something else than true or false", location=location)
            if found != [True]:
                return []
        return self.select(source, node, 0)


def compiled(content: Mapping[str, Any]) -> View:
    """Raises InvalidInput, with the place in the view, for what is no ViewDefinition that can be run here."""
    resource_type = content.get("resource")
    if content.get("resourceType", "ViewDefinition") != "ViewDefinition":
        raise InvalidInput("a view is a ViewDefinition", location="resourceType")
    if resource_type not in structures.all_resource_types():
        raise InvalidInput("a view names a resource type of R4", location="ViewDefinition.resource")
    constants = constants_of(content.get("constant"), "ViewDefinition.constant")
    where = []
    for number, row in enumerate(_list(content, "where", "ViewDefinition")):
        location = f"ViewDefinition.where[{number}].path"
        where.append((expression(row.get("path", ""), constants, location), location))
    columns, select = _joined(_list(content, "select", "ViewDefinition"), constants, "ViewDefinition.select")
    if not columns:
        raise InvalidInput("a view has columns", location="ViewDefinition.select")
    names = [column.name for column in columns]
    if len(set(names)) != len(names):
        raise InvalidInput("two columns of a view have one name", location="ViewDefinition.select")
    return View(str(content.get("name", "")), str(resource_type), columns, tuple(where), select)


def _list(content: Mapping[str, Any], name: str, location: str) -> list[dict[str, Any]]:
    rows = content.get(name, [])
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise InvalidInput(f"{name} is a list of objects", location=f"{location}.{name}")
    return rows


def _joined(
    selects: Sequence[Mapping[str, Any]], constants: Constants, location: str
) -> tuple[tuple[Column, ...], Rows]:
    """Selects side by side: each row of one with each row of the others."""
    parts = [_select(select, constants, f"{location}[{number}]") for number, select in enumerate(selects)]
    return tuple(column for columns, _ in parts for column in columns), _beside([rows for _, rows in parts])


def _beside(parts: Sequence[Rows]) -> Rows:
    if len(parts) == 1:
        return parts[0]

    def rows(source: Source, focus: Any, row_index: int) -> list[Row]:
        tables = [part(source, focus, row_index) for part in parts]
        size = 1
        for table in tables:
            size *= len(table)
        _require_few(size)
        return [tuple(cell for row in choice for cell in row) for choice in product(*tables)]

    return rows


def _select(content: Mapping[str, Any], constants: Constants, location: str) -> tuple[tuple[Column, ...], Rows]:
    columns, cells = _columns(_list(content, "column", location), constants, location)
    nested_columns, nested = _joined(_list(content, "select", location), constants, f"{location}.select")
    parts = [cells, nested]
    union = _list(content, "unionAll", location)
    union_columns: tuple[Column, ...] = ()
    if union:
        union_columns, united = _united(union, constants, f"{location}.unionAll")
        parts.append(united)
    return (*columns, *nested_columns, *union_columns), _for_each(content, constants, location, _beside(parts))


def _united(
    selects: Sequence[Mapping[str, Any]], constants: Constants, location: str
) -> tuple[tuple[Column, ...], Rows]:
    parts = [_select(select, constants, f"{location}[{number}]") for number, select in enumerate(selects)]
    columns = parts[0][0]
    for number, (others, _) in enumerate(parts):
        if [c.name for c in others] != [c.name for c in columns]:
            message = "the branches of unionAll have the same columns in the same order"
            raise InvalidInput(message, location=f"{location}[{number}]")

    def rows(source: Source, focus: Any, row_index: int) -> list[Row]:
        return [row for _, part in parts for row in part(source, focus, row_index)]

    return columns, rows


def _for_each(content: Mapping[str, Any], constants: Constants, location: str, inner: Rows) -> Rows:
    """`forEach`, `forEachOrNull` and `repeat`: the rows for each item of a path, or of paths followed down."""
    given = [name for name in ("forEach", "forEachOrNull", "repeat") if name in content]
    if not given:
        return inner
    if len(given) > 1:
        raise InvalidInput(f"a select has only one of {', '.join(given)}", location=location)
    [name] = given
    texts = content[name] if name == "repeat" else [content[name]]
    if not isinstance(texts, list) or not texts:
        raise InvalidInput("repeat is a list of paths", location=f"{location}.repeat")
    paths = [expression(text, constants, f"{location}.{name}") for text in texts]

    def foci(source: Source, focus: Any, row_index: int) -> Iterator[Any]:
        for path in paths:
            for item in path(source, focus, row_index):
                yield item
                if name == "repeat":
                    yield from foci(source, item, row_index)

    def rows(source: Source, focus: Any, row_index: int) -> list[Row]:
        found: list[Row] = []
        for number, item in enumerate(foci(source, focus, row_index)):
            found += inner(source, item, number)
            _require_few(max(len(found), number))
        if not found and name == "forEachOrNull" and not any(True for _ in foci(source, focus, row_index)):
            return inner(source, None, 0)
        return found

    return rows


def _columns(rows: Sequence[Mapping[str, Any]], constants: Constants, location: str) -> tuple[tuple[Column, ...], Rows]:
    """One row: the value of each column's path."""
    columns: list[Column] = []
    cells: list[Callable[[Source, Any, int], Cell]] = []
    for number, row in enumerate(rows):
        where = f"{location}.column[{number}]"
        name = row.get("name")
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise InvalidInput("a column's name is letters, digits and _, a letter first", location=f"{where}.name")
        kind = str(row.get("type", "")).removeprefix("http://hl7.org/fhir/StructureDefinition/")
        columns.append(Column(name, kind, row.get("collection") is True))
        cells.append(_cell(expression(row.get("path", ""), constants, f"{where}.path"), columns[-1], f"{where}.path"))
    return tuple(columns), lambda source, focus, row_index: [tuple(c(source, focus, row_index) for c in cells)]


def _cell(path: Expression, column: Column, location: str) -> Callable[[Source, Any, int], Cell]:
    def cell(source: Source, focus: Any, row_index: int) -> Cell:
        found = [v for v in (_value(item, location) for item in path(source, focus, row_index)) if v is not None]
        if column.collection:
            return found
        if len(found) > 1:
            message = (
                f"column {column.name} found several values in one row; make it a collection, or choose with first()"
            )
            raise InvalidInput(message, location=location)
        return found[0] if found else None

    return cell


def _value(item: Any, location: str) -> Cell:
    value = item.value if isinstance(item, Node) else item
    if isinstance(value, Temporal):
        return value.text.removesuffix("T")
    if isinstance(value, str) and not lossless.is_text(value):
        raise InvalidInput("this path gives a string with a NUL or an unpaired surrogate", location=location)
    if value is None or isinstance(value, bool | int | str | Decimal):
        return value
    raise InvalidInput("a column holds values of primitive types: choose one of its elements", location=location)


def _require_few(rows: int) -> None:
    if rows > MOST_ROWS:
        raise TooCostly(f"a view makes at most {MOST_ROWS} rows of one resource")
