"""Adds messages to a queue: all of them or, when space runs out, none."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from .layout import CLAIM, PRIORITIES, SegmentId, State
from .pages import InPage
from .queuedir import QueueDir
from .segment import DONE_BYTE, Segment

READY_BYTE = bytes((State.READY,))
DELAYED_BYTE = bytes((State.DELAYED,))
STAGED_BYTE = bytes((State.STAGED,))


class Item(NamedTuple):
    """A message on its way into a queue.

    :param due_ms: Unix time; 0 for at once.
    """

    document: bytes
    priority: int
    due_ms: int = 0
    crashes: int = 0
    flags: int = 0

    def stream(self) -> tuple[int, int]:
        """Due minute (0: none) and priority."""
        return (minute_of(self.due_ms) if self.due_ms else 0), self.priority


class Placed(NamedTuple):
    """Where an item went, by its place in the call."""

    segment: Segment
    slot: int


class _Chunk(NamedTuple):
    segment: Segment
    slot: int
    items: Sequence[Item]
    positions: Sequence[int]
    seals: bool


def minute_of(due_ms: int) -> int:
    """The bucket of a due time; never 0, which means no bucket."""
    return min(max(due_ms // 60_000, 1), 0xFFFFFFFF)


def append(queue: QueueDir, items: Sequence[Item], claim: tuple[int, int] | None = None) -> list[Placed]:
    """Add messages. The lock of the queue is held.

    :param claim: owner and batch under which they are staged; None makes them visible.
    :raises OSError: no space; nothing was added.
    """
    page = queue.read_in()
    chunks = _write(queue, page, items, claim)
    if claim is None:
        _announce(queue, page, chunks)
    else:
        _keep_tails(queue, page, chunks)
    placed: list[Placed | None] = [None] * len(items)
    for chunk in chunks:
        state = _states(chunk.items, claim is not None)
        if chunk.seals:
            state += DONE_BYTE * (chunk.segment.slots - chunk.slot - len(state))
        chunk.segment.write_states(chunk.slot, state)
        for index, (position, item) in enumerate(zip(chunk.positions, chunk.items)):
            placed[position] = Placed(chunk.segment, chunk.slot + index)
            if item.crashes or item.flags:
                # Only staged copies have a record. It is written now, not earlier: what is killed
                # between leaves a staged slot that is voided, not a record for a stranger.
                chunk.segment.write_record(chunk.slot + index, item.crashes, item.flags)
    return [one for one in placed if one is not None]


def append_one(queue: QueueDir, item: Item) -> Segment:
    """As `append` for one visible message, which is what most sends are. The lock is held."""
    page = queue.read_in()
    minute, priority = item.stream()
    number = 0 if minute else page.number(priority)
    segment, slot, data_end = queue.tail(minute, priority, number, len(item.document))
    segment.write_documents(slot, data_end, (item.document,), (item.due_ms,))
    if minute:
        page.next_due_ms = min(page.next_due_ms, item.due_ms)
    else:
        page.set_number(priority, segment.id.number)
        page.set_count(priority, page.count(priority) + 1)
    queue.write_in(page)
    segment.write_states(slot, DELAYED_BYTE if minute else READY_BYTE)
    return segment


def _states(items: Sequence[Item], staged: bool) -> bytes:
    if staged:
        return STAGED_BYTE * len(items)
    return (DELAYED_BYTE if items[0].due_ms else READY_BYTE) * len(items)


def _write(
    queue: QueueDir, page: InPage, items: Sequence[Item], claim: tuple[int, int] | None
) -> list[_Chunk]:
    streams: dict[tuple[int, int], list[int]] = {}
    for position, item in enumerate(items):
        streams.setdefault(item.stream(), []).append(position)
    chunks: list[_Chunk] = []
    for (minute, priority), positions in streams.items():
        number = 0 if minute else page.number(priority)
        at = 0
        while at < len(positions):
            first = items[positions[at]]
            segment, slot, data_end = queue.tail(minute, priority, number, len(first.document))
            count, seals = _fitting(segment, slot, data_end, [items[p].document for p in positions[at:]])
            chosen = positions[at : at + count]
            batch = [items[p] for p in chosen]
            segment.write_documents(slot, data_end, [i.document for i in batch], [i.due_ms for i in batch])
            if claim is not None:
                segment.write_claims(slot, CLAIM.pack(*claim) * count)
            chunks.append(_Chunk(segment, slot, batch, chosen, seals))
            number = segment.id.number + 1
            at += count
    return chunks


def _fitting(segment: Segment, slot: int, data_end: int, documents: Sequence[bytes]) -> tuple[int, bool]:
    """How many go into the segment, and whether that ends it although slots are left."""
    room = segment.slots - slot
    for count, document in enumerate(documents[:room]):
        if count and not segment.fits(data_end, len(document)):
            return count, True
        data_end += len(document)
    return min(room, len(documents)), False


def _announce(queue: QueueDir, page: InPage, chunks: Sequence[_Chunk]) -> None:
    for chunk in chunks:
        found: SegmentId = chunk.segment.id
        if found.minute:
            page.next_due_ms = min(page.next_due_ms, *(item.due_ms for item in chunk.items))
        else:
            page.set_number(found.priority, found.number)
            page.set_count(found.priority, page.count(found.priority) + len(chunk.items))
    queue.write_in(page)


def _keep_tails(queue: QueueDir, page: InPage, chunks: Sequence[_Chunk]) -> None:
    moved = False
    for chunk in chunks:
        found = chunk.segment.id
        if not found.minute and page.number(found.priority) != found.number:
            page.set_number(found.priority, found.number)
            moved = True
    if moved:
        queue.write_in(page)


def ready_stream(segment_id: SegmentId) -> int:
    """Which counter a ready message of a segment is counted in."""
    return segment_id.priority + (PRIORITIES if segment_id.minute else 0)
