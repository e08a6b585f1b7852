"""Who may send messages over HTTP."""

from __future__ import annotations

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from wetread.api import hl7
from wetread.domain.reader import Reader
from wetread.errors import Forbidden, TooLarge

from .scoped import reader


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
