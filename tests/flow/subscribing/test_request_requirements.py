"""What the Subscriptions Backport guide 1.1.0 requires of a server that is asked: what a Subscription may ask for, its
operations, and what the server declares. `conformance/ledger/subscriptions.csv` names for each requirement its test."""

from __future__ import annotations

import time
from typing import Any

import pytest

from tests.subscriber import parameters, status_of

from .client import PROFILES, TASKS, TOPICS, Client, extension


class TestRequest:
    """What a Subscription may ask for is read; what cannot be kept is refused (conformance.html)."""

    def _refused(self, ehr: Client, form: dict[str, Any], expression: str) -> None:
        answer = ehr.post(form)
        assert answer.status_code == 422, answer.text
        [issue] = answer.json()["issue"]
        assert issue["expression"][0].startswith(expression), issue

    def test_a_topic_that_is_not_served_is_refused(self, ehr: Client) -> None:
        self._refused(ehr, ehr.form("x", topic="http://hl7.org/SubscriptionTopic/admission", filters=()),
                      "Subscription.criteria")  # fmt: skip

    def test_criteria_are_required(self, ehr: Client) -> None:
        form = ehr.form("x")
        del form["criteria"]
        assert ehr.post(form).status_code in (400, 422)

    def test_the_topic_of_criteria_is_what_fires(self, ehr: Client) -> None:
        subscription_id = ehr.subscribed("topic", content="id-only")
        ehr.write()
        ehr.subscriber.wait_for("topic", [1])
        [posted] = ehr.subscriber.taken("topic")
        assert status_of(posted.bundle)["topic"] == ehr.read(subscription_id)["criteria"] == TASKS

    @pytest.mark.parametrize("text", ["Task?no-such=1", "Patient?name=x", "Task?code:no-such=x", "nonsense"])
    def test_a_filter_that_cannot_be_applied_is_refused(self, ehr: Client, text: str) -> None:
        self._refused(ehr, ehr.form("x", filters=(text,)), "Subscription.criteria")

    def test_all_filters_have_to_pass(self, ehr: Client) -> None:
        ehr.subscribed("both", filters=(f"Task?code=urn:test|{ehr.code}", "Task?status=completed"))
        ehr.write(2)
        [last] = ehr.write(status="completed")
        ehr.write(status="completed", code="another")
        ehr.subscriber.wait_for("both", [1])
        time.sleep(0.5)
        [posted] = ehr.subscriber.taken("both")
        assert last.encode() in posted.body

    @pytest.mark.parametrize("written", ["Task?status={}", "Task.status={}", "status={}", "Task?status:not=draft"])
    def test_a_filter_is_read_in_every_written_form(self, ehr: Client, written: str) -> None:
        name = f"form-{hash(written)}"
        ehr.subscribed(name, filters=(f"Task?code=urn:test|{ehr.code}", written.format("completed,on-hold")))
        ehr.write(status="draft")
        [hit] = ehr.write(status="on-hold")
        ehr.subscriber.wait_for(name, [1])
        assert [hit.encode() in one.body for one in ehr.subscriber.taken(name)] == [True]

    def test_every_filter_that_a_topic_names_is_applied(self, ehr: Client) -> None:
        """Two subscriptions for each: one that the Task passes, one that it does not."""
        task = {
            "resourceType": "Task",
            "id": f"t{ehr.code}",
            "status": "accepted",
            "intent": "plan",
            "priority": "asap",
            "code": ehr.concept(),
            "businessStatus": ehr.concept(),
            "identifier": [{"system": "urn:test", "value": ehr.code}],
            "groupIdentifier": {"system": "urn:test", "value": ehr.code},
            **{
                name: {"reference": f"{resource_type}/{ehr.code}"}
                for name, resource_type in (
                    ("focus", "ImagingStudy"),
                    ("for", "Patient"),
                    ("owner", "Device"),
                    ("requester", "Practitioner"),
                    ("encounter", "Encounter"),
                )
            },
            "basedOn": [{"reference": f"ServiceRequest/{ehr.code}"}],
        }
        values = {
            **dict.fromkeys(("code", "business-status", "identifier", "group-identifier"), f"urn:test|{ehr.code}"),
            **{"status": "accepted", "intent": "plan", "priority": "asap", "focus": f"ImagingStudy/{ehr.code}"},
            **{"patient": f"Patient/{ehr.code}", "owner": f"Device/{ehr.code}", "encounter": f"Encounter/{ehr.code}"},
            **{"requester": f"Practitioner/{ehr.code}", "based-on": f"ServiceRequest/{ehr.code}"},
        }
        for name, value in values.items():
            own = f"Task?code=urn:test|{ehr.code}"
            ehr.subscribed(f"hit-{name}", filters=(own, f"Task?{name}={value}"))
            ehr.subscribed(f"miss-{name}", filters=(own, f"Task?{name}={value}x"))
        ehr.update(task)
        for name in values:
            ehr.subscriber.wait_for(f"hit-{name}", [1])
        time.sleep(0.3)
        assert [name for name in values if ehr.subscriber.taken(f"miss-{name}")] == []

    def test_an_unknown_channel_type_is_refused_by_name_and_by_extension(self, ehr: Client) -> None:
        form = ehr.form("x")
        form["channel"]["type"] = "sms"
        self._refused(ehr, form, "Subscription.channel.type")
        form = ehr.form("x")
        coding = {"system": "http://example.org/subscription-channel-type", "code": "zulip"}
        form["channel"]["_type"] = {"extension": [extension("channel-type", valueCoding=coding)]}
        self._refused(ehr, form, "Subscription.channel.type")

    def test_a_channel_type_of_the_extension_is_read(self, ehr: Client) -> None:
        """MLLP: the endpoint has to be one, so it is the extension that was read and not the type beside it."""
        form = ehr.form("x", topic=f"{TOPICS}ai-observation", content="full-resource", filters=())
        coding = {"system": "https://wetread.org/fhir/CodeSystem/wetread", "code": "mllp"}
        form["channel"]["_type"] = {"extension": [extension("channel-type", valueCoding=coding)]}
        form["channel"]["payload"] = "x-application/hl7-v2+er7"
        self._refused(ehr, form, "Subscription.channel.endpoint")
        form["channel"]["endpoint"] = "mllp://127.0.0.1:2575"
        answer = ehr.post(form | {"status": "off"})
        assert answer.status_code == 201, answer.text

    @pytest.mark.parametrize("content", ["everything", None])
    def test_a_content_level_that_is_unknown_or_missing_is_refused(self, ehr: Client, content: str | None) -> None:
        form = ehr.form("x", content=content or "")
        if content is None:
            del form["channel"]["_payload"]
        self._refused(ehr, form, "Subscription.channel.payload")

    @pytest.mark.parametrize("payload", ["application/xml", "application/fhir+xml; fhirVersion=5.0", "text/plain"])
    def test_a_media_type_or_version_that_is_not_spoken_is_refused(self, ehr: Client, payload: str) -> None:
        self._refused(ehr, ehr.form("x", payload=payload), "Subscription.channel.payload")

    @pytest.mark.parametrize("payload", ["application/fhir+json", "application/fhir+json; fhirVersion=4.0"])
    def test_the_version_of_the_server_is_taken(self, ehr: Client, payload: str) -> None:
        assert ehr.post(ehr.form("x", payload=payload) | {"status": "off"}).status_code == 201


