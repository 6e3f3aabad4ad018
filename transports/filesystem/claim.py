"""Takes ready messages of a queue for an owner."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from .append import READY_BYTE
from .layout import (
    CLAIM,
    FLAG_CHARGED,
    FLAG_STARTED,
    FLAG_SUSPECT,
    PRIORITIES,
    RECORD,
    SLOTS_MAX,
    SegmentId,
    State,
)
from .pages import InPage, OutPage
from .queuedir import QueueDir
from .segment import Segment

CLAIMED_BYTE = bytes((State.CLAIMED,))
_STALE_FLAGS = FLAG_STARTED | FLAG_CHARGED
CLEAN_RECORDS: tuple[tuple[int, int], ...] = ((0, 0),) * SLOTS_MAX


class Run(NamedTuple):
    """Neighbouring slots of a segment, taken together.

    :param records: (crashes, flags) per slot.
    """

    segment: Segment
    slot: int
    length: int
    records: tuple[tuple[int, int], ...]

    @property
    def suspect(self) -> bool:
        """Whether it is one message that must run alone."""
        return bool(self.records[0][1] & FLAG_SUSPECT)


def claim(
    queue: QueueDir, stream: int, max_n: int, owner: int, batch: int, *, alone: bool
) -> tuple[list[Run], bool]:
    """Take up to `max_n` messages of one stream, oldest first. The lock is held.

    :param stream: a priority, or `PRIORITIES` + a priority for promoted delayed messages.
    :param alone: nothing else was taken yet, so that a suspect may come, alone.
    :returns: what was taken, and whether a suspect ended it: then nothing worse may be taken either.
    """
    in_page, out_page = queue.read_in(), queue.read_out()
    runs: list[Run] = []
    wanted = max_n
    complete = True
    head = out_page.number(stream) if stream < PRIORITIES else 0
    for segment_id in _candidates(queue, stream, in_page, out_page):
        segment = queue.segment(segment_id)
        if segment is None:
            continue
        states = segment.states()
        taken, more = _take(segment, states, wanted, CLAIM.pack(owner, batch), alone and not runs)
        runs += taken
        wanted -= sum(run.length for run in taken)
        head = segment_id.number
        if more:
            complete = False
            break
    _count(queue, stream, in_page, out_page, max_n - wanted, complete, head)
    return runs, bool(wanted) and not complete


def _candidates(queue: QueueDir, stream: int, in_page: InPage, out_page: OutPage) -> Iterator[SegmentId]:
    if stream < PRIORITIES:
        for number in range(out_page.number(stream), in_page.number(stream) + 1):
            yield SegmentId(0, stream, number)
        return
    for found in queue.bucket_ids(in_page.promoted_minute):
        if found.priority == stream - PRIORITIES:
            yield found


def _take(
    segment: Segment, states: bytes, wanted: int, packed_claim: bytes, alone: bool
) -> tuple[list[Run], bool]:
    """Take what is ready in one segment; also say whether anything ready was left in it."""
    runs: list[Run] = []
    slot = states.find(READY_BYTE)
    while slot >= 0:
        if not wanted:
            return runs, True
        window = states[slot : slot + wanted]
        count = len(window) - len(window.lstrip(READY_BYTE))
        packed = segment.records(slot, count)
        suspect = False
        if any(packed):
            count, suspect = _until_suspect(packed, alone and not runs)
            if not count:
                return runs, True
        runs.append(_commit(segment, slot, count, packed, packed_claim))
        wanted -= count
        slot = states.find(READY_BYTE, slot + count)
        if suspect:
            return runs, slot >= 0
    return runs, False


def _until_suspect(packed: bytes, alone: bool) -> tuple[int, bool]:
    """How many of a run may be taken together; a suspect is one, and only if it comes alone."""
    count = 0
    for _, flags, _ in RECORD.iter_unpack(packed):
        if flags & FLAG_SUSPECT:
            return (count, True) if count else (int(alone), True)
        count += 1
    return count, False


def _commit(segment: Segment, slot: int, count: int, packed: bytes, packed_claim: bytes) -> Run:
    records = CLEAN_RECORDS[:count]
    if any(packed):
        records = tuple((crashes, flags) for crashes, flags, _ in RECORD.iter_unpack(packed))[:count]
        for index, (crashes, flags) in enumerate(records):
            if flags & _STALE_FLAGS:  # they speak of an earlier claim
                segment.write_record(slot + index, crashes, flags & ~_STALE_FLAGS)
    segment.write_claims(slot, packed_claim * count)
    segment.write_states(slot, CLAIMED_BYTE * count)
    return Run(segment, slot, count, records)


def _count(
    queue: QueueDir,
    stream: int,
    in_page: InPage,
    out_page: OutPage,
    taken: int,
    complete: bool,
    head: int,
) -> None:
    """Keep the hints: never fewer than there are."""
    enqueued = in_page.count(stream)
    # After a scan to the end nothing is ready: what killed processes left counted is forgotten.
    counted = enqueued if complete else min(out_page.count(stream) + taken, enqueued - 1)
    if stream < PRIORITIES:
        head = in_page.number(stream) if complete else head
        if head != out_page.number(stream):
            out_page.set_number(stream, head)
            out_page.set_count(stream, counted)
            queue.write_out(out_page)
            return
    if counted != out_page.count(stream):
        out_page.set_count(stream, counted)
        queue.write_out(out_page)
