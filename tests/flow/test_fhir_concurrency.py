"""Parallel clients of the FHIR face, through two pools as two processes have them; on the embedded PostgreSQL and on
Debian's."""

from __future__ import annotations

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, contextmanager
from itertools import cycle
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from starlette.requests import Request

from tests.ports import free_port
from wetread.api import fhir
from wetread.domain.reader import SYSTEM, Reader
from wetread.record.audit import audit
from wetread.store import migrate
from wetread.store.database import Database

from .debian_postgresql import debian_postgresql

JSON = {"Content-Type": "application/fhir+json"}
PATCH = {"Content-Type": "application/json-patch+json"}


@contextmanager
def debian() -> Iterator[str]:
    with debian_postgresql(free_port()) as server:
        migrate.upgrade(server.url)
        yield server.url


async def somebody(_: Request) -> Reader:
    return SYSTEM


async def nobody_is_told(*_: object) -> None:
    pass


class Clients:
    """Sends each request by the next process."""

    def __init__(self, processes: list[httpx.AsyncClient]) -> None:
        self._next = cycle(processes)

    async def __call__(self, method: str, url: str, body: Any = None, **headers: str) -> httpx.Response:
        return await next(self._next).request(method, url, json=body, headers={**JSON, **headers})


@pytest.fixture(scope="module", params=["embedded", pytest.param("debian", marks=pytest.mark.peer)])
async def clients(request: pytest.FixtureRequest, module_database: Database) -> AsyncIterator[Clients]:
    async with AsyncExitStack() as stack:
        url = stack.enter_context(debian()) if request.param == "debian" else module_database.url
        processes = []
        for _ in range(2):
            database = Database(url, max_connections=16)
            await database.open()
            stack.push_async_callback(database.close)
            app = FastAPI()
            base = "http://wetread.example/fhir"
            app.include_router(fhir.router(database, somebody, audit.write_many, base, on_write=nobody_is_told))
            transport = httpx.ASGITransport(app)
            client = httpx.AsyncClient(transport=transport, base_url=f"{base}/", timeout=60)
            processes.append(await stack.enter_async_context(client))
        yield Clients(processes)


async def at_once(times: int, call: Callable[[int], Awaitable[httpx.Response]]) -> Counter[int]:
    answers = await asyncio.gather(*(call(number) for number in range(times)))
    return Counter(answer.status_code for answer in answers)


def patient(value: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "identifier": [{"system": "urn:test", "value": value}], **more}


def transaction(*entries: tuple[str, str, dict[str, Any], str]) -> dict[str, Any]:
    return {
        "resourceType": "Bundle",
        "type": "transaction",
        "entry": [
            {
                "resource": resource,
                "request": {"method": method, "url": url, **({"ifNoneExist": condition} if condition else {})},
            }
            for method, url, resource, condition in entries
        ],
    }


async def test_64_identical_conditional_creates_make_one_resource(clients: Clients) -> None:
    value = uuid.uuid4().hex
    condition = {"If-None-Exist": f"identifier=urn:test|{value}"}
    told = await at_once(64, lambda _: clients("POST", "Patient", patient(value), **condition))
    assert told == {201: 1, 200: 63}


async def test_of_updates_with_one_if_match_one_wins(clients: Clients) -> None:
    id_ = uuid.uuid4().hex
    await clients("PUT", f"Patient/{id_}", patient("a", id=id_))

    def update(number: int) -> Awaitable[httpx.Response]:
        body = patient(str(number), id=id_)
        return clients("PUT", f"Patient/{id_}", body, **{"If-Match": 'W/"1"'})

    assert await at_once(24, update) == {200: 1, 412: 23}


async def test_conditional_updates_make_one_resource_and_lose_no_version(clients: Clients) -> None:
    value = uuid.uuid4().hex

    def update(number: int) -> Awaitable[httpx.Response]:
        name = [{"family": str(number)}]
        return clients("PUT", f"Patient?identifier=urn:test|{value}", patient(value, name=name))

    assert await at_once(24, update) == {201: 1, 200: 23}
    found = (await clients("GET", f"Patient?identifier=urn:test|{value}")).json()
    assert (found["total"], found["entry"][0]["resource"]["meta"]["versionId"]) == (1, "24")


async def test_parallel_patches_all_take_effect(clients: Clients) -> None:
    id_ = uuid.uuid4().hex
    await clients("PUT", f"Patient/{id_}", patient("a", id=id_))

    def patch(number: int) -> Awaitable[httpx.Response]:
        operation = {"op": "add", "path": "/identifier/-", "value": {"value": str(number)}}
        return clients("PATCH", f"Patient/{id_}", [operation], **PATCH)

    assert await at_once(16, patch) == {200: 16}
    assert len((await clients("GET", f"Patient/{id_}")).json()["identifier"]) == 17


async def test_bundles_on_the_same_resources_and_conditions_behave_as_if_one_came_first(clients: Clients) -> None:
    """New and old resources, in opposite orders, by id and by condition: no client sees a deadlock."""
    run = uuid.uuid4().hex[:8]
    old, new = ([f"{run}-{kind}{n}" for n in range(3)] for kind in ("old", "new"))
    for id_ in old:
        await clients("PUT", f"Patient/{id_}", patient(id_, id=id_))

    def send(number: int) -> Awaitable[httpx.Response]:
        name = [{"family": str(number)}]
        entries = [
            *(("PUT", f"Patient/{id_}", patient(id_, id=id_, name=name), "") for id_ in (*old[:2], *new)),
            ("PUT", f"Patient?identifier=urn:test|{old[2]}", patient(old[2], name=name), ""),
            ("POST", "Patient", patient(f"{run}-made"), f"identifier=urn:test|{run}-made"),
        ]
        return clients("POST", "", transaction(*entries[:: 1 if number % 2 else -1]))

    assert await at_once(16, send) == {200: 16}
    made = (await clients("GET", f"Patient?identifier=urn:test|{run}-made")).json()
    assert made["total"] == 1
    last = [(await clients("GET", f"Patient/{id_}")).json() for id_ in (*old, *new)]
    assert len({patient["name"][0]["family"] for patient in last}) == 1
    assert {patient["meta"]["versionId"] for patient in last} == {"17", "16"}


async def test_single_writes_and_bundles_in_opposite_orders_all_end(clients: Clients) -> None:
    run = uuid.uuid4().hex[:8]

    def send(number: int) -> Awaitable[httpx.Response]:
        name = [{"family": str(number)}]
        puts = [("PUT", f"Patient/{run}-{n}", patient(str(n), id=f"{run}-{n}", name=name), "") for n in range(4)]
        if number % 3 == 0:
            return clients("PUT", f"Patient/{run}-{number % 4}", puts[number % 4][2])
        if number % 3 == 1:
            return clients("DELETE", f"Patient?identifier=urn:test|{number % 4}&_id={run}-{number % 4}")
        return clients("POST", "", transaction(*puts[:: 1 if number % 2 else -1]))

    told = await at_once(36, send)
    assert set(told) <= {200, 201, 204}, told