class TestStatus:
    """`$status` (OperationDefinition backport-subscription-status)."""

    def test_of_one_subscription_whatever_ids_and_statuses_are_given(self, ehr: Client) -> None:
        subscription_id, other = ehr.subscribed("one"), ehr.subscribed("other")
        path = f"/fhir/Subscription/{subscription_id}/$status"
        for query in ({}, {"id": other}, {"status": "error"}):
            answer = ehr.http.get(path, params=query).json()
            assert (answer["type"], answer["total"]) == ("searchset", 1)
            assert _told(answer) == {subscription_id: "active"}
        asked = {"resourceType": "Parameters", "parameter": [{"name": "status", "valueCode": "error"}]}
        assert _told(ehr.http.post(path, json=asked).json()) == {subscription_id: "active"}

    def test_of_several_by_id_and_status_each_joined_by_or(self, ehr: Client) -> None:
        ehr.subscriber.answers["broken"] = lambda _: 500
        well, ill = ehr.subscribed("well"), ehr.post(ehr.form("broken")).json()["id"]
        third = ehr.subscribed("third")
        ehr.until_status(ill, "error")

        def of(*query: tuple[str, str]) -> dict[str, str]:
            answer = ehr.http.get("/fhir/Subscription/$status", params=list(query))
            assert (answer.status_code, answer.json()["type"]) == (200, "searchset")
            return _told(answer.json())

        assert of(("id", well), ("id", ill)) == {well: "active", ill: "error"}
        assert of(("id", f"{well},{ill}")) == {well: "active", ill: "error"}
        everyone = of()
        assert {well: "active", ill: "error", third: "active"}.items() <= everyone.items()
        assert set(of(("status", "error"), ("status", "off")).values()) <= {"error", "off"}
        assert of(("id", well), ("id", ill), ("status", "error")) == {ill: "error"}
        assert set(everyone.values()) >= {"active", "error"}

    def test_every_status_has_what_the_profile_requires(self, ehr: Client) -> None:
        ehr.subscribed("whole")
        for entry in ehr.http.get("/fhir/Subscription/$status").json()["entry"]:
            told = parameters(entry["resource"])
            assert {"subscription", "status", "type"} <= told.keys()
            assert told["type"] == "query-status"


