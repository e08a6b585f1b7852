"""Resources as HL7 v2 messages: what the shipped maps write, read by HL7 libraries that are not ours, and by us."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hl7 as foreign
import pytest
from hl7apy.parser import parse_message

from wetread.errors import Misconfigured
from wetread.mapping.messages import datatypes, write
from wetread.mapping.messages.load import RULE_KEYS, SEGMENT_KEYS, TAKEN, load
from wetread.mapping.messages.model import MessageMap
from wetread.mapping.model import Maps
from wetread.mapping.orders import Mapped, map_message
from wetread.mapping.site import Site
from wetread.record import fhirpath, lossless
from wetread.wire import hl7

ROOT = Path(__file__).parents[3]
BASE = "https://wetread.example/fhir"
AT = datetime(2026, 11, 22, 5, 30, tzinfo=UTC)
ENVELOPE = write.Envelope("K2J4-7", ("WETREAD", "AI"), ("EHR", "HOSP"), "P")
Resource = dict[str, Any]


@pytest.fixture(scope="module")
def forms() -> Mapping[str, MessageMap]:
    return load(ROOT / "mappings", None)


@pytest.fixture(scope="module")
def names(maps: Maps) -> datatypes.Names:
    return datatypes.names({"HOSP": "urn:oid:1.2.3.5"}, maps.codes["coding-system"].codes)


@pytest.fixture(scope="module")
def examples() -> dict[str, Resource]:
    """What the demonstration made, by reference."""
    found = [lossless.parse(file.read_text()) for file in (ROOT / "conformance" / "examples").glob("*.json")]
    return {f"{one['resourceType']}/{one['id']}": one for one in found}


Write = Callable[..., bytes]


@pytest.fixture(scope="module")
def written(forms: Mapping[str, MessageMap], names: datatypes.Names, examples: dict[str, Resource]) -> Write:
    """The message of a resource, for which what it refers to is found among the examples."""

    def make(resource: Resource, change: str = "create", hidden: str = "") -> bytes:
        form = forms[resource["resourceType"]]
        related: dict[str, list[Resource]] = {}
        told = write.Told(AT, resource, related, change, 7, BASE)
        for each in form.related:
            wanted = [r for r in write.references(each.references, told) if r.startswith(f"{each.resource_type}/")]
            related[each.name] = [examples[r] for r in wanted if r in examples and each.name != hidden]
        return write.message(form, told, ENVELOPE, names)

    return make


def one(examples: dict[str, Resource], resource_type: str, holding: str) -> Resource:
    return next(
        dict(r) for key, r in examples.items() if key.startswith(f"{resource_type}/") and holding in lossless.dump(r)
    )


def test_every_type_has_a_message_that_others_read(written: Write, examples: dict[str, Resource]) -> None:
    seen = set()
    for resource in examples.values():
        if resource["resourceType"] in ("Observation", "DiagnosticReport", "ImagingStudy", "ServiceRequest", "Patient"):
            message = written(resource)
            text = message.decode()
            ours, theirs = hl7.parse(message), foreign.parse(text)
            parsed = parse_message(text, find_groups=False)
            assert [s.name for s in ours.segments] == [str(s[0]) for s in theirs] == [c.name for c in parsed.children]
            assert str(theirs["MSH.F10"]) == parsed.msh.msh_10.to_er7() == "K2J4-7"
            assert not ours.warnings
            seen.add(ours.header.raw(9))
    assert seen == {"ORU^R01^ORU_R01", "ORM^O01^ORM_O01", "ADT^A08^ADT_A01"}


@pytest.mark.parametrize("resource_type", ["Observation", "DiagnosticReport", "ImagingStudy", "Patient"])
def test_a_message_keeps_to_the_structure_of_its_type(
    resource_type: str, written: Write, examples: dict[str, Resource]
) -> None:
    """hl7apy knows the structures of 2.5.1: groups, required segments, number of fields and components. An order's ZDS
    is IHE's own, so it is not asked of that."""
    for resource in examples.values():
        if resource["resourceType"] == resource_type:
            parsed = parse_message(written(resource).decode(), find_groups=True)
            parsed.validate()


def test_the_same_event_gives_the_same_bytes(written: Write, examples: dict[str, Resource]) -> None:
    report = one(examples, "DiagnosticReport", "hemorrhage")
    assert written(report) == written(report)


