"""Lag, rate and failures of subscriptions, for `/metrics`.

Totals are of all; by id there are the `MOST` worst only, so that the number of series has a bound.
"""

from __future__ import annotations

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from wetread.domain.reader import SYSTEM
from wetread.record.subscriptions import overview, undecided
from wetread.store.database import Connection

MOST = 100
_NOT_OFF = tuple(state for state in overview.STATES if state != "off")
_OF_ONE = "of the subscriptions that are worst off"


async def subscription_metrics(conn: Connection) -> list[Metric]:
    """For one scrape."""
    totals = await overview.totals(conn)
    worst = await overview.subscriptions(conn, SYSTEM, MOST, _NOT_OFF)
    rate = CounterMetricFamily(
        "wetread_subscription_delivered", f"Events sent or dropped, {_OF_ONE}", labels=["subscription"]
    )
    for one in worst:
        rate.add_metric([one.id], one.delivered)
    undecided_by_topic = CounterMetricFamily(
        "wetread_subscription_topic_undecided",
        "Changes that a topic's criterion could not be decided for, which are no event",
        labels=["topic"],
    )
    for topic in await undecided.all_of(conn):
        undecided_by_topic.add_metric([topic.topic], topic.changes)
    return [
        _by("state", "wetread_subscriptions", "Subscriptions by state", totals.states),
        _by("state", "wetread_subscription_events_pending", "Events that wait, by state", totals.pending),
        GaugeMetricFamily("wetread_subscriptions_failing", "Subscriptions whose last attempt failed", totals.failing),
        GaugeMetricFamily("wetread_subscriptions_websocket", "Subscriptions by websocket", totals.websockets),
        GaugeMetricFamily(
            "wetread_subscription_oldest_pending_seconds",
            "Age of the oldest event that waits in an active subscription, those by websocket apart",
            totals.oldest_s,
        ),
        CounterMetricFamily("wetread_subscription_events_numbered", "Events given a number", totals.numbered),
        CounterMetricFamily("wetread_subscription_events_delivered", "Events sent or dropped", totals.delivered),
        _of_one("pending", "Events that wait", {one.id: one.pending for one in worst}),
        _of_one("lag_seconds", "Age of the oldest event that waits", {one.id: one.lag_s for one in worst}),
        _of_one("failures", "Attempts since one succeeded", {one.id: one.failures for one in worst}),
        rate,
        undecided_by_topic,
    ]


def _of_one(name: str, text: str, values: dict[str, int] | dict[str, float]) -> GaugeMetricFamily:
    return _by("subscription", f"wetread_subscription_{name}", f"{text}, {_OF_ONE}", values)


def _by(label: str, name: str, text: str, values: dict[str, int] | dict[str, float]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, text, labels=[label])
    for value, number in values.items():
        family.add_metric([value], number)
    return family
