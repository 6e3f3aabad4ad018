"""Settles deliveries of one owner. What only acknowledges or returns is done here, at once; what has
follow-ups, results or dead letters goes through a `Transaction`."""

from __future__ import annotations

from collections.abc import Sequence

from ..base import Outcome, Verdict
from .causes import add_causes
from .give_back import make_ready
from .layout import (
    CLAIM,
    FLAG_CHARGED,
    FLAG_REDELIVERED,
    FLAG_STARTED,
    TAG_PREFIX,
    TAG_SLOT,
    SegmentId,
    State,
    TagPrefix,
)
from .messages import check_outcome
from .owners import Owner
from .queuedir import QueueDir
from .queues import Queues
from .segment import DONE_BYTE, Segment, holds
from .store import Store
from .transaction import Transaction

_CLAIMED_BYTE = bytes((State.CLAIMED,))
_TAG_SIZE = TAG_PREFIX.size + TAG_SLOT.size


class Settler:
    """Settles for one owner, in whose process or on whose behalf it runs."""

    def __init__(self, store: Store, owner: Owner, queues: Queues) -> None:
        self._store = store
        self._owner = owner
        self._queues = queues
        self._transaction = Transaction(store, queues, owner)

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """See the port `Consumer.settle`.

        :raises ValueError: an outcome says nothing that could be done; nothing was settled.
        """
        for outcome in outcomes:
            check_outcome(outcome)
        answers = [False] * len(outcomes)
        groups: dict[bytes, list[int]] = {}
        heavy: list[int] = []
        for index, outcome in enumerate(outcomes):
            if outcome.verdict > Verdict.REQUEUE or outcome.follow_ups or outcome.results:
                heavy.append(index)
            else:
                groups.setdefault(outcome.tag[:-2], []).append(index)
        for prefix, indices in groups.items():
            self._settle_group(prefix, indices, outcomes, answers)
        if heavy:
            settled = self._transaction.settle([outcomes[index] for index in heavy])
            for index, answer in zip(heavy, settled):
                answers[index] = answer
        return answers

    def give_back(self, tags: Sequence[bytes]) -> int:
        """See the port `Consumer.give_back`."""
        groups: dict[bytes, list[int]] = {}
        for tag in tags:
            groups.setdefault(tag[:-2], []).append(_slot(tag))
        returned = 0
        for prefix, slots in groups.items():
            place = self._place(prefix)
            if place is None:
                continue
            queue, segment_id, claim = place
            with queue.locked():
                segment = queue.segment(segment_id)
                if segment is None or not self._owner.alive():
                    continue
                states = bytearray(segment.states())
                held = [slot for slot in sorted(set(slots)) if holds(segment, states, slot, claim)]
                make_ready(queue, segment, states, held)
                returned += len(held)
        return returned

    def close(self) -> None:
        """Drop descriptors."""
        self._transaction.close()

    def held(self, tag: bytes) -> tuple[QueueDir, SegmentId, int] | None:
        """Where the message of a tag lies, if the tag is one of this owner's."""
        place = self._place(tag[:-2]) if len(tag) == _TAG_SIZE else None
        return None if place is None else (place[0], place[1], _slot(tag))

    def holds(self, segment: Segment, slot: int, tag: bytes) -> bool:
        """Whether the owner still holds what the tag names. The lock is held."""
        place = self._place(tag[:-2])
        return place is not None and self._owner.alive() and holds(segment, segment.states(), slot, place[2])

    def _place(self, prefix: bytes) -> tuple[QueueDir, SegmentId, bytes] | None:
        if len(prefix) != TAG_PREFIX.size:
            return None
        parts = TagPrefix(*TAG_PREFIX.unpack(prefix))
        queue = self._queues.by_id(parts.queue) if parts.owner == self._owner.id else None
        return None if queue is None else (queue, parts.segment(), CLAIM.pack(parts.owner, parts.batch))

    def _settle_group(
        self, prefix: bytes, indices: Sequence[int], outcomes: Sequence[Outcome], answers: list[bool]
    ) -> None:
        place = self._place(prefix)
        if place is None:
            return
        queue, segment_id, claim = place
        slots = [TAG_SLOT.unpack_from(outcomes[index].tag, TAG_PREFIX.size)[0] for index in indices]
        queue.enter()
        try:
            segment = queue.segment(segment_id)
            if segment is None or not self._owner.alive():
                return
            states = bytearray(segment.states())
            low, count = slots[0], len(slots)
            if (
                slots == list(range(low, low + count))
                and all(outcomes[index].verdict == Verdict.ACK for index in indices)
                and states[low : low + count] == _CLAIMED_BYTE * count
                and segment.claims(low, count) == claim * count
            ):
                states[low : low + count] = DONE_BYTE * count
                segment.write_states(low, states[low : low + count])
                for index in indices:
                    answers[index] = True
            else:
                self._settle_each(queue, segment, states, claim, zip(indices, slots), outcomes, answers)
            queue.drop_if_done(segment, states)
        finally:
            queue.lock.release()
        if self._store.fsync:
            segment.sync()

    @staticmethod
    def _settle_each(
        queue: QueueDir,
        segment: Segment,
        states: bytearray,
        claim: bytes,
        places: zip[tuple[int, int]],
        outcomes: Sequence[Outcome],
        answers: list[bool],
    ) -> None:
        done: list[int] = []
        returned: dict[int, Outcome] = {}
        for index, slot in places:
            if slot in returned or slot in done or not holds(segment, states, slot, claim):
                continue
            answers[index] = True
            if outcomes[index].verdict == Verdict.ACK:
                done.append(slot)
            else:
                returned[slot] = outcomes[index]
        for slot, outcome in returned.items():
            crashes, flags = segment.record(slot)
            if outcome.crashed:
                crashes += 1
                add_causes(queue, segment.id, slot, crashes, outcome.causes)
            flags = (flags | FLAG_REDELIVERED) & ~(FLAG_STARTED | FLAG_CHARGED)
            segment.write_record(slot, crashes, flags)
        for slot in done:
            states[slot] = State.DONE
        if done:
            segment.write_states(0, states)
        make_ready(queue, segment, states, list(returned))


def _slot(tag: bytes) -> int:
    return int(TAG_SLOT.unpack_from(tag, TAG_PREFIX.size)[0]) if len(tag) == _TAG_SIZE else -1