def test_a_critical_observation_is_an_oru(written: Write, examples: dict[str, Resource]) -> None:
    message = hl7.parse(written(one(examples, "Observation", "Critical abnormal")))
    assert message.header.text == (
        r"MSH|^~\&|WETREAD|AI|EHR|HOSP|20261122053000+0000||ORU^R01^ORU_R01|K2J4-7|P|2.5.1||||||UNICODE UTF-8"
    )
    pid, obr, obx = (message.first(name) for name in ("PID", "OBR", "OBX"))
    assert pid is not None
    assert obr is not None
    assert obx is not None
    assert (pid.raw(3), pid.raw(7), pid.raw(8)) == ("DEMO-1004^^^DEMO-HOSPITAL^MR", "19550101", "O")
    assert [pid.raw(n) for n in (11, 13)] == ["", ""], "what a result does not need stays here"
    assert (obr.raw(2), obr.raw(3)) == ("DEMO-P1004^DEMO-EHR", "DEMO-F1004^DEMO-RIS")
    assert (obr.raw(4), obr.raw(18), obr.raw(25)) == ("30799-1^CT Head WO contrast^LN", "DEMO-A1004", "P")
    assert [obx.raw(n) for n in (2, 3, 5, 8, 11)] == [
        "CWE", "1386000^Intracranial hemorrhage^SCT", "52101004^Present^SCT", "AA~POS", "P",
    ]  # fmt: skip
    volume = message.all("OBX")[1]
    assert [volume.raw(n) for n in (2, 3, 5, 6)] == ["NM", "118565006^Volume^SCT", "27.0", "mL^milliliter^UCUM"]
    notes = [note.value(3) for note in message.all("NTE")]
    assert "AI-generated, not verified by a physician." in notes
    assert [note.raw(1) for note in message.all("NTE")] == [str(n) for n in range(1, len(notes) + 1)]


def test_a_report_comes_with_its_results_and_its_conclusion(written: Write, examples: dict[str, Resource]) -> None:
    report = one(examples, "DiagnosticReport", "hemorrhage")
    message = hl7.parse(written(report))
    finding, *_, conclusion, study = message.all("OBX")
    assert (finding.value(3), finding.value(4)) == ("1386000", "1")
    assert (conclusion.raw(2), conclusion.value(5)) == ("FT", report["conclusion"])
    assert study.value(5).startswith("2.25.")
    assert [obx.raw(1) for obx in message.all("OBX")] == [str(n) for n in range(1, len(message.all("OBX")) + 1)]


@pytest.mark.parametrize(
    ("status", "of_request", "of_value"),
    [("preliminary", "P", "P"), ("final", "F", "F"), ("amended", "C", "C"), ("entered-in-error", "X", "W")],
)
def test_the_status_of_an_observation_goes_along(
    status: str, of_request: str, of_value: str, written: Write, examples: dict[str, Resource]
) -> None:
    message = hl7.parse(written({**one(examples, "Observation", "Pneumonia"), "status": status}, "update"))
    obr, obx = message.first("OBR"), message.first("OBX")
    assert obr is not None
    assert obx is not None
    assert (obr.raw(25), obx.raw(11)) == (of_request, of_value)


def test_a_study_tells_where_its_images_are_and_no_result(written: Write, examples: dict[str, Resource]) -> None:
    message = hl7.parse(written(one(examples, "ImagingStudy", "DEMO-A1004")))
    obr = message.first("OBR")
    assert obr is not None
    assert (obr.raw(18), obr.raw(25)) == ("DEMO-A1004", "I")
    told = {obx.value(3): (obx.value(5), obx.raw(11)) for obx in message.all("OBX")}
    assert told["110180"] == ("2.25.6205443244435699895657699384135265834", "O")
    assert told["121139"] == ("CT", "O")


def test_an_order_that_we_write_is_the_order_that_we_read(
    written: Write, examples: dict[str, Resource], maps: Maps, site: Site
) -> None:
    order = one(examples, "ServiceRequest", "DEMO-A1004")
    mapped: Mapped = map_message(hl7.parse(written(order)), maps, site)
    read = mapped.orders[0].service_request
    # OBR-18 has no place for who assigned the accession number.
    assert {i["value"] for i in read["identifier"]} == {i["value"] for i in order["identifier"]}
    for element in ("status", "priority", "orderDetail", "occurrenceDateTime", "authoredOn"):
        assert read[element] == order[element]
    assert read["code"]["coding"] == order["code"]["coding"]


