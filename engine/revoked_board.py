"""The ids that are revoked, where every child of the worker sees them at once: a part of the scoreboard.

Two tables of digests with open addressing, of which one is in use. The one writer (the agent, or the
housekeeping of a worker of one process) adds to it in place: the second word of a digest first, then
the first, which is what says that the cell is taken. What is to be forgotten is left out of the other
table, and then that one is used. A writer that is stopped or dies anywhere in between leaves a
table in use that is whole; a reader never waits for it.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from typing import Any, Final

from .revoked_keys import ending_digest, stamp_digests, task_digest
from .scoreboard import REVOKED_BYTES, REVOKED_CELLS, REVOKED_OFFSET

REVOKED_MAX: Final = 50_000
"""How many are remembered at most."""

# The table in use may hold so many, the forgotten ones among them: less than half of its cells.
ROOM: Final = REVOKED_MAX + REVOKED_MAX // 10

# Header words. The writer is the agent.
A_COUNT: Final = 0  # how many are in the table in use; 0: nothing is revoked
A_TABLE: Final = 1  # how often the table was changed for the other one; its parity is the table in use
A_STAMPS: Final = 2  # 1: stamped headers may be among them
A_ENDINGS: Final = 3  # 1: some of them are to be ended although they run

_HEADER_BYTES: Final = 4096
_MASK: Final = REVOKED_CELLS - 1
_PAIR: Final = struct.Struct("<QQ")
_TRIES: Final = 3


class RevokedBoard:
    """The part of the scoreboard that says what is revoked.

    :param buffer: the mapping of the scoreboard.
    :ivar words: the header; a reader that finds 0 in `A_COUNT` need not ask.
    """

    def __init__(self, buffer: Any) -> None:
        whole = memoryview(buffer)[REVOKED_OFFSET : REVOKED_OFFSET + REVOKED_BYTES]
        self.words = whole[:_HEADER_BYTES].cast("Q")
        cells = whole[_HEADER_BYTES:].cast("Q")
        self._tables = (cells[: 2 * REVOKED_CELLS], cells[2 * REVOKED_CELLS :])

    # --- readers ------------------------------------------------------------------------------------

    def revokes(self, task_id: str, stamps: dict[str, object] | None) -> bool:
        """Whether a message of this id, stamped with this, is revoked."""
        if not self.words[A_COUNT]:
            return False
        if self.holds(task_digest(task_id)):
            return True
        if not stamps or not self.words[A_STAMPS]:
            return False
        return any(self.holds(digest) for digest in stamp_digests(stamps))

    def ends(self, task_id: str) -> bool:
        """Whether an execution of this id is to be ended although it runs.

        For a child that runs several at once, which only it can tell from each other.
        """
        return bool(self.words[A_ENDINGS]) and self.holds(ending_digest(task_id))

    def holds(self, digest: bytes) -> bool:
        """Whether a digest is on the board."""
        first, second = _words_of(digest)
        for _ in range(_TRIES):
            number = self.words[A_TABLE]
            if _found(self._tables[number & 1], first, second):
                return True
            if self.words[A_TABLE] == number:
                return False
        return False

    def digests(self) -> list[bytes]:
        """All that are on the board, in no order."""
        table = self._tables[self.words[A_TABLE] & 1]
        return [_PAIR.pack(table[at], table[at + 1]) for at in range(0, 2 * REVOKED_CELLS, 2) if table[at]]

    # --- the writer ---------------------------------------------------------------------------------

    def add(self, digest: bytes) -> bool:
        """Add one; False when there is no room, and the board must be made anew (`replace`)."""
        count = self.words[A_COUNT]
        if count >= ROOM:
            return False
        if _put(self._tables[self.words[A_TABLE] & 1], digest):
            self.words[A_COUNT] = count + 1
        return True

    def replace(self, digests: Iterable[bytes]) -> None:
        """Have these on the board, and nothing else; the first `ROOM` of them."""
        number = self.words[A_TABLE] + 1
        table = self._tables[number & 1]
        table[:] = memoryview(bytes(table.nbytes)).cast("Q")
        count = 0
        for digest in digests:
            if count >= ROOM:
                break
            count += _put(table, digest)
        self.words[A_TABLE] = number
        self.words[A_COUNT] = count


def _words_of(digest: bytes) -> tuple[int, int]:
    first, second = _PAIR.unpack(digest)
    return first or 1, second  # 0 is an empty cell


def _probes(second: int) -> Iterator[int]:
    start = second & _MASK
    for step in range(REVOKED_CELLS):
        yield ((start + step) & _MASK) * 2


def _found(table: memoryview, first: int, second: int) -> bool:
    for at in _probes(second):
        taken = table[at]
        if not taken:
            return False
        if taken == first and table[at + 1] == second:
            return True
    return False


def _put(table: memoryview, digest: bytes) -> bool:
    """Write a digest into a table with room; False when it is there already."""
    first, second = _words_of(digest)
    for at in _probes(second):
        taken = table[at]
        if not taken:
            table[at + 1] = second
            table[at] = first
            return True
        if taken == first and table[at + 1] == second:
            return False
    return False
