"""Verdicts on HL7 v2 messages and the acknowledgements that tell them."""

import random
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import hl7
import pytest
from hl7apy.parser import parse_message
from hypothesis import given
from hypothesis import strategies as st
from tests.soak import times

from wetread.errors import InvalidInput, TooLarge, Unsupported
from wetread.wire.hl7 import Message, parse, split_batch
from wetread.wire.hl7_ack import TABLE_0357, Accepted, Fault, Verdict, acknowledge, judge, recover_control_id, refusal

DATA = Path(__file__).parents[2] / "data" / "hl7v2"
AT = datetime(2026, 3, 4, 5, 6, 7, tzinfo=UTC)
ANY_ENVIRONMENT = Accepted(processing_ids=frozenset({"P", "T", "D"}))
ORDER = (
    "MSH|^~\\&|RIS|HOSP|WETREAD|AI|20260304||ORM^O01^ORM_O01|MSG1|P|2.5.1||||||UNICODE UTF-8\r"
    "PID|1||4711^^^HOSP^MR||Roe^Jane\rORC|NW|P1|F1\rOBR|1|P1|F1|CT1^CT head\r"
)
PATIENT = "MSH|^~\\&|ADT|HOSP|WETREAD|AI|20260304||ADT^A08^ADT_A01|MSG2|P|2.4\rPID|1||4711^^^HOSP^MR||Roe^Jane\r"
MERGE = "MSH|^~\\&|ADT|HOSP|WETREAD|AI|20260304||ADT^A40^ADT_A39|MSG3|P|2.5\rPID|1||2^^^H\rMRG|1^^^H\r"


def receive(raw: bytes, accepted: Accepted = ANY_ENVIRONMENT) -> tuple[Message | None, Verdict]:
    try:
        message = parse(raw)
    except InvalidInput as error:
        return None, refusal(error)
    return message, judge(message, accepted)


def verdict_on(text: str, accepted: Accepted = ANY_ENVIRONMENT) -> Verdict:
    return receive(text.encode(), accepted)[1]


def faults_of(text: str) -> list[tuple[str, int, int | None, str]]:
    return [(fault.segment, fault.sequence, fault.field, fault.code) for fault in verdict_on(text).faults]


def answer(raw: bytes, *, enhanced: bool = False, accepted: Accepted = ANY_ENVIRONMENT) -> bytes:
    message, verdict = receive(raw, accepted)
    return acknowledge(raw, message, verdict, control_id="ACK1", at=AT, enhanced=enhanced)


@pytest.mark.parametrize(
    "name",
    [
        "orm-o01-philips-zds",
        "omi-o23-basic",
        "orm-o01-chest",
        "orm-o01-oracle-23",
        "orm-o01-multi-obr",
        "orm-o01-bom-26",
        "orm-o01-two-orders",
        "orm-o01-notes",
        "orm-o01-tq1",
        "orm-o01-fr-teleradiology-nw",
        "orm-o01-fr-teleradiology-ca",
        "omi-o23-fr-teleradiology",
        "orm-o01-ris-new",
        "adt-a01-simhospital",
        "adt-a04-21",
        "adt-a04-ris",
        "adt-a40-25",
        "adt-a40-28",
        "adt-a40-two-pairs",
        "adt-a40-ris",
        "edge-custom-delims",
        "edge-lf-terminators",
        "edge-lowercase-segment",
        "edge-unknown-charset",
        "edge-utf8-names",
    ],
)
def test_real_orders_and_registrations_are_accepted(name: str) -> None:
    assert receive((DATA / f"{name}.hl7").read_bytes())[1] == Verdict("AA")


