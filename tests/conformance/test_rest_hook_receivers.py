"""Rest-hooks to receivers that are not ours: a FHIR server that reads, keeps and judges each notification (HAPI FHIR
JPA), and the library of Standard Webhooks, which checks the signatures."""

from __future__ import annotations

import base64
import json
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pytest
from benchmarks.fhir import servers
from benchmarks.fhir.servers import Contestant
from tests.flow.conftest import Hospital, Server, until
from tests.flow.subscribing.client import TOPICS, Client, Resource
from tests.ports import free_port
from tests.subscriber import Subscriber, status_of

from conformance import backport, package, supply
from wetread.demo import peers

pytestmark = pytest.mark.conformance

ROOT = Path(__file__).parents[2]
_HISTORY = ("Patient", "Practitioner", "Encounter", "ServiceRequest", "ImagingStudy", "Device")
EXAMPLES = [
    json.loads(file.read_text(), parse_float=Decimal) for file in (ROOT / "conformance/examples").glob("*.json")
]
HISTORY = [each for each in EXAMPLES if each["resourceType"] in _HISTORY]
FINDINGS = [each for each in EXAMPLES if each["resourceType"] == "Observation"]
KEY = "whsec_" + base64.b64encode(b"the key that both have, 32 bytes").decode()
OTHER_KEY = "whsec_" + base64.b64encode(b"a key that only the sender has!!").decode()
_NOBODY = Subscriber(9)


