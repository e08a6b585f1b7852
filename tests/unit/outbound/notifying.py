"""Deliveries to send, for tests of one way out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from wetread.record.subscriptions.channel import Channel
from wetread.record.subscriptions.delivery import Delivery
from wetread.record.subscriptions.notifications import NotifiedEvent, StatusOf

BASE = "https://wetread.example/fhir"
AT = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
TOPIC = "https://wetread.org/fhir/SubscriptionTopic/task-status"
TASK = '{"resourceType":"Task","id":"t1","status":"requested","intent":"order","for":{"reference":"Patient/p1"}}'


def delivery(channel: Channel, *numbers: int, kind: str = "", status: str = "active") -> Delivery:
    """Of the events with these numbers; without any it is a handshake, or of that `kind`."""
    full = channel.content == "full-resource"
    events = tuple(
        NotifiedEvent(n, AT + timedelta(seconds=n), "Task", "t1", "update", TASK if full else "", n) for n in numbers
    )
    told = StatusOf("s1", TOPIC, channel.content, status, numbers[-1] if numbers else 0)
    return Delivery("s1", kind or ("event-notification" if numbers else "handshake"), channel, told, AT, "ehr", events)
