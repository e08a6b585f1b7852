"""The shipped packages, the demonstration's studies, and a writer of small ONNX files for the models that misbehave."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydicom import Dataset

from wetread.demo.studies import instances, load_cases
from wetread.reading.models import ModelPackage, load_packages
from wetread.reading.runtime import Runtime

REPOSITORY = Path(__file__).parents[3]

Message = list[tuple[int, "int | bytes | str | Message"]]


def encoded(message: Message) -> bytes:
    """A protobuf message from its fields (number, value)."""
    parts = bytearray()
    for number, value in message:
        if isinstance(value, int):
            parts += _varint(number << 3) + _varint(value)
            continue
        content = encoded(value) if isinstance(value, list) else value.encode() if isinstance(value, str) else value
        parts += _varint(number << 3 | 2) + _varint(len(content)) + content
    return bytes(parts)


def _varint(value: int) -> bytes:
    parts = bytearray()
    while value > 0x7F:
        parts.append(value & 0x7F | 0x80)
        value >>= 7
    parts.append(value)
    return bytes(parts)


def onnx_bytes(
    nodes: list[tuple[str, list[str], list[str]]],
    tensor_input: str,
    outputs: list[str],
    *,
    ir_version: int = 8,
    opset: int = 18,
    initializers: list[Message] | None = None,
) -> bytes:
    """A float32 ONNX model (onnx.proto): nodes are (operator, inputs, outputs)."""

    def value_info(name: str) -> Message:
        return [(1, name), (2, [(1, [(1, 1)])])]

    graph: Message = []
    for operator, inputs, results in nodes:
        graph.append((1, [*((1, i) for i in inputs), *((2, o) for o in results), (4, operator)]))
    graph.append((2, "graph"))
    graph += [(5, tensor) for tensor in initializers or []]
    graph.append((11, value_info(tensor_input)))
    graph += [(12, value_info(name)) for name in outputs]
    return encoded([(1, ir_version), (7, graph), (8, [(1, ""), (2, opset)])])


@pytest.fixture(scope="session")
def onnx_file() -> Callable[..., bytes]:
    return onnx_bytes


@pytest.fixture(scope="session")
def packages() -> dict[str, ModelPackage]:
    return load_packages(REPOSITORY / "models")


@pytest.fixture(scope="session")
def runtime() -> Runtime:
    return Runtime("cpu", threads=2)


@pytest.fixture(scope="session")
def _studies() -> Callable[[str], list[Dataset]]:
    made: dict[str, list[Dataset]] = {}
    cases = load_cases(REPOSITORY / "demo")

    def study(name: str) -> list[Dataset]:
        if name not in made:
            made[name] = instances(cases[name], REPOSITORY / "demo")
        return made[name]

    return study


@pytest.fixture
def study(_studies: Callable[[str], list[Dataset]]) -> Callable[[str], list[Dataset]]:
    """A study of the demonstration, by case name: a copy that the test may spoil."""
    return lambda name: [copy.deepcopy(dataset) for dataset in _studies(name)]


@pytest.fixture
def head_ct(study: Callable[[str], list[Dataset]]) -> list[Dataset]:
    return study("head-ct")


PackageMaker = Callable[..., Path]


@pytest.fixture
def make_package(tmp_path: Path) -> PackageMaker:
    """Writes a copy of a shipped package with another ONNX file or other manifest keys; gives its parent folder."""

    def make(
        like: str,
        *,
        content: bytes | None = None,
        folder: str = "site",
        pins: dict[str, Any] | None = None,
        **keys: Any,
    ) -> Path:
        source = REPOSITORY / "models" / like
        target = tmp_path / folder / like
        target.mkdir(parents=True)
        for file in source.iterdir():
            (target / file.name).write_bytes(file.read_bytes())
        manifest = json.loads((source / "manifest.json").read_text())
        if content is not None:
            (target / "model.onnx").write_bytes(content)
            manifest["model"] |= {"sha256": hashlib.sha256(content).hexdigest(), "bytes": len(content)}
        manifest["model"] |= pins or {}
        manifest |= keys
        (target / "manifest.json").write_text(json.dumps(manifest))
        return target.parent

    return make
