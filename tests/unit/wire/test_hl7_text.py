"""HL7 v2 escape sequences and character sets."""

import string
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wetread.errors import InvalidInput
from wetread.wire.hl7 import Delimiters, escape, parse, unescape
from wetread.wire.hl7_text import TABLE_0211

DATA = Path(__file__).parents[2] / "data" / "hl7v2"
USUAL = Delimiters()

delimiters = st.lists(
    st.sampled_from(sorted(set(string.punctuation) - set('."'))), min_size=6, max_size=6, unique=True
).map(lambda marks: Delimiters(*marks))
field_text = st.text(st.characters(codec="utf-8"))


@given(field_text, delimiters)
def test_what_is_escaped_is_read_back_exactly(text: str, marks: Delimiters) -> None:
    assert unescape(escape(text, marks), marks) == text


@given(field_text, delimiters)
def test_escaped_text_holds_no_delimiter_or_control_character(text: str, marks: Delimiters) -> None:
    escaped = escape(text, marks)
    assert not set(escaped) & {marks.field, marks.component, marks.repetition, marks.subcomponent, marks.truncation}
    assert not any(character < " " for character in escaped)


@given(st.text(alphabet=r"\.XCMZFSTREHNbrsp0123456789ABdef C"), st.sampled_from(["utf-8", "ascii", "iso2022_jp"]))
def test_any_text_can_be_unescaped(text: str, charset: str) -> None:
    assert isinstance(unescape(text, USUAL, charset), str)


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        (r"A\F\B\S\C\T\D\R\E\E\F", "A|B^C&D~E\\F"),
        (r"one\.br\two\.BR\three", "one\ntwo\nthree"),
        (r"a\.sp\b\.sp2\c", "a\nb\n\nc"),
        (r"a\.sk3\b", "a   b"),
        (r"\.in+2\x\.ti-2\y\.fi\\.nf\\.ce\z", "xy\nz"),
        (r"\H\loud\N\ quiet", "loud quiet"),
        (r"\X41\\X42\\X4344\ ", "ABCD "),
        (r"\XC3A9\ \XC3\\XA9\ ", "é é "),
        (r"C:\dir\x", r"C:\dir\x"),
        (r"C:\dir\F\x", r"C:\dir|x"),
        ("ends in \\", "ends in \\"),
        (r"\XZZ\ \X4\ \X\ ", r"\XZZ\ \X4\ \X\ "),
        (r"\XFF\x", r"\XFF\x"),
        (r"\C2842\\M824041\\Zab\ ", r"\C2842\\M824041\\Zab\ "),
        (r"\E\F\E\ ", "\\F\\ "),
        (r"\P\ ", r"\P\ "),
    ],
)
def test_escape_sequences(raw: str, text: str) -> None:
    assert unescape(raw, USUAL, "utf-8") == text


def test_a_count_in_a_formatting_command_is_capped() -> None:
    assert len(unescape(r"\.sp9999\ ", USUAL)) == 101


def test_hexadecimal_is_read_in_the_charset_of_the_message() -> None:
    assert unescape(r"\XE9\ ", USUAL, "iso8859-1") == "é "


def test_escapes_are_undone_after_splitting() -> None:
    message = parse((DATA / "edge-escapes-name.hl7").read_bytes())
    name = message.segments[1]
    assert name.value(5) == "Smith|Jones"
    assert [name.value(5, part) for part in (2, 3, 4, 5)] == ["John^Public", "Q&Roe", "Jr~Sr", "Dr\\Prof"]


def test_the_truncation_character_of_2_7_is_known_where_it_is_declared() -> None:
    message = parse((DATA / "edge-trunc-char-27.hl7").read_bytes())
    assert message.delimiters.truncation == "#"
    assert message.segments[3].value(5) == "truncated#at end"


def in_charset(name: str, text: str, codec: str) -> bytes:
    return f"MSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5||||||{name}\rPID|1||2||{text}\r".encode(codec)


