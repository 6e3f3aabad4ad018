"""Reserves messages for one owner and settles them."""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence

from ..base import Delivery, Outcome, Verdict
from ..errors import BrokerUnavailable, OwnerLost
from . import clock
from .claim import Run, claim
from .failures import broker_errors
from .layout import (
    FLAG_REDELIVERED,
    FLAG_STARTED,
    FLAG_SUSPECT,
    PRIORITIES,
    TAG_PREFIX,
    TAG_SLOT,
)
from .owners import Owner
from .pages import next_due_ms, same_counts, waiting
from .queuedir import QueueDir
from .schedule import promote
from .settle import Settler
from .store import Store
from .watch import QueueWatch

_PRIORITIES_BEST_FIRST = tuple(range(PRIORITIES - 1, -1, -1))
_BEST, *_OTHERS = _PRIORITIES_BEST_FIRST
# What is looked at in which order, by how far it is turned.
_ROTATIONS = (
    _PRIORITIES_BEST_FIRST,
    *((*_OTHERS[by:], *_OTHERS[:by], _BEST) for by in range(len(_OTHERS))),
)
_PROMOTE_MAX = 1024
_LOST_QUEUE_S = 0.5
_ANY = [1] * (2 * PRIORITIES)
REASON_CORRUPT = "corrupt"


