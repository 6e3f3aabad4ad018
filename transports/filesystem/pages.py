"""The two small files of a queue: `in`, written by who adds messages, and `out`, by who takes them.

Both are hints that may only err towards "there is something": the truth is the states in the
segments. Damaged ones are rebuilt from there. A write to `in` is also the bell that wakes waiters,
which is why takers have a file of their own.
"""

from __future__ import annotations

import struct
import zlib

from .layout import NEVER_MS, PRIORITIES

STREAMS = 2 * PRIORITIES
"""Counters exist per priority, for plain messages and, above them, for promoted delayed ones."""

PAGE_SIZE = 232
_COUNTS_AT = 64
_COUNTS_END = _COUNTS_AT + 8 * STREAMS
_CRC = struct.Struct("<I")
_U64 = struct.Struct("<Q")
_I64 = struct.Struct("<q")
_U32 = struct.Struct("<I")
_COUNTS = struct.Struct(f"<{STREAMS}Q")
_MAGIC_IN = b"PFin"
_MAGIC_OUT = b"PFot"
_BELL_AT = 8
_NEXT_DUE_AT = 16
_NUMBERS_AT = 24
_PROMOTED_AT = _COUNTS_END
FIRST_NUMBER = 1


class _Page:
    magic = b""

    def __init__(self, data: bytes | bytearray) -> None:
        self.data = bytearray(data)

    def pack(self) -> bytearray:
        """The bytes to write, sealed."""
        _CRC.pack_into(self.data, 4, zlib.crc32(memoryview(self.data)[8:]))
        return self.data

    def number(self, priority: int) -> int:
        """The segment number kept for a priority."""
        return int(_U32.unpack_from(self.data, _NUMBERS_AT + 4 * priority)[0])

    def set_number(self, priority: int, number: int) -> None:
        """Keep a segment number for a priority."""
        _U32.pack_into(self.data, _NUMBERS_AT + 4 * priority, number)

    def count(self, stream: int) -> int:
        """A counter."""
        return int(_U64.unpack_from(self.data, _COUNTS_AT + 8 * stream)[0])

    def set_count(self, stream: int, count: int) -> None:
        """Set a counter."""
        _U64.pack_into(self.data, _COUNTS_AT + 8 * stream, count & 0xFFFFFFFFFFFFFFFF)


class InPage(_Page):
    """Tail segment numbers and how many messages ever became ready."""

    magic = _MAGIC_IN

    def ring(self) -> None:
        """Change something, so that the write is never an identical one."""
        bell = _U64.unpack_from(self.data, _BELL_AT)[0]
        _U64.pack_into(self.data, _BELL_AT, (bell + 1) & 0xFFFFFFFFFFFFFFFF)

    @property
    def next_due_ms(self) -> int:
        """No delayed message is due before this Unix time."""
        return int(_I64.unpack_from(self.data, _NEXT_DUE_AT)[0])

    @next_due_ms.setter
    def next_due_ms(self, value: int) -> None:
        _I64.pack_into(self.data, _NEXT_DUE_AT, value)

    @property
    def promoted_minute(self) -> int:
        """No delayed bucket after this minute has anything but waiting messages."""
        return int(_U64.unpack_from(self.data, _PROMOTED_AT)[0])

    @promoted_minute.setter
    def promoted_minute(self, value: int) -> None:
        _U64.pack_into(self.data, _PROMOTED_AT, value)


class OutPage(_Page):
    """Head segment numbers and how many ready messages were ever taken."""

    magic = _MAGIC_OUT


def new_in_page() -> InPage:
    """The `in` of a queue without messages."""
    page = InPage(_MAGIC_IN + bytes(PAGE_SIZE - 4))
    page.next_due_ms = NEVER_MS
    for priority in range(PRIORITIES):
        page.set_number(priority, FIRST_NUMBER)
    return page


def new_out_page() -> OutPage:
    """The `out` of a queue without messages."""
    page = OutPage(_MAGIC_OUT + bytes(PAGE_SIZE - 4))
    for priority in range(PRIORITIES):
        page.set_number(priority, FIRST_NUMBER)
    return page


def is_whole(data: bytes, magic: bytes) -> bool:
    """Whether a page was read as it was written."""
    return (
        len(data) == PAGE_SIZE
        and data.startswith(magic)
        and _CRC.unpack_from(data, 4)[0] == zlib.crc32(memoryview(data)[8:])
    )


def same_counts(in_data: bytes, out_data: bytes) -> bool:
    """Whether nothing can be ready."""
    return in_data[_COUNTS_AT:_COUNTS_END] == out_data[_COUNTS_AT:_COUNTS_END]


def waiting(in_data: bytes, out_data: bytes) -> list[int]:
    """How many may be ready in each stream; never too few."""
    enqueued = _COUNTS.unpack_from(in_data, _COUNTS_AT)
    taken = _COUNTS.unpack_from(out_data, _COUNTS_AT)
    return [max(0, a - b) for a, b in zip(enqueued, taken)]


def next_due_ms(in_data: bytes) -> int:
    """See `InPage.next_due_ms`."""
    return int(_I64.unpack_from(in_data, _NEXT_DUE_AT)[0])