@pytest.mark.parametrize(
    ("name", "codec", "text"),
    [
        ("ASCII", "ascii", "Meyer"),
        ("8859/1", "iso8859-1", "Müller"),
        ("8859/2", "iso8859-2", "Łukasz"),
        ("8859/5", "iso8859-5", "Иванов"),
        ("8859/7", "iso8859-7", "Παπάς"),
        ("8859/15", "iso8859-15", "Œuvre €"),
        ("GB 18030-2000", "gb18030", "王小明"),
        ("KS X 1001", "euc_kr", "홍길동"),
        ("BIG-5", "big5", "許功蓋"),
        ("UNICODE UTF-8", "utf-8", "Zoë 王"),
        ("UNICODE", "utf-8", "Zoë"),
        ("utf-8", "utf-8", "Zoë"),
        ("UNICODE UTF-16", "utf-16", "Zoë"),
        ("UNICODE UTF-16", "utf-16-be", "Zoë"),
        ("UNICODE UTF-32", "utf-32", "Zoë"),
        ("~ISO IR87", "iso2022_jp", "山田"),
        ("ISO IR6~ISO IR87", "iso2022_jp", "山田"),
        ("ISO IR6~ISO IR87~ISO IR159", "iso2022_jp_2", "山田"),
    ],
)
def test_msh_18_says_how_the_bytes_are_read(name: str, codec: str, text: str) -> None:
    message = parse(in_charset(name, text, codec))
    assert message.segments[1].value(5) == text
    assert message.warnings == ()


def test_double_byte_text_may_hold_the_byte_of_a_delimiter() -> None:
    for name, codec, text, delimiter in (("BIG-5", "big5", "許功", b"\\"), ("~ISO IR87", "iso2022_jp", "糖", b"|")):
        assert delimiter in text.encode(codec)
        assert parse(in_charset(name, text, codec)).segments[1].raw(5) == text


def test_every_name_of_table_0211_is_a_codec() -> None:
    for codec in TABLE_0211.values():
        assert "MSH".encode(codec).decode(codec) == "MSH"


@pytest.mark.parametrize(
    ("name", "codec"), [("ASCII", "iso8859-1"), ("UNICODE UTF-8", "iso8859-1"), ("BIG-5", "cp1252")]
)
def test_bytes_outside_the_declared_charset_are_refused_not_guessed(name: str, codec: str) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse(in_charset(name, "Müller ÿ", codec))
    assert refused.value.location == "MSH^1^18"
    assert "ller" not in refused.value.message


def test_an_undeclared_message_is_utf_8_or_else_windows_1252_with_a_warning() -> None:
    assert parse(in_charset("", "Müller", "utf-8")).charset == "utf-8"
    message = parse(in_charset("", "Müller – “x”", "cp1252"))
    assert (message.charset, message.segments[1].value(5)) == ("cp1252", "Müller – “x”")
    assert any("1252" in warning for warning in message.warnings)


def test_the_default_charset_of_the_peer_stands_for_an_undeclared_one_only() -> None:
    raw = in_charset("", "Łukasz", "iso8859-2")
    assert parse(raw, default_charset="iso8859-2").segments[1].value(5) == "Łukasz"
    assert parse(in_charset("8859/1", "Müller", "iso8859-1"), default_charset="utf-8").charset == "iso8859-1"
    with pytest.raises(InvalidInput):
        parse(raw, default_charset="utf-8")


def test_an_unknown_charset_name_is_taken_for_plain_ascii_and_refused_otherwise() -> None:
    message = parse((DATA / "edge-unknown-charset.hl7").read_bytes())
    assert message.charset == "ascii"
    assert any("unknown character set" in warning for warning in message.warnings)
    with pytest.raises(InvalidInput) as refused:
        parse(in_charset("ISO IR 999", "Müller", "utf-8"))
    assert refused.value.location == "MSH^1^18"
