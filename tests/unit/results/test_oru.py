"""The alert as HL7 v2.5.1 ORU^R01: read back with our own parser, with hl7apy."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import hl7apy.parser
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.soak import times

from wetread.domain.codes import SCT, Coded
from wetread.domain.finding import Finding, ModelIdentity, Reading
from wetread.domain.identity import AccessionNumber, PatientIdentifier, PatientIdentity
from wetread.domain.phase import Phase
from wetread.errors import InvalidInput
from wetread.results.context import ReadingContext
from wetread.results.oru import alert
from wetread.wire import hl7

PID = r'PID|1||A1^^^HOSP&1.2.3&ISO~B\T\2||O\E\Brien^\X41\||""|F|||a\.br\b||||||||||||||||||||||||||||||||||Z^z&z||'
ORDER = "\r".join(
    (
        r"MSH|^~\&|RIS|HOSP|WETREAD|AI|20260301||ORM^O01|1|P|2.3.1",
        PID,
        r"PV1|1|E|ED^3^1||||||||||||||||V77^^^HOSP",
        r"ORC|NW|P1^RIS^1.2&x^ISO|F1||||||||||77^Who&Mc^A~88^B",
        r"OBR|1|P1|F1|71045^Chest 1V \T\ more^C4|||||||||||||16^Req|||OTHER",
        r"ORC|NW|P2^RIS|F2~F2b|||||||||99^Orderer",
        r"OBR|1|P2|F2|70450^CT Head \T\ neck^C4||||||||||||16^Ref|cb|ACC-1|19|20||||CT|||||||^Bleed?",
        "",
    )
)
PATIENT = PatientIdentity(
    (PatientIdentifier("MRN|1", "urn:oid:1.2.3"), PatientIdentifier("9", "urn:wetread:authority:A&B")),
    family="Fam^ily",
    given="Zo\u00eb",
    birth_date="1970-01-02",
    sex="F",
)


@pytest.fixture
def reading(head_ct: Any, bleed: Finding, brain: Finding, no_pneumonia: Finding, make_reading: Any) -> Reading:
    made: Reading = make_reading(head_ct, bleed, brain, no_pneumonia, synthetic=True, demo=True)
    return made


@pytest.fixture
def context(head_ct: Any, make_context: Any) -> ReadingContext:
    made: ReadingContext = make_context(head_ct)
    return made


def built(
    reading: Reading, context: ReadingContext, order: str | None = ORDER, link: str = "https://x.example/v?a=1&b=2"
) -> bytes:
    return alert(
        reading,
        context,
        hl7.parse(order.encode()) if order else None,
        PATIENT,
        sending=("WET|READ", "AI"),
        receiving=("EHR", "HOSP"),
        processing_id="T",
        control_id="ABCDEFGHIJKLMNOPQRST",
        link=link,
    )


def only(message: hl7.Message, name: str) -> hl7.Segment:
    (segment,) = message.all(name)
    return segment


def observations(message: hl7.Message, code: str) -> list[hl7.Segment]:
    return [s for s in message.all("OBX") if s.value(3) == code]


def test_the_header_is_that_of_a_2_5_1_oru(reading: Reading, context: ReadingContext) -> None:
    header = hl7.parse(built(reading, context)).header
    assert header.raw(9) == "ORU^R01^ORU_R01"
    assert (header.value(3), header.value(4), header.value(5), header.value(6)) == ("WET|READ", "AI", "EHR", "HOSP")
    assert (header.value(10), header.value(11), header.value(12)) == ("ABCDEFGHIJKLMNOPQRST", "T", "2.5.1")
    assert header.value(18) == "UNICODE UTF-8"
    assert header.value(7) == "20260301233000+0000"


def test_the_patient_is_echoed_exactly_as_received(reading: Reading, context: ReadingContext) -> None:
    assert PID in built(reading, context).decode().split("\r")


def test_the_order_is_echoed_from_the_group_of_its_accession_number(reading: Reading, context: ReadingContext) -> None:
    message = hl7.parse(built(reading, context))
    orc, obr, pv1 = only(message, "ORC"), only(message, "OBR"), only(message, "PV1")
    assert [orc.raw(n) for n in (1, 2, 3, 5, 12)] == ["RE", "P2^RIS", "F2~F2b", "IP", "99^Orderer"]
    assert [obr.raw(n) for n in (2, 3, 4)] == ["P2^RIS", "F2~F2b", r"70450^CT Head \T\ neck^C4"]
    assert [obr.raw(n) for n in (16, 18, 19, 20, 24)] == ["16^Ref", "ACC-1", "19", "20", "CT"]
    assert obr.raw(44) == obr.raw(4)
    assert obr.raw(31) == "^Bleed?"
    assert (pv1.raw(2), pv1.raw(3), pv1.raw(19)) == ("E", "ED^3^1", "V77^^^HOSP")


def test_the_result_is_preliminary_and_has_no_interpreter(reading: Reading, context: ReadingContext) -> None:
    message = hl7.parse(built(reading, context))
    obr = only(message, "OBR")
    assert obr.value(25) == "P"
    assert obr.raw(32) == ""
    assert {s.value(11) for s in message.all("OBX")} == {"P"}
    assert [s.value(9) for s in message.all("TQ1")] == ["S"]


def test_without_an_order_the_patient_and_the_study_speak(reading: Reading, context: ReadingContext) -> None:
    message = hl7.parse(built(reading, context, order=None))
    pid, obr = only(message, "PID"), only(message, "OBR")
    assert pid.raw(3) == r"MRN\F\1^^^&1.2.3&ISO~9^^^A\T\B"
    assert (pid.value(5), pid.value(5, 2), pid.value(7), pid.value(8)) == ("Fam^ily", "Zo\u00eb", "19700102", "F")
    assert (obr.value(4), obr.value(18), obr.value(24)) == ("18748-4", "ACC-1", "RAD")
    assert message.first("PV1") is None


def test_a_sites_own_procedure_code_is_a_local_code(reading: Reading, context: ReadingContext) -> None:
    local = replace(context, procedure=Coded("CTH", "urn:wetread:codes:ris", "CT head"))
    assert only(hl7.parse(built(reading, local, order=None)), "OBR").raw(4) == "CTH^CT head^L"


def test_the_critical_finding_is_coded_and_flagged_aa(reading: Reading, context: ReadingContext) -> None:
    flagged = [s for s in hl7.parse(built(reading, context)).all("OBX") if s.value(8)]
    assert len(flagged) == 1
    assert (flagged[0].value(2), flagged[0].value(5), flagged[0].value(8)) == ("CWE", "1386000", "AA")
    assert flagged[0].value(3) == "59776-5"
    assert flagged[0].value(3, 4) == "ai-reading"


def test_numbers_keep_digits_units_and_threshold(reading: Reading, context: ReadingContext) -> None:
    message = hl7.parse(built(reading, context))
    (certainty,) = observations(message, "111012")
    assert (certainty.value(2), certainty.value(5), certainty.value(6), certainty.value(7)) == (
        "NM",
        "0.930",
        "1",
        "<0.50",
    )
    assert [(s.value(5), s.value(6), s.value(4)) for s in observations(message, "118565006")] == [
        ("12.40", "mL", "1"),
    ]


def test_an_alert_tells_present_findings_only(reading: Reading, context: ReadingContext) -> None:
    text = built(reading, context)
    assert b"Pneumonia" not in text  # absent
    assert b"1507.10" not in text  # a measurement of a normal organ


def test_study_and_link_are_given(reading: Reading, context: ReadingContext) -> None:
    message = hl7.parse(built(reading, context))
    assert [s.value(5) for s in observations(message, "113014")] == [reading.study_instance_uid]
    (link,) = observations(message, "18748-4")
    assert (link.value(2), link.value(5)) == ("RP", "https://x.example/v?a=1&b=2")


def test_every_observation_names_model_device_and_time(reading: Reading, context: ReadingContext) -> None:
    for obx in hl7.parse(built(reading, context)).all("OBX"):
        assert obx.value(17, 2) == "SYNTHETIC cxr-pneumonia-peds 1.0.0"
        assert obx.value(18) == "device-1"
        assert (obx.value(14), obx.value(19)) == ("20260301220000+0000", "20260301233000+0000")
        assert obx.value(16) == ""


def test_the_caveats_are_told(reading: Reading, context: ReadingContext) -> None:
    told = " ".join(s.value(3) for s in hl7.parse(built(reading, context)).all("NTE"))
    for part in ("SYNTHETIC", "DEMO", "not verified by a physician", "NOT FOR CLINICAL USE", "Intended use"):
        assert part in told


def test_the_structure_is_that_of_oru_r01_for_hl7apy(reading: Reading, context: ReadingContext) -> None:
    """hl7apy drops segments that the structure does not expect where it groups them: none may be lost."""
    text = built(reading, context, order=None).decode()
    parsed = hl7apy.parser.parse_message(text, find_groups=True)
    assert parsed.validate()
    assert parsed.to_er7().rstrip("\r") == text.rstrip("\r")


def test_the_delimiters_of_the_order_are_kept_for_its_echoes(reading: Reading, context: ReadingContext) -> None:
    strange = ORDER.translate(str.maketrans({"|": "*", "^": ":", "~": "!"}))
    message = hl7.parse(built(reading, context, order=strange))
    obr = only(message, "OBR")
    assert obr.value(4, 2) == "CT Head & neck"
    assert observations(message, "111012")[0].value(5) == "0.930"
    assert message.header.value(12) == "2.5.1"


def test_the_truncation_character_of_a_newer_order_is_not_escaped_for_a_2_5_1_receiver(
    reading: Reading, context: ReadingContext
) -> None:
    newer = ORDER.replace("^~\\&|", "^~\\&#|", 1).replace("2.3.1", "2.7")
    text = built(reading, context, order=newer, link="https://x.example/v#1").decode()
    assert text.startswith("MSH|^~\\&|")
    assert "https://x.example/v#1^" in text


def test_the_same_alert_is_the_same_bytes(reading: Reading, context: ReadingContext) -> None:
    assert built(reading, context) == built(reading, context)


@pytest.mark.parametrize("phase", [Phase.SILENT, Phase.CONCURRENT])
def test_a_model_that_is_not_active_cannot_alert(phase: Phase, reading: Reading, context: ReadingContext) -> None:
    with pytest.raises(InvalidInput, match="active model"):
        built(replace(reading, phase=phase), context)


@pytest.mark.parametrize("changed", [{"present": False}, {"critical": False}])
def test_only_a_present_critical_finding_alerts(
    changed: dict[str, bool], reading: Reading, context: ReadingContext
) -> None:
    findings = tuple(replace(f, **changed) for f in reading.findings)
    with pytest.raises(InvalidInput, match="present critical finding"):
        built(replace(reading, findings=findings), context)


ANY_TEXT = st.text(st.characters(codec="utf-8", exclude_categories=["Cs"]), max_size=40)


@settings(max_examples=times(25), deadline=None)
@given(organization=ANY_TEXT, warning=ANY_TEXT, link=ANY_TEXT, name=ANY_TEXT)
def test_no_text_can_break_a_segment_or_a_field(organization: str, warning: str, link: str, name: str) -> None:
    code = Coded("1386000", SCT, name)
    reading = Reading(
        run_id="run-1",
        study_instance_uid="1.2.3",
        series_instance_uid="1.2.3.4",
        revision=1,
        model=ModelIdentity(name or "m", "1", "a" * 64, "b" * 64, "Wetread"),
        phase=Phase.ACTIVE,
        findings=(Finding("f", code, present=True, critical=True),),
        source_instances=("1.2.3.4.5",),
        read_at=datetime(2026, 3, 1, tzinfo=UTC),
        runtime="",
        duration_ms=1,
        warnings=(warning,),
    )
    context = ReadingContext(
        base_url="https://wetread.example/fhir",
        patient_id="p",
        imaging_study_id="s",
        service_request_id=None,
        encounter_id=None,
        device_id="d",
        task_id=None,
        study_instance_uid="1.2.3",
        accession=AccessionNumber("A"),
        started=None,
        modality="CT",
        body_site=None,
        procedure=None,
        organization=organization,
        demo=False,
        previous_sr_uid=None,
    )
    message = hl7.parse(built(reading, context, link=link))
    names = [s.name for s in message.segments]
    notes = names.count("NTE")
    assert names == ["MSH", "PID", "PV1", "ORC", "OBR", *["NTE"] * notes, "TQ1", "OBX", "OBX", "OBX"]
    finding = message.all("OBX")[0]
    assert finding.value(5, 3) == "SCT"
    assert finding.value(8) == "AA"
    assert finding.value(5, 2).split() == [*_printed(name)]
    assert message.all("OBX")[2].value(5).split() == [*_printed(link)]


def _printed(text: str) -> list[str]:
    """The words of a text without the control characters that no document carries."""
    return "".join(c for c in text if c in "\t\n\r" or not (ord(c) < 0x20 or ord(c) == 0x7F)).split()
