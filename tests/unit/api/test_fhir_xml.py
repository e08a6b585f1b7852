"""XML at the edge of the FHIR face: asked for, sent, refused (FHIR R4 http.html 3.1.0.1.9, xml.html)."""

from __future__ import annotations

from xml.etree import ElementTree

import httpx
import pytest

XML = {"Content-Type": "application/fhir+xml"}
TAKES_XML = {"Accept": "application/fhir+xml"}
NAMES = {"f": "http://hl7.org/fhir"}
OBSERVATION = """<?xml version="1.0" encoding="UTF-8"?>
<Observation xmlns="http://hl7.org/fhir">
  <text><status value="generated"/><div xmlns="http://www.w3.org/1999/xhtml"><p>6.30 &amp; stable</p></div></text>
  <status value="final"/>
  <code><coding><system value="http://loinc.org"/><code value="15074-8"/></coding></code>
  <issued value="2026-03-01T10:00:00Z">
    <extension url="http://example.org/about"><valueCode value="x"/></extension>
  </issued>
  <valueQuantity><value value="6.30"/></valueQuantity>
</Observation>"""


@pytest.fixture
async def client(shared_fhir_client: httpx.AsyncClient) -> httpx.AsyncClient:
    patient = {"resourceType": "Patient", "id": "x1", "gender": "female", "active": True}
    assert (await shared_fhir_client.put("Patient/x1", json=patient)).status_code in (200, 201)
    return shared_fhir_client


def root(answer: httpx.Response) -> ElementTree.Element:
    assert answer.headers["content-type"] == "application/fhir+xml", answer.text
    assert answer.headers["content-length"] == str(len(answer.content))
    return ElementTree.fromstring(answer.content)


def name(element: ElementTree.Element) -> str:
    return element.tag.removeprefix("{http://hl7.org/fhir}")


@pytest.mark.parametrize(
    ("path", "headers"),
    [
        ("Patient/x1", {"Accept": "application/fhir+xml"}),
        ("Patient/x1", {"Accept": "application/xml"}),
        ("Patient/x1", {"Accept": "text/xml"}),
        ("Patient/x1", {"Accept": "application/json;q=0.4, application/fhir+xml;q=0.5"}),
        ("Patient/x1", {"Accept": "text/html, application/fhir+xml;q=0.9, */*;q=0.1"}),
        ("Patient/x1?_format=xml", {}),
        ("Patient/x1?_format=application/fhir+xml", {}),
        ("Patient/x1?_format=text/xml", {"Accept": "application/fhir+json"}),
    ],
)
async def test_who_asks_for_xml_gets_it(client: httpx.AsyncClient, path: str, headers: dict[str, str]) -> None:
    answer = await client.get(path, headers=headers)
    assert (answer.status_code, name(root(answer)), answer.headers["etag"]) == (200, "Patient", 'W/"1"')


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("Patient?_id=x1", "Bundle"),
        ("Patient/x1/_history", "Bundle"),
        ("Patient/x1/_history/1", "Patient"),
        ("Patient/x1?_elements=gender", "Patient"),
        ("Patient/x1/$everything", "Bundle"),
        ("metadata", "CapabilityStatement"),
        ("metadata?mode=terminology", "TerminologyCapabilities"),
        ("AuditEvent?_count=2", "Bundle"),
    ],
)
async def test_every_interaction_answers_in_xml(client: httpx.AsyncClient, path: str, kind: str) -> None:
    answer = await client.get(path, headers=TAKES_XML)
    assert (answer.status_code, name(root(answer))) == (200, kind)
    head = await client.head(path, headers=TAKES_XML)
    assert (head.headers["content-type"], head.content) == ("application/fhir+xml", b"")


@pytest.mark.parametrize(
    ("path", "status"),
    [("Patient/none", 404), ("Patient/x1?_summary=some", 400), ("nowhere/at/all/to/be", 404), ("Nothing", 404)],
)
async def test_an_error_is_told_in_xml_too(client: httpx.AsyncClient, path: str, status: int) -> None:
    answer = await client.get(path, headers=TAKES_XML)
    told = root(answer)
    assert (answer.status_code, name(told)) == (status, "OperationOutcome")
    assert told.find("f:issue/f:diagnostics", NAMES) is not None


