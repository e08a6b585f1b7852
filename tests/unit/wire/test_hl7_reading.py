"""Reading HL7 v2 messages: segments, fields, terminators, delimiters, order groups, batches."""

import timeit
from pathlib import Path
from time import process_time

import pytest

from wetread.errors import InvalidInput
from wetread.wire.hl7 import order_groups, parse, split_batch
from wetread.wire.hl7_batch import read_batch

DATA = Path(__file__).parents[2] / "data" / "hl7v2"


def sample(name: str) -> bytes:
    return (DATA / f"{name}.hl7").read_bytes()


def adt(pid: str, header: str = r"MSH|^~\&|A|B|C|D|2026||ADT^A08|1|P|2.5") -> bytes:
    return f"{header}\r{pid}\r".encode()


def test_an_imaging_order_is_read_with_its_vendor_segments() -> None:
    message = parse(sample("orm-o01-philips-zds"))
    assert [segment.name for segment in message.segments] == ["MSH", "PID", "PV1", "ORC", "OBR", "ZDS", "ZLK", "ZAO"]
    assert (message.message_code, message.trigger_event, message.version) == ("ORM", "O01", "2.3")
    assert message.control_id == "MSGPH001"
    zds = message.first("ZDS")
    assert zds is not None
    assert zds.value(1).startswith("1.")


def test_the_header_counts_its_separator_as_field_one() -> None:
    header = parse(adt("PID|1")).header
    assert (header.value(1), header.value(2), header.value(3)) == ("|", r"^~\&", "A")
    assert header.raw(2) == r"^~\&"
    assert (header.repetitions(1), header.repetitions(2)) == (1, 1)


def test_fields_repetitions_components_and_subcomponents_count_from_one() -> None:
    pid = parse(adt("PID|1||11^^^A&1.2&ISO^MR~22^^^B^PI||Doe&van^Jane")).segments[1]
    assert (pid.value(3), pid.value(3, repetition=2)) == ("11", "22")
    assert (pid.value(3, 4), pid.value(3, 4, 2), pid.value(3, 4, 3)) == ("A", "1.2", "ISO")
    assert (pid.value(5, 1, 2), pid.value(5, 2)) == ("van", "Jane")
    assert (pid.repetitions(3), pid.repetitions(2), pid.repetitions(99)) == (2, 0, 0)
    assert pid.raw(3) == "11^^^A&1.2&ISO^MR~22^^^B^PI"
    assert pid.raw(3, 2) == "22^^^B^PI"
    assert (pid.value(99), pid.value(3, 9), pid.value(3, 4, 9), pid.value(3, repetition=9)) == ("", "", "", "")
    assert (pid.value(0), pid.value(3, 0), pid.value(3, repetition=0), pid.raw(0), pid.raw(-1)) == ("",) * 5


def test_null_deletes_and_empty_says_nothing() -> None:
    pid = parse(sample("edge-explicit-null")).segments[1]
    assert (pid.is_null(2), pid.value(2)) == (True, "")
    assert (pid.is_null(4), pid.value(4)) == (False, "")
    pid = parse(adt('PID|1||||Doe^""^X')).segments[1]
    assert (pid.is_null(5), pid.is_null(5, 2), pid.is_null(5, 3), pid.value(5, 2)) == (False, True, False, "")


@pytest.mark.parametrize("name", ["edge-lf-terminators", "edge-crlf-terminators", "edge-mixed-terminators"])
def test_each_terminator_in_use_ends_a_segment(name: str) -> None:
    message = parse(sample(name))
    assert [segment.name for segment in message.segments] == ["MSH", "EVN", "PID", "PV1"]
    assert any("mixed" in warning for warning in message.warnings) == (name == "edge-mixed-terminators")


def test_a_line_feed_in_a_message_with_carriage_returns_is_data() -> None:
    obx = parse(adt("OBX|1|TX|X||Suspected:\nPID||||||F")).segments[1]
    assert (obx.value(5), obx.value(11)) == ("Suspected:\nPID", "F")


