"""Subscription topics: what is shipped is valid, and fires when it says; what a site writes is kept, or refused."""

import contextlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fhir.resources.R4B.subscriptiontopic import SubscriptionTopic

from wetread.errors import Misconfigured, Unsupported
from wetread.record import fhirpath
from wetread.record.search.index import Extraction
from wetread.record.subscriptions import topics
from wetread.record.subscriptions.topics import Topic

FOLDER = Path(__file__).parents[3] / "conformance" / "topics"
BASE = "https://wetread.org/fhir/SubscriptionTopic/"
AIAST = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "AIAST"}
SITE: dict[str, Any] = {
    "resourceType": "SubscriptionTopic",
    "url": "https://site.example/topics/own",
    "status": "active",
    "resourceTrigger": [{"resource": "Task"}],
}

Change = Callable[..., bool]


@pytest.fixture(scope="module")
def shipped() -> dict[str, Topic]:
    return {url.removeprefix(BASE): topic for url, topic in topics.load(FOLDER).items()}


def _fires(topic: Topic, made: Callable[[Any], dict[str, Any]]) -> Change:
    """Whether a change from one value to another fires: None stands for no such version."""

    def fires(kind: str, current: Any, previous: Any = None) -> bool:
        now, before = (None if value is None else made(value) for value in (current, previous))
        resource_type = (now or before or {})["resourceType"]
        return topic.fires(resource_type, kind, now, before)

    return fires


def _of_status(resource_type: str) -> Callable[[Any], dict[str, Any]]:
    return lambda status: {"resourceType": resource_type, "status": status, "subject": {"reference": "Patient/p1"}}


def _site(**trigger: Any) -> Topic:
    return topics.topic_of({**SITE, "resourceTrigger": [{"resource": "Task", **trigger}]})


def test_the_shipped_topics_are_valid_and_complete(shipped: dict[str, Topic]) -> None:
    for file in FOLDER.glob("*.json"):
        SubscriptionTopic.model_validate_json(file.read_bytes())
        assert json.loads(file.read_text())["url"] == f"{BASE}{file.stem}"
    assert set(shipped) == {
        *("imagingstudy-available", "ai-observation", "critical-finding", "order-received", "task-status"),
        *("diagnosticreport", "diagnosticreport-preliminary", "diagnosticreport-signed", "diagnosticreport-amended"),
        *("diagnosticreport-withdrawn", "worklist-priority", "subscription-error"),
    }
    patients = {n for n, t in shipped.items() if all("patient" in params for params in t.filters.values())}
    assert patients == set(shipped) - {"subscription-error"}


def test_a_study_is_available_once_and_again_when_it_was_reopened(shipped: dict[str, Topic]) -> None:
    fires = _fires(shipped["imagingstudy-available"], _of_status("ImagingStudy"))
    assert fires("create", "available")
    assert not fires("create", "registered")
    assert fires("update", "available", "registered")
    assert not fires("update", "available", "available")
    assert not fires("update", "cancelled", "available")
    assert not fires("delete", None, "available")


def test_only_what_a_model_made_is_an_ai_observation(shipped: dict[str, Topic]) -> None:
    made = {"resourceType": "Observation", "status": "preliminary", "meta": {"security": [AIAST]}}
    topic = shipped["ai-observation"]
    assert topic.fires("Observation", "create", made, None)
    assert topic.fires("Observation", "update", made, made)
    assert not topic.fires("Observation", "create", {**made, "meta": {}}, None)
    assert not topic.fires("DiagnosticReport", "create", {**made, "resourceType": "DiagnosticReport"}, None)