@pytest.mark.parametrize(
    ("status", "change", "control"),
    [
        ("active", "create", "NW"),
        ("active", "update", "XX"),
        ("revoked", "update", "OC"),
        ("completed", "update", "SC"),
    ],
)
def test_what_happened_to_an_order_is_its_control_code(
    status: str, change: str, control: str, written: Write, examples: dict[str, Resource]
) -> None:
    order = {**one(examples, "ServiceRequest", "DEMO-A1004"), "status": status}
    orc = hl7.parse(written(order, change)).first("ORC")
    assert orc is not None
    assert orc.raw(1) == control


def test_a_patient_that_may_not_be_read_is_only_the_reference(written: Write, examples: dict[str, Resource]) -> None:
    observation = one(examples, "Observation", "hemorrhage")
    pid = hl7.parse(written(observation, hidden="patient")).first("PID")
    assert pid is not None
    assert pid.text == f"PID|1||{observation['subject']['reference']}"


def test_text_cannot_leave_its_field(written: Write, examples: dict[str, Resource]) -> None:
    evil = "a|b^c~d&e\\f\rPID|1||EVIL\n"
    patient = {**one(examples, "Patient", "DEMO-1004"), "name": [{"family": evil}]}
    message = hl7.parse(written(patient))
    assert [s.name for s in message.segments] == ["MSH", "EVN", "PID", "PV1"]
    pid = message.first("PID")
    assert pid is not None
    assert pid.value(5) == " ".join(evil.split())
    report = {**one(examples, "DiagnosticReport", "hemorrhage"), "conclusion": evil, "result": []}
    [conclusion] = [x for x in hl7.parse(written(report)).all("OBX") if x.raw(2) == "FT"]
    assert conclusion.value(5) == "a|b^c~d&e\\f\nPID|1||EVIL"


@pytest.mark.parametrize(
    ("element", "value", "kind", "told", "unit"),
    [
        ("Quantity", {"value": 5, "comparator": "<", "unit": "mm", "code": "mm", "system": "http://unitsofmeasure.org"},
         "SN", "<^5", "mm^mm^UCUM"),
        ("Range", {"low": {"value": 1, "unit": "cm"}, "high": {"value": 2}}, "SN", "^1^-^2", "^cm"),
        ("Ratio", {"numerator": {"value": 1}, "denominator": {"value": 128}}, "SN", "^1^:^128", ""),
        ("String", "two\nlines", "FT", "two\\.br\\lines", ""),
        ("Boolean", True, "ID", "Y", ""),
        ("Integer", 3, "NM", "3", ""),
        ("DateTime", "2026-01-02T03:04:05+01:00", "TS", "20260102030405+0100", ""),
        ("Time", "10:20:30", "TM", "102030", ""),
        ("Period", {"start": "2026-01", "end": "2026-02-03"}, "DR", "202601^20260203", ""),
    ],
)  # fmt: skip
def test_values_of_every_kind(
    element: str, value: Any, kind: str, told: str, unit: str, written: Write, examples: dict[str, Resource]
) -> None:
    observation = one(examples, "Observation", "Pneumonia")
    for name in ("valueCodeableConcept", "component"):
        observation.pop(name)
    obx = hl7.parse(written({**observation, f"value{element}": value})).first("OBX")
    assert obx is not None
    assert (obx.raw(2), obx.raw(5), obx.raw(6)) == (kind, told, unit)


def test_an_observation_without_a_value_still_says_what_it_is_of(written: Write, examples: dict[str, Resource]) -> None:
    observation = one(examples, "Observation", "Pneumonia")
    for name in ("valueCodeableConcept", "component"):
        observation.pop(name)
    obx = hl7.parse(written(observation)).first("OBX")
    assert obx is not None
    assert (obx.raw(2), obx.raw(3), obx.raw(5), obx.raw(11)) == ("", "233604007^Pneumonia^SCT", "", "P")


@pytest.mark.parametrize(
    ("system", "authority"),
    [
        ("urn:oid:1.2.3.5", "HOSP&1.2.3.5&ISO"),
        ("urn:oid:1.9", "&1.9&ISO"),
        ("urn:wetread:authority:A%20B", "A B"),
        ("http://hospital.example/mrn", "&http://hospital.example/mrn&URI"),
        ("urn:uuid:0f9e1b3a-8a53-4d0c-9d6e-3b1a6f3c2d10", "&0f9e1b3a-8a53-4d0c-9d6e-3b1a6f3c2d10&UUID"),
    ],
)
def test_an_identifiers_system_is_its_assigning_authority(system: str, authority: str, names: datatypes.Names) -> None:
    identifier = fhirpath.Node({"system": system, "value": "7"}, "Identifier")
    assert datatypes.cx(identifier, names) == f"7^^^{authority}"


