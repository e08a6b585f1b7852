"""MLLP framing: frames from bytes however the network cut them."""

import hashlib
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wetread.wire.mllp import Deframer, Event, Frame, Junk, Oversize, Truncated, frame

MESSAGE = b"MSH|^~\\&|A|B|C|D|2026||ADT^A08|1|P|2.5\rPID|1\r"


def fed(data: bytes, piece: int, limit: int = 1000) -> list[Event]:
    deframer = Deframer(limit)
    events: list[Event] = []
    for start in range(0, len(data), piece):
        events += deframer.feed(data[start : start + piece])
    return events + deframer.close()


def test_a_frame_is_vt_message_fs_cr() -> None:
    assert frame(b"MSH") == b"\x0bMSH\x1c\r"


@pytest.mark.parametrize("message", [b"a\x0bb", b"a\x1cb"])
def test_a_message_that_would_break_its_frame_is_not_framed(message: bytes) -> None:
    with pytest.raises(ValueError, match="VT"):
        frame(message)


content = st.binary(max_size=60).map(lambda raw: raw.replace(b"\x0b", b"").replace(b"\x1c", b""))


@given(st.lists(content, max_size=6), st.integers(1, 50))
def test_messages_come_out_whole_however_the_bytes_were_cut(messages: list[bytes], piece: int) -> None:
    data = b"".join(frame(message) for message in messages)
    assert fed(data, piece) == [Frame(message) for message in messages]


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(0, 40))
def test_any_bytes_can_be_fed(data: bytes, piece: int, limit: int) -> None:
    for event in fed(data, piece, limit):
        assert event.payload is not None if isinstance(event, Frame) else event.size >= 0


@given(st.binary(max_size=200), st.integers(1, 30), st.integers(0, 60))
def test_how_the_bytes_were_cut_never_matters(data: bytes, piece: int, limit: int) -> None:
    def without_junk(events: list[Event]) -> list[Event]:
        return [event for event in events if not isinstance(event, Junk)]

    assert without_junk(fed(data, piece, limit)) == without_junk(fed(data, len(data) or 1, limit))


@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_bytes_between_frames_are_counted_and_ignored(piece: int) -> None:
    events = fed(b"\r\nnoise" + frame(MESSAGE) + b"\r\n" + frame(MESSAGE), piece)
    assert [event.payload for event in events if isinstance(event, Frame)] == [MESSAGE, MESSAGE]
    assert sum(event.size for event in events if isinstance(event, Junk)) == len(b"noise")


def test_much_without_a_frame_is_excessive() -> None:
    deframer = Deframer(1000, junk_limit=100)
    assert deframer.feed(b"x" * 100) == [Junk(100, excessive=False)]
    assert deframer.feed(b"x") == [Junk(1, excessive=True)]


@pytest.mark.parametrize("piece", [1, 3, 4096])
def test_a_message_beyond_the_limit_keeps_its_head_digest_and_size(piece: int) -> None:
    big = b"MSH|" + bytes(range(0x20, 0x7F)) * 20
    events = fed(frame(MESSAGE) + frame(big) + frame(MESSAGE), piece)
    assert events == [
        Frame(MESSAGE),
        Oversize(big, hashlib.sha256(big).hexdigest(), len(big)),
        Frame(MESSAGE),
    ]


@pytest.mark.parametrize("piece", [1, 5, 4096])
def test_the_limit_itself_is_not_beyond_it(piece: int) -> None:
    assert fed(frame(b"x" * 1000), piece) == [Frame(b"x" * 1000)]
    assert isinstance(fed(frame(b"x" * 1001), piece)[0], Oversize)


def test_a_hundred_megabytes_pass_through_bounded_memory() -> None:
    chunk = b"OBX|1|ED|X||" + b"QUJD" * 16_000 + b"\r"
    count = 100_000_000 // len(chunk)
    digest = hashlib.sha256()
    deframer = Deframer(1_000_000)
    tracemalloc.start()
    try:
        deframer.feed(b"\x0b")
        for _ in range(count):
            digest.update(chunk)
            assert deframer.feed(chunk) == []
        (event,) = deframer.feed(b"\x1c\r")
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert isinstance(event, Oversize)
    assert (event.sha256, event.size) == (digest.hexdigest(), count * len(chunk))
    assert event.head == (chunk * 2)[: 64 * 1024]
    assert peak < 5_000_000


@pytest.mark.parametrize("piece", [1, 4096])
def test_a_frame_that_never_ends_is_told_at_the_close(piece: int) -> None:
    assert fed(b"\x0b" + MESSAGE, piece) == [Truncated(MESSAGE, len(MESSAGE))]
    assert fed(b"\x0b" + b"x" * 5000, piece) == [Truncated(b"x" * 5000, 5000)]
    assert fed(frame(MESSAGE), piece) == [Frame(MESSAGE)]


def test_a_sender_that_begins_again_is_understood() -> None:
    assert fed(b"\x0b" + MESSAGE[:30] + frame(MESSAGE), 4096) == [Truncated(MESSAGE[:30], 30), Frame(MESSAGE)]


def test_a_stray_block_character_in_a_message_does_not_cut_it() -> None:
    assert fed(b"\x0bMSH|a\x1cb\x0bc\x1c\r", 4096) == [Frame(b"MSH|a\x1cb\x0bc")]
