"""Subscription topics: what is shipped is valid, and fires when it says."""

import json
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.subscriptiontopic import SubscriptionTopic

from wetread.errors import Misconfigured
from wetread.record.subscriptions import topics
from wetread.record.subscriptions.topics import Topic

FOLDER = Path(__file__).parents[3] / "conformance" / "topics"
BASE = "https://wetread.org/fhir/SubscriptionTopic/"
AIAST = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "AIAST"}


@pytest.fixture(scope="module")
def shipped() -> dict[str, Topic]:
    return {url.removeprefix(BASE): topic for url, topic in topics.load(FOLDER).items()}


def test_the_shipped_topics_are_valid_and_complete(shipped: dict[str, Topic]) -> None:
    for file in FOLDER.glob("*.json"):
        SubscriptionTopic.model_validate_json(file.read_bytes())
    assert set(shipped) == {"imagingstudy-available", "ai-observation", "diagnosticreport", "task-status"}
    assert all("patient" in params for topic in shipped.values() for params in topic.filters.values())


def _study(status: str) -> dict[str, Any]:
    return {"resourceType": "ImagingStudy", "status": status, "subject": {"reference": "Patient/p1"}}


def test_a_study_is_available_once_and_again_when_it_was_reopened(shipped: dict[str, Topic]) -> None:
    def fires(kind: str, current: str, previous: str | None) -> bool:
        before = None if previous is None else _study(previous)
        return shipped["imagingstudy-available"].fires("ImagingStudy", kind, _study(current), before)

    assert fires("create", "available", None)
    assert not fires("create", "registered", None)
    assert fires("update", "available", "registered")
    assert not fires("update", "available", "available")
    assert not fires("update", "cancelled", "available")


def test_only_what_a_model_made_is_an_ai_observation(shipped: dict[str, Topic]) -> None:
    made = {"resourceType": "Observation", "status": "preliminary", "meta": {"security": [AIAST]}}
    topic = shipped["ai-observation"]
    assert topic.fires("Observation", "create", made, None)
    assert topic.fires("Observation", "update", made, made)
    assert not topic.fires("Observation", "create", {**made, "meta": {}}, None)
    assert not topic.fires("DiagnosticReport", "create", {**made, "resourceType": "DiagnosticReport"}, None)


def test_a_task_fires_when_it_is_made_and_when_its_status_changes(shipped: dict[str, Topic]) -> None:
    topic = shipped["task-status"]
    requested, accepted = ({"resourceType": "Task", "status": status} for status in ("requested", "accepted"))
    assert topic.fires("Task", "create", requested, None)
    assert topic.fires("Task", "update", accepted, requested)
    assert not topic.fires("Task", "update", {**requested, "description": "new"}, requested)


def test_a_deletion_fires_nothing(shipped: dict[str, Topic]) -> None:
    assert not any(t.fires(r, "delete", {"resourceType": r}, None) for t in shipped.values() for r in t.resource_types)


def test_a_site_replaces_a_topic_by_its_url(shipped: dict[str, Topic], tmp_path: Path) -> None:
    body = json.loads((FOLDER / "task-status.json").read_text())
    (tmp_path / "own.json").write_text(json.dumps({**body, "title": "Ours"}))
    assert topics.load(FOLDER, tmp_path)[f"{BASE}task-status"].title == "Ours"


@pytest.mark.parametrize(
    "change",
    [
        {"fhirPathCriteria": "%current.status = 'completed'"},
        {"queryCriteria": {"current": "Task?colour=red"}},
        {"queryCriteria": {"current": "Task?modified=gt2024"}},
        {"queryCriteria": {"current": "Observation?status=final"}},
        {"queryCriteria": {"current": "Task?status:text=done"}},
        {"supportedInteraction": ["create", "delete"]},
        {"resource": None},
    ],
)
def test_a_topic_that_would_never_fire_as_written_is_refused_by_file_name(
    change: dict[str, Any], tmp_path: Path
) -> None:
    body = json.loads((FOLDER / "task-status.json").read_text())
    body["resourceTrigger"][0] |= change
    (tmp_path / "wrong.json").write_text(json.dumps(body))
    with pytest.raises(Misconfigured, match=r"wrong\.json"):
        topics.load(tmp_path)


def test_every_topic_is_documented_with_its_filters(shipped: dict[str, Topic]) -> None:
    page = (FOLDER.parents[1] / "docs" / "subscriptions.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    documented = {row[0].strip("`"): (row[2], row[3]) for row in rows if len(row) == 4}
    expected = {
        name: (resource_type, ", ".join(f"`{param}`" for param in sorted(params)))
        for name, topic in shipped.items()
        for resource_type, params in topic.filters.items()
    }
    assert documented == expected