@pytest.mark.parametrize(
    ("wrong", "right", "place", "code"),
    [
        ("ORM^O01^ORM_O01", "BAR^P01", ("MSH", 1, 9), "200"),
        ("ORM^O01^ORM_O01", "", ("MSH", 1, 9), "200"),
        ("ORM^O01^ORM_O01", "ADT^A99", ("MSH", 1, 9), "201"),
        ("ORM^O01^ORM_O01", "ORM", ("MSH", 1, 9), "201"),
        ("|P|2.5.1", "|X|2.5.1", ("MSH", 1, 11), "202"),
        ("|P|2.5.1", "||2.5.1", ("MSH", 1, 11), "202"),
        ("|P|2.5.1", "|P|3.0", ("MSH", 1, 12), "203"),
        ("|P|2.5.1", "|P|", ("MSH", 1, 12), "203"),
    ],
)
def test_a_header_that_is_not_accepted_is_rejected(
    wrong: str, right: str, place: tuple[str, int, int], code: str
) -> None:
    verdict = verdict_on(ORDER.replace(wrong, right))
    assert verdict.code == "AR"
    assert [(fault.segment, fault.sequence, fault.field, fault.code) for fault in verdict.faults] == [(*place, code)]


def test_a_test_message_is_rejected_in_production() -> None:
    assert verdict_on(ORDER.replace("|P|", "|T|"), Accepted()).faults[0].code == "202"
    assert verdict_on(ORDER, Accepted()).code == "AA"


@pytest.mark.parametrize("version", ["2.1", "2.3", "2.3.1^USA", "2.8.2", "2.9"])
def test_every_version_from_2_1_to_2_9_is_accepted(version: str) -> None:
    assert verdict_on(ORDER.replace("2.5.1", version)).code == "AA"


@pytest.mark.parametrize(
    ("wrong", "right", "fault"),
    [
        ("|MSG1|", "||", ("MSH", 1, 10, "101")),
        ("|MSG1|", f"|{'9' * 200}|", ("MSH", 1, 10, "102")),
        ("4711^^^HOSP^MR", "", ("PID", 1, 3, "101")),
        ("4711^^^HOSP^MR", '""', ("PID", 1, 3, "101")),
        ("PID|1||4711^^^HOSP^MR||Roe^Jane\r", "", ("PID", 1, None, "100")),
        ("ORC|NW|P1|F1\r", "", ("ORC", 1, None, "100")),
        ("ORC|NW|", "ORC||", ("ORC", 1, 1, "101")),
        ("ORC|NW|", "ORC|CD:2539|", ("ORC", 1, 1, "103")),
        ("OBR|1|P1|F1|CT1^CT head\r", "", ("OBR", 1, None, "100")),
        ("CT1^CT head", "", ("OBR", 1, 4, "101")),
        ("|P1|F1", "||", ("ORC", 1, 2, "101")),
        ("ORC|", "PID|2||99\rORC|", ("PID", 2, None, "100")),
        ("ORC|", "MSH|^~\\&|B\rORC|", ("MSH", 2, None, "100")),
    ],
)
def test_content_that_cannot_be_taken_is_an_error_naming_segment_and_field(
    wrong: str, right: str, fault: tuple[str, int, int | None, str]
) -> None:
    assert fault in faults_of(ORDER.replace(wrong, right))
    assert verdict_on(ORDER.replace(wrong, right)).code == "AE"


def test_the_faulty_one_of_several_orders_is_named() -> None:
    assert faults_of(ORDER + "ORC|NW|P2\rOBR|2|P2||\r") == [("OBR", 2, 4, "101")]
    assert faults_of(ORDER + "ORC|ZZ|P2\rOBR|2|P2||X\r") == [("ORC", 2, 1, "103")]
    assert faults_of(ORDER + "ORC|NW|P2\r") == [("OBR", 2, None, "100")]


def test_a_vendor_order_control_can_be_made_known() -> None:
    raw = (DATA / "orm-o01-oracle-cd-codes.hl7").read_bytes()
    assert receive(raw)[1].code == "AE"
    code = parse(raw).all("ORC")[0].value(1)
    known = replace(ANY_ENVIRONMENT, order_controls=ANY_ENVIRONMENT.order_controls | {code})
    assert receive(raw, known)[1].code == "AA"


