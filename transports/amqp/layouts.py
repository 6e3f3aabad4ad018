"""Reading the properties of messages that look alike, which those of one task do.

A field table is a list of keys, kinds and values without an index: to walk through it costs more than to
run a short task. But between two messages of a task only some texts differ. So what stands between the
texts of a table is kept, and compared as a whole with the next one. Whatever does not fit exactly is read
entry by entry (`codec`), which has the last word on every doubt.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from .codec import PROPERTIES, Undecodable, decode_entry, decode_table, decode_value
from .documents import is_plain

_U16 = struct.Struct(">H")
_U32 = struct.Struct(">I")
_TEXT: Final = ord("S")

LAYOUTS_MAX: Final = 8
"""So many tasks, or ways to call one, are told apart at a time."""
# To learn a layout costs about twice as much as to read without one. Credit is earned by messages, more of it
# by those that fit: where no two are alike, one in this many is learnt from.
_LEARNING_COSTS: Final = 16
_CREDIT_MAX: Final = 128


class Layout(NamedTuple):
    """What a table is made of, but for its texts.

    :param slots: for each text its key, all bytes between the text before it and its own length, and how
        many those are.
    :param tail: the bytes after the last text.
    :param table: all entries in their order; the texts are replaced, the rest is shared: read it only.
    :param plain: whether all of it has the same form in JSON.
    """

    slots: tuple[tuple[str, bytes, int], ...]
    tail: bytes
    table: Mapping[str, Any]
    plain: bool


class PropertiesReader:
    """Reads content headers, and remembers the layouts of the tables in them. For one thread."""

    def __init__(self) -> None:
        self._layouts: list[Layout] = []
        self._credit = _CREDIT_MAX
        # For each set of flags that was met, the properties that they stand for.
        self._named: dict[int, tuple[str, ...]] = {}

    def read(self, data: bytes, offset: int = 0) -> tuple[dict[str, Any], bool]:
        """The properties of a content header, from its flags on, as `codec.decode_properties` reads them.

        :returns: the properties, whose values nobody may change; and whether the headers are known to
            have the same form in JSON.
        :raises Undecodable: and nothing else.
        """
        plain = False
        try:
            (flags,) = _U16.unpack_from(data, offset)
            offset += 2
            found: dict[str, Any] = {}
            for name in self._named.get(flags) or self._names_of(flags):
                if name == "headers":
                    found[name], offset, plain = self._table(data, offset)
                else:
                    found[name], offset = decode_value(name, data, offset)
            if offset > len(data):
                raise Undecodable("properties that are longer than their frame")
        except (struct.error, IndexError, OverflowError, ValueError) as exc:
            raise Undecodable(f"no properties: {exc}") from exc
        return found, plain

    def _names_of(self, flags: int) -> tuple[str, ...]:
        names = tuple(name for index, name in enumerate(PROPERTIES) if flags & 1 << (15 - index))
        self._named[flags] = names
        return names

    def _table(self, data: bytes, offset: int) -> tuple[dict[str, Any], int, bool]:
        """A field table, where it ends, and whether it is known to be plain."""
        end = offset + 4 + _U32.unpack_from(data, offset)[0]
        layouts = self._layouts
        for layout in layouts:
            table = _filled(layout, data, offset + 4, end)
            if table is not None:
                if layout is not layouts[0]:
                    layouts.remove(layout)
                    layouts.insert(0, layout)
                if self._credit < _CREDIT_MAX:
                    self._credit += 1
                return table, end, layout.plain
        table, end = decode_table(data, offset)
        self._credit += 1
        if self._credit >= _LEARNING_COSTS:
            self._credit -= _LEARNING_COSTS
            self._learn(data, offset, table, end)
        return table, end, False

    def _learn(self, data: bytes, offset: int, table: dict[str, Any], end: int) -> None:
        layout = layout_of(data, offset, table, end)
        if layout is not None:
            self._layouts.insert(0, layout)
            del self._layouts[LAYOUTS_MAX:]


def layout_of(data: bytes, offset: int, table: dict[str, Any], end: int) -> Layout | None:
    """The layout of a table that was read; None if a key is in it twice.

    :param offset: where its length begins.
    :param end: where it ends.
    """
    slots: list[tuple[str, bytes, int]] = []
    at = begin = offset + 4
    entries = 0
    while at < end:
        text_at = at + 1 + data[at] + 1
        is_text = data[text_at - 1] == _TEXT
        key, _, at = decode_entry(data, at)
        entries += 1
        if is_text:
            slots.append((key, data[begin:text_at], text_at - begin))
            begin = at
    if entries != len(table):
        return None
    texts = {key for key, _, _ in slots}
    plain = all(is_plain(value) for key, value in table.items() if key not in texts)
    return Layout(tuple(slots), data[begin:end], dict(table), plain)


def _filled(layout: Layout, data: bytes, at: int, end: int) -> dict[str, Any] | None:
    """The table from `at` to `end`; None unless it is of this layout to the last byte, and in UTF-8."""
    table = dict(layout.table)
    unpack_from = _U32.unpack_from
    try:
        for key, gap, gap_bytes in layout.slots:
            if not data.startswith(gap, at):
                return None
            text_at = at + gap_bytes + 4
            at = text_at + unpack_from(data, text_at - 4)[0]
            if at > end:
                return None
            table[key] = data[text_at:at].decode()
    except (struct.error, UnicodeDecodeError):
        return None
    tail = layout.tail
    if at + len(tail) != end or not data.startswith(tail, at) or end > len(data):
        return None
    return table