def test_a_line_feed_before_a_known_segment_ends_the_segment_even_after_free_text() -> None:
    message = parse(adt("OBX|1|TX|X||one\nOBX|2|TX|X||two"))
    assert [segment.value(5) for segment in message.all("OBX")] == ["one", "two"]


@pytest.mark.parametrize("lead", [b"\r\n", b"  ", b"\xef\xbb\xbf", b"\xef\xbb\xbf\r"])
def test_blanks_and_a_byte_order_mark_before_the_header_are_passed_over(lead: bytes) -> None:
    assert parse(lead + adt("PID|1")).control_id == "1"


@pytest.mark.parametrize(
    ("name", "family", "given"), [("edge-custom-delims", "Doe", "John"), ("edge-custom-delims-2", "DOE", "JOHN")]
)
def test_the_message_brings_its_own_delimiters(name: str, family: str, given: str) -> None:
    pid = parse(sample(name)).first("PID")
    assert pid is not None
    assert (pid.value(5), pid.value(5, 2)) == (family, given)


def test_missing_encoding_characters_take_the_usual_ones_with_a_warning() -> None:
    message = parse(sample("bad-no-msh2"))
    assert message.header.value(3, 2) == "sender.test.com"
    assert any("MSH-2" in warning for warning in message.warnings)


@pytest.mark.parametrize(
    ("raw", "place"),
    [
        (b"", "MSH^1"),
        (b"this is not HL7", "MSH^1"),
        (b"EVN|A01|2026\rPID|1", "MSH^1"),
        (b"MSH", "MSH^1^1"),
        (b"MSHA^~\\&AB", "MSH^1^2"),
        (b"MSH|^^\\&|A", "MSH^1^2"),
        (b"MSH|ABCDEFG|A", "MSH^1^2"),
        (b"MSH|AB|A", "MSH^1^2"),
    ],
)
def test_what_has_no_usable_header_is_refused_with_its_place(raw: bytes, place: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(raw)
    assert refused.value.location == place


def test_a_segment_name_in_lower_case_is_still_that_segment() -> None:
    message = parse(sample("edge-lowercase-segment"))
    pid = message.first("PID")
    assert pid is not None
    assert pid.text.startswith("pid|")
    assert any("lower case" in warning for warning in message.warnings)


def test_a_line_without_a_segment_name_is_kept() -> None:
    message = parse(sample("bad-segment-name"))
    assert [segment.name for segment in message.segments] == ["MSH", "PIDX", "PV"]
    assert any("segment name" in warning for warning in message.warnings)


def test_the_trigger_of_an_old_adt_comes_from_evn() -> None:
    assert parse(adt("EVN|A08|2026", r"MSH|^~\&|A|B|C|D|2026||ADT|1|P|2.1")).trigger_event == "A08"


def test_the_version_is_its_first_component() -> None:
    assert parse(adt("PID|1", r"MSH|^~\&|A|B|C|D|2026||ADT^A08|1|P|2.3.1^USA")).version == "2.3.1"


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("orm-o01-philips-zds", ["ORC OBR ZDS ZLK ZAO"]),
        ("omi-o23-basic", ["ORC OBR IPC"]),
        ("orm-o01-tq1", ["ORC TQ1 OBR"]),
        ("orm-o01-notes", ["ORC NTE OBR NTE NTE OBX"]),
        ("orm-o01-two-orders", ["ORC OBR DG1 FT1 CTI BLG", "ORC OBR FT1 CTI BLG"]),
        ("oru-r01-24", ["OBR OBX"]),
        ("adt-a40-25", []),
    ],
)
def test_each_order_control_opens_a_group(name: str, groups: list[str]) -> None:
    found = order_groups(parse(sample(name)))
    assert [" ".join(segment.name for segment in group.segments) for group in found] == groups