def test_a_cancel_with_nothing_but_orc_is_legal() -> None:
    assert verdict_on(ORDER.split("PID")[0] + "ORC|CA|P1\r") == Verdict("AA")


def test_a_repeated_identical_patient_is_a_warning_and_accepted() -> None:
    verdict = verdict_on(PATIENT + PATIENT.split("\r")[1] + "\r")
    assert verdict.code == "AA"
    assert [(fault.segment, fault.sequence, fault.severity) for fault in verdict.faults] == [("PID", 2, "W")]


def test_each_patient_of_a_merge_has_its_prior_one() -> None:
    assert verdict_on(MERGE + "PID|2||4^^^H\rMRG|3^^^H\r").code == "AA"
    assert faults_of(MERGE + "PID|2||4^^^H\r") == [("PID", 2, None, "100")]
    assert faults_of(MERGE.replace("MRG|1^^^H\r", "")) == [("MRG", 1, None, "100")]
    assert faults_of(MERGE.replace("MRG|1^^^H", "MRG||x")) == [("MRG", 1, 1, "101")]


def test_the_patient_of_an_old_message_may_stand_in_pid_2() -> None:
    assert verdict_on(PATIENT.replace("PID|1||4711^^^HOSP^MR", "PID|1|4711|")).code == "AA"


def test_faults_are_limited_in_number() -> None:
    assert len(verdict_on(ORDER + "ORC|ZZ|1\r" * 5000).faults) == 10


@pytest.mark.parametrize(
    ("raw", "code", "place"),
    [
        (b"this is not HL7", "100", ("MSH", 1, None)),
        (ORDER.encode().replace(b"Roe", b"R\xf6e"), "102", ("MSH", 1, 18)),
        (b"MSH|^^\\&|A|B|C|D|2026||ADT^A08|9|P|2.5\r", "102", ("MSH", 1, 2)),
    ],
)
def test_what_cannot_be_parsed_is_an_error(raw: bytes, code: str, place: tuple[str, int, int | None]) -> None:
    message, verdict = receive(raw)
    (fault,) = verdict.faults
    assert message is None
    assert (verdict.code, fault.code, (fault.segment, fault.sequence, fault.field)) == ("AE", code, place)


def test_a_refusal_from_elsewhere_becomes_a_verdict() -> None:
    assert refusal(TooLarge("The message is larger than 50 MB.")).code == "AE"
    assert refusal(Unsupported("No.", location="MSH^1^9")).code == "AR"


def test_an_acknowledgement_answers_the_sender_with_its_own_control_id() -> None:
    assert answer(ORDER.encode()) == (
        b"MSH|^~\\&|WETREAD|AI|RIS|HOSP|20260304050607+0000||ACK^O01^ACK|ACK1|P|2.5.1||||||UNICODE UTF-8\rMSA|AA|MSG1\r"
    )


def test_from_2_5_errors_stand_in_their_own_segments() -> None:
    segments = answer(ORDER.replace("ORC|NW", "ORC|ZZ").encode()).decode().split("\r")
    assert segments[1] == ("MSA|AE|MSG1|This order control code is not known here; map it in the site's configuration.")
    assert segments[2] == (
        "ERR||ORC^1^1|103^Table value not found^HL70357|E|||ORC[1]-1|"
        "This order control code is not known here; map it in the site's configuration."
    )
    header = answer(ORDER.replace("ORM^O01^ORM_O01", "ORM^O99").encode()).decode().split("\r")[2]
    assert header.startswith("ERR||MSH^1^9^1^2|201^Unsupported event code^HL70357|E|")


