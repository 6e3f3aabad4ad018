"""Makes what an intent prepared visible, or removes it. Every step may be repeated by somebody else."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Sequence

from .give_back import make_delayed, make_ready
from .intent import Intent, Parent, Prepared, Staged
from .layout import CLAIM, TAG_PREFIX, TAG_SLOT, SegmentId, State, TagPrefix
from .queuedir import QueueDir
from .queues import Queues
from .results import place_result
from .segment import Segment
from .store import Store


class Consequences:
    """Finishes or undoes the intents of one owner."""

    def __init__(self, store: Store, queues: Queues, owner_id: int, owner_path: str) -> None:
        self._store = store
        self._queues = queues
        self._owner_id = owner_id
        self._out = f"{owner_path}/out"

    def resolve(self, intent: Intent) -> None:
        """Finish what was settled under a record that was left behind, and undo the rest."""
        settled = self.settled(intent)
        self.forward(intent, [p for p, is_settled in zip(intent.parents, settled) if is_settled])
        self.void(intent, [p for p, is_settled in zip(intent.parents, settled) if not is_settled])

    def settled(self, intent: Intent) -> list[bool]:
        """Which parents were settled under this intent and not yet finished."""
        mark = CLAIM.pack(self._owner_id, intent.settle_id)
        answers = [self._is_replayed(parent) for parent in intent.parents]
        for queue, segment_id, places in self._by_segment(intent.parents):
            with queue.locked():
                segment = queue.segment(segment_id)
                if segment is None:
                    continue
                states = segment.states()
                for index, slot in places:
                    answers[index] = states[slot] == State.SETTLED and segment.claims(slot, 1) == mark
        return answers

    def _is_replayed(self, parent: Parent) -> bool:
        return bool(parent.letter) and os.path.lexists(f"{self._out}/{parent.letter}")

    def forward(self, intent: Intent, parents: Sequence[Parent]) -> None:
        """Make visible what belongs to settled parents, then be done with them."""
        for parent in parents:
            for prepared in parent.files:
                self._place(prepared)
        self._flip(intent, [one for parent in parents for one in parent.staged], visible=True)
        self._finish(intent, parents)

    def void(self, intent: Intent, parents: Sequence[Parent]) -> None:
        """Remove what belongs to parents that were not settled under this intent."""
        for parent in parents:
            for prepared in parent.files:
                self._store.ops.unlink_if_there(f"{self._out}/{prepared.name}")
        self._flip(intent, [one for parent in parents for one in parent.staged], visible=False)

    def _place(self, prepared: Prepared) -> None:
        path = f"{self._out}/{prepared.name}"
        # Not there: somebody else who finished this intent placed it.
        with contextlib.suppress(FileNotFoundError):
            if prepared.key:
                place_result(self._store, path, prepared.key)
            else:
                self._store.ops.rename(path, self._store.path("dead", prepared.name))

    def _flip(self, intent: Intent, staged: Iterable[Staged], *, visible: bool) -> None:
        mark = CLAIM.pack(self._owner_id, intent.settle_id)
        groups: dict[tuple[str, SegmentId], list[Staged]] = {}
        for one in staged:
            segment_id = SegmentId(one.minute, one.priority, one.number)
            groups.setdefault((one.queue, segment_id), []).append(one)
        for (name, segment_id), members in groups.items():
            queue = self._queues.get(name)
            with queue.locked():
                segment = queue.segment(segment_id)
                if segment is not None:
                    self._flip_segment(queue, segment, members, mark, visible)
            if segment is not None and self._store.fsync:
                segment.sync()

    @staticmethod
    def _flip_segment(
        queue: QueueDir, segment: Segment, members: Sequence[Staged], mark: bytes, visible: bool
    ) -> None:
        states = bytearray(segment.states())
        mine = [
            one for one in members if states[one.slot] == State.STAGED and segment.claims(one.slot, 1) == mark
        ]
        if not mine:
            return
        slots = [one.slot for one in mine]
        if not visible:
            for slot in slots:
                states[slot] = State.DONE
            segment.write_states(0, states)
            queue.drop_if_done(segment, states)
        elif segment.id.minute:
            make_delayed(queue, segment, states, slots, min(one.due_ms for one in mine))
        else:
            make_ready(queue, segment, states, slots)

    def _finish(self, intent: Intent, parents: Sequence[Parent]) -> None:
        for parent in parents:
            if parent.letter:
                self._store.ops.unlink_if_there(f"{self._out}/{parent.letter}")
        mark = CLAIM.pack(self._owner_id, intent.settle_id)
        for queue, segment_id, places in self._by_segment(parents):
            with queue.locked():
                segment = queue.segment(segment_id)
                if segment is None:
                    continue
                states = bytearray(segment.states())
                for _, slot in places:
                    if states[slot] == State.SETTLED and segment.claims(slot, 1) == mark:
                        states[slot] = State.DONE
                segment.write_states(0, states)
                queue.drop_if_done(segment, states)
            if self._store.fsync:
                segment.sync()

    def _by_segment(
        self, parents: Sequence[Parent]
    ) -> list[tuple[QueueDir, SegmentId, list[tuple[int, int]]]]:
        """Parents by the segment they lie in, as (index, slot)."""
        groups: dict[tuple[int, SegmentId], list[tuple[int, int]]] = {}
        for index, parent in enumerate(parents):
            if not parent.tag:
                continue
            prefix = TagPrefix(*TAG_PREFIX.unpack_from(parent.tag))
            slot = int(TAG_SLOT.unpack_from(parent.tag, TAG_PREFIX.size)[0])
            groups.setdefault((prefix.queue, prefix.segment()), []).append((index, slot))
        found = []
        for (queue_id, segment_id), places in groups.items():
            queue = self._queues.by_id(queue_id)
            if queue is not None:
                found.append((queue, segment_id, places))
        return found
