"""What docs/subscriptions.md tells people to send is taken as it stands, and what it lists is all there is."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from wetread.domain.endpoint import AllowedEndpoints
from wetread.record.subscriptions import channel, form, topics
from wetread.settings import Settings

ROOT = Path(__file__).parents[3]
PAGE = (ROOT / "docs" / "subscriptions.md").read_text(encoding="utf-8")
EXAMPLES = [json.loads(text) for text in re.findall(r"<<'JSON'\n(.*?)\nJSON\n", PAGE, re.DOTALL)]
ALLOWED = AllowedEndpoints.parse(("ehr.example", "engine.example"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["reason"])
def test_each_example_is_accepted(example: dict[str, Any]) -> None:
    shipped = topics.load(ROOT / "conformance" / "topics")
    asked = form.read({**example, "id": "s1"}, shipped, ALLOWED, ("https://wetread.example/fhir",))
    assert asked.topic.resource_types


def test_there_are_examples_of_channels_and_of_criteria_and_no_channel_is_left_out() -> None:
    shipped = topics.load(ROOT / "conformance" / "topics")
    read = [form.read({**one, "id": "s1"}, shipped, ALLOWED, ("https://wetread.example/fhir",)) for one in EXAMPLES]
    assert {one.channel.kind for one in read} == {channel.REST_HOOK, channel.WEBSOCKET, channel.MLLP}
    assert [kind for kind in channel.KINDS if f"`{kind}`" not in PAGE] == []
    assert [one.criteria for one in read if one.criteria] == ["ImagingStudy?modality=CT"]


def test_the_settings_are_all_named_with_what_holds_without_them() -> None:
    told = dict(re.findall(r"^\| `subscriptions\.(\w+)` \| (\d+) \|", PAGE, re.MULTILINE))
    settings = Settings().subscriptions
    assert told == {name: str(getattr(settings, name)) for name in type(settings).model_fields}


def test_the_bounds_are_those_that_are_kept() -> None:
    assert f"1 to {channel.LONGEST_TIMEOUT_S} seconds for an answer" in PAGE
    assert f"at most {channel.MOST_EVENTS}; 1 without it" in PAGE
    assert f"{channel.LEAST_HEARTBEAT_S} to 86400 seconds of silence" in PAGE
