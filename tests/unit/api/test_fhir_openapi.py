"""The OpenAPI document of the FHIR face tells what is there."""

from __future__ import annotations

import httpx


async def test_every_path_and_method_of_the_document_is_done(shared_fhir_client: httpx.AsyncClient) -> None:
    answer = await shared_fhir_client.get("openapi.json", headers={"Authorization": ""})
    assert (answer.status_code, answer.headers["content-type"]) == (200, "application/openapi+json")
    document = answer.json()
    assert document["openapi"].startswith("3.1")
    values = {"type": "Patient", "id": "none", "version": "1", "inner": "Observation"}
    tried = 0
    for path, item in document["paths"].items():
        for method in item.keys() - {"parameters"}:
            reply = await shared_fhir_client.request(method, path.format(**values).lstrip("/"))
            assert reply.status_code != 405, (method, path)
            assert str(reply.status_code) in item[method]["responses"], (method, path, reply.status_code)
            tried += 1
    assert tried > 15


async def test_what_the_document_refers_to_is_in_it(shared_fhir_client: httpx.AsyncClient) -> None:
    document = (await shared_fhir_client.get("openapi.json")).json()

    def references(value: object) -> set[str]:
        match value:
            case {"$ref": str(reference)}:
                return {reference}
            case dict():
                return {r for member in value.values() for r in references(member)}
            case list():
                return {r for item in value for r in references(item)}
        return set()

    schemas = document["components"]["schemas"]
    assert {r.rpartition("/")[2] for r in references(document)} == set(schemas)
    assert "AuditEvent" not in schemas["Resource"]["properties"]["resourceType"]["enum"]
