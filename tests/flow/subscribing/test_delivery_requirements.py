"""What the Subscriptions Backport guide 1.1.0 requires of deliveries, tried on a running server with an endpoint that
listens. `conformance/ledger/subscriptions.csv` names for each requirement the test that holds it."""

from __future__ import annotations

import itertools
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.flow.conftest import Hospital, until
from tests.ports import free_port
from tests.subscriber import Posted, Subscriber, parameters, status_of

from .client import PROFILES, TOPICS, Client

_HEARTBEAT_S = 10


@pytest.fixture(scope="module", autouse=True)
def beating(hospital: Hospital, endpoint: Subscriber) -> Iterator[float]:
    """Two subscriptions that have nothing to tell, one with a heartbeat; since when."""
    with hospital.client() as http:
        client = Client(http, endpoint)
        client.subscribed("beats", heartbeat_period=_HEARTBEAT_S)
        client.subscribed("beats-not")
        yield time.monotonic()


class TestHandshake:
    def test_it_is_requested_until_its_endpoint_has_taken_the_handshake_then_active(self, ehr: Client) -> None:
        let_go = threading.Event()

        def hesitant(_: Posted) -> int:
            let_go.wait(10)
            return 200

        ehr.subscriber.answers["hesitant"] = hesitant
        made = ehr.post(ehr.form("hesitant"))
        assert (made.status_code, made.json()["status"]) == (201, "requested")
        subscription_id = made.json()["id"]
        time.sleep(0.5)
        assert ehr.read(subscription_id)["status"] == "requested"
        let_go.set()
        ehr.until_status(subscription_id, "active")
        [handshake] = ehr.subscriber.posted["hesitant"]
        told = status_of(handshake.bundle)
        assert (told["type"], told["status"], told["events-since-subscription-start"]) == (
            "handshake", "requested", "0",
        )  # fmt: skip
        assert told["notification-event"] == []

    @pytest.mark.parametrize("answer", [0, 301, 404, 500])
    def test_an_endpoint_that_fails_the_handshake_puts_it_in_error(self, ehr: Client, answer: int) -> None:
        name = f"fails-{answer}"
        ehr.subscriber.answers[name] = lambda _: answer
        subscription_id = ehr.post(ehr.form(name)).json()["id"]
        shown = ehr.until_status(subscription_id, "error")
        assert shown["error"]
        assert ehr.status(subscription_id)["status"] == "error"
        ehr.write()
        time.sleep(0.5)
        assert len(ehr.subscriber.posted[name]) == 1

    def test_an_endpoint_that_is_not_there_puts_it_in_error(self, ehr: Client) -> None:
        form = ehr.form("nobody")
        form["channel"]["endpoint"] = f"http://127.0.0.1:{free_port()}/"
        ehr.until_status(ehr.post(form).json()["id"], "error")


class TestRestHook:
    def test_posts_a_bundle_in_the_asked_media_type_with_every_header(self, ehr: Client) -> None:
        headers = ("Authorization: Bearer of-the-ehr", "X-Ward: 7 east")
        payload = "application/fhir+json; fhirVersion=4.0"
        ehr.subscribed("hook", payload=payload, headers=headers)
        ehr.write()
        ehr.subscriber.wait_for("hook", [1])
        for posted in ehr.subscriber.posted["hook"]:
            assert posted.method == "POST"
            assert posted.headers["content-type"] == payload
            assert (posted.headers["authorization"], posted.headers["x-ward"]) == ("Bearer of-the-ehr", "7 east")
            assert (posted.bundle["resourceType"], posted.bundle["type"]) == ("Bundle", "history")
        assert [posted.kind for posted in ehr.subscriber.posted["hook"]] == ["handshake", "event-notification"]

    def test_application_json_is_sent_where_it_is_asked_for(self, ehr: Client) -> None:
        ehr.subscribed("plain-json", payload="application/json")
        [handshake] = ehr.subscriber.posted["plain-json"]
        assert handshake.headers["content-type"] == "application/json"

    def test_an_attempt_ends_after_the_asked_timeout_and_is_made_again(self, ehr: Client) -> None:
        name, first = "sleeps", threading.Event()

        def sleeps_once(posted: Posted) -> int:
            if posted.kind == "handshake" or first.is_set():
                return 200
            first.set()
            time.sleep(4)
            return 0

        ehr.subscriber.answers[name] = sleeps_once
        ehr.subscribed(name, timeout=1)
        ehr.write()
        started = time.monotonic()
        ehr.subscriber.wait_for(name, [1])
        assert 0.8 < ehr.subscriber.taken(name)[0].at - started < 4, "the second attempt waits for the first's end"


