"""Killed at any moment and started again: nothing is lost, nothing takes effect twice, a resend is byte-equal.

`make test` runs one short siege; `make soak` runs a long one. The seed fixes victims and moments; what it meets
there is up to the machine.
"""

from __future__ import annotations

import json
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
import pytest

from tests.flow.conftest import Story, part10, until
from wetread.reading.runs import READING
from wetread.results import identity
from wetread.store.blobs import LocalBlobs
from wetread.wire.dicom import data_set_start
from wetread.wire.hl7_ack import recover_control_id

from .conftest import VICTIMS, Besieged, Copies

# pynetdicom and the peers in our threads leave sockets behind when the other end is killed.
pytestmark = [
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning"),
]


@pytest.mark.timeout(200)
@pytest.mark.parametrize("seed", [20261121])
def test_a_few_kills_lose_nothing_and_double_nothing(
    besieged: Besieged, story: Callable[[str], Story], record_property: Callable[[str, object], None]
) -> None:
    stories = [story(name) for name in ("chest-film", "head-ct-phantom-bleed", "chest-film", "head-ct-phantom-bleed")]
    victims = ["fork server", "infer", "group", "postgres", besieged.killer.random.choice(["front", "work", "dicom"])]
    besieged.killer.random.shuffle(victims)
    _siege(besieged, stories, victims, pause_s=1.5, record=record_property)


@pytest.mark.slow
@pytest.mark.timeout(5400)
@pytest.mark.parametrize("seed", [1, 2])
def test_many_kills_lose_nothing_and_double_nothing(
    besieged: Besieged, story: Callable[[str], Story], record_property: Callable[[str, object], None]
) -> None:
    kills = 100
    names = ("chest-film", "chest-film", "head-ct-phantom-bleed")
    stories = [story(names[number % 3]) for number in range(kills * 2)]
    victims = [besieged.killer.random.choice(VICTIMS) for _ in range(kills)]
    _siege(besieged, stories, victims, pause_s=2.0, record=record_property)


def _siege(
    besieged: Besieged,
    stories: list[Story],
    victims: Sequence[str],
    *,
    pause_s: float,
    record: Callable[[str, object], None],
) -> None:
    killer, senders = besieged.killer, besieged.senders
    threads = senders.run(stories, pause_s)
    for victim in victims:
        time.sleep(killer.random.uniform(0.2, 2.5))
        killer.strike(victim)
    for thread in threads:
        thread.join(len(stories) * 20)
    recoveries = {name: [round(s, 1) for s in times] for name, times in killer.recoveries_s.items()}
    told = f"{len(victims)} kills ({', '.join(victims)}), {senders.resent} resends, seconds until ready: {recoveries}"
    print(told)
    record("siege", told)
    assert senders.refusals == []
    assert (len(senders.orders), len(senders.studies)) == (len(stories), len(stories))

    hospital = besieged.hospital
    for told_story in stories:
        accession = told_story.accession_number
        ended = until(f"the Task to be completed ({told})", lambda a=accession: _ended(hospital.task_of(a)), 120)
        assert ended["status"] == "completed", ended
    with besieged.database() as conn:
        until("no step to be left", lambda: _rows(conn, "SELECT 1 FROM procrastinate_jobs") == [], 60)
        until("every audit row to be chained", lambda: _rows(conn, "SELECT 1 FROM audit_unchained") == [])
        wrong = [
            *_wrong_orders(besieged, conn, stories),
            *_wrong_instances(besieged, conn, stories),
            *_wrong_readings(besieged, conn, stories),
            *_wrong_deliveries(besieged, conn),
            *_wrong_notifications(besieged, conn),
        ]
    assert wrong == [], f"after {told}:\n" + "\n".join(wrong)
    assert "the chain is whole" in hospital.command("audit", "verify")


def _wrong_orders(besieged: Besieged, conn: psycopg.Connection, stories: Sequence[Story]) -> list[str]:
    """Every acknowledged order: kept once, mapped, one ServiceRequest, one Task."""
    wrong = []
    for told in stories:
        kept = _rows(
            conn,
            "SELECT state FROM hl7_message WHERE control_id = %s AND verdict = 'AA'",
            recover_control_id(told.message),
        )
        if kept != [("mapped",)]:
            wrong.append(f"order {told.accession_number} is kept as {kept}")
        requests = besieged.hospital.search("ServiceRequest", identifier=told.accession_number)
        tasks = [
            task
            for request in requests
            for task in besieged.hospital.search("Task", **{"based-on": f"ServiceRequest/{request['id']}"})
        ]
        if (len(requests), len(tasks)) != (1, 1):
            wrong.append(f"order {told.accession_number} has {len(requests)} ServiceRequests and {len(tasks)} Tasks")
    return wrong


def _wrong_instances(besieged: Besieged, conn: psycopg.Connection, stories: Sequence[Story]) -> list[str]:
    """Every acknowledged instance: in the archive, and its data set byte for byte as sent."""
    blobs = LocalBlobs(besieged.hospital.server.data_dir / "blobs")
    wrong = []
    for told in stories:
        for dataset in told.datasets:
            uid = str(dataset.SOPInstanceUID)
            keys = _rows(conn, "SELECT blob_key FROM instance WHERE sop_instance_uid = %s", uid)
            stored = blobs.get(keys[0][0]) if keys else b""
            sent = part10(dataset)
            if not stored or stored[data_set_start(stored) :] != sent[data_set_start(sent) :]:
                wrong.append(f"instance {uid} of {told.case.name} is {'changed' if stored else 'lost'}")
    return wrong