def test_every_filter_that_an_ai_observation_is_asked_for_by_finds_it(shipped: dict[str, Topic]) -> None:
    made = next(
        json.loads(file.read_text())
        for file in sorted((FOLDER.parent / "examples").glob("observation-*.json"))
        if "Critical" in file.read_text()
    )
    entries = Extraction(made)
    asked = {
        "patient": made["subject"]["reference"],
        "code": "http://snomed.info/sct|1386000",
        "interpretation": "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation|AA",
        "device": made["device"]["reference"],
        "category": "http://dicom.nema.org/resources/ontology/DCM|CT",
        "bodysite": "http://snomed.info/sct|1101003",
    }
    for name, value in asked.items():
        assert shipped["ai-observation"].filter("Observation", name, value).passes(entries), name
        assert not shipped["ai-observation"].filter("Observation", name, "Other/1").passes(entries), name


def _finding(said: str) -> dict[str, Any]:
    status, _, codes = said.partition(" ")
    system = "http://terminology.hl7.org/CodeSystem/v3-ObservationInterpretation"
    coded = [{"coding": [{"system": system, "code": code}]} for code in codes.split()]
    return {"resourceType": "Observation", "status": status, "interpretation": coded}


def test_a_critical_finding_is_told_once_and_not_when_it_is_withdrawn(shipped: dict[str, Topic]) -> None:
    fires = _fires(shipped["critical-finding"], _finding)
    assert fires("create", "preliminary POS AA")
    assert fires("create", "final HH")
    assert not fires("create", "preliminary POS")
    assert fires("update", "preliminary AA", "preliminary POS")
    assert not fires("update", "final AA", "preliminary AA")
    assert not fires("create", "entered-in-error AA")
    assert not fires("update", "entered-in-error AA", "final AA")


@pytest.mark.parametrize(
    ("name", "fired"),
    [
        ("preliminary", {(None, "preliminary"), ("registered", "partial"), ("registered", "preliminary")}),
        ("signed", {(None, "final"), ("preliminary", "final"), ("registered", "final")}),
        ("amended", {(None, "amended"), ("final", "corrected"), ("amended", "appended"), ("amended", "amended")}),
        ("withdrawn", {("final", "entered-in-error"), ("preliminary", "cancelled"), ("final", None)}),
    ],
)
def test_a_report_tells_of_each_turn_that_it_takes(
    shipped: dict[str, Topic], name: str, fired: set[tuple[str | None, str | None]]
) -> None:
    fires = _fires(shipped[f"diagnosticreport-{name}"], _of_status("DiagnosticReport"))
    turns = [
        *[(None, s) for s in ("registered", "preliminary", "final", "amended")],
        *[("registered", s) for s in ("registered", "partial", "preliminary", "final")],
        *[("preliminary", s) for s in ("preliminary", "final", "cancelled")],
        *[("final", s) for s in ("final", "corrected", "entered-in-error", None)],
        *[("amended", s) for s in ("amended", "appended", "final")],
        *[("entered-in-error", s) for s in ("entered-in-error", "cancelled", None)],
    ]
    kinds = {True: "create", False: "update"}
    told = {(a, b) for a, b in turns if fires("delete" if b is None else kinds[a is None], b, a)}
    assert told == fired


def test_a_task_fires_when_it_is_made_and_when_its_status_changes(shipped: dict[str, Topic]) -> None:
    topic = shipped["task-status"]
    requested, accepted = ({"resourceType": "Task", "status": status} for status in ("requested", "accepted"))
    assert topic.fires("Task", "create", requested, None)
    assert topic.fires("Task", "update", accepted, requested)
    assert not topic.fires("Task", "update", {**requested, "description": "new"}, requested)


def test_an_order_is_received_once(shipped: dict[str, Topic]) -> None:
    fires = _fires(shipped["order-received"], _of_status("ServiceRequest"))
    assert fires("create", "active")
    assert fires("update", "active", "draft")
    assert not fires("create", "draft")
    assert not fires("update", "active", "active")
    assert not fires("update", "active", "on-hold")


