"""$meta, $meta-add and $meta-delete over HTTP."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from tests.unit.api.test_fhir import BASE, JSON, application, audits, caller, patient, put

from wetread.store.database import Connection, Database

VIP = {"system": "http://hospital.example/tags", "code": "vip"}
LABEL = {"system": "http://terminology.hl7.org/CodeSystem/v3-Confidentiality", "code": "R"}


def parameters(**meta: Any) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": "meta", "valueMeta": meta}]}


async def change(client: httpx.AsyncClient, name: str, status: int = 200, **meta: Any) -> dict[str, Any]:
    answer = await client.post(f"{BASE}/Patient/p1/${name}", json=parameters(**meta), headers=JSON)
    assert answer.status_code == status, answer.text
    body: dict[str, Any] = answer.json()
    return body["parameter"][0]["valueMeta"] if status == 200 else body


async def test_tags_and_labels_come_and_go_as_versions_that_are_told_of(database: Database) -> None:
    told: list[int] = []

    async def on_write(conn: Connection, reader: object, type_: str, id_: str, version: Any) -> None:
        told.append(version.version_id)

    async with caller(application(database, on_write=on_write)) as client:
        assert (await put(client, patient())).status_code == 201
        added = await change(client, "meta-add", tag=[VIP], security=[LABEL])
        assert (added["tag"], added["security"], added["versionId"]) == ([VIP], [LABEL], "2")
        again = await change(client, "meta-add", tag=[{**VIP, "display": "Very important"}])
        assert again["versionId"] == "2"
        found = (await client.get(f"{BASE}/Patient?_tag={VIP['system']}|vip&_summary=count")).json()
        assert found["total"] == 1
        gone = await change(client, "meta-delete", tag=[VIP])
        assert ("tag" in gone, gone["security"]) == (False, [LABEL])
        read = (await client.get(f"{BASE}/Patient/p1/$meta")).json()["parameter"]
        assert read == [{"name": "return", "valueMeta": gone}]
        assert (await client.get(f"{BASE}/Patient/p1")).json()["name"] == [{"family": "Chalmers"}]
    assert told == [1, 2, 2, 3]
    assert (await audits(database))[-2]["subtype"][0]["code"] == "operation"


@pytest.mark.parametrize("meta", [{"tag": [{"display": "x"}]}, {"tag": "x"}, {"versionId": "9"}, {"profile": [""]}])
async def test_what_is_no_tag_label_or_profile_is_refused(module_database: Database, meta: dict[str, Any]) -> None:
    async with caller(application(module_database)) as client:
        await put(client, patient())
        assert await change(client, "meta-add", 400, **meta)
        assert (await client.get(f"{BASE}/Patient/p1/$meta-add")).status_code == 405
        assert (await client.get(f"{BASE}/Patient/nobody/$meta")).status_code == 404
        none = {"resourceType": "Parameters"}
        assert (await client.post(f"{BASE}/Patient/p1/$meta-delete", json=none, headers=JSON)).status_code == 400
