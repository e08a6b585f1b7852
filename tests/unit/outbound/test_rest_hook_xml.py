"""A rest-hook in XML: the same as in JSON, in the other form."""

from __future__ import annotations

import json
from typing import Any

import pytest
from fhir.resources.R4B.bundle import Bundle

from wetread.record.xml_form import to_json

from .conftest import Sink
from .subscribing import Server, form, task, until_cursors, until_status

XML = "application/fhir+xml; fhirVersion=4.0"


async def sent(server: Server, asked: dict[str, Any]) -> None:
    subscription_id = await server.subscribe(asked)
    async with server.running():
        await until_status(server, subscription_id, "active")
        await server.put(task("t1"))
        await until_cursors(server, (1, 1))


@pytest.mark.parametrize("content", ["empty", "id-only", "full-resource"])
async def test_a_notification_in_xml_is_a_bundle_that_tells_the_same(server: Server, sink: Sink, content: str) -> None:
    asked = form(sink.url, content=content)
    asked["channel"]["payload"] = XML
    await sent(server, asked)
    handshake, event = (json.loads(to_json(received.body.decode())) for received in sink.received)
    assert {received.headers["content-type"] for received in sink.received} == {XML}
    for bundle in (handshake, event):
        Bundle.model_validate(bundle)
        assert bundle["entry"][0]["resource"]["resourceType"] == "Parameters"
    assert [entry["resource"]["id"] for entry in event["entry"][1:]] == (["t1"] if content == "full-resource" else [])


async def test_by_criteria_the_resource_is_put_in_xml(server: Server, sink: Sink) -> None:
    asked = form(sink.url)
    asked |= {"criteria": "Task", "channel": {"type": "rest-hook", "endpoint": sink.url, "payload": XML}}
    await sent(server, asked)
    [received] = sink.received
    assert (received.method, received.path) == ("PUT", "/hook/Task/t1")
    assert json.loads(to_json(received.body.decode()))["id"] == "t1"