def test_the_worklist_hears_of_another_priority(shipped: dict[str, Topic]) -> None:
    fires = _fires(shipped["worklist-priority"], lambda p: {"resourceType": "Task", **({"priority": p} if p else {})})
    assert fires("update", "stat", "routine")
    assert fires("update", "stat", "")
    assert fires("update", "", "urgent")
    assert not fires("update", "routine", "")
    assert not fires("update", "stat", "stat")
    assert not fires("create", "stat")


def test_a_subscription_tells_of_its_error(shipped: dict[str, Topic]) -> None:
    fires = _fires(shipped["subscription-error"], _of_status("Subscription"))
    assert fires("update", "error", "active")
    assert not fires("update", "error", "error")
    assert not fires("update", "active", "error")


def test_a_deletion_fires_nothing_but_the_withdrawal_of_a_report(shipped: dict[str, Topic]) -> None:
    deleted = {
        name
        for name, topic in shipped.items()
        for resource_type in topic.resource_types
        if topic.fires(resource_type, "delete", None, {"resourceType": resource_type, "status": "final"})
    }
    assert deleted == {"diagnosticreport-withdrawn"}


def test_a_site_replaces_a_topic_by_its_url_and_takes_one_away(tmp_path: Path) -> None:
    body = json.loads((FOLDER / "task-status.json").read_text())
    (tmp_path / "own.json").write_text(json.dumps({**body, "title": "Ours"}))
    (tmp_path / "less.json").write_text(json.dumps({**body, "url": f"{BASE}ai-observation", "status": "retired"}))
    served = topics.load(FOLDER, tmp_path)
    assert served[f"{BASE}task-status"].title == "Ours"
    assert f"{BASE}ai-observation" not in served


def test_without_interactions_every_change_fires_and_without_criteria_whatever_it_is() -> None:
    task = {"resourceType": "Task"}
    topic = _site()
    assert topic.fires("Task", "create", task, None)
    assert topic.fires("Task", "update", task, task)
    assert topic.fires("Task", "delete", None, task)


DONE, OPEN = ({"resourceType": "Task", "status": s} for s in ("completed", "requested"))
AFTER, BEFORE = {"current": "Task?status=completed"}, {"previous": "Task?status:not=completed"}


@pytest.mark.parametrize(
    ("asked", "turns"),
    [
        (AFTER, {"create done", "open-done", "done-done", "delete open", "delete done"}),
        (BEFORE, {"create done", "create open", "open-done", "open-open", "delete open"}),
        ({**AFTER, **BEFORE, "requireBoth": True}, {"create done", "open-done", "delete open"}),
        (
            {**AFTER, **BEFORE},
            {"create done", "create open", "open-done", "done-done", "open-open", "delete open", "delete done"},
        ),
        ({**AFTER, "resultForDelete": "test-fails"}, {"create done", "open-done", "done-done"}),
        ({**AFTER, **BEFORE, "requireBoth": True, "resultForCreate": "test-fails"}, {"open-done", "delete open"}),
        ({**BEFORE, "resultForCreate": "test-fails"}, {"open-done", "open-open", "delete open"}),
    ],
)
def test_criteria_of_the_versions_before_and_after_say_which_changes_fire(
    asked: dict[str, Any], turns: set[str]
) -> None:
    topic = _site(queryCriteria=asked)
    changes = {
        "create done": ("create", DONE, None),
        "create open": ("create", OPEN, None),
        "open-done": ("update", DONE, OPEN),
        "done-done": ("update", DONE, DONE),
        "open-open": ("update", OPEN, OPEN),
        "done-open": ("update", OPEN, DONE),
        "delete open": ("delete", None, OPEN),
        "delete done": ("delete", None, DONE),
    }
    assert {name for name, change in changes.items() if topic.fires("Task", *change)} == turns


