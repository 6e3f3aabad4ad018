"""Looks into a queue without reserving, and empties it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from ..base import Depth, Waiting
from .layout import ENTRY, PRIORITIES, SegmentId, State
from .pages import STREAMS
from .queuedir import QueueDir
from .segment import Segment

_READY_BYTE = bytes((State.READY,))
_DELAYED_BYTE = bytes((State.DELAYED,))
# A queue that changes again and again has something ready or in work, and is visited once.
_VISITS_MAX = 8


def peek_ready(queue: QueueDir, limit: int) -> list[Waiting]:
    """The next messages in the order in which they would be reserved."""
    found: list[Waiting] = []
    with queue.locked():
        ids = queue.segment_ids(queue.read_in().promoted_minute)
        for priority in range(PRIORITIES - 1, -1, -1):
            ordered = [one for one in ids if one.priority == priority and one.minute]
            ordered += [one for one in ids if one.priority == priority and not one.minute]
            for segment_id in ordered:
                if len(found) >= limit:
                    return found
                found += itertools.islice(_messages(queue, segment_id, _READY_BYTE), limit - len(found))
    return found


def peek_delayed(queue: QueueDir, limit: int) -> list[Waiting]:
    """The next messages of the schedule, earliest first."""
    found: list[Waiting] = []
    with queue.locked():
        for hour in queue.bucket_hours():
            for _, segments in itertools.groupby(queue.hour_ids(hour), key=lambda one: one.minute):
                if len(found) >= limit:
                    return found[:limit]
                due = [one for segment in segments for one in _messages(queue, segment, _DELAYED_BYTE)]
                found += sorted(due, key=lambda one: one.due_wall_s or 0.0)
    return found[:limit]


def _messages(queue: QueueDir, segment_id: SegmentId, state: bytes) -> Iterator[Waiting]:
    segment = queue.segment(segment_id)
    if segment is None:
        return
    states = segment.states()
    slot = states.find(state)
    while slot >= 0:
        yield _waiting(queue, segment, slot)
        slot = states.find(state, slot + 1)


def _waiting(queue: QueueDir, segment: Segment, slot: int) -> Waiting:
    due_ms = int(ENTRY.unpack(segment.entries(slot, 1))[3])
    document = segment.read_documents(slot, 1)[0]
    return Waiting(
        queue=queue.name,
        document=segment.read_raw(slot) if document is None else document,
        priority=segment.id.priority,
        due_wall_s=due_ms / 1000 if due_ms else None,
        crashes=segment.record(slot)[0],
    )


def depth(queue: QueueDir) -> Depth:
    """Count every slot.

    Staged messages are nowhere yet; what they follow, and whoever's result is not visible yet, is in work.
    """
    found = _Counted()
    for _ in range(_VISITS_MAX):
        before, found = _changes(queue), _Counted()
        queue.visit_segments(queue.segment_ids(), found.add)
        # They are visited one after the other, and a message may have gone from one that was not yet to one
        # that was, or to a new one: that nothing is there must be true of one moment.
        if found.depth.ready or found.depth.in_work or _changes(queue) == before:
            break
    return found.depth


def _changes(queue: QueueDir) -> bytes:
    """What is another whenever a message has come to be seen anywhere: `in` is written before it is."""
    with queue.locked():
        return bytes(queue.read_in().data)


class _Counted:
    """What was in the segments that were visited."""

    def __init__(self) -> None:
        self.depth = Depth(0, 0, 0)

    def add(self, segment: Segment) -> None:
        """Count one more."""
        states, before = segment.states(), self.depth
        self.depth = Depth(
            before.ready + states.count(State.READY),
            before.delayed + states.count(State.DELAYED),
            before.in_work + states.count(State.CLAIMED) + states.count(State.SETTLED),
        )


def purge(queue: QueueDir) -> int:
    """Drop ready and delayed messages; how many."""
    dropped = 0

    def drop(segment: Segment) -> None:
        nonlocal dropped
        states = segment.states()
        purged = states.translate(_PURGED)
        if purged != states:
            dropped += states.count(State.READY) + states.count(State.DELAYED)
            segment.write_states(0, purged)
            queue.drop_if_done(segment, purged)
            if queue.store.fsync:
                segment.sync()

    queue.visit_segments(queue.segment_ids(), drop)
    _forget_counts(queue)
    return dropped


_PURGED = bytes(State.DONE if value in (State.READY, State.DELAYED) else value for value in range(256))


def _forget_counts(queue: QueueDir) -> None:
    """Count again what is ready: messages may have come while the queue was emptied."""
    with queue.locked():
        ready = [0] * STREAMS
        for segment_id in queue.segment_ids(queue.read_in().promoted_minute):
            segment = queue.segment(segment_id)
            if segment is not None:
                stream = segment_id.priority + (PRIORITIES if segment_id.minute else 0)
                ready[stream] += segment.states().count(State.READY)
        in_page, out_page = queue.read_in(), queue.read_out()
        for stream, count in enumerate(ready):
            out_page.set_count(stream, in_page.count(stream) - count)
        queue.write_out(out_page)
