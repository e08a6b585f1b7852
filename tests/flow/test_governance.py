"""What each phase of a model lets out, seen from outside."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from .conftest import Hospital, Story, until
from .test_matching import addressed

Make = Callable[[str], Story]

CHEST = "cxr-pneumonia-peds"
BLEED = "headct-bleed-synthetic"
TYPES = (
    *("Patient", "Encounter", "Practitioner", "ServiceRequest", "Task", "ImagingStudy", "Observation"),
    *("DiagnosticReport", "Device", "Provenance", "Subscription"),
)
CONTENT = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-payload-content"
READERS = {"a reader with a role that does not govern": ("radiologist",), "a token of FHIR scopes alone": ()}


@contextmanager
def phase(hospital: Hospital, model: str, wanted: str) -> Iterator[None]:
    """The model in this phase; active again afterwards, as the demo profile has it."""
    _set_phase(hospital, model, wanted)
    try:
        yield
    finally:
        _set_phase(hospital, model, "active")


def test_a_film_read_by_a_silent_model_looks_like_one_that_no_model_reads(hospital: Hospital, story: Make) -> None:
    """Nothing differs for a reader who does not govern: neither resources, versions, Task, audit, worklist, metrics,
    archive nor notifications."""
    _subscribe(hospital, "imagingstudy-available")
    _subscribe(hospital, "ai-observation")
    first = story("chest-film")
    hospital.order(first.message)
    hospital.task_when(first.accession_number, "requested")  # writes the Practitioner, whom all orders share
    with phase(hospital, CHEST, "silent"):
        unread = _told(hospital, story("chest-film"), age="045Y")
        silent = _told(hospital, story("chest-film"), age="004Y")
    assert silent.keys() == unread.keys()
    for what, told in silent.items():
        assert told == unread[what], what


def test_a_silent_result_is_shown_to_governance_only_and_its_audit_tells_no_output(
    hospital: Hospital, story: Make
) -> None:
    film = story("chest-film")
    with phase(hospital, CHEST, "silent"):
        hospital.store(film.datasets)
        kept = until("the silent result", lambda: _silent_result(hospital, film))
    assert kept["reading"]["findings"][0]["present"] is True
    for roles in READERS.values():
        with hospital.client(roles=roles) as client:
            assert client.get(f"/api/governance/silent/{CHEST}").status_code == 403
            assert client.get(f"/api/runs/{kept['run_id']}/picture").status_code == 404
            shown = client.get("/fhir/AuditEvent", params={"subtype": "ai-inference", "_count": "1000"}).text
            assert kept["run_id"] not in shown
    inferences = [e for e in hospital.search("AuditEvent", subtype="ai-inference") if kept["run_id"] in json.dumps(e)]
    assert len(inferences) == 1
    told = json.dumps(inferences[0])
    assert CHEST in told
    assert not re.search("output|present|probability|neumonia_", told.replace(CHEST, ""))


def test_a_change_of_phase_is_audited_with_its_reason_and_releases_no_past_run(hospital: Hospital, story: Make) -> None:
    film = story("chest-film")
    with phase(hospital, CHEST, "silent"):
        hospital.store(film.datasets)
        until("the silent result", lambda: _silent_result(hospital, film))
    study = hospital.study(film.study_instance_uid)
    [_, change, *_] = hospital.search("AuditEvent", subtype="phase-changed")
    assert "set by the test" in json.dumps(change)
    with hospital.client() as client:
        answer = client.post(f"/api/governance/models/{CHEST}/phase", json={"phase": "silent", "reason": " "})
        assert answer.status_code == 400, answer.text
    with hospital.client(roles=("radiologist",)) as client:
        answer = client.post(f"/api/governance/models/{CHEST}/phase", json={"phase": "silent", "reason": "x"})
        assert answer.status_code == 403
    other = story("chest-film")
    hospital.store(other.datasets)
    until("a later film's SR", lambda: hospital.objects("SR", other.study_instance_uid))
    assert not hospital.observations_of(study)
    assert not hospital.objects("SR", film.study_instance_uid)

    late = film.datasets[0]
    late.SOPInstanceUID = late.file_meta.MediaStorageSOPInstanceUID = f"{late.SOPInstanceUID[:50]}.2"
    hospital.store([late])
    study = hospital.study_when(film.study_instance_uid, revision=2)
    assert len(hospital.observations_of(study)) == 1, "a new revision is a new run, under the phase of today"


def test_a_model_is_silent_until_somebody_says_otherwise(site: Hospital, story: Make) -> None:
    film = story("chest-film")
    site.order(film.message)
    site.store(film.datasets)
    site.task_when(film.accession_number, "rejected")
    until("the silent result", lambda: _silent_result(site, film))
    assert not site.search("Observation")
    assert not site.objects("SR", film.study_instance_uid)
    with site.client() as client:
        assert {model["phase"] for model in client.get("/api/models").json()} == {"silent"}


def test_a_concurrent_result_is_shown_but_moves_nobody(hospital: Hospital, story: Make) -> None:
    _subscribe(hospital, "ai-observation")
    bleed, active = story("head-ct-phantom-bleed"), story("head-ct-phantom-bleed")
    with phase(hospital, BLEED, "concurrent"):
        hospital.order(bleed.message.replace(b"S^Stat", b"R^Routine"))
        hospital.store(bleed.datasets)
        hospital.task_when(bleed.accession_number, "completed")
    study = hospital.study(bleed.study_instance_uid)
    observations = hospital.observations_of(study)
    assert observations
    until("the SR", lambda: hospital.objects("SR", bleed.study_instance_uid))
    until("the SEG", lambda: hospital.objects("SEG", bleed.study_instance_uid))
    until(
        "the notification",
        lambda: any(observations[0]["id"].encode() in n for n in list(hospital.heard.notifications)),
    )
    codes = {c["code"] for o in observations for i in o.get("interpretation", ()) for c in i["coding"]}
    assert "AA" not in codes
    [row] = [r for r in _worklist(hospital) if r["study_id"] == study["id"]]
    assert (row["critical"], row["reason"]) == (False, "by time of arrival")
    assert row["findings"]

    hospital.store(active.datasets)
    until("the alert of an active model", lambda: hospital.alerts(active.accession_number))
    assert not hospital.alerts(bleed.accession_number)
    rows = [r["study_instance_uid"] for r in _worklist(hospital)]
    assert rows.index(active.study_instance_uid) < rows.index(bleed.study_instance_uid)


def test_every_output_of_the_demo_profile_says_demo(hospital: Hospital, story: Make) -> None:
    bleed = story("head-ct-phantom-bleed")
    hospital.order(bleed.message)
    hospital.store(bleed.datasets)
    task = hospital.task_when(bleed.accession_number, "completed")
    study = hospital.study(bleed.study_instance_uid)
    reports = hospital.search("DiagnosticReport", **{"based-on": task["basedOn"][0]["reference"]})
    for resource in (*hospital.observations_of(study), *reports):
        assert "DEMO" in {tag["code"] for tag in resource["meta"]["tag"]}, resource["resourceType"]
    for modality in ("SR", "SEG"):
        [made] = until(f"the {modality}", lambda m=modality: hospital.objects(m, bleed.study_instance_uid))
        assert "DEMO" in made.SeriesDescription
    [alert] = until("the alert", lambda: hospital.alerts(bleed.accession_number))
    assert b"DEMO: made in a demonstration" in alert
    with httpx.Client(base_url=hospital.server.url, cookies={"wetread_token": hospital.token()}) as browser:
        assert "DEMO" in browser.get("/worklist").text


def test_the_brain_model_reads_a_study_that_asks_for_it_and_gives_a_volume_without_a_verdict(
    hospital: Hospital, story: Make
) -> None:
    brain = story("head-ct-phantom-bleed")
    hospital.store(addressed(brain, StudyDescription="BRAIN VOLUME"))
    study = until("both models to have read", lambda: _read(hospital, brain, models=2), 150)
    volumes = [o for o in hospital.observations_of(study) if "rain" in json.dumps(o["code"])]
    assert volumes
    assert all("valueCodeableConcept" not in o for o in volumes)


def _told(hospital: Hospital, film: Story, *, age: str) -> dict[str, Any]:
    """All that outsiders learn from one film, order to end, with what names the film taken out."""
    before, metrics = {who: _counts(hospital, roles) for who, roles in READERS.items()}, _metrics(hospital)
    heard = len(hospital.heard.objects), len(hospital.heard.alerts)
    hospital.order(film.message)
    hospital.task_when(film.accession_number, "requested")
    hospital.store(addressed(film, PatientAge=age))
    task = hospital.task_when(film.accession_number, "rejected")
    if age == "004Y":
        until("the silent result", lambda: _silent_result(hospital, film))
    study = hospital.study(film.study_instance_uid)
    told: dict[str, Any] = {"study": study, "worklist": [], "archive": [], "notified": 0}
    until("its notification", lambda: _notified(hospital, study["id"]))
    told["notified"] = _notified(hospital, study["id"])
    told["archive"] = (len(hospital.heard.objects) - heard[0], len(hospital.heard.alerts) - heard[1])
    told["metrics"] = until("the steps to end", lambda: _difference(metrics, _metrics(hospital)))
    told["worklist"] = [r for r in _worklist(hospital) if r["study_id"] == study["id"]]
    told["deliveries"] = [d for d in _deliveries(hospital) if d["patient_id"] == study["patient_id"]]
    for who, roles in READERS.items():
        told[f"resources for {who}"] = Counter(_counts(hospital, roles)) - Counter(before[who])
        told[f"Task for {who}"] = _history(hospital, roles, f"Task/{task['id']}")
        told[f"ImagingStudy for {who}"] = _history(hospital, roles, f"ImagingStudy/{study['id']}")
        told[f"audit for {who}"] = _audit(hospital, roles, study["patient_id"])
    named = (film.study_instance_uid, film.accession_number, film.case.patient.id, film.accession_number[6:])
    return {what: _anonymous(content, named) for what, content in told.items()}


def _anonymous(content: Any, named: tuple[str, ...]) -> Any:
    text = json.dumps(content, sort_keys=True)
    for name in named:
        text = text.replace(name, "N")
    text = re.sub(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", "U", text)
    text = re.sub(r"\b2\.25\.\d+(\.\d+)*", "D", text)
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+(Z|[+-]\d\d:\d\d)", "T", text)
    return json.loads(re.sub(r'"(valueString|valueBase64Binary)": "[\w=/+]*"', '"value": "V"', text))


def _counts(hospital: Hospital, roles: tuple[str, ...]) -> dict[str, int]:
    with hospital.client(roles=roles) as client:
        return {
            t: client.get(f"/fhir/{t}", params={"_total": "accurate", "_count": "1"}).json()["total"] for t in TYPES
        }


def _history(hospital: Hospital, roles: tuple[str, ...], reference: str) -> list[dict[str, Any]]:
    with hospital.client(roles=roles) as client:
        found: list[dict[str, Any]] = client.get(f"/fhir/{reference}/_history", params={"_count": "100"}).json()[
            "entry"
        ]
    return found


def _audit(hospital: Hospital, roles: tuple[str, ...], patient_id: str) -> list[str]:
    """Who did what to the patient's data, oldest first. The test's own reading is left out."""
    with hospital.client(roles=roles) as client:
        found = client.get("/fhir/AuditEvent", params={"patient": f"Patient/{patient_id}", "_count": "1000"}).json()
    events = [entry["resource"] for entry in found.get("entry", ())]
    return sorted(
        " ".join(coding["code"] for coding in event["subtype"]) + event.get("outcomeDesc", "")
        for event in events
        if not any(agent.get("who", {}).get("display") == "operator:test" for agent in event["agent"])
        and "operator:test" not in json.dumps(event["agent"])
    )


def _metrics(hospital: Hospital) -> dict[str, float]:
    with hospital.client(roles=()) as client:
        lines = client.get("/metrics").text.splitlines()
    return {name: float(value) for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] != "#")}


def _difference(before: dict[str, float], after: dict[str, float]) -> dict[str, float] | None:
    """What was added; None while steps are still worked on. What is under way at a moment is no sum, and how far the
    subscriptions of other tests are behind is not ours to say."""
    if any(
        after.get(name) for name in after if name.startswith("wetread_jobs") and ("todo" in name or "doing" in name)
    ):
        return None
    passing = ("jobs", "_lag", "_seconds", "_pending", "_delivered", "_fail")
    return {name: after[name] - before.get(name, 0) for name in after if not any(part in name for part in passing)}


def _silent_result(hospital: Hospital, film: Story) -> dict[str, Any] | None:
    with hospital.client(roles=("governance",)) as client:
        kept = client.get(f"/api/governance/silent/{CHEST}").json()
    return next((r for r in kept if r["study_instance_uid"] == film.study_instance_uid), None)


def _set_phase(hospital: Hospital, model: str, wanted: str) -> None:
    with hospital.client(roles=("governance",)) as client:
        wish = {"phase": wanted, "reason": "set by the test"}
        answer = client.post(f"/api/governance/models/{model}/phase", json=wish)
    assert answer.status_code == 200, answer.text


def _notified(hospital: Hospital, imaging_study_id: str) -> int:
    return sum(imaging_study_id.encode() in n for n in list(hospital.heard.notifications))


def _read(hospital: Hospital, story: Story, models: int) -> dict[str, Any] | None:
    study = hospital.study(story.study_instance_uid)
    return study if study.get("state") == "read" and len(study["runs"]) == models else None


def _worklist(hospital: Hospital) -> list[dict[str, Any]]:
    with hospital.client(roles=()) as client:
        found: list[dict[str, Any]] = client.get("/api/worklist", params={"limit": 1000}).json()
    return found


def _deliveries(hospital: Hospital) -> list[dict[str, Any]]:
    with hospital.client() as client:
        found: list[dict[str, Any]] = client.get("/api/deliveries", params={"limit": 1000}).json()
    return found


def _subscribe(hospital: Hospital, topic: str) -> None:
    """Once a session; the tests share the subscriber."""
    criteria = f"https://wetread.org/fhir/SubscriptionTopic/{topic}"
    endpoint = f"http://127.0.0.1:{hospital.subscriber_port}/notifications"

    def statuses() -> set[str]:
        ours = [s for s in hospital.search("Subscription", url=endpoint) if s["criteria"] == criteria]
        return {s["status"] for s in ours}

    if statuses():
        return
    subscription = {
        "resourceType": "Subscription",
        "status": "requested",
        "reason": "test",
        "criteria": criteria,
        "channel": {
            "type": "rest-hook",
            "endpoint": endpoint,
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": CONTENT, "valueCode": "id-only"}]},
        },
    }
    with hospital.client() as client:
        client.post("/fhir/Subscription", json=subscription).raise_for_status()
    until("the subscription to be active", lambda: statuses() == {"active"})
