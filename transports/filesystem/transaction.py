"""A settle with consequences: verdict, results, follow-ups and dead letters stand or fall together.

Prepare everything invisibly; write the intent; commit the parents; make visible; clear. See
`intent.py` for what happens to one that was cut short.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from ..base import Outcome, Verdict
from ..errors import BrokerFull, BrokerUnavailable, Unacceptable
from .append import Item, append
from .causes import causes_of, in_order, write_causes
from .consequences import Consequences
from .deadletters import dead_letter_name, encode_dead_letter
from .failures import too_large
from .intent import Intent, IntentFile, Parent, Prepared, Staged
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
from .messages import due_in_ms, item_of
from .owners import Owner
from .queuedir import QueueDir
from .queues import Queues
from .results import result_content
from .segment import Segment, holds
from .store import Store


class _Found(NamedTuple):
    """A parent as it was found to be held."""

    outcome: Outcome
    queue: QueueDir
    segment_id: SegmentId
    slot: int
    claim: bytes
    document: bytes
    crashes: int
    flags: int
    causes: dict[int, str]


class _Copy(NamedTuple):
    """A message to stage, and whose it is."""

    parent: int
    item: Item
    causes: dict[int, str]


class Transaction:
    """Settles with consequences for one owner. Used by one thread.

    :param fenced: the owner was fenced by who is recovering it, and settles for the last time.
    """

    def __init__(self, store: Store, queues: Queues, owner: Owner, *, fenced: bool = False) -> None:
        self._store = store
        self._queues = queues
        self._owner = owner
        self._fenced = fenced
        self.letters: list[str] = []  # keys of the dead letters of the last settle
        self._intent_file = IntentFile(store, owner)
        self._unfinished: list[tuple[IntentFile, Intent]] = []
        self._consequences = Consequences(store, queues, owner.id, owner.path)

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle; False for what was taken back meanwhile, of which nothing is left.

        :raises BrokerFull: there is no room for the consequences; everything is still held.
        :raises Unacceptable: one of them is too large for a file; everything is still held.
        """
        self.finish()
        self.letters.clear()
        settle_id = int.from_bytes(os.urandom(8), "little")
        found = self._find_all(outcomes)
        written: list[str] = []
        staged: list[list[Staged]] = [[] for _ in outcomes]
        try:
            files = [self._write_files(one, settle_id, written) for one in found]
            self._stage(found, settle_id, staged)
            parents = self._parents(found, staged, files)
            intent = Intent(settle_id, parents)
            self._intent_file.write(intent)
        except FileNotFoundError:
            # The owner was recovered by somebody else, who removed its directory.
            self._undo(settle_id, staged, written)
            return [False] * len(outcomes)
        except Unacceptable:
            self._undo(settle_id, staged, written)
            raise
        except OSError as error:
            self._undo(settle_id, staged, written)
            if error.errno == errno.EFBIG:
                raise too_large(f"cannot settle in {self._store.root}: {error.strerror}") from error
            raise BrokerFull(
                f"cannot settle {len(outcomes)} messages in {self._store.root}: {error.strerror}; "
                "they are still held"
            ) from error
        answers = self._carry_out(intent, [one for one in found if one is not None])
        settled_by_place = iter(answers)
        return [one is not None and next(settled_by_place) for one in found]

    def _carry_out(self, intent: Intent, held: Sequence[_Found]) -> list[bool]:
        try:
            answers = self._commit(held, intent.settle_id)
            parents = intent.parents
            self._consequences.forward(intent, [p for p, settled in zip(parents, answers) if settled])
            self._consequences.void(intent, [p for p, settled in zip(parents, answers) if not settled])
            self._intent_file.clear()
        except (OSError, BrokerUnavailable) as error:
            # The record stays; it is resolved before the next settle, or by who recovers the owner.
            self._unfinished.append((self._intent_file, intent))
            self._intent_file = IntentFile(self._store, self._owner)
            raise BrokerUnavailable(
                f"cannot finish settling {len(held)} messages in {self._store.root}: {error}",
                outcome_unknown=True,
            ) from error
        return answers

    def finish(self) -> None:
        """Finish or undo what an earlier error interrupted."""
        while self._unfinished:
            record, intent = self._unfinished[-1]
            self._consequences.resolve(intent)
            record.clear()
            record.close()
            self._unfinished.pop()

    def close(self) -> None:
        """Drop the descriptors of records."""
        for record, _ in self._unfinished:
            record.close()
        self._intent_file.close()

    @staticmethod
    def _parents(
        found: Sequence[_Found | None], staged: Sequence[list[Staged]], files: Sequence[list[Prepared]]
    ) -> tuple[Parent, ...]:
        return tuple(
            Parent(one.outcome.tag, tuple(copies), tuple(prepared))
            for one, copies, prepared in zip(found, staged, files)
            if one is not None
        )

    def _may_act(self) -> bool:
        """Whether the owner is not fenced. To be read under the lock of each queue it acts on."""
        return self._fenced or self._owner.alive()

    def _find_all(self, outcomes: Sequence[Outcome]) -> list[_Found | None]:
        """What is held of these: one visit to the lock for all that were reserved together."""
        found: list[_Found | None] = [None] * len(outcomes)
        groups: dict[bytes, list[int]] = {}
        for index, outcome in enumerate(outcomes):
            if len(outcome.tag) == TAG_PREFIX.size + TAG_SLOT.size:
                groups.setdefault(outcome.tag[: TAG_PREFIX.size], []).append(index)
        for tag_prefix, indices in groups.items():
            prefix = TagPrefix(*TAG_PREFIX.unpack(tag_prefix))
            queue = self._queues.by_id(prefix.queue) if prefix.owner == self._owner.id else None
            if queue is None:
                continue
            with queue.locked():
                segment = queue.segment(prefix.segment())
                if segment is None or not self._may_act():
                    continue
                states = segment.states()
                claim = CLAIM.pack(prefix.owner, prefix.batch)
                for index in indices:
                    found[index] = self._find(outcomes[index], queue, segment, states, claim)
        return found

    @staticmethod
    def _find(
        outcome: Outcome, queue: QueueDir, segment: Segment, states: bytes, claim: bytes
    ) -> _Found | None:
        slot = int(TAG_SLOT.unpack_from(outcome.tag, TAG_PREFIX.size)[0])
        if not holds(segment, states, slot, claim):
            return None
        crashes, flags = segment.record(slot)
        causes = causes_of(queue, segment.id, slot) if crashes else {}
        document = b""
        if outcome.verdict != Verdict.ACK:
            whole = segment.read_documents(slot, 1)[0]
            document = segment.read_raw(slot) if whole is None else whole
        return _Found(outcome, queue, segment.id, slot, claim, document, crashes, flags, causes)

    def _write_files(self, one: _Found | None, settle_id: int, written: list[str]) -> list[Prepared]:
        if one is None:
            return []
        prepared = []
        contents: list[tuple[str, str, bytes]] = [
            (f"{settle_id:016x}-{len(written)}-{place}", result.key, result_content(result))
            for place, result in enumerate(one.outcome.results)
        ]
        if one.outcome.verdict == Verdict.DEAD:
            letter = dead_letter_name()
            self.letters.append(letter)
            contents.append((letter, "", self._dead_letter(one)))
        for name, key, content in contents:
            path = f"{self._owner.path}/out/{name}"
            written.append(path)
            self._store.ops.write_new(path, content, sync=self._store.fsync)
            prepared.append(Prepared(name, key))
        return prepared

    @staticmethod
    def _dead_letter(one: _Found) -> bytes:
        return encode_dead_letter(
            queue=one.queue.name,
            reason=one.outcome.reason,
            causes=in_order(one.causes) + tuple(one.outcome.causes),
            document=one.document,
            priority=one.segment_id.priority,
            crashes=one.crashes,
        )

    def _stage(self, found: Sequence[_Found | None], settle_id: int, staged: Sequence[list[Staged]]) -> None:
        by_queue: dict[str, list[_Copy]] = {}
        for parent, one in enumerate(found):
            for name, copy in _copies(parent, one):
                by_queue.setdefault(name, []).append(copy)
        for name, copies in by_queue.items():
            queue = self._queues.get(name)
            with queue.locked():
                placed = append(queue, [copy.item for copy in copies], (self._owner.id, settle_id))
                for copy, place in zip(copies, placed):
                    segment_id = place.segment.id
                    staged[copy.parent].append(
                        Staged(name, *segment_id, slot=place.slot, due_ms=copy.item.due_ms)
                    )
                    if copy.causes:
                        write_causes(queue, segment_id, place.slot, copy.causes)
            if self._store.fsync:
                for segment in {id(place.segment): place.segment for place in placed}.values():
                    segment.sync()

    def _undo(self, settle_id: int, staged: Sequence[list[Staged]], written: Sequence[str]) -> None:
        for path in written:
            self._store.ops.unlink_if_there(path)
        parents = tuple(Parent(b"", tuple(copies), ()) for copies in staged)
        self._consequences.void(Intent(settle_id, parents), parents)

    def _commit(self, held: Sequence[_Found], settle_id: int) -> list[bool]:
        mark = CLAIM.pack(self._owner.id, settle_id)
        answers = [False] * len(held)
        groups: dict[tuple[int, SegmentId], list[int]] = {}
        for index, one in enumerate(held):
            groups.setdefault((one.queue.id, one.segment_id), []).append(index)
        for (_, segment_id), members in groups.items():
            queue = held[members[0]].queue
            with queue.locked():
                segment = queue.segment(segment_id)
                if segment is None or not self._may_act():
                    continue
                states = bytearray(segment.states())
                for index in members:
                    one = held[index]
                    if holds(segment, states, one.slot, one.claim):
                        segment.write_claims(one.slot, mark)
                        states[one.slot] = State.SETTLED
                        answers[index] = True
                segment.write_states(0, states)
            if self._store.fsync:
                segment.sync()
        return answers


def _copies(parent: int, one: _Found | None) -> Iterator[tuple[str, _Copy]]:
    if one is None:
        return
    if one.outcome.verdict in (Verdict.DEFER, Verdict.REQUEUE):
        crashes = one.crashes + one.outcome.crashed
        causes = dict(one.causes)
        if one.outcome.crashed and one.outcome.causes:
            causes[crashes] = "; ".join(one.outcome.causes)
        flags = (one.flags | FLAG_REDELIVERED) & ~(FLAG_STARTED | FLAG_CHARGED)
        due_ms = due_in_ms(one.outcome.due_wall_s) if one.outcome.verdict == Verdict.DEFER else 0
        item = Item(one.document or b"", one.segment_id.priority, due_ms, crashes, flags)
        yield one.queue.name, _Copy(parent, item, causes)
    for message in one.outcome.follow_ups:
        yield message.queue, _Copy(parent, item_of(message), {})
