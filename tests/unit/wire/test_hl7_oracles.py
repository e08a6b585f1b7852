"""Our reader beside python-hl7 and hl7apy on the same messages: nothing lost, nothing moved."""

from pathlib import Path

import hl7
import pytest
from hl7apy.exceptions import HL7apyException
from hl7apy.parser import parse_message

from wetread.errors import InvalidInput
from wetread.wire.hl7 import Message, parse, split_batch, unescape

DATA = Path(__file__).parents[2] / "data" / "hl7v2"

NOT_HL7 = {"bad-no-msh"}
PYTHON_HL7_WRONG = {"bad-msh-short"}
"""It takes the characters after a short MSH-2 for fields."""
HL7APY_FAILS = {
    "bad-msh-short": "no version",
    "bad-no-msh2": "no encoding characters",
    "bad-segment-name": "segment names of other than three letters",
}


def messages() -> list[tuple[str, Message]]:
    found = []
    for path in sorted(DATA.glob("*.hl7")):
        for raw in split_batch(path.read_bytes()):
            if path.stem not in NOT_HL7:
                found.append((path.stem, parse(raw)))
    return found


def normalised(message: Message) -> str:
    return "\r".join(segment.text for segment in message.segments)


def test_what_is_not_hl7_is_refused() -> None:
    for stem in NOT_HL7:
        with pytest.raises(InvalidInput):
            parse((DATA / f"{stem}.hl7").read_bytes())


@pytest.mark.parametrize(("stem", "message"), messages())
def test_every_part_of_every_field_is_what_python_hl7_reads(stem: str, message: Message) -> None:
    theirs = hl7.parse(normalised(message))
    if stem in PYTHON_HL7_WRONG:
        assert len(theirs[0]) != message.header.fields + 1
        return
    assert len(theirs) == len(message.segments)
    compared = 0
    for ours, their_segment in zip(message.segments, theirs, strict=True):
        assert ours.text.startswith(str(their_segment[0]))
        assert ours.fields == len(their_segment) - 1
        for number in range(1, ours.fields + 1):
            # python-hl7 strips the blanks around the message, so around its last field too.
            assert ours.raw(number).rstrip() == str(their_segment[number]).rstrip()
            if ours.name == "MSH" and number <= 2:
                continue
            for repetition, their_repetition in enumerate(their_segment[number], 1):
                for component, their_component in enumerate(parts(their_repetition), 1):
                    for subcomponent, text in enumerate(parts(their_component), 1):
                        expected = "" if text == '""' else unescape(text, message.delimiters, message.charset)
                        assert ours.value(number, component, subcomponent, repetition).rstrip() == expected.rstrip()
                        compared += 1
    assert compared > 0


def parts(container: object) -> list[object]:
    return list(container) if isinstance(container, hl7.Container) else [container]


@pytest.mark.parametrize(("stem", "message"), messages())
def test_the_segments_are_those_hl7apy_finds_without_groups(stem: str, message: Message) -> None:
    if stem in HL7APY_FAILS:
        with pytest.raises((HL7apyException, TypeError)):
            parse_message(normalised(message), find_groups=False)
        return
    theirs = parse_message(normalised(message), find_groups=False)
    assert [segment.name for segment in message.segments] == [child.name for child in theirs.children]