class TestContent:
    """What a notification tells at each of the three levels (payloads.html)."""

    def test_every_notification_begins_with_a_status_and_its_request(self, ehr: Client) -> None:
        for content in ("empty", "id-only", "full-resource"):
            name = f"status-{content}"
            subscription_id = ehr.subscribed(name, content=content)
            ehr.write()
            ehr.subscriber.wait_for(name, [1])
            for posted in ehr.subscriber.posted[name]:
                first = posted.bundle["entry"][0]
                assert first["resource"]["resourceType"] == "Parameters"
                assert first["resource"]["meta"]["profile"] == [f"{PROFILES}backport-subscription-status-r4"]
                assert posted.bundle["meta"]["profile"] == [f"{PROFILES}backport-subscription-notification-r4"]
                assert first["request"]["method"] == "GET"
                assert first["request"]["url"].endswith(f"/Subscription/{subscription_id}/$status")
                told = parameters(first["resource"])
                assert told["subscription"]["reference"].endswith(f"/Subscription/{subscription_id}")
                assert told["status"] == ("requested" if told["type"] == "handshake" else "active")
                assert all({"request", "response", "fullUrl"} <= entry.keys() for entry in posted.bundle["entry"])

    def test_empty_tells_a_number_and_nothing_of_what_it_is_about(self, ehr: Client) -> None:
        ehr.subscribed("empty", content="empty")
        [task_id] = ehr.write()
        ehr.subscriber.wait_for("empty", [1])
        [posted] = ehr.subscriber.taken("empty")
        assert len(posted.bundle["entry"]) == 1
        [event] = status_of(posted.bundle)["notification-event"]
        assert event.keys() == {"event-number", "timestamp", "additional-context"}
        assert event["additional-context"] == []
        assert "topic" not in status_of(posted.bundle)
        assert task_id.encode() not in posted.body

    def test_id_only_tells_the_focus_and_no_content(self, ehr: Client) -> None:
        ehr.subscribed("id-only", content="id-only")
        [task_id] = ehr.write()
        ehr.subscriber.wait_for("id-only", [1])
        [posted] = ehr.subscriber.taken("id-only")
        [event] = status_of(posted.bundle)["notification-event"]
        assert event["focus"]["reference"].endswith(f"/Task/{task_id}")
        for entry in posted.bundle["entry"][1:]:
            assert "resource" not in entry
            assert entry["fullUrl"].endswith(f"/Task/{task_id}")
            assert entry["request"]["url"].endswith(f"Task/{task_id}") or entry["request"]["method"] == "POST"

    def test_full_resource_tells_the_focus_and_brings_it(self, ehr: Client) -> None:
        ehr.subscribed("full", content="full-resource")
        [task_id] = ehr.write()
        ehr.subscriber.wait_for("full", [1])
        [posted] = ehr.subscriber.taken("full")
        [event] = status_of(posted.bundle)["notification-event"]
        assert event["focus"]["reference"].endswith(f"/Task/{task_id}")
        [_, entry] = posted.bundle["entry"]
        assert entry["fullUrl"] == event["focus"]["reference"]
        assert entry["resource"] == ehr.http.get(f"/fhir/Task/{task_id}").json()

    def test_a_resource_that_cannot_be_brought_is_told_by_request_and_response(self, ehr: Client) -> None:
        """One that was deleted: there is no content to include."""
        report_id = f"r{ehr.code}"
        topic, filters = f"{TOPICS}diagnosticreport-withdrawn", (f"DiagnosticReport?code=urn:test|{ehr.code}",)
        ehr.subscribed("gone", topic=topic, content="full-resource", filters=filters)
        ehr.update({"resourceType": "DiagnosticReport", "id": report_id, "status": "final", "code": ehr.concept()})
        assert ehr.http.delete(f"/fhir/DiagnosticReport/{report_id}").status_code in (200, 204)
        ehr.subscriber.wait_for("gone", [1])
        [posted] = ehr.subscriber.taken("gone")
        [_, entry] = posted.bundle["entry"]
        assert "resource" not in entry
        assert entry["fullUrl"].endswith(f"/DiagnosticReport/{report_id}")
        assert (entry["request"]["method"], entry["request"]["url"]) == ("DELETE", f"DiagnosticReport/{report_id}")
        assert entry["response"]["status"]

    def test_additional_resources_keep_to_the_content_level(self, ehr: Client) -> None:
        """The topic brings the patient of an Observation along."""
        patient_id, observation_id = f"p{ehr.code}", f"o{ehr.code}"
        ehr.update({"resourceType": "Patient", "id": patient_id, "gender": "other"})
        names = ("empty", "id-only", "full-resource")
        for content in names:
            filters = (f"Observation?patient=Patient/{patient_id}",)
            ehr.subscribed(f"along-{content}", topic=f"{TOPICS}ai-observation", content=content, filters=filters)
        ehr.update({
            "resourceType": "Observation",
            "id": observation_id,
            "meta": {"security": [_MADE_BY_A_MODEL]},
            "status": "preliminary",
            "code": ehr.concept(),
            "subject": {"reference": f"Patient/{patient_id}"},
        })  # fmt: skip
        for content in names:
            ehr.subscriber.wait_for(f"along-{content}", [1])
        empty, ids, full = (ehr.subscriber.taken(f"along-{content}")[0] for content in names)
        assert patient_id.encode() not in empty.body
        assert observation_id.encode() in ids.body
        assert [entry for entry in ids.bundle["entry"][1:] if "resource" in entry] == []
        [event] = status_of(full.bundle)["notification-event"]
        assert [reference.rpartition("/")[2] for reference in event["additional-context"]] == [patient_id]
        brought = {entry["resource"]["id"] for entry in full.bundle["entry"][1:]}
        assert brought == {observation_id, patient_id}

    def test_the_content_level_of_the_subscription_decides(self, ehr: Client) -> None:
        names = ("empty", "id-only", "full-resource")
        for content in names:
            ehr.subscribed(f"beside-{content}", content=content)
        [task_id] = ehr.write()
        for content in names:
            ehr.subscriber.wait_for(f"beside-{content}", [1])
        told = [ehr.subscriber.taken(f"beside-{content}")[0].body for content in names]
        assert [task_id.encode() in body for body in told] == [False, True, True]
        assert [b'"intent"' in body for body in told] == [False, False, True]