def test_before_2_5_errors_stand_in_err_1() -> None:
    wrong = ORDER.replace("2.5.1", "2.3").replace("ORC|NW", "ORC|ZZ").replace("|P1|F1", "||")
    segments = answer(wrong.encode()).decode().split("\r")
    assert segments[0].split("|")[8] == "ACK"
    assert segments[2] == ("ERR|ORC^1^1^103&Table value not found&HL70357~ORC^1^2^101&Required field missing&HL70357")


@pytest.mark.parametrize(
    ("version", "type_"), [("2.1", "ACK"), ("2.3", "ACK"), ("2.3.1", "ACK^O01^ACK"), ("2.8", "ACK^O01^ACK")]
)
def test_the_type_of_the_acknowledgement_fits_the_version(version: str, type_: str) -> None:
    assert answer(ORDER.replace("2.5.1", version).encode()).decode().split("|")[8] == type_


def test_the_acknowledgement_keeps_the_delimiters_and_the_charset() -> None:
    raw = (DATA / "edge-custom-delims.hl7").read_bytes()
    assert answer(raw).startswith(b"MSH@~&#\\@RECVAPP@RECVFAC@SENDAPP@SENDFAC@")
    latin = ORDER.replace("UNICODE UTF-8", "8859/1").replace("HOSP|WETREAD", "KÖLN|WETREAD").encode("latin-1")
    assert "|KÖLN|".encode("latin-1") in answer(latin)
    wide = ORDER.replace("UNICODE UTF-8", "UNICODE UTF-16").encode("utf-16")
    assert answer(wide).decode("utf-16").endswith("MSA|AA|MSG1\r")


@pytest.mark.parametrize("zone", [UTC, timezone(timedelta(hours=-5, minutes=-30))])
def test_the_time_has_its_zone(zone: timezone) -> None:
    message = parse(ORDER.encode())
    ack = acknowledge(b"", message, Verdict("AA"), control_id="1", at=AT.replace(tzinfo=zone))
    assert ack.decode().split("|")[6] == "20260304050607" + ("+0000" if zone is UTC else "-0530")


@pytest.mark.parametrize(
    ("wish", "verdict", "code"),
    [
        ("AL", "AA", "CA"),
        ("AL", "AE", "CE"),
        ("AL", "AR", "CR"),
        ("NE", "AA", None),
        ("ER", "AA", None),
        ("ER", "AE", "CE"),
        ("SU", "AA", "CA"),
        ("SU", "AR", None),
        ("", "AE", "AE"),
    ],
)
def test_enhanced_mode_does_what_msh_15_asks(wish: str, verdict: str, code: str | None) -> None:
    raw = ORDER.replace("|2.5.1||||||", f"|2.5.1|||{wish}|||").encode()
    given = Verdict(verdict)  # type: ignore[arg-type]
    ack = acknowledge(raw, parse(raw), given, control_id="1", at=AT, enhanced=True)
    assert (hl7.parse(ack.decode()).segment("MSA")[1][0] if ack else None) == code
    original = acknowledge(raw, parse(raw), given, control_id="1", at=AT)
    assert f"\rMSA|{verdict}|".encode() in original


@pytest.mark.parametrize(
    ("raw", "control_id"),
    [
        (ORDER.encode(), "MSG1"),
        (b"\x0b\r\n" + ORDER.encode(), "MSG1"),
        (ORDER.encode().replace(b"Roe", b"\xff\xfe"), "MSG1"),
        (b"MSH|^^^^|A|B|C|D|2026||ADT^A08|ID 7/8|P|2.5\r", "ID 7/8"),
        (b"MSH#!@%*#A#B#C#D#2026##ADT!A01#MSG007#P#2.5", "MSG007"),
        (b"MSH|^~\\&|A|B|C|D|2026||ADT^A08|a\\T\\b|P|2.5", "a\\T\\b"),
        ("MSH|^~\\&|A|B|C|D|2026||ADT^A08|Ä1|P|2.5".encode(), "Ä1"),
        ((DATA / "batch-fhs-bhs.hl7").read_bytes(), "MSGB0001"),
        (b"garbage", ""),
        (b"MSH", ""),
        (b"", ""),
    ],
)
def test_the_control_id_is_found_even_where_nothing_else_is(raw: bytes, control_id: str) -> None:
    assert recover_control_id(raw) == control_id
    ack = answer(raw)
    msa = ack.split(b"\r")[1]
    assert msa.split(ack[3:4])[2:3] == ([control_id.encode()] if control_id or b"|AE|" in msa else [])


