"""What a client of subscriptions does with a running server: subscribe, write, ask."""

from __future__ import annotations

import itertools
import uuid
from dataclasses import dataclass, field
from typing import Any

import httpx

from tests.flow.conftest import until
from tests.subscriber import Subscriber, parameters

TOPICS = "https://wetread.org/fhir/SubscriptionTopic/"
TASKS = f"{TOPICS}task-status"
PROFILES = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/"

Resource = dict[str, Any]


@dataclass
class Client:
    """`code` is of its own: filters keep what one test writes from the subscriptions of another."""

    http: httpx.Client
    subscriber: Subscriber
    code: str = field(default_factory=lambda: uuid.uuid4().hex)
    _numbers: itertools.count[int] = field(default_factory=itertools.count)

    def form(
        self,
        name: str,
        *,
        topic: str = TASKS,
        content: str = "id-only",
        payload: str = "application/fhir+json",
        filters: tuple[str, ...] | None = None,
        headers: tuple[str, ...] = (),
        **numbers: int,
    ) -> Resource:
        """A Subscription to this endpoint. Filters are on our own code where none are given; `numbers` are timeout,
        max_count, heartbeat_period."""
        types = {"timeout": "valueUnsignedInt", "max_count": "valuePositiveInt", "heartbeat_period": "valueUnsignedInt"}
        wanted = (f"Task?code=urn:test|{self.code}",) if filters is None else filters
        form: Resource = {
            "resourceType": "Subscription",
            "status": "requested",
            "reason": "test",
            "criteria": topic,
            "channel": {
                "type": "rest-hook",
                "endpoint": self.subscriber.endpoint(name),
                "payload": payload,
                "_payload": {"extension": [extension("payload-content", valueCode=content)]},
            },
        }
        if wanted:
            form["_criteria"] = {"extension": [extension("filter-criteria", valueString=text) for text in wanted]}
        if headers:
            form["channel"]["header"] = list(headers)
        if numbers:
            made = [extension(key.replace("_", "-"), **{types[key]: value}) for key, value in numbers.items()]
            form["channel"]["extension"] = made
        return form

    def post(self, form: Resource) -> httpx.Response:
        return self.http.post("/fhir/Subscription", json=form)

    def subscribed(self, name: str, **options: Any) -> str:
        """The id of a subscription that is active."""
        made = self.post(self.form(name, **options))
        assert made.status_code == 201, made.text
        subscription_id = str(made.json()["id"])
        self.until_status(subscription_id, "active")
        return subscription_id

    def until_status(self, subscription_id: str, status: str, timeout_s: float = 60) -> Resource:
        """The Subscription as soon as it has this status."""

        def ready() -> Resource | None:
            now = self.read(subscription_id)
            return now if now["status"] == status else None

        found: Resource = until(f"the subscription to be {status}", ready, timeout_s)
        return found

    def read(self, subscription_id: str) -> Resource:
        answer = self.http.get(f"/fhir/Subscription/{subscription_id}")
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def status(self, subscription_id: str) -> Resource:
        """What `$status` tells of one."""
        answer = self.http.get(f"/fhir/Subscription/{subscription_id}/$status")
        assert answer.status_code == 200, answer.text
        [entry] = answer.json()["entry"]
        return parameters(entry["resource"])

    def events(self, subscription_id: str, **asked: Any) -> Resource:
        answer = self.http.get(f"/fhir/Subscription/{subscription_id}/$events", params=asked)
        assert answer.status_code == 200, answer.text
        return dict(answer.json())

    def write(self, count: int = 1, *, status: str = "requested", code: str = "") -> list[str]:
        """So many new Tasks with our code, one after the other: the ids."""
        written = []
        for _ in range(count):
            task_id = f"t{self.code[:20]}-{next(self._numbers)}"
            self.put(task_id, status=status, code=code)
            written.append(task_id)
        return written

    def put(self, task_id: str, *, status: str, code: str = "") -> None:
        task = {"resourceType": "Task", "id": task_id, "status": status, "intent": "order"}
        self.update(task | {"code": self.concept(code)})

    def concept(self, code: str = "") -> Resource:
        return {"coding": [{"system": "urn:test", "code": code or self.code}]}

    def update(self, resource: Resource) -> None:
        answer = self.http.put(f"/fhir/{resource['resourceType']}/{resource['id']}", json=resource)
        assert answer.status_code in (200, 201), answer.text


def extension(name: str, **value: Any) -> Resource:
    return {"url": f"{PROFILES}backport-{name}", **value}