class TestNumbers:
    def test_events_are_numbered_and_counted_but_handshakes_and_heartbeats_are_not(self, ehr: Client) -> None:
        subscription_id = ehr.subscribed("numbered")
        assert ehr.status(subscription_id)["events-since-subscription-start"] == "0"
        ehr.write(5)
        ehr.subscriber.wait_for("numbered", range(1, 6))
        posted = ehr.subscriber.taken("numbered")
        assert [one.numbers for one in posted] == [[1], [2], [3], [4], [5]]
        assert [status_of(one.bundle)["events-since-subscription-start"] for one in posted] == list("12345")
        assert ehr.status(subscription_id)["events-since-subscription-start"] == "5"

    def test_no_more_events_than_max_count_come_in_one_notification(self, ehr: Client) -> None:
        name, held = "batches", threading.Event()

        def held_back(posted: Posted) -> int:
            if posted.kind != "handshake":
                held.wait(10)
            return 200

        ehr.subscriber.answers[name] = held_back
        ehr.subscribed(name, max_count=3, timeout=20)
        ehr.write(8)
        held.set()
        ehr.subscriber.wait_for(name, range(1, 9))
        batches = [one.numbers for one in ehr.subscriber.taken(name)]
        assert list(itertools.chain.from_iterable(batches)) == list(range(1, 9))
        assert max(map(len, batches)) in (2, 3), batches

    def test_each_matching_event_is_delivered_once_and_in_order(self, ehr: Client) -> None:
        """REST, transaction and batch: all paths by which a client writes."""
        ehr.subscribed("every", content="full-resource")
        ids = ehr.write(3)
        entries = [
            {"resource": {**_task(ehr.code), "id": task_id}, "request": {"method": "PUT", "url": f"Task/{task_id}"}}
            for task_id in (f"x{ehr.code}", f"y{ehr.code}")
        ]
        for kind, some in (("transaction", entries[:1]), ("batch", entries[1:])):
            answer = ehr.http.post("/fhir/", json={"resourceType": "Bundle", "type": kind, "entry": some})
            assert answer.status_code == 200, answer.text
        ehr.put(ids[0], status="completed")
        ehr.subscriber.wait_for("every", range(1, 7))
        time.sleep(0.3)
        told = [one.bundle["entry"][1]["resource"]["id"] for one in ehr.subscriber.taken("every")]
        assert told == [*ids, f"x{ehr.code}", f"y{ehr.code}", ids[0]]


