"""The Subscriptions Backport guide that the HL7 validator judges by is the guide's own."""

from __future__ import annotations

import json

import pytest

from conformance import backport

pytestmark = pytest.mark.conformance


def test_the_definitions_are_what_the_sources_of_the_guide_compile_to() -> None:
    committed = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in backport.FOLDER.glob("*.json")}
    assert committed == backport.compiled()
    assert {each["id"] for each in committed.values() if each.get("kind") == "resource"} == {
        "backport-subscription",
        "backport-subscription-notification-r4",
        "backport-subscription-status-r4",
    }
