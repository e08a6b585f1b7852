"""A FHIR face with subscriptions, several callers, and the matcher at hand."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
from fastapi import FastAPI
from starlette.requests import Request

from wetread.api import fhir
from wetread.domain.endpoint import AllowedEndpoints
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Unauthorized
from wetread.record import events, resources
from wetread.record.audit import audit
from wetread.record.resources import Version
from wetread.record.subscriptions import subscriptions, topics
from wetread.record.subscriptions.rows import OwnerNow
from wetread.record.subscriptions.subscriptions import Subscriptions
from wetread.store.database import Connection, Database

FOLDER = Path(__file__).parents[3] / "conformance" / "topics"
TOPIC = "https://wetread.org/fhir/SubscriptionTopic/task-status"
B = "http://hl7.org/fhir/uv/subscriptions-backport/StructureDefinition/backport-"
BASE = "http://wetread.example/fhir"


def reader(principal: str, *scopes: str, roles: tuple[str, ...] = (), patient_id: str | None = None) -> Reader:
    return Reader(principal, tuple(Scope.parse(s) for s in scopes), frozenset(roles), patient_id)


READERS = {
    "all": SYSTEM,
    "ehr": reader("ehr", "system/*.rs", "system/Subscription.cruds"),
    "blind": reader("blind", "system/Observation.rs"),
    "ann": reader("ann", "user/Task.rs", "user/Patient.rs", "user/Subscription.cruds"),
    "ann-as-well": replace(reader("ann", "user/Task.rs", "user/Subscription.rs"), grant_id="grant"),
    "ann-elsewhere": reader("ann", "user/Patient.rs", "user/Subscription.rs"),
    "bob": reader("bob", "user/*.rs"),
    "engineer": reader("eve", "user/*.rs", roles=("engineer",)),
    "narrow": reader("narrow", "system/Subscription.cruds", "system/Task.rs?status=completed"),
    "all-tasks-of-narrow": reader("narrow", "system/Subscription.rs", "system/Task.rs"),
}


def subscription(
    content: str = "id-only", kind: str = "rest-hook", status: str = "requested", **extensions: int
) -> dict[str, Any]:
    """By default a rest-hook to a port where nobody listens."""
    form: dict[str, Any] = {
        "resourceType": "Subscription",
        "status": status,
        "reason": "test",
        "criteria": TOPIC,
        "channel": {
            "type": kind,
            "payload": "application/fhir+json",
            "_payload": {"extension": [{"url": f"{B}payload-content", "valueCode": content}]},
        },
    }
    if kind == "rest-hook":
        form["channel"]["endpoint"] = "http://127.0.0.1:9/hook"
    if extensions:
        names = {"timeout": "valueUnsignedInt", "max_count": "valuePositiveInt", "heartbeat_period": "valueUnsignedInt"}
        form["channel"]["extension"] = [
            {"url": f"{B}{name.replace('_', '-')}", names[name]: value} for name, value in extensions.items()
        ]
    return form


def task(task_id: str, status: str = "requested", patient: str = "p1") -> dict[str, Any]:
    return {
        "resourceType": "Task",
        "id": task_id,
        "status": status,
        "intent": "order",
        "for": {"reference": f"Patient/{patient}"},
    }


class Site:
    """The parts as app binds them, on one database."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.subscriptions = Subscriptions(topics.load(FOLDER), AllowedEndpoints.parse(("127.0.0.0/8",)), BASE)
        self.app = FastAPI()
        face = fhir.router(database, authenticate, audit.write_many, BASE, on_write=self._on_write)
        self.app.include_router(face)

    def with_owner(self, owner_now: OwnerNow) -> Subscriptions:
        """The same, with rights of owners that a test decides."""
        return replace(self.subscriptions, owner_now=owner_now)

    async def _on_write(
        self, conn: Connection, by: Reader, resource_type: str, resource_id: str, version: Version | None
    ) -> None:
        if resource_type == "Subscription" and version is not None:
            await self.subscriptions.accept(conn, by, version.resource())
        elif resource_type == "Subscription":
            await self.subscriptions.withdraw(conn, resource_id)

    @contextlib.asynccontextmanager
    async def caller(self, who: str) -> AsyncIterator[httpx.AsyncClient]:
        headers = {"Authorization": f"Bearer {who}"}
        transport = httpx.ASGITransport(self.app)
        async with httpx.AsyncClient(transport=transport, base_url=f"{BASE}/", headers=headers) as client:
            yield client

    async def subscribed(self, who: str, form: dict[str, Any], *, is_active: bool = True) -> str:
        """The id of a subscription of `who`, after its handshake."""
        async with self.caller(who) as client:
            answer = await client.post("Subscription", json=form)
            assert answer.status_code == 201, answer.text
            subscription_id = str(answer.json()["id"])
        if is_active:
            async with self.database.transaction() as conn:
                assert await self.subscriptions.activate(conn, subscription_id, await self.start(conn, subscription_id))
        return subscription_id

    async def start(self, conn: Connection, subscription_id: str) -> int:
        found = await conn.execute("SELECT start FROM subscription_state WHERE id = %s", (subscription_id,))
        row = await found.fetchone()
        assert row is not None
        return int(row[0])

    async def happen(self, *written: dict[str, Any]) -> None:
        """Writes the resources, and lets the matcher come up to them."""
        async with self.database.transaction() as conn:
            for resource in written:
                await resources.put(conn, resource)
        await self.match()

    async def match(self) -> None:
        async with self.database.transaction() as conn:
            await events.settle(conn)
        async with self.database.transaction() as conn:
            found = await events.after(conn, await events.cursor(conn, subscriptions.CURSOR), 5000)
            await self.subscriptions.match_events(conn, found)
            if found:
                await events.advance(conn, subscriptions.CURSOR, found[-1].seq)


async def authenticate(request: Request) -> Reader:
    found = READERS.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if found is None:
        raise Unauthorized("an access token is needed")
    request.state.reader = found
    return found