class TestErrors:
    def test_while_an_endpoint_fails_events_are_counted_and_status_answers(self, ehr: Client) -> None:
        name, well = "falls-ill", threading.Event()
        ehr.subscriber.answers[name] = lambda posted: 200 if posted.kind == "handshake" or well.is_set() else 503
        subscription_id = ehr.subscribed(name)
        ehr.write(3)
        told = until("the trouble", lambda: (now := ehr.status(subscription_id))["error"] and now)
        until("three", lambda: ehr.status(subscription_id)["events-since-subscription-start"] == "3")
        assert told["status"] in ("active", "error")
        well.set()
        ehr.subscriber.wait_for(name, [1, 2, 3])
        assert ehr.subscriber.numbers(name) == [1, 2, 3]

    def test_an_endpoint_that_is_gone_for_good_ends_in_error_and_events_go_on_being_counted(self, ehr: Client) -> None:
        name = "moved-out"
        ehr.subscriber.answers[name] = lambda posted: 200 if posted.kind == "handshake" else 410
        subscription_id = ehr.subscribed(name)
        ehr.write()
        shown = ehr.until_status(subscription_id, "error")
        assert shown["error"]
        ehr.write(2)
        until("three", lambda: ehr.status(subscription_id)["events-since-subscription-start"] == "3")
        told = ehr.status(subscription_id)
        assert told["status"] == "error"
        assert told["error"]


class TestHeartbeat:
    def test_comes_after_the_asked_period_and_only_where_it_is_asked_for(self, ehr: Client, beating: float) -> None:
        late_s = beating + _HEARTBEAT_S + 5 - time.monotonic()
        until("a heartbeat", lambda: ehr.subscriber.taken("beats", "heartbeat"), max(late_s, 1))
        beats = ehr.subscriber.taken("beats", "heartbeat")
        [handshake] = ehr.subscriber.taken("beats", "handshake")
        since = [one.at for one in (handshake, *beats)]
        for before, after in itertools.pairwise(since):
            assert _HEARTBEAT_S - 0.5 < after - before < _HEARTBEAT_S + 4
        assert status_of(beats[0].bundle)["events-since-subscription-start"] == "0"
        assert status_of(beats[0].bundle)["notification-event"] == []
        assert [one.kind for one in ehr.subscriber.posted["beats-not"]] == ["handshake"]


_MADE_BY_A_MODEL = {"system": "http://terminology.hl7.org/CodeSystem/v3-ObservationValue", "code": "AIAST"}


def _task(code: str) -> dict[str, Any]:
    coding = {"system": "urn:test", "code": code}
    return {"resourceType": "Task", "status": "requested", "intent": "order", "code": {"coding": [coding]}}
