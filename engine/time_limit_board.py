"""Time limits that were changed at run time: a part of the scoreboard that every child reads.

The one writer (the agent) enters a task kind by a digest of its name and never takes it out again. An
entry bears a sequence number, odd while it is written; whoever reads it in that moment keeps what it
had and looks again at its next task.
"""

from __future__ import annotations

from hashlib import blake2b
from typing import Any, Final, NamedTuple

from .scoreboard import (
    A_TIME_LIMITS,
    TIME_LIMIT_WORDS,
    TIME_LIMITS_BYTES,
    TIME_LIMITS_MAX,
    TIME_LIMITS_OFFSET,
)

_DIGEST: Final = 0
_SEQUENCE: Final = 1
_SOFT_MS: Final = 2  # 0: none of its own
_HARD_MS: Final = 3


class RunTimeLimits(NamedTuple):
    """What a command said of a task kind, in seconds; None is what the worker's configuration says."""

    soft_s: float | None
    hard_s: float | None


class TimeLimitBoard:
    """The time limits that commands have set, seen from one process.

    :param buffer: the mapping of the scoreboard.
    :param header: its header; `A_TIME_LIMITS` in it changes with every command.
    """

    def __init__(self, buffer: Any, header: memoryview) -> None:
        self._header = header
        end = TIME_LIMITS_OFFSET + TIME_LIMITS_BYTES
        self._entries = memoryview(buffer)[TIME_LIMITS_OFFSET:end].cast("Q")

    def get(self, name: str) -> RunTimeLimits | None:
        """What a command has set for a task kind; None when there was none, or it is just being written."""
        entries, wanted = self._entries, _digest(name)
        at = self._find(wanted)
        if at is None or entries[at + _DIGEST] != wanted:
            return None
        before = entries[at + _SEQUENCE]
        soft_ms, hard_ms = entries[at + _SOFT_MS], entries[at + _HARD_MS]
        if before & 1 or entries[at + _SEQUENCE] != before:
            return None
        return RunTimeLimits(soft_ms / 1000 or None, hard_ms / 1000 or None)

    def set(self, name: str, limits: RunTimeLimits) -> None:
        """Set the limits of a task kind. Called by the agent alone.

        :raises ValueError: too many kinds have limits of their own.
        """
        entries, wanted = self._entries, _digest(name)
        at = self._find(wanted)
        if at is None:
            raise ValueError(f"the time limits of at most {TIME_LIMITS_MAX} kinds of tasks can be changed")
        entries[at + _SEQUENCE] |= 1
        entries[at + _SOFT_MS] = _ms(limits.soft_s)
        entries[at + _HARD_MS] = _ms(limits.hard_s)
        entries[at + _DIGEST] = wanted
        entries[at + _SEQUENCE] += 1
        self._header[A_TIME_LIMITS] += 1

    def _find(self, wanted: int) -> int | None:
        """The place of a digest, or the free one that it would get; None when the table is full."""
        for step in range(TIME_LIMITS_MAX):
            at = (wanted + step) % TIME_LIMITS_MAX * TIME_LIMIT_WORDS
            if self._entries[at + _DIGEST] in (0, wanted):
                return at
        return None


def _ms(limit_s: float | None) -> int:
    return 0 if limit_s is None else max(1, round(limit_s * 1000))


def _digest(name: str) -> int:
    found = blake2b(name.encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(found, "little") or 1