def test_control_characters_never_reach_the_acknowledgement() -> None:
    ack = answer(ORDER.replace("RIS", "R\x0b\x1cIS").replace("MSG1", "MS\x1cG1").encode())
    assert b"\x0b" not in ack
    assert b"\x1c" not in ack
    assert b"|AA|MSG1\r" in ack


def test_no_patient_data_is_in_any_answer() -> None:
    for wrong, right in (
        ("NW", "ZZ"),
        ("2.5.1", "9"),
        ("O01", "O99"),
        ("CT1", ""),
        ("MSG1", ""),
        ("Roe", "Roe\rPID|2"),
    ):
        ack = answer(ORDER.replace(wrong, right).encode())
        assert not any(secret in ack for secret in (b"4711", b"Roe", b"Jane", b"P1|", b"CT head"))


@pytest.mark.parametrize("path", sorted(DATA.glob("*.hl7")), ids=lambda path: path.stem)
def test_two_other_readers_understand_every_answer(path: Path) -> None:
    for raw in split_batch(path.read_bytes()):
        ack = answer(raw)
        text = ack.decode()
        theirs = hl7.parse(text)
        marks = text[3:8]
        assert str(theirs.segment("MSA")[1]) in ("AA", "AE", "AR")
        assert str(theirs.segment("MSA")[2]) == recover_control_id(raw) if len(theirs.segment("MSA")) > 2 else True
        if "#" not in marks:
            assert [child.name for child in parse_message(text, find_groups=False).children][:2] == ["MSH", "MSA"]


@given(st.binary(max_size=400))
def test_any_bytes_get_an_answer(raw: bytes) -> None:
    assert b"MSA" in answer(raw) or b"M\x00S\x00A" in answer(raw)
    assert answer(b"MSH" + raw)


@given(st.text(max_size=60), st.sampled_from(sorted(TABLE_0357)), st.integers(0, 99) | st.none())
def test_any_fault_can_be_told(text: str, code: str, field: int | None) -> None:
    fault = Fault("OBX", 3, field, None, code, text)
    ack = acknowledge(b"", parse(ORDER.encode()), Verdict("AE", (fault,)), control_id="1", at=AT)
    assert parse(ack).all("ERR")[0].value(8) == text


def test_mangled_samples_always_get_a_verdict_and_an_answer() -> None:
    chance = random.Random(20260304)
    samples = [path.read_bytes() for path in sorted(DATA.glob("*.hl7"))]
    for _ in range(times(1500)):
        raw = bytearray(chance.choice(samples)[: chance.randint(1, 3000)])
        for _ in range(chance.randint(1, 12)):
            place = chance.randrange(len(raw))
            match chance.randint(0, 3):
                case 0:
                    raw[place] = chance.randrange(256)
                case 1:
                    del raw[place : place + chance.randint(0, 40)]
                case 2:
                    raw[place:place] = chance.choice([b"|", b"^", b"\r", b"\n", b"\\X", b"\x00", b"\x1c\x0b", b"\xff"])
                case 3:
                    raw += bytes(raw[place : place + 200])
            if not raw:
                raw = bytearray(b"M")
        message, verdict = receive(bytes(raw))
        ack = acknowledge(bytes(raw), message, verdict, control_id="ACK1", at=AT, enhanced=chance.random() < 0.3)
        assert isinstance(ack, bytes)
        if message is not None:
            assert parse(ack).header if ack else True