class FilesystemConsumer:
    """See the port `Consumer`. Used by one thread of one process.

    :param release: gives back whatever the owner still holds and forgets it; None for a consumer that
        acts for the owner of another process.
    :param queue_named: finds a queue that exists, for `reserve_from`.
    """

    def __init__(
        self,
        store: Store,
        owner: Owner,
        queues: Sequence[QueueDir],
        settler: Settler,
        release: Callable[[], object] | None,
        queue_named: Callable[[str], QueueDir | None] = lambda name: None,
    ) -> None:
        self._queue_named = queue_named
        self._store = store
        self._owner = owner
        self._queues = list(queues)
        self._settler = settler
        self._release = release
        self._batch = int.from_bytes(os.urandom(6), "little") << 8
        self._rotation = 0
        self._watch: QueueWatch | None = None
        self._closed = False
        self._attached = release is None

    @property
    def owner(self) -> str:
        """The incarnation that holds what this consumer reserves."""
        return self._owner.name

    @broker_errors
    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        """Take up to `max_n` messages, best priority first; see the port.

        :raises OwnerLost: the owner was recovered or closed, or belongs to somebody else.
        """
        if self._attached:
            raise OwnerLost(self.owner, "a consumer that is attached to another's owner never reserves")
        found = self._sweep(self._rotated(), max_n)
        if found:
            return found
        self._check_alive()
        if timeout_s <= 0 or max_n <= 0 or not self._queues:
            return found
        deadline_mono_s = clock.mono_s() + timeout_s
        if self._watch is None:
            self._watch = QueueWatch([f"{queue.path}/in" for queue in self._queues])
        while True:
            self._watch.drain()
            found = self._sweep(self._rotated(), max_n)
            remaining_s = deadline_mono_s - clock.mono_s()
            if found or remaining_s <= 0:
                return found
            self._check_alive()
            self._sleep(min(remaining_s, self._until_due_s()))

    @broker_errors
    def reserve_from(self, queue: str, max_n: int) -> list[Delivery]:
        """Take up to `max_n` messages of one queue; see the protocol `Selects`.

        :raises OwnerLost: as `reserve`.
        """
        if self._attached:
            raise OwnerLost(self.owner, "a consumer that is attached to another's owner never reserves")
        named = self._queue_named(queue)
        found = [] if named is None else self._sweep((named,), max_n)
        if not found:
            self._check_alive()
        return found

    @broker_errors
    def reserve_rotated(self, by: int, max_n: int, queue: str | None = None) -> list[Delivery]:
        """Take up to `max_n` messages in another order; see the protocol `Rotates`.

        :raises OwnerLost: as `reserve`.
        """
        if self._attached:
            raise OwnerLost(self.owner, "a consumer that is attached to another's owner never reserves")
        named = None if queue is None else self._queue_named(queue)
        queues = self._rotated() if queue is None else [named] if named is not None else []
        found = self._sweep(queues, max_n, _ROTATIONS[by])
        if not found:
            self._check_alive()
        return found

    def _check_alive(self) -> None:
        if not self._owner.alive():
            raise OwnerLost(self.owner, "recovered or closed; open a consumer with a new owner")

    def _sleep(self, duration_s: float) -> None:
        assert self._watch is not None
        if self._watch.lost:
            duration_s = min(duration_s, _LOST_QUEUE_S)
        poller = select.poll()
        poller.register(self._watch.fileno(), select.POLLIN)
        poller.poll(max(1, int(duration_s * 1000) + 1))

    def _until_due_s(self) -> float:
        hints = [queue.hints() for queue in self._queues]
        due_ms = min((next_due_ms(found[0]) for found in hints if found is not None), default=0)
        return max(0.0, due_ms / 1000 - clock.wall_s())

    def _sweep(
        self, queues: Sequence[QueueDir], max_n: int, priorities: Sequence[int] = _PRIORITIES_BEST_FIRST
    ) -> list[Delivery]:
        if max_n <= 0:
            return []
        looked = [(queue, counts) for queue in queues if (counts := self._look(queue))]
        found: list[Delivery] = []
        try:
            self._fill(looked, priorities, max_n, found)
        except (BrokerUnavailable, OSError):
            if not found:
                raise
            # What was taken before the error is delivered; the error comes again.
        return found

    def _fill(
        self,
        looked: Sequence[tuple[QueueDir, list[int]]],
        priorities: Sequence[int],
        max_n: int,
        found: list[Delivery],
    ) -> None:
        for priority in priorities if looked else ():
            for queue, counts in looked:
                for stream in (priority + PRIORITIES, priority):
                    if counts[stream]:
                        ended = self._take(queue, stream, max_n - len(found), found)
                        if ended or len(found) >= max_n:
                            return

    def _rotated(self) -> list[QueueDir]:
        if len(self._queues) < 2:
            return self._queues
        self._rotation = (self._rotation + 1) % len(self._queues)
        return self._queues[self._rotation :] + self._queues[: self._rotation]

    def _look(self, queue: QueueDir) -> list[int]:
        """How many may be ready per stream; empty when there is nothing."""
        hints = queue.hints()
        if hints is None:
            with queue.locked():
                queue.read_in()
                queue.read_out()
            hints = queue.hints()
            if hints is None:
                return _ANY
        in_data, out_data = hints
        if next_due_ms(in_data) <= clock.wall_s() * 1000:
            promote(queue, int(clock.wall_s() * 1000), _PROMOTE_MAX)
            hints = queue.hints()
            if hints is None:
                return _ANY
            in_data, out_data = hints
        return [] if same_counts(in_data, out_data) else waiting(in_data, out_data)

    def _take(self, queue: QueueDir, stream: int, max_n: int, found: list[Delivery]) -> bool:
        """Add what was taken to `found`; True when a suspect, which comes alone, ends the batch."""
        self._batch += 1
        queue.enter()
        try:
            self._check_alive()
            runs, ended = claim(queue, stream, max_n, self._owner.id, self._batch, alone=not found)
        finally:
            queue.lock.release()
        for run in runs:
            self._deliver(queue, run, found)
        return ended or (bool(runs) and runs[0].suspect)

    def _deliver(self, queue: QueueDir, run: Run, found: list[Delivery]) -> None:
        segment = run.segment
        minute, priority, number = segment.id
        prefix = TAG_PREFIX.pack(queue.id, minute, number, priority, self._owner.id, self._batch)
        pack = TAG_SLOT.pack
        name = queue.name
        slot = run.slot
        corrupt: list[bytes] = []
        for document, (crashes, flags) in zip(segment.read_documents(slot, run.length), run.records):
            tag = prefix + pack(slot)
            slot += 1
            if document is None:
                corrupt.append(tag)
            elif crashes or flags:
                suspect = bool(flags & FLAG_SUSPECT)
                again = bool(crashes or flags & (FLAG_SUSPECT | FLAG_REDELIVERED))
                found.append(Delivery(tag, name, document, priority, crashes, suspect, again))
            else:
                found.append(Delivery(tag, name, document, priority))
        if corrupt:
            self._bury(queue, corrupt)

    def _bury(self, queue: QueueDir, tags: Sequence[bytes]) -> None:
        try:
            self._settler.settle([Outcome(tag, Verdict.DEAD, reason=REASON_CORRUPT) for tag in tags])
        except BrokerUnavailable as error:
            # Still held: whoever reserves them next tries again. The sound ones are delivered.
            self._store.notice(f"{len(tags)} damaged messages of queue {queue.name!r}: {error}")

    @broker_errors
    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle deliveries; False for one that was taken back; see the port."""
        return self._settler.settle(outcomes)

    @broker_errors
    def give_back(self, tags: Sequence[bytes]) -> int:
        """Return unstarted messages, untouched, to where they came from."""
        return self._settler.give_back(tags)

    @broker_errors
    def mark_started(self, tag: bytes) -> bool:
        """Record that a suspect is about to run; False if no longer held."""
        held = self._settler.held(tag)
        if held is None:
            return False
        queue, segment_id, slot = held
        with queue.locked():
            segment = queue.segment(segment_id)
            if segment is None or not self._settler.holds(segment, slot, tag):
                return False
            crashes, flags = segment.record(slot)
            segment.write_record(slot, crashes, flags | FLAG_STARTED)
        if self._store.fsync:
            segment.sync()
        return True

    @broker_errors
    def fetch(self, tag: bytes) -> Delivery | None:
        """Read a delivery that this owner still holds, or None."""
        held = self._settler.held(tag)
        if held is None:
            return None
        queue, segment_id, slot = held
        with queue.locked():
            segment = queue.segment(segment_id)
            if segment is None or not self._settler.holds(segment, slot, tag):
                return None
            crashes, flags = segment.record(slot)
        document = segment.read_documents(slot, 1)[0]
        if document is None:
            return None
        suspect = bool(flags & FLAG_SUSPECT)
        again = bool(crashes or flags & (FLAG_SUSPECT | FLAG_REDELIVERED))
        return Delivery(tag, queue.name, document, segment_id.priority, crashes, suspect, again)

    @broker_errors
    def close(self) -> None:
        """Give back whatever is held and forget the owner. Safe to call twice."""
        if self._closed:
            return
        self._closed = True
        if self._watch is not None:
            self._watch.close()
        self._settler.close()
        if self._release is not None:
            self._release()
        self._owner.close()
