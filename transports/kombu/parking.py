"""Messages that wait for their time, in the process that sends them home.

kombu has no schedule. Who reserves a message too early puts it into the queue `outbox.PARKING`; one
process of each worker reads that queue, keeps what it finds, and returns each message when it is due.
"""

from __future__ import annotations

import heapq
from typing import NamedTuple

from . import outbox
from .holdings import Holdings
from .line import Line

WAITING_MAX = 100_000
"""How many messages one process keeps; the others wait in the queue."""


class _Waiting(NamedTuple):
    due_wall_s: float
    tag: bytes


class Parking:
    """Used by one thread at a time."""

    def __init__(self, line: Line, holdings: Holdings, poll_s: float) -> None:
        self._line = line
        self._holdings = holdings
        self._poll_s = poll_s
        self._waiting: list[_Waiting] = []
        self._looked_mono_s = float("-inf")

    def turn(self, limit: int, now_wall_s: float, now_mono_s: float) -> float | None:
        """Return what is due, and read what came; returns the Unix time of the next one.

        :raises BrokerUnavailable: call again.
        """
        if now_mono_s - self._looked_mono_s >= self._poll_s:
            self._looked_mono_s = now_mono_s
            self._read(limit)
        while limit > 0 and self._waiting and self._waiting[0].due_wall_s <= now_wall_s:
            self._send_home(self._waiting[0].tag)
            heapq.heappop(self._waiting)
            limit -= 1
        return self._waiting[0].due_wall_s if self._waiting else None

    def close(self) -> None:
        """Return everything: the next worker puts it off again, a worker of another make keeps it."""
        while self._waiting:
            self._send_home(self._waiting[0].tag)
            heapq.heappop(self._waiting)
        self._holdings.close()
        self._line.close()

    def _read(self, limit: int) -> None:
        while limit > 0 and len(self._waiting) < WAITING_MAX:
            message = self._line.get(outbox.PARKING)
            if message is None:
                return
            tag = self._holdings.hold(message)
            entry = self._holdings.read(tag)
            # What is not ours goes back to no queue of ours: it is due at once, and dropped below.
            due_wall_s = 0.0 if entry is None or entry.due_wall_s is None else entry.due_wall_s
            heapq.heappush(self._waiting, _Waiting(due_wall_s, tag))
            limit -= 1

    def _send_home(self, tag: bytes) -> None:
        claim = self._holdings.claim(tag)
        if claim is None:
            return  # another process has taken it over
        try:
            if claim.entry.home:
                outbox.go_home(self._line, claim.entry)
            else:
                outbox.bury(self._line, claim.entry, "not-deferred", ())
            claim.done()
        except Exception:
            claim.undo()
            raise