class TestEvents:
    """`$events` (OperationDefinition backport-subscription-events)."""

    def test_is_a_history_bundle_whose_first_entry_is_the_status(self, ehr: Client) -> None:
        subscription_id = ehr.subscribed("past", content="full-resource")
        ids = ehr.write(4)
        ehr.subscriber.wait_for("past", range(1, 5))
        bundle = ehr.events(subscription_id)
        assert bundle["type"] == "history"
        told = status_of(bundle)
        assert told["type"] == "query-event"
        assert [event["event-number"] for event in told["notification-event"]] == list("1234")
        assert [entry["resource"]["id"] for entry in bundle["entry"][1:]] == ids

    def test_from_and_until_a_number_both_included(self, ehr: Client) -> None:
        subscription_id = ehr.subscribed("between")
        ehr.write(5)
        ehr.subscriber.wait_for("between", range(1, 6))

        def numbers(**asked: int) -> list[int]:
            told = status_of(ehr.events(subscription_id, **asked))["notification-event"]
            return [int(event["event-number"]) for event in told]

        assert numbers(eventsSinceNumber=2, eventsUntilNumber=4) == [2, 3, 4]
        assert numbers(eventsSinceNumber=4) == [4, 5]
        assert numbers(eventsUntilNumber=2) == [1, 2]


class TestServer:
    """The CapabilityStatement, and the interactions on Subscription."""

    def test_the_capability_statement_declares_profile_operations_topics_and_searches(self, ehr: Client) -> None:
        statement = ehr.http.get("/fhir/metadata").json()
        [resource] = [one for one in statement["rest"][0]["resource"] if one["type"] == "Subscription"]
        assert f"{PROFILES}backport-subscription" in resource["supportedProfile"]
        definitions = {one["name"].removeprefix("$"): one["definition"] for one in resource["operation"]}
        base = "http://hl7.org/fhir/uv/subscriptions-backport/OperationDefinition/backport-subscription-"
        assert definitions["status"] == f"{base}status"
        assert definitions["events"] == f"{base}events"
        assert {"read", "create", "update", "delete"} <= {one["code"] for one in resource["interaction"]}
        assert {"url", "status"} <= {one["name"] for one in resource["searchParam"]}
        topics = [
            one["valueCanonical"] for one in resource["extension"] if one["url"].endswith("subscriptiontopic-canonical")
        ]
        assert TASKS in topics

    def test_a_subscription_is_created_read_changed_found_by_its_url_and_deleted(self, ehr: Client) -> None:
        subscription_id = ehr.subscribed("written")
        shown = ehr.read(subscription_id)
        asked = ehr.form("written")
        assert shown["criteria"] == asked["criteria"]
        assert shown["_criteria"] == asked["_criteria"]
        assert shown["channel"] == asked["channel"]
        assert (shown["reason"], shown["status"]) == ("test", "active")
        found = ehr.http.get("/fhir/Subscription", params={"url": asked["channel"]["endpoint"]}).json()
        assert [entry["resource"]["id"] for entry in found["entry"]] == [subscription_id]
        changed = ehr.http.put(f"/fhir/Subscription/{subscription_id}", json=shown | {"reason": "another"})
        assert changed.status_code == 200, changed.text
        assert ehr.read(subscription_id)["reason"] == "another"
        assert ehr.http.delete(f"/fhir/Subscription/{subscription_id}").status_code in (200, 204)
        assert ehr.http.get(f"/fhir/Subscription/{subscription_id}").status_code == 410


def _told(searchset: dict[str, Any]) -> dict[str, str]:
    """Status by subscription id."""
    told = [parameters(entry["resource"]) for entry in searchset.get("entry", ())]
    return {one["subscription"]["reference"].rpartition("/")[2]: one["status"] for one in told}
