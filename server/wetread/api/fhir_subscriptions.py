"""The operations on subscriptions (Backport IG 1.1 $status, $events, $get-ws-binding-token)."""

from __future__ import annotations

import re

from wetread.api.fhir_face import Face
from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record import lossless
from wetread.record.operations.input import Given
from wetread.record.splice import instant
from wetread.record.subscriptions import bindings, questions
from wetread.record.subscriptions.questions import Told
from wetread.store.database import Connection

SOCKET_PATH = "/websocket"
"""Below the FHIR base: where websockets are opened."""

_NUMBER = re.compile(r"[0-9]{1,18}", re.ASCII)


def socket_url(base_url: str) -> str:
    """Where clients open a websocket, from the FHIR base URL."""
    return f"ws{base_url.removeprefix('http')}{SOCKET_PATH}"


async def status(conn: Connection, reader: Reader, face: Face, subscription_id: str, given: Given) -> Told:
    """At instance level `id` and `status` are ignored."""
    if subscription_id:
        return await questions.status_of_one(conn, reader, face.base_url, subscription_id)
    return await questions.status(conn, reader, face.base_url, _ids(given), _listed(given, "status"))


async def events(conn: Connection, reader: Reader, face: Face, subscription_id: str, given: Given) -> Told:
    since, until = _number(given, "eventsSinceNumber"), _number(given, "eventsUntilNumber")
    return await questions.events(
        conn,
        reader,
        face.base_url,
        subscription_id,
        1 if since is None else since,
        until,
        given.text("content"),
        face.topics,
    )


async def binding_token(conn: Connection, reader: Reader, face: Face, subscription_id: str, given: Given) -> Told:
    issued = await bindings.issue(conn, reader, [subscription_id] if subscription_id else _ids(given))
    answer = {
        "resourceType": "Parameters",
        "parameter": [
            {"name": "token", "valueString": issued.token},
            {"name": "expiration", "valueDateTime": instant(issued.expires_at)},
            *({"name": "subscription", "valueString": each} for each in issued.subscription_ids),
            {"name": "websocket-url", "valueUrl": socket_url(face.base_url)},
        ],
    }
    return Told(lossless.dump(answer).encode())


def _ids(given: Given) -> list[str]:
    return [each.removeprefix("Subscription/") for each in _listed(given, "id")]


def _listed(given: Given, name: str) -> list[str]:
    """Values that are joined by OR: repeated, and in a URL divided by commas, too."""
    return [part.strip() for value in given.every(name) for part in str(value).split(",") if part.strip()]


def _number(given: Given, name: str) -> int | None:
    """R4 has no type for these numbers: they come as strings."""
    text = given.text(name).strip()
    if not text:
        return None
    if not _NUMBER.fullmatch(text):
        raise InvalidInput(f"{name} is the number of an event", location=f"http.{name}")
    return int(text)
