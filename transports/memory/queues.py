"""Ready and delayed messages of a memory broker, in the order in which they are served.

Every method is called under the lock of the broker; `now_wall_s` is passed in.
"""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from itertools import count

from ..base import Outgoing, Waiting
from .messages import HIGHEST_PRIORITY, LOWEST_PRIORITY, Stored, served_priority

PRIORITIES = HIGHEST_PRIORITY - LOWEST_PRIORITY + 1


class Queues:
    """All queues of one broker. A queue exists from its first message or consumer on."""

    def __init__(self) -> None:
        self._ready: dict[str, list[tuple[int, int, Stored]]] = {}
        self._delayed: dict[str, list[tuple[float, int, Stored]]] = {}
        self._places = count(1)

    def declare(self, name: str) -> None:
        """Make a queue exist."""
        self._ready.setdefault(name, [])
        self._delayed.setdefault(name, [])

    def names(self) -> list[str]:
        """The queues that exist, sorted."""
        return sorted(self._ready)

    def add(self, outgoing: Outgoing, now_wall_s: float) -> Stored:
        """Accept a new message: ready, or delayed when it is due later."""
        message = Stored(
            place=next(self._places),
            queue=outgoing.queue,
            document=outgoing.document,
            priority=served_priority(outgoing.priority),
        )
        self.put_at(message, outgoing.due_wall_s, now_wall_s)
        return message

    def put(self, message: Stored) -> None:
        """Make a message ready, at the place it has."""
        self.declare(message.queue)
        message.due_wall_s = None
        heapq.heappush(self._ready[message.queue], (-message.priority, message.place, message))

    def put_at(self, message: Stored, due_wall_s: float | None, now_wall_s: float) -> None:
        """Make a message ready at a time, behind those that are ready by then."""
        self.declare(message.queue)
        message.place = next(self._places)
        if due_wall_s is None or due_wall_s <= now_wall_s:
            self.put(message)
            return
        message.due_wall_s = due_wall_s
        heapq.heappush(self._delayed[message.queue], (due_wall_s, message.place, message))

    def promote(self, now_wall_s: float, limit: int) -> list[Stored]:
        """Make up to `limit` due messages ready, earliest first."""
        promoted: list[Stored] = []
        while len(promoted) < limit:
            next_due = self.next_due_wall_s()
            if next_due is None or next_due > now_wall_s:
                break
            earliest = min((heap for heap in self._delayed.values() if heap), key=lambda heap: heap[0][:2])
            _due, _place, message = heapq.heappop(earliest)
            message.place = next(self._places)
            self.put(message)
            promoted.append(message)
        return promoted

    def next_due_wall_s(self) -> float | None:
        """When the earliest delayed message is due; None when there is none."""
        return min((heap[0][0] for heap in self._delayed.values() if heap), default=None)

    def take(self, names: Sequence[str], max_n: int, rotated: int = 0) -> list[Stored]:
        """Remove the best ready messages: by priority over all queues, then by age. A suspect comes alone.

        :param rotated: which other priority than the best comes first, from 1 on; the best comes last.
        """
        if rotated:
            return self._take_rotated(names, max_n, rotated)
        taken: list[Stored] = []
        while len(taken) < max_n:
            heaps = [heap for name in names if (heap := self._ready.get(name))]
            if not heaps:
                break
            best = min(heaps, key=lambda heap: heap[0][:2])
            if best[0][2].suspect and taken:
                break
            taken.append(heapq.heappop(best)[2])
            if taken[-1].suspect:
                break
        return taken

    def _take_rotated(self, names: Sequence[str], max_n: int, rotated: int) -> list[Stored]:
        """By looking at all that is there: for the few messages that are taken out of order."""
        found = [
            (_turned(HIGHEST_PRIORITY - entry[2].priority, rotated), entry, heap)
            for name in names
            if (heap := self._ready.get(name))
            for entry in heap
        ]
        taken: list[Stored] = []
        for _, entry, heap in heapq.nsmallest(max_n, found, key=lambda one: (one[0], one[1][1])):
            if entry[2].suspect and taken:
                break
            heap.remove(entry)
            heapq.heapify(heap)
            taken.append(entry[2])
            if entry[2].suspect:
                break
        return taken

    def purge(self, name: str) -> int:
        """Drop the ready and the delayed messages of a queue; returns how many."""
        dropped = self.ready(name) + self.delayed(name)
        if name in self._ready:
            self._ready[name].clear()
            self._delayed[name].clear()
        return dropped

    def ready(self, name: str) -> int:
        """How many messages of a queue are ready."""
        return len(self._ready.get(name, ()))

    def delayed(self, name: str) -> int:
        """How many messages of a queue wait for their time."""
        return len(self._delayed.get(name, ()))

    def peek(self, name: str, limit: int, *, delayed: bool) -> list[Waiting]:
        """The next messages in the order of service, untouched."""
        if delayed:
            return [entry[2].seen() for entry in heapq.nsmallest(limit, self._delayed.get(name, ()))]
        return [entry[2].seen() for entry in heapq.nsmallest(limit, self._ready.get(name, ()))]


def _turned(rank: int, by: int) -> int:
    """The place of a priority when another than the best comes first.

    :param rank: 0 for the best priority.
    """
    others = PRIORITIES - 1
    return (rank - by) % others if rank else others
