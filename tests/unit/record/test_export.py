"""Bulk exports over HTTP: a real server, a real worker, a client that knows only the protocol."""

from __future__ import annotations

import asyncio
import contextlib
import gzip
import json
import socket
import sys
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
from hypothesis import given
from hypothesis import strategies as st
from starlette.requests import Request

from wetread.api import fhir_export
from wetread.domain.reader import SYSTEM, Reader, Scope
from wetread.errors import Unauthorized, WetreadError
from wetread.record import resources
from wetread.record.audit import audit
from wetread.record.export import request as export_request
from wetread.record.export.export import Exporter
from wetread.record.export.jobs import EXPORT, SWEEP
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
    "of a type": Reader("fetcher", scopes("system/Patient.rs system/Group.rs?name=x")),
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
            await resources.delete(conn, SYSTEM, resource_type, resource_id)

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


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


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
    app.include_router(fhir_export.router(face, authenticate, audit.write_many))
    server = uvicorn.Server(uvicorn.Config(app, host="127.0.0.1", port=port, log_level="warning", lifespan="off"))
    stop = asyncio.Event()
    tasks = [asyncio.create_task(server.serve())]
    if limits.get("workers", 1):
        tasks.append(asyncio.create_task(work.run(["work"], concurrency=2, alone=True, stop=stop)))
    while not server.started:  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    async with httpx.AsyncClient(headers=bearer("all"), timeout=20) as client:
        yield World(database, work, exporter, root, client, base)
    stop.set()
    server.should_exit = True
    await asyncio.gather(*tasks)


