"""JSON Patch (RFC 6902): the public suite, decimals' digits, and what is refused."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from wetread.errors import Inapplicable, InvalidInput, TooLarge, WetreadError
from wetread.record import lossless, patch

SUITE = Path(__file__).parents[2] / "data/json-patch"
CASES = [
    case
    for name in ("tests.json", "spec_tests.json")
    for case in json.loads((SUITE / name).read_text(encoding="utf-8"), parse_float=Decimal)
    if "patch" in case and not case.get("disabled")
]


def test_the_suite_is_there() -> None:
    assert len(CASES) > 100


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.get("comment", json.dumps(case["patch"])[:60]))
def test_the_public_suite_holds(case: dict[str, Any]) -> None:
    # The suite patches any JSON value; a resource is an object, so the value stands in one.
    def inside(operations: Any) -> Any:
        return [
            {k: f"/doc{v}" if k in ("path", "from") and (v == "" or v[0] == "/") else v for k, v in one.items()}
            if all(isinstance(one.get(k, ""), str) for k in ("path", "from"))
            else one
            for one in operations
        ]

    def patched() -> Any:
        operations = patch.parsed(lossless.dump(inside(case["patch"])))
        return patch.applied({"doc": case["doc"]}, operations)

    if "error" in case:
        with pytest.raises(WetreadError):
            patched()
    else:
        expected = case.get("expected", case["doc"])
        assert lossless.canonical(patched()) == lossless.canonical({"doc": expected})


def test_decimals_keep_their_digits_wherever_they_go() -> None:
    content = lossless.parse('{"a": 1.50, "b": {"c": 0.0100}, "d": [2.0]}')
    operations = patch.parsed(
        '[{"op": "move", "from": "/a", "path": "/m"}, {"op": "copy", "from": "/b/c", "path": "/n"},'
        ' {"op": "add", "path": "/d/-", "value": 3.000}, {"op": "test", "path": "/m", "value": 1.5}]'
    )
    after = patch.applied(content, operations)
    assert lossless.canonical(after) == '{"b":{"c":0.0100},"d":[2.0,3.000],"m":1.50,"n":0.0100}'
    assert after["m"] == Decimal("1.50")


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("{}", None),
        ('"x"', None),
        ("[1]", "[0].op"),
        ('[{"op": "spam", "path": "/a"}]', "[0].op"),
        ('[{"op": ["add"], "path": "/a"}]', "[0].op"),
        ('[{"op": "add", "value": 1}]', "[0].path"),
        ('[{"op": "add", "path": "a", "value": 1}]', "[0].path"),
        ('[{"op": "add", "path": 7, "value": 1}]', "[0].path"),
        ('[{"op": "remove", "path": "/a"}, {"op": "add", "path": "/a"}]', "[1].value"),
        ('[{"op": "move", "path": "/a"}]', "[0].from"),
        ('[], "x": []', None),
        ("[", None),
    ],
)
def test_what_is_no_patch_is_refused_where_it_is_wrong(text: str, location: str | None) -> None:
    with pytest.raises(InvalidInput) as caught:
        patch.parsed(text)
    assert caught.value.location == location


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/none"},
        {"op": "replace", "path": "/list/3", "value": 1},
        {"op": "test", "path": "/n", "value": True},
        {"op": "add", "path": "/n/deeper", "value": 1},
        {"op": "add", "path": "/list/x", "value": 1},
        {"op": "remove", "path": ""},
        {"op": "move", "from": "/list", "path": "/list/0"},
    ],
    ids=lambda operation: f"{operation['op']} {operation['path']}",
)
def test_what_does_not_fit_is_told_by_its_number(operation: dict[str, Any]) -> None:
    with pytest.raises(Inapplicable) as caught:
        patch.applied({"n": 1, "list": [1]}, [{"op": "test", "path": "/n", "value": 1}, operation])
    assert (caught.value.location or "").startswith("[")


def test_copies_of_copies_end_before_they_fill_the_memory() -> None:
    doubling = [{"op": "copy", "from": "/a", "path": "/a/-"}] * 60
    with pytest.raises(TooLarge):
        patch.applied({"a": ["x" * 1000]}, doubling)


def test_too_many_operations_are_refused() -> None:
    with pytest.raises(TooLarge):
        patch.parsed(json.dumps([{"op": "remove", "path": "/a"}] * 1001))