def test_addresses_and_numbers(names: datatypes.Names) -> None:
    home = {"use": "home", "line": ["Main 1", "2nd floor"], "city": "Bonn", "postalCode": "53111", "country": "DE"}
    assert datatypes.xad(fhirpath.Node(home, "Address"), names) == "Main 1^2nd floor^Bonn^^53111^DE^H"
    mail = {"system": "email", "value": "a@b.example"}
    assert datatypes.xtn(fhirpath.Node(mail, "ContactPoint"), names) == "^NET^Internet^a@b.example"
    phone = {"system": "phone", "value": "+49 1", "use": "mobile"}
    assert datatypes.xtn(fhirpath.Node(phone, "ContactPoint"), names) == "+49 1^PRS^CP^^^^^^^^^+49 1"


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        ("resource: Patent\nmessage: ADT^A08^ADT_A01\nsegments: []", "resource: expected a type"),
        ("resource: Patient\nmessage: ADT\nsegments: []", "message: expected MSH-9"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nsegments: []", "segments: expected a list"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nsegments: [ZZZ]", "segments.1: no segment 'ZZZ'"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nsegments: [PID]", "no resource is called %patient"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nsegments: [{segment: PID, fields: {x: {value: a}}}]",
         "segments.1.fields.x: expected the number"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nsegments: [{segment: PID, fields: {3: {from: 'a(('}}}]",
         "not FHIRPath"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nsegments: [{segment: PID, fields: {3: {from: id, as: no}}}]",
         "no converter 'no'"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nsegments: [{segment: PID, fields: {3: {take: no}}}]",
         "expected one of at"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nsegments: [{segment: PID, fields: {3: {}}}]", "exactly one of"),
        ("resource: Patient\nmessage: ADT^A08^ADT_A01\nother: 1\nsegments: []", "other: unknown key"),
    ],
)  # fmt: skip
def test_a_mistake_in_a_map_is_found_at_start(content: str, complaint: str, tmp_path: Path) -> None:
    (tmp_path / "messages").mkdir()
    (tmp_path / "messages" / "patient.yaml").write_text(content)
    with pytest.raises(Misconfigured, match=r"patient\.yaml") as told:
        load(ROOT / "mappings", tmp_path)
    assert complaint in told.value.message


def test_a_site_says_only_what_differs(tmp_path: Path, names: datatypes.Names) -> None:
    (tmp_path / "messages").mkdir()
    (tmp_path / "messages" / "segments.yaml").write_text(
        'extends: shipped\nsegments: {PV1: {segment: PV1, fields: {1: {value: "9"}}}}\n'
    )
    (tmp_path / "messages" / "patient.yaml").write_text("extends: shipped\nmessage: ADT^A31^ADT_A05\nsegments: [PV1]\n")
    form = load(ROOT / "mappings", tmp_path)["Patient"]
    told = write.Told(AT, {"resourceType": "Patient", "id": "1"}, {}, "update", 1, BASE)
    header, visit, _ = write.message(form, told, ENVELOPE, names).split(b"\r")
    assert b"|ADT^A31^ADT_A05|" in header
    assert visit == b"PV1|9"


DOCUMENT = (ROOT / "docs" / "channels.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("word", sorted({*datatypes.CONVERTERS, *TAKEN, *RULE_KEYS, *SEGMENT_KEYS}))
def test_every_word_of_a_map_is_documented(word: str) -> None:
    assert f"`{word}`" in DOCUMENT


def test_the_maps_of_the_documentation_load(tmp_path: Path) -> None:
    extension, whole = re.findall(r"```yaml\n(.*?)```", DOCUMENT, re.DOTALL)
    (tmp_path / "messages").mkdir()
    (tmp_path / "messages" / "patient.yaml").write_text(extension)
    (tmp_path / "messages" / "observation.yaml").write_text(whole)
    found = load(ROOT / "mappings", tmp_path)
    assert found["Patient"].message == ("ADT", "A31", "ADT_A05")
    assert len(found["Observation"].parts) == 2
