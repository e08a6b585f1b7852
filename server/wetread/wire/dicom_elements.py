"""Walks an encoded data set (PS3.5 7) without decoding it: which elements are there, and where their values lie.

Built for the receive path: nothing is copied, pixel data are stepped over, and a length that leads beyond the end of
the data is found. Forgiving where real writers err: an element without a valid VR in an explicit data set is read as
implicit, and an unknown VR as one with a short length.
"""

from __future__ import annotations

import struct
from collections.abc import Container, Iterator
from dataclasses import dataclass
from typing import TypeAlias

from wetread.errors import InvalidInput

UNDEFINED = 0xFFFFFFFF
ITEM, ITEM_END, SEQUENCE_END = 0xFFFEE000, 0xFFFEE00D, 0xFFFEE0DD
PIXEL_DATA = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))
"""Float, Double Float and (Integer) Pixel Data; an instance has one (PS3.3 C.7.6.24)."""
_LONG_VRS = frozenset((b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"))
_DEEPEST = 64

Place: TypeAlias = tuple[int, int]
"""Where a value lies: first byte, and the byte after the last."""


@dataclass(frozen=True, slots=True)
class Encoded:
    """An encoded data set: its bytes and how to read them."""

    data: memoryview
    explicit: bool
    little: bool = True

    def walk(self, start: int, end: int, wanted: Container[int]) -> tuple[dict[int, Place], int]:
        """The places of the wanted elements from `start` up to `end`, an item's end or pixel data; and where it ended.

        Raises InvalidInput where an element does not fit into the data.
        """
        return self._walk(start, end, wanted, 0)

    def items(self, place: Place) -> Iterator[Place]:
        """The items of a sequence value (PS3.5 7.5). Ends quietly at what is no item."""
        position, end = place
        tag_and_length = struct.Struct("<HHL" if self.little else ">HHL")
        while position + 8 <= end:
            group, element, length = tag_and_length.unpack_from(self.data, position)
            if group << 16 | element != ITEM:
                return
            position += 8
            if length == UNDEFINED:
                position, after = self._item_end(position, end)
                yield position, after
                position = after + 8
            else:
                yield position, min(position + length, end)
                position += length

    def _item_end(self, start: int, end: int) -> Place:
        _, stopped = self._walk(start, end, (), 1)
        return start, stopped

    def _walk(self, start: int, end: int, wanted: Container[int], depth: int) -> tuple[dict[int, Place], int]:
        if depth > _DEEPEST:
            raise InvalidInput(f"sequences are nested more than {_DEEPEST} deep")
        data, explicit = self.data, self.explicit
        order = "<" if self.little else ">"
        head, short, long = struct.Struct(f"{order}HH"), struct.Struct(f"{order}H"), struct.Struct(f"{order}L")
        found: dict[int, Place] = {}
        position = start
        while position < end:
            if position + 8 > end:
                raise InvalidInput("the data set is truncated: it ends within an element's tag")
            group, element = head.unpack_from(data, position)
            tag = group << 16 | element
            if tag in (ITEM_END, SEQUENCE_END) or (tag in PIXEL_DATA and depth == 0):
                return found, position
            vr = bytes(data[position + 4 : position + 6]) if explicit and group != 0xFFFE else b""
            if vr.isalpha() and vr.isupper():
                if vr in _LONG_VRS:
                    if position + 12 > end:
                        raise InvalidInput("the data set is truncated: it ends within an element's length")
                    length = long.unpack_from(data, position + 8)[0]
                    position += 12
                else:
                    length = short.unpack_from(data, position + 6)[0]
                    position += 8
            else:
                length = long.unpack_from(data, position + 4)[0]
                position += 8
            if length == UNDEFINED:
                # PS3.5 6.2.2: UN of undefined length is a sequence in implicit VR little endian.
                inner = Encoded(data, explicit=False) if vr == b"UN" else self
                after = inner._sequence_end(position, end, depth)
                if tag in wanted:
                    found[tag] = (position, after - 8)
                position = after
                continue
            if position + length > end:
                raise InvalidInput(f"the data set is truncated: {_name(tag)} goes on beyond its end")
            if tag in wanted:
                found[tag] = (position, position + length)
            position += length
        return found, position

    def _sequence_end(self, position: int, end: int, depth: int) -> int:
        """The byte after the Sequence Delimitation Item of a sequence of undefined length."""
        tag_and_length = struct.Struct("<HHL" if self.little else ">HHL")
        while position + 8 <= end:
            group, element, length = tag_and_length.unpack_from(self.data, position)
            tag = group << 16 | element
            position += 8
            if tag == SEQUENCE_END:
                return position
            if tag != ITEM:
                raise InvalidInput("a sequence holds something that is no item")
            if length == UNDEFINED:
                _, position = self._walk(position, end, (), depth + 1)
                position += 8
            else:
                position += length
        raise InvalidInput("the data set is truncated: it ends within a sequence")

    def check_pixel_data(self, position: int) -> None:
        """Raises InvalidInput where the pixel data that start at `position` are cut short.

        A missing Sequence Delimitation Item after the last whole fragment is forgiven.
        """
        end = len(self.data)
        if position + 12 > end:
            raise InvalidInput("the data set is truncated: it ends within PixelData")
        order = "<" if self.little else ">"
        at = position + (8 if self.explicit else 4)
        length = struct.unpack_from(f"{order}L", self.data, at)[0]
        position = at + 4
        if length != UNDEFINED:
            if position + length > end:
                raise InvalidInput("the data set is truncated: it ends within PixelData")
            return
        while position + 8 <= end:
            group, element, length = struct.unpack_from(f"{order}HHL", self.data, position)
            position += 8
            if group << 16 | element == SEQUENCE_END:
                return
            if position + length > end:
                raise InvalidInput("the data set is truncated: it ends within PixelData")
            position += length


def _name(tag: int) -> str:
    return f"({tag >> 16:04X},{tag & 0xFFFF:04X})"