@pytest.fixture(scope="module")
async def shared(module_database: Database, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    """For requests that store nothing."""
    async with running(module_database, tmp_path_factory.mktemp("shared"), most_jobs=100) as one:
        yield one


@pytest.fixture
async def world(shared: World) -> World:
    """The same server with an empty store."""
    async with shared.database.transaction() as conn:
        tables = await conn.execute(
            "SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND"
            " (tablename ~ '^(resource|index_)' OR tablename = 'export_job')"
        )
        for (name,) in await tables.fetchall():
            await conn.execute(f"DELETE FROM {name}")
    return shared


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


class TestWhatIsExported:
    async def test_types_are_those_asked_for_and_filters_count_within_their_type(self, world: World) -> None:
        await world.put(patient("p1"), observation("o1"), observation("o2", status="preliminary"), organization("org"))
        assert await world.exported(_type="Patient,Organization") == {"Patient/p1", "Organization/org"}
        final = "Observation?status=final"
        assert await world.exported(_typeFilter=final, _type="Patient,Observation") == {"Patient/p1", "Observation/o1"}
        both = f"{final},Observation?status=preliminary&subject=Patient/p1"
        assert await world.exported(_typeFilter=both, _type="Observation") == {"Observation/o1", "Observation/o2"}

    async def test_since_and_until_are_about_the_last_change_and_deletions_are_told(self, world: World) -> None:
        await world.put(patient("p1"), patient("p2"), observation("o1"), observation("gone"))
        first = await world.manifest(await world.kick_off())
        await world.put(patient("p1", active=True), observation("o2"))
        await world.delete("Observation", "gone")
        kicked_off = await world.kick_off(_since=first["transactionTime"])
        assert await world.given(kicked_off) == {"Patient/p1", "Observation/o2"}
        (item,) = (await world.manifest(kicked_off))["deleted"]
        (bundle,) = await world.lines([item])
        assert (item["type"], bundle["resourceType"], bundle["type"]) == ("Bundle", "Bundle", "transaction")
        assert [each["request"] for each in bundle["entry"]] == [{"method": "DELETE", "url": "Observation/gone"}]
        assert await world.exported(_until=first["transactionTime"]) == {"Patient/p2", "Observation/o1"}

    async def test_only_the_elements_asked_for_come_and_the_resource_says_so(self, world: World) -> None:
        await world.put(patient("p1", birthDate="1970-01-01"), observation("o1", issued="2026-01-01T00:00:00Z"))
        manifest = await world.manifest(await world.kick_off(_elements="Patient.birthDate"))
        observed, person = await world.lines(manifest["output"])
        assert "issued" in observed
        assert set(person) == {"resourceType", "id", "meta", "birthDate"}
        assert person["meta"]["tag"][0]["code"] == "SUBSETTED"

    async def test_what_cannot_be_given_is_told_in_an_error_file_beside_the_rest(self, world: World) -> None:
        await world.put(patient("p1"), patient("p2"))
        async with world.database.transaction() as conn:
            await conn.execute("UPDATE resource SET body = left(body, 20) WHERE id = 'p1'")
        kicked_off = await world.kick_off(_elements="name")
        assert await world.given(kicked_off) == {"Patient/p2"}
        (item,) = (await world.manifest(kicked_off))["error"]
        (told,) = await world.lines([item])
        assert (item["type"], told["resourceType"]) == ("OperationOutcome", "OperationOutcome")
        assert told["issue"][0]["severity"] == "error"

    async def test_at_patient_level_comes_what_is_of_patients(self, world: World) -> None:
        device = {"resourceType": "Device", "id": "d1", "patient": {"reference": "Patient/p1"}}
        of_nobody = {k: v for k, v in observation("of-nobody").items() if k != "subject"}
        await world.put(patient("p1"), patient("p2"), observation("o1"), observation("o2", "p2"), of_nobody)
        await world.put(device, {"resourceType": "Device", "id": "d2"}, organization("org"))
        everyone = {"Patient/p1", "Patient/p2", "Observation/o1", "Observation/o2", "Device/d1"}
        assert await world.exported("/Patient/$export") == everyone
        assert await world.exported("/Patient/$export", _type="Patient,Organization") == {
            "Patient/p1",
            "Patient/p2",
            "Organization/org",
        }

    async def test_what_names_a_patient_outside_the_list_stays_out(self, world: World) -> None:
        await world.put(patient("p1"), patient("p2"), observation("o1"), observation("o2", "p2"))
        shared = observation("shared", performer=[{"reference": "Patient/p2"}])
        await world.put(shared, group("g", member("Patient/p1"), member("Patient/p2")))
        assert await world.exported("/Patient/$export", patient="Patient/p1") == {"Patient/p1", "Observation/o1"}
        body = {
            "resourceType": "Parameters",
            "parameter": [
                {"name": "patient", "valueReference": {"reference": "Patient/p2"}},
                {"name": "_type", "valueString": "Observation"},
                {"name": "_outputFormat", "valueString": "application/fhir+ndjson"},
            ],
        }
        kicked_off = await world.client.post(f"{world.base}/Patient/$export", json=body, headers=PARAMETERS)
        assert (await world.manifest(kicked_off))["request"] == f"{world.base}/Patient/$export"
        assert await world.given(kicked_off) == {"Observation/o2"}

    async def test_deletions_are_told_to_those_whose_they_were(self, world: World) -> None:
        await world.put(patient("p1"), patient("p2"), observation("o1"), observation("o2", "p2"))
        first = await world.manifest(await world.kick_off())
        await world.delete("Observation", "o1")
        await world.delete("Observation", "o2")
        since = {"_since": first["transactionTime"], "patient": "Patient/p2"}
        manifest = await world.manifest(await world.kick_off("/Patient/$export", **since))
        (bundle,) = await world.lines(manifest["deleted"])
        assert [each["request"]["url"] for each in bundle["entry"]] == ["Observation/o2"]


def provenance(provenance_id: str, target: str, recorded: str) -> dict[str, Any]:
    return {
        "resourceType": "Provenance",
        "id": provenance_id,
        "target": [{"reference": target}],
        "recorded": recorded,
        "agent": [{"who": {"reference": "Organization/org"}}],
    }


class TestProvenance:
    @pytest.fixture
    async def told(self, world: World) -> World:
        await world.put(patient("p1"), observation("o1"), organization("org"))
        await world.put(
            provenance("old", "Observation/o1", "2026-01-01T00:00:00Z"),
            provenance("new", "Observation/o1", "2026-01-02T00:00:00Z"),
            provenance("clinic", "Organization/org", "2026-01-03T00:00:00Z"),
        )
        return world

    async def test_comes_with_what_is_of_patients(self, told: World) -> None:
        given = {name for name in await told.exported("/Patient/$export") if name.startswith("Prov")}
        assert given == {"Provenance/old", "Provenance/new"}
        assert "Provenance/clinic" in await told.exported()

    async def test_comes_with_what_is_returned_all_of_it_or_the_latest(self, told: World) -> None:
        all_of_it = {"includeAssociatedData": "RelevantProvenanceResources", "_type": "Observation"}
        both = {"Observation/o1", "Provenance/old", "Provenance/new"}
        assert await told.exported(**all_of_it) == both
        latest = {"includeAssociatedData": "LatestProvenanceResources", "_type": "Observation"}
        assert await told.exported(**latest) == {"Observation/o1", "Provenance/new"}
        wider = {**latest, "includeAssociatedData": "LatestProvenanceResources,RelevantProvenanceResources"}
        assert await told.exported(**wider) == both


class TestGroups:
    async def test_the_members_are_those_of_now_and_of_inner_groups(self, world: World) -> None:
        await world.put(*(patient(f"p{n}") for n in range(6)), observation("o1", "p1"), observation("o4", "p4"))
        await world.put(
            group(
                "g",
                member("Patient/p1"),
                member("Patient/p2", inactive=True),
                member("Patient/p3", period={"end": "2020-01-01"}),
                member("Group/inner"),
            ),
            group("inner", member("Patient/p5", period={"start": "2020-01-01"})),
        )
        assert await world.exported("/Group/g/$export") == {"Patient/p1", "Patient/p5", "Observation/o1", "Group/inner"}

    async def test_member_rules_choose_among_the_members_or_all_patients(self, world: World) -> None:
        def rule(text: str) -> dict[str, Any]:
            expression = {"language": "application/x-fhir-query", "expression": text}
            url = "http://hl7.org/fhir/uv/bulkdata/StructureDefinition/member-filter"
            return {"url": url, "valueExpression": expression}

        await world.put(*(patient(f"p{n}", active=n != 3) for n in (1, 2, 3)))
        await world.put(*(observation(f"o{n}", f"p{n}", status="final" if n > 1 else "preliminary") for n in (1, 2, 3)))
        rules = [rule("Observation?status=final"), rule("Patient?active=true")]
        await world.put(group("cohort", actual=False, modifierExtension=rules))
        await world.put(group("narrow", member("Patient/p1"), member("Patient/p3"), modifierExtension=rules[:1]))
        assert await world.exported("/Group/cohort/$export", _type="Patient") == {"Patient/p2"}
        assert await world.exported("/Group/narrow/$export", _type="Patient") == {"Patient/p3"}

    async def test_its_members_are_for_who_may_read_the_group_and_the_refusal_says_so(self, world: World) -> None:
        await world.put(group("few"))
        url = f"{world.base}/Group/few/$export?_type=Patient"
        refused = await world.client.get(url, headers={**ASYNC, **bearer("of a type")})
        assert refused.status_code == 403
        assert refused.json()["issue"][0]["diagnostics"].endswith(": system/Group.rs")

    async def test_a_group_that_cannot_be_understood_is_refused(self, world: World) -> None:
        await world.put(group("traits", actual=False), group("other", modifierExtension=[{"url": "http://x.org/y"}]))
        for name, status in (("traits", 422), ("other", 422), ("nowhere", 404)):
            refused = await world.kick_off(f"/Group/{name}/$export")
            assert (refused.status_code, refused.json()["resourceType"]) == (status, "OperationOutcome")


class TestAsItWasAtItsMoment:
    async def test_an_export_shows_the_store_as_it_was_when_it_began(self, database: Database, tmp_path: Path) -> None:
        async with running(database, tmp_path, workers=0) as world:
            await world.put(patient("p1"), patient("p2"), patient("p3"), observation("o1"), observation("o2"))
            kicked_off = await world.kick_off()
            narrow = await world.kick_off(
                "/Patient/$export", patient="Patient/p1", _typeFilter="Patient?active:missing=true"
            )
            await asyncio.sleep(0.3)
            await world.put(patient("p1", active=True), patient("p4"), observation("o2", "p2"))
            await world.delete("Patient", "p2")
            await world.delete("Observation", "o1")
            await world.put(observation("o1", "p2"))
            await worked(world)
            manifest = await world.manifest(kicked_off)
            rows = await world.lines(manifest["output"])
            assert [row["id"] for row in rows] == ["o1", "o2", "p1", "p2", "p3"]
            assert "active" not in rows[2]
            assert rows[0]["subject"]["reference"] == "Patient/p1"
            assert await world.given(narrow) == {"Patient/p1", "Observation/o1", "Observation/o2"}

    async def test_who_was_still_writing_at_that_moment_is_waited_for(self, world: World) -> None:
        async with world.database.transaction() as conn:
            await resources.put(conn, patient("late"))
            kicked_off = await world.kick_off()
            await asyncio.sleep(0.6)
            status = await world.client.get(kicked_off.headers["content-location"])
            assert status.status_code == 202
        assert await world.given(kicked_off) == {"Patient/late"}

    async def test_what_is_written_while_it_runs_neither_hides_nor_doubles_anything(
        self, database: Database, tmp_path: Path
    ) -> None:
        async with running(database, tmp_path, file_bytes=1 << 13, batch_bytes=1 << 11) as world:
            await world.put(*(patient(f"p{n}") for n in range(200)))
            kicked_off = await world.kick_off()
            for n in range(0, 200, 3):
                await world.put(patient(f"p{n}", active=True), patient(f"new{n}"))
                await world.delete("Patient", f"p{n + 1}")
            assert await world.given(kicked_off) == {f"Patient/p{n}" for n in range(200)}


async def worked(world: World) -> None:
    """Lets a worker do all that waits."""
    stop = asyncio.Event()
    worker = asyncio.create_task(world.work.run(["work"], concurrency=2, alone=True, stop=stop))
    async with asyncio.timeout(20):
        while True:
            async with world.database.transaction() as conn:
                row = await (
                    await conn.execute("SELECT bool_and(state IN ('complete', 'failed')) FROM export_job")
                ).fetchone()
            if row is not None and row[0]:
                break
            await asyncio.sleep(0.05)
    stop.set()
    await worker


class TestTheKickOff:
    @pytest.mark.parametrize(
        "params",
        [
            {"_type": "Nonsense"},
            {"_type": "AuditEvent"},
            {"_since": "yesterday"},
            {"_outputFormat": "application/parquet"},
            {"_typeFilter": "Observation"},
            {"_typeFilter": "Observation?nonsense=1"},
            {"_typeFilter": "Observation?_sort=date"},
            {"_elements": "Patient.name.family"},
            {"organizeOutputBy": "Patient"},
            {"includeAssociatedData": "_nonsense"},
            {"patient": "Patient/p1"},
            {"nonsense": "1"},
        ],
        ids=str,
    )
    async def test_what_cannot_be_honoured_is_refused(self, shared: World, params: dict[str, str]) -> None:
        refused = await shared.kick_off(**params)
        assert refused.status_code == 400
        assert refused.headers["content-type"] == "application/fhir+json"
        assert refused.json()["resourceType"] == "OperationOutcome"

    @pytest.mark.parametrize("spelling", ["application/fhir+ndjson", "application/ndjson", "ndjson"])
    async def test_takes_every_spelling_of_its_format(self, shared: World, spelling: str) -> None:
        await shared.manifest(await shared.kick_off(_outputFormat=spelling))

    async def test_must_be_asynchronous_and_authorised(self, shared: World) -> None:
        url = f"{shared.base}/$export"
        assert (await shared.client.get(url)).status_code == 400
        assert (await shared.client.get(url, headers={**ASYNC, "Authorization": "none"})).status_code == 401

    async def test_a_lenient_client_is_told_what_was_ignored(self, world: World) -> None:
        await world.put(patient("p1"))
        kicked_off = await world.kick_off(prefer="handling=lenient", organizeOutputBy="Patient", _type="Patient,Nope")
        assert await world.given(kicked_off) == {"Patient/p1"}
        (item,) = (await world.manifest(kicked_off))["error"]
        told = [row["issue"][0]["diagnostics"] for row in await world.lines([item])]
        assert (item["type"], item["count"]) == ("OperationOutcome", 2)
        assert ["organizeOutputBy" in told[0], "_type" in told[1]] == [True, True]

    async def test_partial_manifests_are_allowed_and_not_needed(self, shared: World) -> None:
        manifest = await shared.manifest(await shared.kick_off(allowPartialManifests="true"))
        assert "link" not in manifest

    async def test_repeated_values_are_one_list(self, world: World) -> None:
        await world.put(patient("p1"), organization("org"), observation("o1"))
        url = f"{world.base}/$export?_type=Patient&_type=Organization,Patient"
        given = await world.given(await world.client.get(url, headers=ASYNC))
        assert given == {"Patient/p1", "Organization/org"}

    async def test_unknown_patients_are_refused(self, shared: World) -> None:
        refused = await shared.kick_off("/Patient/$export", patient="Patient/nobody")
        assert refused.status_code == 400

    @pytest.mark.parametrize("named", ["", ",", " \t", "https://elsewhere.example/fhir/Patient/p1"])
    async def test_no_patient_and_one_of_elsewhere_are_never_taken_for_patients_here(
        self, world: World, named: str
    ) -> None:
        await world.put(patient("p1"))
        assert (await world.kick_off("/Patient/$export", patient=named)).status_code == 400
        body = {
            "resourceType": "Parameters",
            "parameter": [{"name": "patient", "valueReference": {"reference": named}}],
        }
        refused = await world.client.post(f"{world.base}/Patient/$export", json=body, headers=PARAMETERS)
        assert refused.status_code == 400

    @pytest.mark.parametrize(
        "slip",
        [
            {"patient:identifier": "urn:x|1"},
            {"Patient": "Patient/p1"},
            {"patients": "Patient/p1"},
            {"pateint": "Patient/p1"},
            {"patient.identifier": "urn:x|1"},
            {"type": "Patient"},
            {"_Type": "Patient"},
            {"_typeFilters": "Observation?status=final"},
            {"_since:exact": "2024-01-01T00:00:00Z"},
            {"since": "2024-01-01T00:00:00Z"},
            {"_since": ""},
            {"_typeFilter": " , "},
            {"_elements": ""},
        ],
    )
    async def test_a_slip_is_never_taken_for_everything_however_lenient(
        self, shared: World, slip: dict[str, str]
    ) -> None:
        refused = await shared.kick_off("/Patient/$export", prefer="handling=lenient", **slip)
        assert refused.status_code == 400, refused.text
        assert refused.json()["issue"][0]["expression"] == [f"http.{next(iter(slip))}"]

    async def test_a_patient_may_be_named_by_the_whole_address(self, world: World) -> None:
        await world.put(patient("p1"), patient("p2"))
        assert await world.exported("/Patient/$export", patient=f"{world.base}/Patient/p1") == {"Patient/p1"}

    async def test_who_is_here_is_told_only_to_those_who_may_export_patients(self, world: World) -> None:
        await world.put(patient("p1"))
        for named in ("Patient/p1", "Patient/nobody"):
            url = f"{world.base}/Patient/$export?_type=Observation&patient={named}"
            assert (await world.client.get(url, headers={**ASYNC, **bearer("observations")})).status_code == 403

    async def test_at_most_a_hundred_filters(self, shared: World) -> None:
        filters = ["Observation?status=final"] * 101
        assert (await shared.kick_off(_typeFilter=",".join(filters))).status_code == 400
        await shared.manifest(await shared.kick_off(_typeFilter=",".join(filters[1:])))

    @pytest.mark.parametrize(
        "body", ["[]", '{"resourceType":"Patient"}', '{"resourceType":"Parameters","parameter":[{}]}']
    )
    async def test_a_body_is_a_parameters_resource(self, shared: World, body: str) -> None:
        refused = await shared.client.post(f"{shared.base}/$export", content=body, headers=PARAMETERS)
        assert refused.status_code == 400

    async def test_more_than_run_at_once_are_put_off(self, database: Database, tmp_path: Path) -> None:
        async with running(database, tmp_path, most_jobs=1, workers=0) as world:
            assert (await world.kick_off()).status_code == 202
            refused = await world.kick_off()
            assert (refused.status_code, refused.headers["retry-after"]) == (429, "60")
            assert refused.json()["issue"][0]["code"] == "throttled"


class TestWhoMay:
    async def test_only_system_scopes_export_and_only_their_types(self, world: World) -> None:
        await world.put(patient("p1"), observation("o1"))
        url = f"{world.base}/$export"
        assert (await world.client.get(url, headers={**ASYNC, **bearer("user")})).status_code == 403
        limited = {**ASYNC, **bearer("observations")}
        assert (await world.client.get(f"{url}?_type=Patient", headers=limited)).status_code == 403
        kicked_off = await world.client.get(url, headers=limited)
        manifest = await world.manifest(kicked_off, "observations")
        assert [item["type"] for item in manifest["output"]] == ["Observation"]

    async def test_status_files_and_cancel_are_for_the_client_that_began_with_the_rights_it_has_now(
        self, world: World
    ) -> None:
        await world.put(patient("p1"), observation("o1"))
        kicked_off = await world.kick_off()
        manifest = await world.manifest(kicked_off)
        for url in (kicked_off.headers["content-location"], manifest["output"][0]["url"]):
            for name, status in (("other", 403), ("narrowed", 403), ("nobody", 401)):
                refused = await world.client.get(url, headers=bearer(name))
                assert (refused.status_code, refused.json()["resourceType"]) == (status, "OperationOutcome")
        refused = await world.client.delete(kicked_off.headers["content-location"], headers=bearer("other"))
        assert refused.status_code == 403
        assert (await world.client.get(manifest["output"][0]["url"])).status_code == 200

    async def test_start_download_and_cancel_are_in_the_audit(self, world: World) -> None:
        await world.put(patient("p1"))
        async with world.database.transaction() as conn:
            row = await (await conn.execute("SELECT max(position) FROM audit_event")).fetchone()
        kicked_off = await world.kick_off(_type="Patient")
        (item,) = (await world.manifest(kicked_off))["output"]
        await world.lines([item])
        await world.client.delete(kicked_off.headers["content-location"])
        await world.client.get(item["url"], headers=bearer("other"))
        async with world.database.transaction() as conn:
            rows = await conn.execute(
                "SELECT kind, outcome, principal FROM audit_event WHERE kind ~ '^export' AND position > %s"
                " ORDER BY position",
                (row[0] or 0 if row else 0,),
            )
            told = [row async for row in rows]
        assert told == [
            ("export-started", "0", "warehouse"),
            ("export-downloaded", "0", "warehouse"),
            ("export-cancelled", "0", "warehouse"),
            ("export-downloaded", "4", "other"),
        ]


class TestTheStatus:
    async def test_tells_progress_and_when_to_ask_again(self, database: Database, tmp_path: Path) -> None:
        async with running(database, tmp_path, workers=0) as world:
            status = (await world.kick_off()).headers["content-location"]
            first = await world.client.get(status)
            assert (first.status_code, first.headers["retry-after"]) == (202, "1")
            assert len(first.headers["x-progress"]) < 100
            hasty = await world.client.get(status)
            assert (hasty.status_code, hasty.headers["retry-after"]) == (429, "1")
            assert hasty.json()["issue"][0]["code"] == "throttled"

    async def test_a_cancelled_export_is_gone_and_its_files_with_it(self, world: World) -> None:
        await world.put(patient("p1"))
        kicked_off = await world.kick_off()
        (item,) = (await world.manifest(kicked_off))["output"]
        status = kicked_off.headers["content-location"]
        assert (await world.client.delete(status)).status_code == 202
        for url in (status, item["url"]):
            gone = await world.client.get(url)
            assert (gone.status_code, gone.json()["resourceType"]) == (404, "OperationOutcome")
        assert (await world.client.delete(status)).status_code == 404
        job_id = status.rpartition("/")[2]
        assert len(files_in(world.root / job_id)) == 1
        await world.exporter.sweep({"job": job_id})
        assert files_in(world.root / job_id) == []

    async def test_an_export_that_runs_can_be_cancelled(self, database: Database, tmp_path: Path) -> None:
        async with running(database, tmp_path, workers=0) as world:
            await world.put(patient("p1"))
            status = (await world.kick_off()).headers["content-location"]
            assert (await world.client.delete(status)).status_code == 202
            assert await world.exporter({"job": status.rpartition("/")[2], "slice": -1}) is None
            assert (await world.client.get(status)).status_code == 404
            assert not files_in(tmp_path)

    async def test_a_finished_export_expires(self, database: Database, tmp_path: Path) -> None:
        async with running(database, tmp_path / "exports", retention_s=3) as world:
            await world.put(patient("p1"))
            kicked_off = await world.kick_off()
            await world.manifest(kicked_off)
            await asyncio.sleep(3.5)
            assert (await world.client.get(kicked_off.headers["content-location"])).status_code == 404
            assert files_in(world.root) == []

    async def test_an_export_that_is_given_up_says_so(self, database: Database, tmp_path: Path) -> None:
        async with running(database, tmp_path, workers=0) as world:
            status = (await world.kick_off()).headers["content-location"]
            await world.exporter.give_up({"job": status.rpartition("/")[2]}, RuntimeError("secret of Chalmers"))
            failed = await world.client.get(status)
            assert (failed.status_code, failed.json()["resourceType"]) == (500, "OperationOutcome")
            assert "Chalmers" not in failed.text

    @pytest.mark.parametrize("path", ["$export/nonsense", "$export/1b4e28ba-2fa1-11d2-883f-0016d3cca427/1"])
    async def test_what_never_was_is_not_found(self, shared: World, path: str) -> None:
        assert (await shared.client.get(f"{shared.base}/{path}")).status_code == 404


WORKER = """
import asyncio, pathlib, sys
from datetime import timedelta
from wetread.record.export.export import Exporter
from wetread.record.export.jobs import EXPORT, SWEEP
from wetread.store.database import Database
from wetread.work.jobs import Work

async def main(url, root, base):
    database = Database(url)
    await database.open()
    work = Work(database, None)
    exporter = Exporter(database, work, pathlib.Path(root), base, retention=timedelta(hours=1), file_bytes=12000,
        batch_bytes=3000)
    work.bind(EXPORT, exporter)
    work.bind(SWEEP, exporter.sweep)
    await work.open()
    await work.run(["work"], concurrency=2, alone=True, stop=asyncio.Event())

asyncio.run(main(*sys.argv[1:]))
"""


async def test_a_worker_killed_half_way_writes_the_same_bytes_in_the_end(database: Database, tmp_path: Path) -> None:
    limits = {"file_bytes": 12_000, "batch_bytes": 3_000, "workers": 0}
    async with running(database, tmp_path, **limits) as world:
        await world.put(*(patient(f"p{n}", address=[{"text": "Street " * (n % 50)}]) for n in range(400)))
        undisturbed = await world.kick_off(_type="Patient,Observation")
        await worked(world)
        wanted = await contents(world, await world.manifest(undisturbed))

        disturbed = await world.kick_off(_type="Patient,Observation")
        kills = 0
        for _ in range(3):
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-c", WORKER, database.url, str(tmp_path), world.base
            )
            before = await progress(world, disturbed)
            while await progress(world, disturbed) < before + 2 and process.returncode is None:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            process.kill()
            await process.wait()
            kills += await progress(world, disturbed) < len(wanted)
        await worked(world)
        assert kills > 0
        assert await contents(world, await world.manifest(disturbed)) == wanted
        rows = [json.loads(line)["id"] for content in wanted for line in content.splitlines()]
        assert sorted(rows) == sorted(f"p{n}" for n in range(400))


