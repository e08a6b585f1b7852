"""The tables that a view makes, as CSV (RFC 4180), NDJSON, JSON or Parquet, written as they come."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from decimal import Decimal
from typing import Any, BinaryIO, Protocol

from wetread.errors import InvalidInput, Unsupported
from wetread.record import lossless
from wetread.record.views.definition import Cell, Column, Row

MEDIA_TYPES: Mapping[str, str] = {
    "json": "application/json",
    "ndjson": "application/x-ndjson",
    "csv": "text/csv",
    "parquet": "application/vnd.apache.parquet",
}
"""By the codes of `_format`."""
DECIMAL_DIGITS, DECIMAL_SCALE = 38, 12
_ROW_GROUP = 20_000


class Writer(Protocol):
    """Writes rows to the file that it was made with; `close` ends the table and leaves the file open."""

    def write(self, rows: Sequence[Row]) -> None: ...

    def close(self) -> None: ...


def writer(form: str, columns: Sequence[Column], target: BinaryIO, *, header: bool = True) -> Writer:
    """A writer of one of MEDIA_TYPES. `header`: whether CSV begins with the columns' names. Raises Unsupported."""
    match form:
        case "csv":
            return _Csv(columns, target, header)
        case "ndjson":
            return _Ndjson(columns, target)
        case "json":
            return _Json(columns, target)
        case "parquet":
            return _Parquet(columns, target)
    raise Unsupported(f"a view is written as one of {', '.join(MEDIA_TYPES)}", location="_format")


class _Csv:
    def __init__(self, columns: Sequence[Column], target: BinaryIO, header: bool) -> None:
        self._text = io.TextIOWrapper(target, encoding="utf-8", newline="", write_through=True)
        self._csv = csv.writer(self._text)
        if header:
            self._csv.writerow([column.name for column in columns])

    def write(self, rows: Sequence[Row]) -> None:
        self._csv.writerows([_field(cell) for cell in row] for row in rows)

    def close(self) -> None:
        self._text.detach()


def _field(cell: Cell) -> str:
    match cell:
        case None:
            return ""
        case bool() | list():
            return lossless.dump(cell)
    return str(cell)


class _Json:
    """One array, a row a line."""

    def __init__(self, columns: Sequence[Column], target: BinaryIO) -> None:
        self._names = [column.name for column in columns]
        self._target = target
        self._lead = "["

    def write(self, rows: Sequence[Row]) -> None:
        for row in rows:
            self._target.write((self._lead + _object(self._names, row)).encode())
            self._lead = ",\n"

    def close(self) -> None:
        self._target.write(b"[]\n" if self._lead == "[" else b"]\n")


class _Ndjson:
    def __init__(self, columns: Sequence[Column], target: BinaryIO) -> None:
        self._names = [column.name for column in columns]
        self._target = target

    def write(self, rows: Sequence[Row]) -> None:
        self._target.writelines((_object(self._names, row) + "\n").encode() for row in rows)

    def close(self) -> None:
        """Each line stands already."""


def _object(names: Sequence[str], row: Row) -> str:
    return lossless.dump(dict(zip(names, row, strict=True)))


class _Parquet:
    """Decimals are DECIMAL(38, 12), so that no digit of theirs changes; dates are text, which may be a year alone."""

    def __init__(self, columns: Sequence[Column], target: BinaryIO) -> None:
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError as error:
            raise Unsupported(
                "Parquet needs the extra `views` of this package: pip install 'wetread[views]'", location="_format"
            ) from error
        self._arrow: Any = pyarrow
        self._columns = columns
        self._schema = pyarrow.schema([(column.name, _arrow_type(pyarrow, column)) for column in columns])
        self._writer = pyarrow.parquet.ParquetWriter(target, self._schema, compression="zstd")
        self._rows: list[Row] = []

    def write(self, rows: Sequence[Row]) -> None:
        self._rows += rows
        while len(self._rows) >= _ROW_GROUP:
            self._flush(_ROW_GROUP)

    def close(self) -> None:
        if self._rows:
            self._flush(len(self._rows))
        self._writer.close()

    def _flush(self, count: int) -> None:
        group, self._rows = self._rows[:count], self._rows[count:]
        arrays = [
            self._array(column, [row[place] for row in group], self._schema.field(place).type)
            for place, column in enumerate(self._columns)
        ]
        self._writer.write_table(self._arrow.Table.from_arrays(arrays, schema=self._schema))

    def _array(self, column: Column, cells: list[Cell], kind: Any) -> Any:
        fitted = _FITTED.get(column.type, _text)
        values = [
            [fitted(each) for each in c] if isinstance(c, list) else None if c is None else fitted(c) for c in cells
        ]
        try:
            return self._arrow.array(values, type=kind)
        except (self._arrow.ArrowException, OverflowError, TypeError) as error:
            message = f"column {column.name} has a value that its type, {column.type or 'string'}, does not hold"
            if column.type == "decimal":
                message += f": Parquet has {DECIMAL_SCALE} digits after the point; make it a string"
            raise InvalidInput(message, location="ViewDefinition.select") from error


def _arrow_type(arrow: Any, column: Column) -> Any:
    match column.type:
        case "boolean":
            kind = arrow.bool_()
        case "integer" | "positiveInt" | "unsignedInt":
            kind = arrow.int32()
        case "integer64":
            kind = arrow.int64()
        case "decimal":
            kind = arrow.decimal128(DECIMAL_DIGITS, DECIMAL_SCALE)
        case _:
            kind = arrow.string()
    return arrow.list_(kind) if column.collection else kind


def _text(cell: Cell) -> str:
    return json.dumps(cell) if isinstance(cell, bool) else str(cell)


def _same(cell: Cell) -> Cell:
    return cell


def _decimal(cell: Cell) -> Cell:
    return Decimal(cell) if isinstance(cell, int) and not isinstance(cell, bool) else cell


_FITTED: Mapping[str, Callable[[Cell], Cell]] = {
    **dict.fromkeys(("boolean", "integer", "positiveInt", "unsignedInt", "integer64"), _same),
    "decimal": _decimal,
}
