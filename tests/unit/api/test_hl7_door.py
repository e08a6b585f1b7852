"""Who may send messages over HTTP."""

from __future__ import annotations

from pathlib import Path
from zoneinfo import ZoneInfo

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from wetread.api import hl7
from wetread.domain.reader import Reader, Scope
from wetread.errors import Forbidden, TooLarge
from wetread.mapping.site import Site
from wetread.reading.intake import Intake, accepted
from wetread.store.database import Database

from .scoped import reader

ORDER = (Path(__file__).parents[2] / "data" / "hl7v2" / "orm-o01-bom-26.hl7").read_bytes()


@pytest.mark.parametrize(
    "scopes",
    [
        "user/*.cruds",
        "patient/*.cruds",
        "system/*.rs",
        "system/Patient.cruds",
        "system/ServiceRequest.cud",
        "system/ServiceRequest.cud system/Task.cud system/Encounter.cud system/Patient.c",
        "system/ServiceRequest.cud system/Task.cud system/Encounter.cud user/Patient.cud",
        "system/ServiceRequest.cud system/Task.cud system/Encounter.cud system/Patient.cud?active=true",
    ],
)
async def test_messages_are_taken_from_systems_whose_scopes_nothing_narrows(scopes: str) -> None:
    """They create and change patients and orders of anybody: no part of what is written, and no person, is enough."""

    async def authenticate(_: Request) -> Reader:
        return reader(scopes, "p1")

    app = FastAPI()
    app.include_router(hl7.router(None, authenticate, 100))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://wetread.example") as client:
        with pytest.raises(Forbidden):
            await client.post("/hl7/v2", content=b"MSH|^~\\&")


async def test_who_may_write_all_that_messages_write_is_heard() -> None:
    async def authenticate(_: Request) -> Reader:
        return reader("system/ServiceRequest.cu system/Task.cu system/Encounter.cu system/Patient.cu")

    app = FastAPI()
    app.include_router(hl7.router(None, authenticate, 3))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://wetread.example") as client:
        with pytest.raises(TooLarge):
            await client.post("/hl7/v2", content=b"MSH|^~\\&")


@pytest.mark.parametrize(("content", "kind"), [(ORDER, "message-received"), (b"MSH|^~\\&", "message-refused")])
async def test_the_audit_names_who_sent_the_message(database: Database, content: bytes, kind: str) -> None:
    async def authenticate(_: Request) -> Reader:
        return Reader("ris", (Scope("system", "*", frozenset("cruds")),), client_id="ris", token_id="t1")

    site = Site(b"a site key of 32 bytes, for tests", {}, "urn:oid:1.2.3.4", ZoneInfo("Europe/Paris"))
    app = FastAPI()
    app.include_router(hl7.router(Intake(database, site, accepted({"P"}), None, 0), authenticate, 10_000))
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://wetread.example") as client:
        assert (await client.post("/hl7/v2", content=content)).status_code == 200
    async with database.transaction() as conn:
        rows = await conn.execute("SELECT kind, principal, body LIKE '%%jti:t1%%' FROM audit_event")
        assert await rows.fetchall() == [(kind, "ris", True)]
