"""The headers of an endpoint may hold its password: they are written, and never read again.

FHIR R4 subscription.html shows an `Authorization` among them, and whoever may read a Subscription would see it: in
searches, histories, exports and notifications. So the resource that is stored names the headers only, and their values
stand with the state of the subscription, where what goes out takes them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from wetread.errors import Unsupported
from wetread.record import lossless
from wetread.record.subscriptions.channel import MESSAGE, REST_HOOK, Channel
from wetread.store.database import Connection

HIDDEN = "***"
"""What is read in place of a value; written back, it keeps the value."""

_SECRET = (REST_HOOK, MESSAGE)


def kept(asked: Channel, former: Channel | None) -> Channel:
    """What a client asks for, with the values that it has read as hidden: those of the headers of the same name before.

    Raises Unsupported where there are none, and where they would go to another endpoint than they were given for.
    """
    if asked.kind not in _SECRET or not any(value == HIDDEN for _, value in asked.headers):
        return asked
    known: dict[str, list[str]] = {}
    if former is not None and former.kind in _SECRET and former.endpoint == asked.endpoint:
        for name, value in former.headers:
            known.setdefault(name.lower(), []).append(value)
    headers = []
    for name, value in asked.headers:
        values = known.get(name.lower(), [])
        if value == HIDDEN and not values:
            message = f"the value of the header {name} is not known for this endpoint; write it out"
            raise Unsupported(message, location="Subscription.channel.header")
        before = values.pop(0) if values else ""
        headers.append((name, before if value == HIDDEN else value))
    return replace(asked, headers=tuple(headers))


async def hide(conn: Connection, resource: Mapping[str, Any], channel: Channel) -> None:
    """Takes the values out of the version that was just written, in its transaction."""
    if channel.kind not in _SECRET or not channel.headers:
        return
    shown = [f"{name}: {HIDDEN}" for name, _ in channel.headers]
    body = lossless.dump({**resource, "channel": {**resource["channel"], "header": shown}})
    for statement in (
        "UPDATE resource SET body = %s WHERE resource_type = 'Subscription' AND id = %s AND version_id = %s",
        "UPDATE resource_version SET body = %s WHERE resource_type = 'Subscription' AND id = %s AND version_id = %s",
    ):
        await conn.execute(statement, (body, resource["id"], int(resource["meta"]["versionId"])))


async def forget(conn: Connection, subscription_id: str) -> None:
    """After its deletion nobody needs the values."""
    await conn.execute(
        """UPDATE subscription_state SET channel = jsonb_set(channel, '{headers}', '[]') WHERE id = %s""",
        (subscription_id,),
    )