def _wrong_readings(besieged: Besieged, conn: psycopg.Connection, stories: Sequence[Story]) -> list[str]:
    """Every study: read, its newest revision once by each model; each document there once."""
    wrong = []
    for told in stories:
        uid = told.study_instance_uid
        [(state, revision)] = _rows(conn, "SELECT state, revision FROM study WHERE study_instance_uid = %s", uid)
        if state != "read":
            wrong.append(f"study {uid} is {state}")
        runs = _rows(
            conn,
            "SELECT model_name, series_instance_uid, revision, state, reading, id FROM run"
            " WHERE study_instance_uid = %s ORDER BY revision",
            uid,
        )
        done = defaultdict(list)
        for model, series, of_revision, run_state, *_ in runs:
            done[model, series, of_revision].append(run_state)
        for run, states in done.items():
            allowed = ["reported"] if run[2] == revision else ["reported", "superseded", "failed"]
            if len(states) != 1 or states[0] not in allowed:
                wrong.append(f"study {uid}, revision {revision}: run {run} is {states}")
        if not any(run[2] == revision for run in done):
            wrong.append(f"study {uid}: nobody has read revision {revision}")
        readings = [READING.validate_python(row[4]) for row in runs if row[3] == "reported"]
        reports = {identity.report_id(reading) for reading in readings}
        observations = {identity.observation_id(reading, f) for reading in readings for f in reading.findings}
        request = besieged.hospital.search("ServiceRequest", identifier=told.accession_number)[0]
        for resource_type, expected in (("DiagnosticReport", reports), ("Observation", observations)):
            based_on = {"based-on": f"ServiceRequest/{request['id']}"}
            found = [resource["id"] for resource in besieged.hospital.search(resource_type, **based_on)]
            if sorted(found) != sorted(expected):
                wrong.append(f"study {uid}: {len(found)} of {resource_type} where {len(expected)} were made")
    return wrong


def _wrong_deliveries(besieged: Besieged, conn: psycopg.Connection) -> list[str]:
    """Every delivery: sent, arrived at least once, every copy the same bytes under one MSH-10 or SOP Instance UID."""
    heard = besieged.hospital.heard
    assert isinstance(heard.objects, Copies)
    copies: dict[str, list[bytes]] = defaultdict(list)
    for alert in heard.alerts:
        copies[recover_control_id(alert)].append(alert)
    for uid, every in heard.objects.all.items():
        copies[uid] = every
    wrong = [f"{len(every)} copies of {name} differ" for name, every in copies.items() if len(set(every)) != 1]
    expected = set()
    for state, about, control, keys in _rows(conn, "SELECT state, about, control_id, blob_keys FROM delivery"):
        name = control or keys[0].removeprefix("outbox/").removesuffix(".dcm")
        expected.add(name)
        if state != "sent" or name not in copies:
            wrong.append(f"{about} {name} is {state}, {len(copies.get(name, []))} copies arrived")
    wrong += [f"{name} arrived, and nobody sent it" for name in copies if name not in expected]
    critical = "SELECT count(*) FROM study WHERE critical"
    alerted = "SELECT count(DISTINCT patient_id) FROM delivery WHERE about = 'alert'"
    if _rows(conn, critical) != _rows(conn, alerted) or _rows(conn, critical) == [(0,)]:
        wrong.append(f"{_rows(conn, critical)} critical studies, {_rows(conn, alerted)} patients alerted")
    return wrong


def _wrong_notifications(besieged: Besieged, conn: psycopg.Connection) -> list[str]:
    """For each subscription: numbers from 1 without a gap, in order; a repeated one is byte-equal."""
    numbers: dict[str, list[int]] = defaultdict(list)
    bodies: dict[tuple[str, int], set[bytes]] = defaultdict(set)
    for body in besieged.hospital.heard.notifications:
        status = json.loads(body)["entry"][0]["resource"]
        for subscription, number in _events(status):
            numbers[subscription].append(number)
            bodies[subscription, number].add(body)
    wrong = [f"event {number} of {s} came in {len(b)} forms" for (s, number), b in bodies.items() if len(b) != 1]
    for subscription, last in _rows(conn, "SELECT subscription_id, max(number) FROM subscription_event GROUP BY 1"):
        came, highest = numbers[subscription], 0
        for number in came:
            if number > highest + 1:
                wrong.append(f"event {number} of {subscription} came after {highest}")
            highest = max(highest, number)
        if sorted(set(came)) != list(range(1, last + 1)):
            wrong.append(f"{subscription}: {last} events, came {sorted(set(came))}")
    if not numbers:
        wrong.append("no notification came")
    return wrong


def _events(status: dict[str, Any]) -> list[tuple[str, int]]:
    """Of a Backport subscription status (Parameters): subscription id and event number of each event."""
    parameters = {p["name"]: p for p in status["parameter"]}
    subscription = parameters["subscription"]["valueReference"]["reference"].rsplit("/", 1)[-1]
    events = [p for p in status["parameter"] if p["name"] == "notification-event"]
    return [
        (subscription, int(part["valueString"]))
        for event in events
        for part in event["part"]
        if part["name"] == "event-number"
    ]


def _ended(task: dict[str, Any]) -> dict[str, Any] | None:
    return task if task.get("status") == "completed" else None


def _rows(conn: psycopg.Connection, statement: str, *values: object) -> list[tuple[Any, ...]]:
    return conn.execute(statement, values).fetchall()  # type: ignore[arg-type]