async def contents(world: World, manifest: Mapping[str, Any]) -> list[bytes]:
    return [(await world.client.get(item["url"])).content for item in manifest["output"]]


async def progress(world: World, kicked_off: httpx.Response) -> int:
    """How many slices of an export are committed."""
    job_id = kicked_off.headers["content-location"].rpartition("/")[2]
    async with world.database.transaction() as conn:
        row = await (await conn.execute("SELECT slice FROM export_job WHERE id = %s", (job_id,))).fetchone()
    assert row is not None
    return int(row[0])


@given(
    params=st.lists(
        st.tuples(
            st.sampled_from([*export_request.PARAMETERS, "_format", "x"]) | st.text(max_size=5),
            st.sampled_from(
                ["Patient", "Observation?status=final", "Patient/p1", "true", "name", "0001-01-01T00:00:00+14:00"]
            )
            | st.text(max_size=20),
        ),
        max_size=4,
    ),
    level=st.sampled_from(["system", "patient", "group"]),
    lenient=st.booleans(),
)
def test_whatever_is_asked_is_read_or_refused(params: list[tuple[str, str]], level: str, lenient: bool) -> None:
    with contextlib.suppress(WetreadError):
        asked = export_request.read(READERS["all"], level, params, "https://here.example/fhir", lenient=lenient)
        kept = json.loads(json.dumps(asked.as_json()))
        assert export_request.ExportRequest.from_json(kept, asked.types) == asked
        assert "\\u0000" not in json.dumps(kept)