@pytest.mark.parametrize(
    ("rule", "turns"),
    [
        ("%current.status = 'completed'", {"create", "update"}),
        ("status = 'completed' and %previous.empty()", {"create"}),
        ("%current.empty()", {"delete"}),
        ("%previous.status != %current.status", {"update"}),
        ("%previous.output.count() < %current.output.count()", {"create", "update"}),
        ("%current.output.where(%previous.status = 'requested').exists()", {"update"}),
        ("%current.output.where(type.text = 'c')", set()),
    ],
)
def test_a_fhirpath_criterion_sees_both_versions_and_fires_where_it_is_true(rule: str, turns: set[str]) -> None:
    topic = _site(fhirPathCriteria=rule)
    done = {**DONE, "output": [{"type": {"text": "a"}}, {"type": {"text": "b"}}]}
    changes = {"create": (done, None), "update": (done, OPEN), "delete": (None, OPEN)}
    assert {kind for kind, versions in changes.items() if topic.fires("Task", kind, *versions)} == turns


@pytest.mark.parametrize("rule", ["%current.output", "%current.output.type.text > 'a'", "%current.status - 1 > 0"])
def test_a_fhirpath_criterion_that_fails_says_so_without_the_values(rule: str) -> None:
    topic = _site(fhirPathCriteria=rule)
    done = {**DONE, "output": [{"type": {"text": "a"}}, {"type": {"text": "b"}}]}
    with pytest.raises(fhirpath.Undecided) as failed:
        topic.fires("Task", "update", done, OPEN)
    assert str(failed.value) in {"one item was expected", "arithmetic takes numbers"}


@pytest.mark.parametrize(
    "rule",
    [
        "%current.output.where(%current.output.count() > 1).exists()",
        "%current.output.where(%current.descendants().where($this is string).exists()).exists()",
        "%current.output.type.distinct().exists()",
        "(%current.output.type | {}).exists()",
        "%current.output.type ~ %previous.output.type",
        "%current.output.aggregate(%current.output.aggregate($total + 1, 0), 0) > 1",
    ],
)
@pytest.mark.timeout(60)
def test_a_fhirpath_criterion_comes_to_its_end_on_a_large_resource(rule: str) -> None:
    topic = _site(fhirPathCriteria=rule)
    output = [{"type": {"coding": [{"system": "urn:x", "code": str(n)}], "text": "a"}} for n in range(10_000)]
    with contextlib.suppress(fhirpath.Undecided):
        topic.fires("Task", "update", {**DONE, "output": output}, {**OPEN, "output": output[::-1]})


def test_query_and_fhirpath_criteria_must_both_hold() -> None:
    topic = _site(queryCriteria={"current": "status=completed"}, fhirPathCriteria="%current.priority = 'stat'")
    assert topic.fires("Task", "create", {**DONE, "priority": "stat"}, None)
    assert not topic.fires("Task", "create", DONE, None)
    assert not topic.fires("Task", "create", {**OPEN, "priority": "stat"}, None)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"derivedFrom": [f"{BASE}task-status"]}, "derivedFrom"),
        ({"eventTrigger": [{"event": {"text": "admit"}, "resource": "Task"}]}, "eventTrigger"),
        ({"resourceType": "Basic"}, "SubscriptionTopic"),
        ({"resourceTrigger": []}, "never fires"),
        ({"resourceTrigger": [{"resource": "AuditEvent"}]}, "no type"),
        ({"resourceTrigger": [{"resource": "Tasks"}]}, "no type"),
        ({"resourceTrigger": [{}]}, "resource"),
        ({"url": ""}, "url"),
        ({"status": "live"}, "status"),
        ({"canFilterBy": [{"resource": "Task", "filterParameter": "colour"}]}, "no search parameter"),
        ({"canFilterBy": [{"resource": "Patient", "filterParameter": "name"}]}, "no trigger"),
        ({"canFilterBy": [{"filterParameter": "status", "modifier": ["in"]}]}, "list the codes"),
        ({"canFilterBy": [{"filterParameter": "status", "modifier": ["gt"]}]}, "gt is for dates"),
        ({"canFilterBy": [{"filterParameter": "status", "filterDefinition": "http://x.org/SearchParameter/y"}]}, "is "),
        ({"notificationShape": [{"resource": "Task", "include": ["Task:colour"]}]}, "reference-parameter"),
        ({"notificationShape": [{"resource": "Task", "include": ["Patient:organization"]}]}, "an include names"),
        ({"notificationShape": [{"resource": "Patient"}]}, "no trigger"),
    ],
)
def test_a_topic_that_would_not_do_what_it_says_is_refused_by_file_name(
    change: dict[str, Any], told: str, tmp_path: Path
) -> None:
    (tmp_path / "wrong.json").write_text(json.dumps({**SITE, **change}))
    with pytest.raises(Misconfigured, match=rf"wrong\.json: .*{told}"):
        topics.load(tmp_path)


