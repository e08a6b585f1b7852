"""What an ONNX file says of itself, read from its protobuf bytes (onnx/onnx.proto, ModelProto) without a runtime.

Enough to refuse a file with a reason before a session is made: IR version, opsets, and tensors kept outside the file.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from wetread.errors import InvalidInput

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5

# Field numbers of onnx.proto: message -> {field: message of the nested value}.
_NESTED = {
    "Model": {7: "Graph", 25: "Function"},
    "Graph": {1: "Node", 5: "Tensor", 15: "SparseTensor"},
    "Function": {7: "Node"},
    "Node": {5: "Attribute"},
    "Attribute": {5: "Tensor", 6: "Graph", 10: "Tensor", 11: "Graph", 22: "SparseTensor", 23: "SparseTensor"},
    "SparseTensor": {1: "Tensor", 2: "Tensor"},
    "Tensor": {},
}
_TENSOR_EXTERNAL_DATA, _ENTRY_KEY, _ENTRY_VALUE = 13, 1, 2


@dataclass(frozen=True, slots=True)
class OnnxFacts:
    """`opset` is that of the default domain; `external_files` the locations of tensors kept in other files."""

    ir_version: int
    opset: int
    external_files: tuple[str, ...]


def onnx_facts(content: bytes) -> OnnxFacts:
    """Raises InvalidInput where the bytes are not a protobuf of an ONNX model."""
    ir_version, opset = 0, 0
    try:
        view = memoryview(content)
        for field, value in _fields(view):
            if field == 1 and isinstance(value, int):
                ir_version = value
            elif field == 8 and isinstance(value, memoryview):
                entry = dict(_fields(value))
                if not bytes(entry.get(1, b"")):
                    opset = int(entry.get(2, 0))
        external = tuple(dict.fromkeys(_external("Model", view)))
    except (IndexError, ValueError, TypeError, RecursionError) as error:
        raise InvalidInput("not an ONNX file: its bytes are not a protobuf message") from error
    if not ir_version or not opset:
        raise InvalidInput("not an ONNX file: it states no IR version or no opset")
    return OnnxFacts(ir_version, opset, external)


def _external(kind: str, message: memoryview) -> Iterator[str]:
    for field, value in _fields(message):
        if not isinstance(value, memoryview):
            continue
        if kind == "Tensor" and field == _TENSOR_EXTERNAL_DATA:
            entry = dict(_fields(value))
            if bytes(entry.get(_ENTRY_KEY, b"")) == b"location":
                yield bytes(entry.get(_ENTRY_VALUE, b"")).decode("utf-8", "replace")
        elif nested := _NESTED[kind].get(field):
            yield from _external(nested, value)


def _fields(message: memoryview) -> Iterator[tuple[int, int | memoryview]]:
    """Field numbers and values of one message (protobuf encoding: base 128 varints, tag = number << 3 | wire type)."""
    at = 0
    while at < len(message):
        tag, at = _varint(message, at)
        wire = tag & 7
        if wire == _VARINT:
            value, at = _varint(message, at)
            yield tag >> 3, value
            continue
        if wire == _BYTES:
            length, at = _varint(message, at)
        elif wire in (_FIXED64, _FIXED32):
            length = 8 if wire == _FIXED64 else 4
        else:
            raise ValueError("unknown wire type")
        if at + length > len(message):
            raise ValueError("truncated")
        yield tag >> 3, message[at : at + length]
        at += length


def _varint(message: memoryview, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7
