"""Where a next page begins is the server's secret."""

from __future__ import annotations

import base64

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wetread.domain.reader import Reader
from wetread.errors import InvalidInput
from wetread.record.cursors import Cursors

HERE, ELSEWHERE = Cursors(b"k" * 32), Cursors(b"l" * 32)
ALICE, BOB = Reader("alice", ()), Reader("bob", ())
URL, ASKED = "https://here.example/fhir/Patient", [("name", "x"), ("_sort", "-birthdate")]
PLACE = [4711, ["Smith", None], "2026-01-01T00:00:00+00:00", 99]


def test_a_place_is_read_by_who_sealed_it_for_the_same_reader_and_question() -> None:
    text = HERE.sealed(ALICE, URL, ASKED, PLACE)
    assert HERE.opened(ALICE, URL, ASKED, text) == PLACE
    assert Cursors(b"k" * 32).opened(ALICE, URL, ASKED[::-1], text) == PLACE  # another process of the site
    assert HERE.opened(ALICE, URL, [*ASKED, ("_count", "7"), ("_cursor", text), ("_format", "xml")], text) == PLACE


@pytest.mark.parametrize(
    ("cursors", "reader", "url", "params"),
    [
        (ELSEWHERE, ALICE, URL, ASKED),
        (HERE, BOB, URL, ASKED),
        (HERE, ALICE, f"{URL}/1/_history", ASKED),
        (HERE, ALICE, URL, ASKED[:1]),
        (HERE, ALICE, URL, [("name", "y"), ASKED[1]]),
    ],
    ids=["server", "reader", "url", "fewer", "other value"],
)
def test_it_is_nothing_to_another(cursors: Cursors, reader: Reader, url: str, params: list[tuple[str, str]]) -> None:
    text = HERE.sealed(ALICE, URL, ASKED, PLACE)
    with pytest.raises(InvalidInput):
        cursors.opened(reader, url, params, text)


@given(st.text(max_size=80) | st.binary(max_size=60).map(lambda b: base64.urlsafe_b64encode(b).decode()))
def test_it_cannot_be_made_up(text: str) -> None:
    with pytest.raises(InvalidInput):
        HERE.opened(ALICE, URL, ASKED, text)


@given(at=st.integers(0, 10_000), other=st.sampled_from("AQgw5_-"))
def test_it_cannot_be_altered(at: int, other: str) -> None:
    text = HERE.sealed(ALICE, URL, ASKED, PLACE)
    at %= len(text) - 1
    altered = text[:at] + other + text[at + 1 :]
    if altered != text:
        with pytest.raises(InvalidInput):
            HERE.opened(ALICE, URL, ASKED, altered)


def test_it_tells_no_number_of_ours() -> None:
    text = HERE.sealed(ALICE, URL, ASKED, PLACE)
    assert b"4711" not in base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
