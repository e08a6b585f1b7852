"""HL7 v2 characters: delimiters (2.5.1 2.5.4), escape sequences (2.7) and character sets (MSH-18, table 0211)."""

from __future__ import annotations

import codecs
import re
from dataclasses import dataclass
from functools import lru_cache

from wetread.errors import InvalidInput

TABLE_0211: dict[str, str] = {
    "ASCII": "ascii",
    "8859/1": "iso8859-1",
    "8859/2": "iso8859-2",
    "8859/3": "iso8859-3",
    "8859/4": "iso8859-4",
    "8859/5": "iso8859-5",
    "8859/6": "iso8859-6",
    "8859/7": "iso8859-7",
    "8859/8": "iso8859-8",
    "8859/9": "iso8859-9",
    "8859/15": "iso8859-15",
    "ISO IR6": "ascii",
    "ISO IR14": "shift_jis",
    "ISO IR87": "iso2022_jp",
    "ISO IR159": "iso2022_jp_2",
    "GB 18030-2000": "gb18030",
    "KS X 1001": "euc_kr",
    "CNS 11643-1992": "big5",
    "BIG-5": "big5",
    "UNICODE": "utf-8",
    "UNICODE UTF-8": "utf-8",
    "UNICODE UTF-16": "utf-16",
    "UNICODE UTF-32": "utf-32",
}
"""MSH-18 to Python codec. ISO IR87 and ISO IR159 are read as the ISO 2022 encodings that switch to them."""

_ALIASES: dict[str, str] = {
    "US-ASCII": "ascii",
    "UTF-8": "utf-8",
    "UTF8": "utf-8",
    "UNICODE UTF8": "utf-8",
    "UTF-16": "utf-16",
    "ISO-8859-1": "iso8859-1",
    "ISO8859-1": "iso8859-1",
    "ISO_8859-1": "iso8859-1",
    "8859-1": "iso8859-1",
    "LATIN1": "iso8859-1",
    "ISO-8859-15": "iso8859-15",
    "8859-15": "iso8859-15",
    "WINDOWS-1252": "cp1252",
    "CP1252": "cp1252",
    "GB18030": "gb18030",
    "BIG5": "big5",
}
_BOMS: tuple[tuple[bytes, str], ...] = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
    ("MSH".encode("utf-32-le"), "utf-32-le"),
    ("MSH".encode("utf-32-be"), "utf-32-be"),
    ("MSH".encode("utf-16-le"), "utf-16-le"),
    ("MSH".encode("utf-16-be"), "utf-16-be"),
)
_MAX_BLANK_LINES = 100


@dataclass(frozen=True, slots=True)
class Delimiters:
    """MSH-1 and MSH-2 of a message; `truncation` is empty before 2.7."""

    field: str = "|"
    component: str = "^"
    repetition: str = "~"
    escape: str = "\\"
    subcomponent: str = "&"
    truncation: str = ""

    @property
    def encoding_characters(self) -> str:
        """MSH-2."""
        return self.component + self.repetition + self.escape + self.subcomponent + self.truncation

    @classmethod
    def of_header(cls, header: str) -> Delimiters:
        """The delimiters of a segment that starts MSH, FHS or BHS; missing ones take their usual characters.

        Raises InvalidInput when they are letters, digits, `.`, `"` or blanks, or when two of them are the same.
        """
        if len(header) < 4:
            raise InvalidInput("The message header has no field separator.", location="MSH^1^1")
        separator = header[3]
        encoding = header[4:].split(separator, 1)[0]
        if len(encoding) > 5:
            raise InvalidInput("MSH-2 holds more than five encoding characters.", location="MSH^1^2")
        usual = cls()
        characters = encoding + usual.encoding_characters[len(encoding) :]
        every = separator + characters
        if any(character.isalnum() or character in '."' or not character.isprintable() for character in every):
            raise InvalidInput("A delimiter is a letter, a digit, a dot or a quote.", location="MSH^1^2")
        if " " in every or len(set(every)) != len(every):
            raise InvalidInput("Two delimiters are the same character, or one is blank.", location="MSH^1^2")
        return cls(separator, *characters)


def escape(text: str, delimiters: Delimiters) -> str:
    r"""Text as field content (2.5.1 2.7.1): delimiters as \F\ and so on, a line feed as \.br\, controls as \Xhh\."""
    return text.translate(_escapes(delimiters))


@lru_cache(maxsize=64)
def _escapes(delimiters: Delimiters) -> dict[int, str]:
    table = {
        ord(delimiters.escape): "E",
        ord(delimiters.field): "F",
        ord(delimiters.component): "S",
        ord(delimiters.subcomponent): "T",
        ord(delimiters.repetition): "R",
        ord("\n"): ".br",
    }
    if delimiters.truncation:
        table[ord(delimiters.truncation)] = "P"
    controls = {code: f"X{code:02X}" for code in (*range(0x20), 0x7F) if code not in table}
    mark = delimiters.escape
    return {code: f"{mark}{body}{mark}" for code, body in (controls | table).items()}


