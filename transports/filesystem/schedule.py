"""Delayed messages: they wait in buckets by due minute until somebody flips them to ready."""

from __future__ import annotations

from .append import READY_BYTE, minute_of
from .layout import ENTRY, NEVER_MS, PRIORITIES, State
from .pages import InPage
from .queuedir import QueueDir
from .segment import Segment

_DELAYED_BYTE = bytes((State.DELAYED,))


def promote(queue: QueueDir, now_ms: int, limit: int) -> tuple[int, int]:
    """Make due delayed messages of a queue ready, earliest first, at most `limit`.

    :param now_ms: Unix time; nothing that is due later is touched.
    :returns: how many, and the Unix time (ms) before which nothing more is due.
    """
    with queue.locked():
        page = queue.read_in()
        if page.next_due_ms > now_ms:
            return 0, page.next_due_ms
        promoted = 0
        next_ms = NEVER_MS
        for hour in queue.bucket_hours():
            for segment_id in queue.hour_ids(hour):
                if segment_id.minute > minute_of(now_ms) or promoted >= limit:
                    # Due times in here are not before the minute, nor before what was read so far.
                    next_ms = min(next_ms, segment_id.minute * 60_000)
                    break
                segment = queue.segment(segment_id)
                if segment is not None:
                    count, rest_ms = _promote_segment(queue, page, segment, now_ms, limit - promoted)
                    promoted += count
                    next_ms = min(next_ms, rest_ms)
            if next_ms <= (hour + 1) * 3_600_000:
                break
        page.next_due_ms = next_ms
        queue.write_in(page)
    return promoted, next_ms


def _promote_segment(
    queue: QueueDir, page: InPage, segment: Segment, now_ms: int, limit: int
) -> tuple[int, int]:
    """Flip what is due; also say when the rest of the segment is due at the earliest."""
    states = bytearray(segment.states())
    entries = segment.entries(0, len(states)) if _DELAYED_BYTE in states else b""
    waiting: list[tuple[int, int]] = []
    slot = states.find(_DELAYED_BYTE)
    while slot >= 0:
        waiting.append((int(ENTRY.unpack_from(entries, slot * ENTRY.size)[3]), slot))
        slot = states.find(_DELAYED_BYTE, slot + 1)
    waiting.sort()
    due = [slot for due_ms, slot in waiting[:limit] if due_ms <= now_ms]
    rest_ms = waiting[len(due)][0] if len(due) < len(waiting) else NEVER_MS
    if due:
        stream = segment.id.priority + PRIORITIES
        page.set_count(stream, page.count(stream) + len(due))
        page.promoted_minute = max(page.promoted_minute, segment.id.minute)
        queue.write_in(page)
        for slot in due:
            states[slot] = State.READY
        segment.write_states(0, states)
    elif not waiting:
        queue.drop_if_done(segment, states)
    return len(due), rest_ms


def count_ready(states: bytes) -> int:
    """How many slots are ready."""
    return states.count(READY_BYTE)