@pytest.mark.parametrize(
    ("trigger", "told"),
    [
        ({"fhirPathCriteria": "%previous.status !="}, "fhirPathCriteria"),
        ({"fhirPathCriteria": "memberOf('http://x.org/vs')"}, "fhirPathCriteria"),
        ({"fhirPathCriteria": "%former.status"}, "fhirPathCriteria"),
        ({"fhirPathCriteria": "%current.description.matches('^(a+)+$')"}, "matches\\(\\) may run for ever"),
        ({"fhirPathCriteria": "%current.input.where(type.text.matchesFull(%previous.x)).exists()"}, "for ever"),
        ({"fhirPathCriteria": "%current.description.replaceMatches('(a+)+b', '') = ''"}, "for ever"),
        ({"queryCriteria": {"current": "Task?colour=red"}}, "colour"),
        ({"queryCriteria": {"current": "Task?modified=someday"}}, "FHIR date"),
        ({"queryCriteria": {"current": "Observation?status=final"}}, "its query on Observation"),
        ({"queryCriteria": {"current": "Task?patient.name=Ann"}}, "chains"),
        ({"queryCriteria": {"current": "Task"}}, "no search parameter"),
        ({"queryCriteria": {"current": "status=final", "resultForCreate": "maybe"}}, "maybe"),
        ({"supportedInteraction": ["read"]}, "create, update or delete"),
    ],
)
def test_so_is_one_whose_trigger_cannot_be_evaluated(trigger: dict[str, Any], told: str, tmp_path: Path) -> None:
    body = {**SITE, "resourceTrigger": [{"resource": "Task", **trigger}]}
    (tmp_path / "wrong.json").write_text(json.dumps(body))
    with pytest.raises(Misconfigured, match=rf"wrong\.json: .*{told}"):
        topics.load(tmp_path)