def test_a_second_request_under_one_order_control_is_a_group_of_its_own() -> None:
    first, second = order_groups(parse(sample("orm-o01-multi-obr")))
    assert first.first("ORC") is second.first("ORC")
    requests = [group.first("OBR") for group in (first, second)]
    assert [request.value(4) for request in requests if request] == ["54089-8", "57717-1"]


def test_an_imaging_procedure_after_the_observations_belongs_to_its_order() -> None:
    (group,) = order_groups(parse(sample("omi-o23-fr-teleradiology")))
    assert group.segments[-1].name == "IPC"


def test_a_study_uid_or_diagnosis_before_the_only_order_belongs_to_it() -> None:
    (group,) = order_groups(parse(adt("DG1|1||X\rZDS|1.2.3\rORC|NW|1\rOBR|1|1")))
    assert [segment.name for segment in group.segments] == ["ORC", "OBR", "DG1", "ZDS"]
    groups = order_groups(parse(adt("ZDS|1.2.3\rORC|NW|1\rOBR|1|1\rORC|NW|2\rOBR|1|2")))
    assert not any(group.first("ZDS") for group in groups)


def test_the_next_patient_closes_the_order() -> None:
    groups = order_groups(parse(adt("PID|1\rOBR|1\rOBX|1\rPID|2\rNTE|1||of patient 2\rOBR|2\rOBX|2")))
    assert [len(group.segments) for group in groups] == [2, 2]


def test_a_batch_file_gives_its_messages_in_order() -> None:
    members = split_batch(sample("batch-fhs-bhs"))
    assert [parse(member).control_id for member in members] == ["MSGB0001", "MSGB0002", "MSGB0003"]
    assert read_batch(sample("batch-fhs-bhs")).warnings == ()


def test_a_batch_says_when_its_count_is_wrong() -> None:
    batch = read_batch(sample("batch-count-mismatch"))
    assert len(batch.messages) == 2
    assert batch.warnings == ("BTS-1 of batch 1 does not match its 2 messages",)


def test_a_bad_member_of_a_batch_is_still_a_member() -> None:
    raw = b"BHS|^~\\&|A\r" + adt("PID|1") + b"MSH\r" + adt("PID|2") + b"BTS|3\r"
    members = split_batch(raw)
    assert len(members) == 3
    assert members[1] == b"MSH"


@pytest.mark.parametrize("terminator", [b"\r", b"\n", b"\r\n"])
def test_a_batch_is_split_at_any_terminator(terminator: bytes) -> None:
    raw = sample("batch-fhs-bhs").replace(b"\r\n", b"\r").replace(b"\n", b"\r").replace(b"\r", terminator)
    assert len(split_batch(raw)) == 3


def test_one_message_or_none_is_a_batch_too() -> None:
    assert len(split_batch(sample("adt-a40-25"))) == 1
    assert split_batch(b"\r\n") == ()


def test_time_grows_with_size_and_no_faster() -> None:
    """The processor's own time, without the garbage collector's, which other tests have their share in."""

    def seconds(lines: int) -> float:
        raw = adt("\r".join(f"OBX|{n}|TX|X^Y^Z||{'text~' * 20}" for n in range(lines)))

        def read() -> None:
            message = parse(raw)
            assert sum(len(s.value(5, repetition=20)) for s in message.segments) == 4 * lines
            order_groups(message)

        return min(timeit.repeat(read, timer=process_time, number=1, repeat=3))

    assert seconds(20_000) < seconds(2_000) * 40


def test_reading_every_repetition_of_a_huge_field_is_linear() -> None:
    pid = parse(adt("PID|1||" + "1~" * 100_000)).segments[1]
    assert sum(len(pid.value(3, repetition=n)) for n in range(1, pid.repetitions(3) + 1)) == 100_000


def test_the_printed_form_shows_no_patient_data() -> None:
    message = parse(adt("PID|1||4711||Roe^Jane"))
    assert "4711" not in repr(message) + repr(message.segments) + repr(order_groups(message))