class Hapi:
    """HAPI FHIR's JPA server, which knows the profiles of notifications and of ours, and the same patients, orders and
    studies."""

    def __init__(self, server: Contestant) -> None:
        self._server = server
        self.url = f"{server.url}/fhir"
        # It cannot expand the profile of the Subscription itself, which no notification holds.
        guide = [each for each in backport.definitions() if each["id"] != "backport-subscription"]
        known = [*guide, *package.definitions(), *HISTORY]
        entries = [
            {"resource": r, "request": {"method": "PUT", "url": f"{r['resourceType']}/{r['id']}"}} for r in known
        ]
        status, answer = self.ask("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
        assert status == 200, answer

    def ask(self, method: str, path: str, body: Resource | None = None) -> tuple[int, Resource]:
        sent = json.dumps(body, default=float) if body else ""
        status, _, content = self._server.ask(method, path, sent, **{"Cache-Control": "no-cache"})
        return status, json.loads(content, parse_float=Decimal)

    def notifications(self, subscription_id: str) -> list[Resource]:
        """The Bundles of a subscription that it keeps, in the order in which they came: it numbers them."""
        _, found = self.ask("GET", "/Bundle?_count=500")
        bundles = [entry["resource"] for entry in found.get("entry", ())]
        ours = [b for b in bundles if str(status_of(b)["subscription"]["reference"]).endswith(f"/{subscription_id}")]
        return sorted(ours, key=lambda bundle: int(bundle["id"]))

    def complaints(self, bundle: Resource) -> list[str]:
        status, outcome = self.ask("POST", "/Bundle/$validate", bundle)
        assert status == 200, outcome
        told = [issue["diagnostics"] for issue in outcome["issue"] if issue["severity"] in ("error", "fatal")]
        return [each for each in told if "AIAST" not in each]  # of hl7.terminology, which it does not have


@pytest.fixture(scope="module")
def hapi(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hapi]:
    with servers.hapi(tmp_path_factory.mktemp("hapi") / "server", validate=False) as server:
        yield Hapi(server)


@dataclass
class Webhooks:
    """What the receiver has said of each request, by the path of its endpoint."""

    port: int
    said: list[dict[str, Any]] = field(default_factory=list)

    def endpoint(self, name: str) -> str:
        return f"http://127.0.0.1:{self.port}/{name}"

    def at(self, name: str) -> list[dict[str, Any]]:
        return [each for each in list(self.said) if each.get("path") == f"/{name}"]


@contextmanager
def receiving() -> Iterator[Webhooks]:
    webhooks = Webhooks(free_port())
    command = [supply.program("node", "nodejs"), "receive-webhooks.mjs", str(webhooks.port), KEY]
    with subprocess.Popen(command, cwd=supply.npm_peers(), stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = process.stdout

        def read() -> None:
            for line in lines:
                webhooks.said.append(json.loads(line))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        try:
            until("the receiver", lambda: webhooks.said == [{"listening": webhooks.port}])
            yield webhooks
        finally:
            process.terminate()
            reader.join(5)


@pytest.fixture(scope="module")
def webhooks() -> Iterator[Webhooks]:
    with receiving() as running:
        yield running


@pytest.fixture(scope="module")
def wetread(webhooks: Webhooks, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hospital]:
    folder, port = tmp_path_factory.mktemp("wetread"), free_port()
    config = folder / "wetread.toml"
    config.write_text(
        f"""
profile = "demo"
[http]
port = {port}
[[outbound.endpoints]]
url = "{webhooks.endpoint("agreed")}"
hmac_secret = "{KEY}"
[[outbound.endpoints]]
url = "{webhooks.endpoint("not-agreed")}"
hmac_secret = "{OTHER_KEY}"
"""
    )
    server = Server(config, folder / "data", {"http": port}, arguments=("--roles", "http,notify"))
    server.start()
    try:
        server.wait_ready()
        yield Hospital(server, peers.Heard(), 9)
    finally:
        server.stop()


@pytest.fixture
def ehr(wetread: Hospital) -> Iterator[Client]:
    with wetread.client() as http:
        yield Client(http, _NOBODY)


@pytest.fixture(scope="module")
def known(wetread: Hospital) -> None:
    """Wetread has patients, orders and studies."""
    with wetread.client() as http:
        for example in HISTORY:
            _put(http, example)


def _put(http: httpx.Client, resource: Resource) -> None:
    text = json.dumps(resource, default=float)
    headers = {"Content-Type": "application/fhir+json"}
    answer = http.put(f"/fhir/{resource['resourceType']}/{resource['id']}", content=text, headers=headers)
    assert answer.status_code in (200, 201), answer.text


def findings(ehr: Client) -> list[Resource]:
    """Each of the demonstration's findings under our own code, and the first of them once more as it is amended."""
    made = []
    for number, example in enumerate(FINDINGS):
        code = {**example["code"], "coding": [*example["code"]["coding"], *ehr.concept()["coding"]]}
        made.append({**example, "id": f"f{ehr.code[:20]}-{number}", "code": code})
    made.append({**made[0], "status": "amended", "note": [{"text": "Größe 1.10 mm → 2 mm"}]})
    for finding in made:
        _put(ehr.http, finding)
    return made


def subscribed(ehr: Client, endpoint: str, form: Resource) -> str:
    form["channel"]["endpoint"] = endpoint
    made = ehr.post(form)
    assert made.status_code == 201, made.text
    ehr.until_status(made.json()["id"], "active", timeout_s=60)
    return str(made.json()["id"])


def without_meta(resource: Resource) -> Resource:
    """Version, time and source are the keeper's own."""
    return {key: value for key, value in resource.items() if key != "meta"}


@pytest.mark.usefixtures("known")
@pytest.mark.parametrize("content", ["empty", "id-only", "full-resource"])
def test_a_fhir_server_keeps_each_notification_once_and_in_order_and_finds_nothing_wrong_with_it(
    content: str, hapi: Hapi, ehr: Client
) -> None:
    filters = (f"Observation?code=urn:test|{ehr.code}",)
    form = ehr.form("", topic=f"{TOPICS}ai-observation", content=content, filters=filters, timeout=60)
    subscription_id = subscribed(ehr, f"{hapi.url}/Bundle", form)
    written = findings(ehr)
    last = len(written)
    until("every event", lambda: len(hapi.notifications(subscription_id)) > last)
    handshake, *events = hapi.notifications(subscription_id)
    assert status_of(handshake)["type"] == "handshake"
    told = [status_of(bundle) for bundle in events]
    assert [status["events-since-subscription-start"] for status in told] == [str(n) for n in range(1, last + 1)]
    for number, bundle, finding in zip(range(1, last + 1), events, written, strict=True):
        [event] = status_of(bundle)["notification-event"]
        assert event["event-number"] == str(number)
        if content == "empty":
            assert "focus" not in event
        else:
            assert event["focus"]["reference"].endswith(f"/fhir/Observation/{finding['id']}")
        told_of = [entry["resource"] for entry in bundle["entry"][1:]]
        kept = [without_meta(each) for each in told_of if each["resourceType"] == "Observation"]
        assert kept == ([without_meta(finding)] if content == "full-resource" else [])
        if content == "full-resource":
            assert {"Patient", "Device"} <= {each["resourceType"] for each in told_of}
    for bundle in (handshake, events[0], events[-1]):
        assert hapi.complaints(bundle) == []
    first, *_ = status_parameters = handshake["entry"][0]["resource"]["parameter"]
    assert first["name"] == "subscription"
    status_parameters.remove(first)
    assert hapi.complaints(handshake) != []


@pytest.mark.usefixtures("known")
def test_a_fhir_server_is_told_by_criteria_as_by_another_that_updates_it(hapi: Hapi, ehr: Client) -> None:
    """FHIR R4's own Subscription: the endpoint is taken for a FHIR server, and gets what matches by PUT."""
    form = ehr.form("", filters=(), timeout=60)
    form["criteria"] = f"Observation?category=imaging&code=urn:test|{ehr.code}"
    del form["channel"]["_payload"]
    subscribed(ehr, hapi.url, form)
    *written, amended = findings(ehr)

    def version() -> str:
        _, kept = hapi.ask("GET", f"/Observation/{amended['id']}")
        return str(kept.get("meta", {}).get("versionId"))

    until("the amended finding", lambda: version() == "2")
    # Asked for once: it would tell again of as many versions as there were when it was first asked.
    _, history = hapi.ask("GET", f"/Observation/{amended['id']}/_history")
    assert [without_meta(entry["resource"]) for entry in history["entry"]] == [
        without_meta(amended),
        without_meta(written[0]),
    ]
    for finding in written[1:]:
        status, kept = hapi.ask("GET", f"/Observation/{finding['id']}")
        assert (status, without_meta(kept)) == (200, without_meta(finding))


def test_the_library_of_standard_webhooks_verifies_each_body_under_its_own_id(webhooks: Webhooks, ehr: Client) -> None:
    form = ehr.form("", content="full-resource", headers=("Authorization: Bearer theirs",))
    subscription_id = subscribed(ehr, webhooks.endpoint("agreed"), form)
    task_ids = ehr.write(3)
    until("every event", lambda: len(webhooks.at("agreed")) >= 4)
    assert all(each["verified"] for each in webhooks.at("agreed"))
    _, *events = webhooks.at("agreed")
    assert [each["id"] for each in events] == [f"{subscription_id}-{n}" for n in (1, 2, 3)]
    assert [json.loads(each["body"])["entry"][1]["resource"]["id"] for each in events] == task_ids


def test_a_receiver_with_another_key_takes_nothing(webhooks: Webhooks, ehr: Client) -> None:
    form = ehr.form("")
    form["channel"]["endpoint"] = webhooks.endpoint("not-agreed")
    made = ehr.post(form)
    assert made.status_code == 201, made.text
    ended = ehr.until_status(made.json()["id"], "error")
    assert ended["error"] == "the endpoint answered 401; it must answer 2xx"
    assert [each["verified"] for each in webhooks.at("not-agreed")] == [False]