def test_two_files_of_one_folder_do_not_define_the_same_topic(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.json").write_text(json.dumps(SITE))
    with pytest.raises(Misconfigured, match=r"b\.json: a\.json defines the same url"):
        topics.load(tmp_path)


def _filtered(**allowed: Any) -> Topic:
    return topics.topic_of({**SITE, "canFilterBy": [{"resource": "Task", **allowed}]})


@pytest.mark.parametrize(
    ("allowed", "name", "value"),
    [
        ({"filterParameter": "modified"}, "modified", "gt2026"),
        ({"filterParameter": "modified", "modifier": ["eq", "gt"]}, "modified", "gt2026"),
        ({"filterParameter": "modified", "comparator": ["gt"]}, "modified", "2026"),
        ({"filterParameter": "status", "modifier": ["=", "not"]}, "status:not", "completed"),
        ({"filterParameter": "status", "modifier": ["="]}, "status", "completed"),
    ],
)
def test_a_filter_may_be_used_with_the_operators_that_the_topic_lists(
    allowed: dict[str, Any], name: str, value: str
) -> None:
    assert _filtered(**allowed).filter("Task", name, value).param == name.partition(":")[0]


@pytest.mark.parametrize(
    ("allowed", "name", "value", "told"),
    [
        ({"filterParameter": "modified", "modifier": ["eq", "gt"]}, "modified", "lt2026", "with gt"),
        ({"filterParameter": "modified", "modifier": ["eq"]}, "modified", "lt2026", "no modifier or prefix"),
        ({"filterParameter": "status", "modifier": ["=", "not"]}, "status:missing", "true", "with not"),
        ({"filterParameter": "status"}, "priority", "stat", "it can by Task.status"),
    ],
)
def test_and_with_no_other(allowed: dict[str, Any], name: str, value: str, told: str) -> None:
    with pytest.raises(Unsupported, match=told):
        _filtered(**allowed).filter("Task", name, value)


def test_a_criteria_based_topic_fires_at_what_is_created_and_updated_and_filters_by_the_search() -> None:
    topic, filters = topics.of_criteria("Observation?category=imaging&status=final")
    made = {"resourceType": "Observation"}
    assert filters == (("Observation", "category=imaging&status=final"),)
    assert topic.fires("Observation", "create", made, None)
    assert topic.fires("Observation", "update", made, made)
    assert not topic.fires("Observation", "delete", None, made)
    assert not topic.fires("Task", "create", {"resourceType": "Task"}, None)


@pytest.mark.parametrize("text", ["Observation", "Observation?", "/Observation"])
def test_criteria_without_a_parameter_are_the_whole_type(text: str) -> None:
    topic, filters = topics.of_criteria(text)
    assert (topic.resource_types, filters) == ({"Observation"}, ())


@pytest.mark.parametrize(
    "text",
    [
        "Observations?x=y",
        "Observation?colour=red",
        "Observation?patient.name=Ann",
        "Observation?_include=*",
        "Task?_format=json",
    ],
)
def test_criteria_that_would_not_be_kept_are_refused(text: str) -> None:
    with pytest.raises(Unsupported):
        topics.of_criteria(text)


PAGE = (FOLDER.parents[1] / "docs" / "topics.md").read_text(encoding="utf-8")


def test_every_topic_is_documented_with_what_it_fires_at_its_includes_and_its_filters() -> None:
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in PAGE.splitlines() if line.startswith("| `")]
    documented = {row[0].strip("`"): row[1:] for row in rows if len(row) == 5}
    expected = {}
    for file in FOLDER.glob("*.json"):
        body = json.loads(file.read_text())
        [shape] = body["notificationShape"]
        along = ", ".join(f"`{each}`" for each in shape.get("include", []) + shape.get("revInclude", [])) or "–"
        filters = ", ".join(f"`{p}`" for p in sorted(each["filterParameter"] for each in body["canFilterBy"]))
        expected[file.stem] = [body["description"], shape["resource"], along, filters]
    assert documented == expected


def test_the_worked_example_is_a_topic_that_does_what_the_page_says(tmp_path: Path) -> None:
    [example] = [part.partition("```")[0] for part in PAGE.split("```json")[1:]]
    SubscriptionTopic.model_validate_json(example)
    (tmp_path / "example.json").write_text(example)
    [topic] = topics.load(tmp_path).values()
    code = {"coding": [{"system": "https://wetread.org/fhir/CodeSystem/wetread", "code": "ai-reading"}]}
    running = {"resourceType": "Task", "status": "in-progress", "code": code}
    failed = {**running, "status": "failed", "statusReason": {"text": "no model reads this series"}}
    assert topic.fires("Task", "update", failed, running)
    assert not topic.fires("Task", "update", {**failed, "description": "again"}, failed)
    assert not topic.fires("Task", "update", {**failed, "statusReason": {"text": "joined to its order"}}, running)
    assert not topic.fires("Task", "update", {**failed, "code": {"text": "another"}}, running)
    topic.filter("Task", "modified", "ge2026")
    with pytest.raises(Unsupported):
        topic.filter("Task", "modified", "gt2026")
    assert [(each.reverse, each.param) for each in topic.shape["Task"]] == [(False, "based-on"), (True, "target")]