_FORMATTING = re.compile(r"\.(br|ce|sp|sk|in|ti|fi|nf)([+-]?\d{0,4})", re.IGNORECASE)
_HEX = re.compile(r"X((?:[0-9A-Fa-f]{2})+)")


def unescape(text: str, delimiters: Delimiters, charset: str = "utf-8") -> str:
    r"""Field content as text, in one pass (2.5.1 2.7): the inverse of `escape`, never applied twice.

    Formatting commands become line breaks or blanks, highlighting goes, \Xhh..\ is read as bytes of `charset`
    (neighbouring ones together). What is unknown (\Cxxyy\, \Zxx\), unterminated or not of the set stays as it came.
    """
    mark = delimiters.escape
    if mark not in text:
        return text
    plain = {
        "E": mark,
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent,
        "R": delimiters.repetition,
        "H": "",
        "N": "",
    }
    if delimiters.truncation:
        plain["P"] = delimiters.truncation
    parts: list[str] = []
    octets = bytearray()
    octets_start = position = 0

    def flush() -> None:
        if octets:
            decoded = _decode_octets(bytes(octets), charset)
            parts.append(text[octets_start:position] if decoded is None else decoded)
            octets.clear()

    while True:
        start = text.find(mark, position)
        if start != position:
            flush()
        if start < 0:
            parts.append(text[position:])
            return "".join(parts)
        parts.append(text[position:start])
        end = text.find(mark, start + 1)
        body = text[start + 1 : end] if end > 0 else ""
        if hexadecimal := _HEX.fullmatch(body):
            if not octets:
                octets_start = start
            octets += bytes.fromhex(hexadecimal[1])
            position = end + 1
            continue
        position = start
        flush()
        meaning = plain.get(body) if body in plain else _formatting(body)
        if meaning is None or end < 0:
            parts.append(text[start : start + 1])
            position = start + 1
        else:
            parts.append(meaning)
            position = end + 1


def _formatting(body: str) -> str | None:
    match = _FORMATTING.fullmatch(body)
    if match is None:
        return None
    command = match[1].lower()
    count = min(int(match[2]) if match[2].strip("+-") else 1, _MAX_BLANK_LINES)
    if command in ("br", "ce"):
        return "\n"
    if command == "sp":
        return "\n" * count
    return " " * count if command == "sk" else ""


def _decode_octets(octets: bytes, charset: str) -> str | None:
    for codec in ("ascii", charset):
        try:
            return octets.decode(codec)
        except (UnicodeDecodeError, LookupError):
            continue
    return None


def decode(raw: bytes, declared: tuple[str, ...], default_charset: str | None) -> tuple[str, str, tuple[str, ...]]:
    """A message's text, its Python codec and warnings, from its bytes and the repetitions of MSH-18.

    A declared set is strict: bytes outside it raise InvalidInput, they are never guessed at. An unknown name is
    accepted for pure ASCII bytes only. Undeclared, `default_charset` (a Python codec) is strict too; without it
    UTF-8 is tried, then Windows-1252 with a warning.
    """
    for mark, codec in _BOMS:
        if raw.startswith(mark):
            return _strict(raw, codec).removeprefix("\ufeff"), codec, ()
    names = [" ".join(name.upper().split()) for name in declared]
    if any(names):
        known = [TABLE_0211.get(name) or _ALIASES.get(name) for name in names if name]
        # Later repetitions are reached by ISO 2022 escape sequences (2.5.1 2.15.9.18), only ever used for Japanese.
        codec = next((each for each in known[1:] if each and each.startswith("iso2022")), known[0] or "")
        if codec:
            return _strict(raw, codec), codec, ()
        if raw.isascii():
            return raw.decode("ascii"), "ascii", ("MSH-18 names an unknown character set; the message is plain ASCII",)
        raise InvalidInput("MSH-18 names a character set that is not in HL7 table 0211.", location="MSH^1^18")
    if default_charset:
        return _strict(raw, default_charset), codecs.lookup(default_charset).name, ()
    try:
        return raw.decode("utf-8"), "utf-8", ()
    except UnicodeDecodeError:
        return _strict(raw, "cp1252"), "cp1252", ("MSH-18 is empty and the bytes are not UTF-8: read as Windows-1252",)


def _strict(raw: bytes, codec: str) -> str:
    try:
        return raw.decode(codec)
    except UnicodeDecodeError as fault:
        raise InvalidInput(
            f"The message is not valid {codec} (first at byte {fault.start}); correct MSH-18 or the text.",
            location="MSH^1^18",
        ) from None
