"""Bulk exports over HTTP: a real server, a real worker, a client that knows only the protocol."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn
from fastapi import FastAPI
from starlette.requests import Request

from wetread.api import fhir_export
from wetread.domain.reader import Reader, Scope
from wetread.errors import Unauthorized
from wetread.record import audit, resources
from wetread.record.export import Exporter
from wetread.record.export_jobs import EXPORT, SWEEP
from wetread.store.database import Database
from wetread.work.jobs import Payload, Work

ASYNC = {"Prefer": "respond-async", "Accept": "application/fhir+json"}
PARAMETERS = {**ASYNC, "Content-Type": "application/fhir+json"}


def scopes(text: str) -> tuple[Scope, ...]:
    return tuple(Scope.parse(scope) for scope in text.split())


READERS = {
    "all": Reader("warehouse", scopes("system/*.rs")),
    "other": Reader("other", scopes("system/*.rs")),
    "observations": Reader("observer", scopes("system/Observation.rs")),
    "narrowed": Reader("warehouse", scopes("system/Patient.rs")),
    "user": Reader("person", scopes("user/*.cruds")),
}


async def authenticate(request: Request) -> Reader:
    reader = READERS.get(request.headers.get("authorization", "").removeprefix("Bearer "))
    if reader is None:
        raise Unauthorized("an access token is needed")
    return reader


@dataclass
class World:
    """A server, its worker, its store; and the acts of a client."""

    database: Database
    work: Work
    exporter: Exporter
    root: Path
    client: httpx.AsyncClient
    base: str

    async def put(self, *given: Mapping[str, Any] | str) -> None:
        async with self.database.transaction() as conn:
            for each in given:
                await resources.put(conn, each)

    async def delete(self, resource_type: str, resource_id: str) -> None:
        async with self.database.transaction() as conn:
            await resources.delete(conn, resource_type, resource_id)

    async def kick_off(self, path: str = "/$export", /, *, prefer: str = "", **params: str) -> httpx.Response:
        headers = {**ASYNC, **({"Prefer": f"respond-async, {prefer}"} if prefer else {})}
        return await self.client.get(f"{self.base}{path}", params=params, headers=headers)

    async def manifest(self, kicked_off: httpx.Response, as_: str = "all") -> dict[str, Any]:
        """What the status gives once the export is complete."""
        assert kicked_off.status_code == 202, kicked_off.text
        for _ in range(200):
            answer = await self.client.get(kicked_off.headers["content-location"], headers=bearer(as_))
            if answer.status_code not in (202, 429):
                assert answer.status_code == 200, answer.text
                body: dict[str, Any] = answer.json()
                return body
            await asyncio.sleep(0.1)
        raise AssertionError("the export did not end")

    async def lines(self, items: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """What the files of a manifest hold."""
        found = []
        for item in items:
            answer = await self.client.get(item["url"])
            assert answer.status_code == 200, answer.text
            rows = [json.loads(line) for line in answer.text.splitlines()]
            assert len(rows) == item["count"]
            found += rows
        return found

    async def exported(self, path: str = "/$export", /, **params: str) -> set[str]:
        """References to what an export gives; fails where something comes twice."""
        return await self.given(await self.kick_off(path, **params))

    async def given(self, kicked_off: httpx.Response) -> set[str]:
        manifest = await self.manifest(kicked_off)
        rows = [
            row
            for item in manifest["output"]
            for row in await self.lines([item])
            if row["resourceType"] == item["type"]
        ]
        references = [f"{row['resourceType']}/{row['id']}" for row in rows]
        assert len(references) == len(set(references)) == sum(item["count"] for item in manifest["output"])
        return set(references)


def bearer(name: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {name}"}


@asynccontextmanager
async def running(database: Database, root: Path, **limits: int) -> AsyncIterator[World]:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    base = f"http://127.0.0.1:{port}/fhir"

    async def on_dead(step: str, payload: Payload, error: BaseException) -> None:
        if step == EXPORT.name:
            await exporter.give_up(payload, error)

    work = Work(database, on_dead)
    exporter = Exporter(
        database,
        work,
        root,
        base,
        retention=timedelta(seconds=limits.get("retention_s", 3600)),
        file_bytes=limits.get("file_bytes", 1 << 20),
        batch_bytes=limits.get("batch_bytes", 1 << 16),
    )
    work.bind(EXPORT, exporter)
    work.bind(SWEEP, exporter.sweep)
    await work.open()
    app = FastAPI()
    face = fhir_export.Export(database, work, root, base, limits.get("most_jobs", 4))
    app.include_router(fhir_export.router(face, authenticate, audit.write))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off"))
    stop = asyncio.Event()
    tasks = [asyncio.create_task(server.serve())]
    if limits.get("workers", 1):
        tasks.append(asyncio.create_task(work.run(["work"], concurrency=2, alone=True, stop=stop)))
    while not server.started:
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(headers=bearer("all"), timeout=20) as client:
        yield World(database, work, exporter, root, client, base)
    stop.set()
    server.should_exit = True
    await asyncio.gather(*tasks)


@pytest.fixture
async def world(database: Database, tmp_path: Path) -> AsyncIterator[World]:
    async with running(database, tmp_path / "exports") as one:
        yield one


def patient(patient_id: str, **more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "id": patient_id, "name": [{"family": "Chalmers"}], **more}


def observation(observation_id: str, of: str = "p1", **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Observation",
        "id": observation_id,
        "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "29463-7"}]},
        "subject": {"reference": f"Patient/{of}"},
        **more,
    }


def organization(organization_id: str) -> dict[str, Any]:
    return {"resourceType": "Organization", "id": organization_id, "name": "Clinic"}


def group(group_id: str, *members: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "Group",
        "id": group_id,
        "type": "person",
        "actual": True,
        **({"member": list(members)} if members else {}),
        **more,
    }


def member(of: str, **more: Any) -> dict[str, Any]:
    return {"entity": {"reference": of}, **more}


class TestTheRoundTrip:
    async def test_a_client_kicks_off_waits_and_downloads(self, world: World) -> None:
        await world.put(patient("p1"), patient("p2"), observation("o1"), organization("org"))
        before = datetime.now(UTC)
        kicked_off = await world.kick_off()
        assert kicked_off.status_code == 202
        assert kicked_off.headers["content-location"].startswith(f"{world.base}/$export/")
        manifest = await world.manifest(kicked_off)
        assert before - timedelta(milliseconds=1) <= datetime.fromisoformat(manifest["transactionTime"])
        assert manifest["request"] == f"{world.base}/$export"
        assert manifest["requiresAccessToken"] is True
        assert manifest["error"] == []
        assert "deleted" not in manifest
        assert {item["type"]: item["count"] for item in manifest["output"]} == {
            "Observation": 1,
            "Organization": 1,
            "Patient": 2,
        }
        answer = await world.client.get(manifest["output"][0]["url"])
        assert answer.headers["content-type"] == "application/fhir+ndjson"
        assert answer.text.count("\n") == 1
        assert answer.json()["id"] == "o1"

    async def test_what_is_stored_comes_as_it_is(self, world: World) -> None:
        text = '{\r\n "resourceType":"Observation","id":"o1",\n "status":"final","code":{"text":"a\\nb \\u001e ü"},\n'
        text += ' "valueQuantity":{"value":1.500}\n}'
        await world.put(text)
        manifest = await world.manifest(await world.kick_off())
        body = (await world.client.get(manifest["output"][0]["url"])).text
        assert body.count("\n") == 1
        assert '"value":1.500' in body
        assert json.loads(body)["code"]["text"] == "a\nb \x1e ü"

    async def test_an_attachment_that_lies_here_gets_an_absolute_url(self, world: World) -> None:
        content = [{"attachment": {"url": "Binary/b1", "title": '"url":"Binary/no"'}}]
        await world.put({"resourceType": "DocumentReference", "id": "d", "status": "current", "content": content})
        (row,) = await world.lines((await world.manifest(await world.kick_off()))["output"])
        assert row["content"][0]["attachment"] == {"url": f"{world.base}/Binary/b1", "title": '"url":"Binary/no"'}

    async def test_a_file_comes_compressed_when_asked(self, world: World) -> None:
        await world.put(*(patient(f"p{n}") for n in range(50)))
        (item,) = (await world.manifest(await world.kick_off()))["output"]
        async with world.client.stream("GET", item["url"], headers={"Accept-Encoding": "gzip"}) as answer:
            assert answer.headers["content-encoding"] == "gzip"
            packed = b"".join([part async for part in answer.aiter_raw()])
        plain = await world.client.get(item["url"], headers={"Accept-Encoding": "identity"})
        assert gzip.decompress(packed) == plain.content
        assert int(plain.headers["content-length"]) == len(plain.content)

    async def test_a_download_goes_on_where_it_broke_off(self, world: World) -> None:
        await world.put(*(patient(f"p{n}") for n in range(5)))
        (item,) = (await world.manifest(await world.kick_off()))["output"]
        plain = {"Accept-Encoding": "identity"}
        whole = await world.client.get(item["url"], headers=plain)
        rest = await world.client.get(item["url"], headers={**plain, "Range": "bytes=100-"})
        assert rest.status_code == 206
        assert rest.content == whole.content[100:]