async def test_what_is_sent_in_xml_is_stored_and_read_in_json_with_its_digits(client: httpx.AsyncClient) -> None:
    made = await client.post("Observation", content=OBSERVATION, headers=XML)
    assert (made.status_code, name(root(made))) == (201, "Observation"), made.text
    path = made.headers["location"].partition("/_history")[0]
    read = await client.get(path)
    assert read.headers["content-type"] == "application/fhir+json"
    assert '"value":6.30' in read.text
    content = read.json()
    assert content["text"]["div"] == '<div xmlns="http://www.w3.org/1999/xhtml"><p>6.30 &amp; stable</p></div>'
    assert content["_issued"] == {"extension": [{"url": "http://example.org/about", "valueCode": "x"}]}
    again = await client.get(path, headers=TAKES_XML)
    value = root(again).find("f:valueQuantity/f:value", NAMES)
    assert value is not None
    assert value.get("value") == "6.30"
    updated = await client.put(path, content=again.content, headers={**XML, "Accept": "application/fhir+json"})
    assert (updated.status_code, updated.headers["content-type"]) == (200, "application/fhir+json")
    assert {k: v for k, v in updated.json().items() if k != "meta"} == {k: v for k, v in content.items() if k != "meta"}


async def test_a_transaction_and_an_operation_are_taken_in_xml(client: httpx.AsyncClient) -> None:
    entry = """<entry><fullUrl value="urn:uuid:6f0f9fd6-3f9e-4a6f-a5cb-0e6f1c1f0a01"/>
      <resource><Patient><active value="true"/></Patient></resource>
      <request><method value="POST"/><url value="Patient"/></request></entry>"""
    bundle = f'<Bundle xmlns="http://hl7.org/fhir"><type value="transaction"/>{entry}</Bundle>'
    done = root(await client.post("", content=bundle, headers=XML))
    status = done.find("f:entry/f:response/f:status", NAMES)
    assert status is not None
    assert (status.get("value") or "").startswith("201")
    parameters = f"""<Parameters xmlns="http://hl7.org/fhir"><parameter><name value="resource"/>
      <resource>{OBSERVATION.partition("?>")[2].replace("final", "wrong")}</resource></parameter></Parameters>"""
    outcome = root(await client.post("Observation/$validate", content=parameters, headers=XML))
    places = [place.get("value") for place in outcome.findall("f:issue/f:expression", NAMES)]
    assert "Observation.status" in places


async def test_a_search_by_form_answers_in_xml(client: httpx.AsyncClient) -> None:
    answer = await client.post("Patient/_search", data={"_id": "x1"}, headers=TAKES_XML)
    total = root(answer).find("f:entry/f:resource/f:Patient/f:id", NAMES)
    assert total is not None
    assert total.get("value") == "x1"


async def test_pages_of_xml_are_pages_of_xml(client: httpx.AsyncClient) -> None:
    await client.post("Patient", json={"resourceType": "Patient"})
    page = root(await client.get("Patient?_count=1&_format=xml"))
    links = {link[0].get("value"): link[1].get("value") for link in page.findall("f:link", NAMES)}
    following = await client.get(links["next"] or "")
    assert (following.status_code, name(root(following))) == (200, "Bundle")


async def test_pretty_xml_has_lines(client: httpx.AsyncClient) -> None:
    answer = await client.get("Patient/x1?_format=xml&_pretty=true")
    assert '\n<Patient xmlns="http://hl7.org/fhir">\n  <id value="x1"/>\n' in answer.text
    assert name(root(answer)) == "Patient"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ('<!DOCTYPE p [<!ENTITY e SYSTEM "file:///x">]><Patient xmlns="http://hl7.org/fhir"/>', "a document type"),
        ('<Patient xmlns="http://hl7.org/fhir"><colour value="red"/></Patient>', "no such element"),
        ("<Patient/>", "no R4 resource"),
        ("{}", "not XML"),
        ("", "not XML"),
    ],
)
async def test_xml_that_is_not_fhir_is_refused(client: httpx.AsyncClient, body: str, told: str) -> None:
    answer = await client.post("Patient", content=body, headers={**XML, "Accept": "application/fhir+json"})
    assert (answer.status_code, answer.json()["issue"][0]["code"]) == (400, "invalid")
    assert told in answer.json()["issue"][0]["diagnostics"]


async def test_an_outcome_that_xml_cannot_hold_is_told_in_json(client: httpx.AsyncClient) -> None:
    answer = await client.get("Patient?%01=x", headers={**TAKES_XML, "Prefer": "handling=strict"})
    assert (answer.status_code, answer.headers["content-type"]) == (400, "application/fhir+json")
    assert answer.json()["resourceType"] == "OperationOutcome"
