"""A notification inside a FHIR message, to another server's $process-message."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from fhir.resources.R4B.bundle import Bundle
from fhir.resources.R4B.messageheader import MessageHeader

from wetread.domain.endpoint import AllowedEndpoints
from wetread.errors import PeerUnavailable
from wetread.outbound.http import HttpPoster, RefusedByPeer
from wetread.outbound.message_channel import MessageChannel
from wetread.record.subscriptions.channel import Channel
from wetread.wire.post import Post

from .conftest import Sink
from .notifying import BASE, TASK, delivery

ALLOWED = AllowedEndpoints.parse(("127.0.0.0/8",))


def _channel(sink: Sink) -> Channel:
    headers = (("Authorization", "Bearer x"),)
    return Channel(
        "message", f"http://127.0.0.1:{sink.port}/fhir/", "application/fhir+json", "full-resource", headers, 5
    )


async def test_the_message_holds_the_notification_as_its_focus(sink: Sink) -> None:
    peers = Post(ALLOWED)
    sender = MessageChannel(HttpPoster(peers), BASE)
    for _ in range(2):
        await sender.send(delivery(_channel(sink), 3, 4))
    await sender.send(delivery(_channel(sink)))
    await peers.close()
    first, again, handshake = sink.received
    assert first.path == "/fhir/$process-message"
    assert first.headers["content-type"] == "application/fhir+json"
    assert first.headers["authorization"] == "Bearer x"
    assert first.headers["idempotency-key"] == "s1-3-4"
    assert again.body == first.body
    bundle = json.loads(first.body)
    Bundle.model_validate(bundle)
    header, inner = (entry["resource"] for entry in bundle["entry"])
    MessageHeader.model_validate(header)
    assert bundle["type"] == "message"
    assert header["focus"] == [{"reference": bundle["entry"][1]["fullUrl"]}]
    assert header["source"]["endpoint"] == BASE
    assert inner["type"] == "history"
    assert TASK in first.body.decode(), "the resource's own text"
    assert json.loads(handshake.body)["id"] != bundle["id"]
    assert "idempotency-key" not in handshake.headers


@pytest.mark.parametrize(("status", "error"), [(503, PeerUnavailable), (422, RefusedByPeer)])
async def test_what_the_other_server_answers(sink: Sink, status: int, error: type[Exception]) -> None:
    peers = Post(ALLOWED)
    sink.answer = lambda received: status
    with pytest.raises(error):
        await MessageChannel(HttpPoster(peers), BASE).send(delivery(_channel(sink), 1))
    await peers.close()


async def test_what_the_address_asks_for_stands_behind_the_operation(sink: Sink) -> None:
    peers = Post(ALLOWED)
    channel = replace(_channel(sink), endpoint=f"http://127.0.0.1:{sink.port}/fhir/?tenant=a%2Fb")
    await MessageChannel(HttpPoster(peers), BASE).send(delivery(channel, 1))
    await peers.close()
    assert sink.received[0].path == "/fhir/$process-message?tenant=a%2Fb"
