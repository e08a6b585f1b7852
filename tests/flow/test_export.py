"""A bulk export of a running server, as a site starts it."""

from __future__ import annotations

import httpx

from tests.flow.conftest import Hospital, until

ASYNC = {"Prefer": "respond-async", "Accept": "application/fhir+json"}


def test_what_the_hospital_has_is_exported(hospital: Hospital) -> None:
    with hospital.client() as client:
        made = client.post("/fhir/Patient", json={"resourceType": "Patient", "name": [{"family": "Export"}]})
        assert made.status_code == 201
        kicked_off = client.get("/fhir/$export", params={"_type": "Patient"}, headers=ASYNC)
        assert kicked_off.status_code == 202
        status = kicked_off.headers["content-location"]

        def complete() -> httpx.Response | None:
            answer = client.get(status)
            return answer if answer.status_code == 200 else None

        manifest = until("the export to be complete", complete).json()
        (item,) = manifest["output"]
        lines = client.get(item["url"]).text.splitlines()
        assert len(lines) == item["count"]
        assert any(made.json()["id"] in line for line in lines)
        assert client.delete(status).status_code == 202
        assert client.get(status).status_code == 404
