"""Takes back what dead owners held, and finishes or undoes what they were settling.

Everything here may be cut short at any point and done again, by anybody: an owner is fenced first and
forgotten last, and each step leaves what the next recovery needs to see that it was done.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple

from ..base import REASON_CRASHES, DeadLetter, Outcome, Recovery, Verdict
from . import owners
from .causes import add_causes
from .consequences import Consequences
from .deadletters import read_dead_letter
from .give_back import make_ready
from .intent import pending
from .layout import (
    CLAIM,
    FLAG_CHARGED,
    FLAG_REDELIVERED,
    FLAG_STARTED,
    FLAG_SUSPECT,
    TAG_PREFIX,
    TAG_SLOT,
    State,
)
from .leases import lapsed_workers
from .queuedir import QueueDir
from .queues import Queues
from .segment import Segment
from .store import Store
from .transaction import Transaction

_HELD = bytes((State.CLAIMED,))
_STAGED = bytes((State.STAGED,))


class Charge(NamedTuple):
    """Which of the messages an owner held are charged with a crash.

    :param running: tag of the one that ran.
    :param started: charge those whose start was recorded.
    :param suspects: the others, of which any may be the culprit, become suspects.
    """

    cause: str
    max_crashes: int
    running: bytes | None = None
    started: bool = False
    suspects: bool = False


class _Tally:
    def __init__(self) -> None:
        self.returned = 0
        self.suspects = 0
        self.crashed: list[bytes] = []
        self.exhausted: list[bytes] = []


def recover_owner(store: Store, queues: Queues, owner_id: int, name: str, charge: Charge) -> Recovery:
    """Recover one owner, whoever held it; an unknown one is nothing to do."""
    path = owners.owner_path(store, owner_id)
    if not os.path.isdir(path):
        return Recovery()
    with store.lock(store.path("locks", "recovery")):
        if not os.path.isdir(path):
            return Recovery()  # somebody else recovered it while this one waited for the lock
        owners.fence(store, owner_id)
        consequences = Consequences(store, queues, owner_id, path)
        for _, intent in pending(store, path):
            consequences.resolve(intent)
        tally = _Tally()
        for queue in queues.all():
            _recover_queue(queue, owner_id, charge, tally)
        dead = _bury(store, queues, name, tally.exhausted)
        owners.forget(store, owner_id)
    return Recovery(tally.returned, tally.suspects, tuple(tally.crashed), dead)


def recover_lapsed(store: Store, queues: Queues, *, max_crashes: int, cause: str) -> Recovery:
    """Recover every owner of every worker whose lease has run out."""
    total = Recovery()
    lapsed = lapsed_workers(store)
    for one in owners.registered(store) if lapsed else ():
        if one.worker in lapsed:
            charge = Charge(cause, max_crashes, started=True, suspects=True)
            part = recover_owner(store, queues, one.id, one.name, charge)
            total = Recovery(
                total.returned + part.returned,
                total.suspects + part.suspects,
                total.crashed + part.crashed,
                total.dead + part.dead,
            )
    for path in lapsed_workers(store).values():
        if path in lapsed.values():  # still: a worker may have come back meanwhile
            store.ops.unlink_if_there(path)
    return total


def _recover_queue(queue: QueueDir, owner_id: int, charge: Charge, tally: _Tally) -> None:
    with queue.locked():
        found = queue.segment_ids(queue.read_in().promoted_minute)
    for segment_id in found:
        # One segment at a time: the queue is not locked for longer than that.
        with queue.locked():
            segment = queue.segment(segment_id)
            if segment is not None:
                _recover_segment(queue, segment, owner_id, charge, tally)
        if segment is not None and queue.store.fsync:
            segment.sync()


def _recover_segment(queue: QueueDir, segment: Segment, owner_id: int, charge: Charge, tally: _Tally) -> None:
    states = bytearray(segment.states())
    if _HELD not in states and _STAGED not in states:
        return
    claims = segment.claims(0, segment.slots)
    ready = []
    voided = False
    for slot, batch in _of_owner(claims, owner_id):
        if states[slot] == State.STAGED:
            states[slot] = State.DONE
            voided = True
        elif states[slot] == State.CLAIMED:
            tag = TAG_PREFIX.pack(
                queue.id, segment.id.minute, segment.id.number, segment.id.priority, owner_id, batch
            ) + TAG_SLOT.pack(slot)
            if _charge(queue, segment, slot, tag, charge, tally):
                ready.append(slot)
            else:
                tally.exhausted.append(tag)
    if voided:
        segment.write_states(0, states)
    make_ready(queue, segment, states, ready)
    tally.returned += len(ready)
    if voided:
        queue.drop_if_done(segment, states)


def _of_owner(claims: bytes, owner_id: int) -> Iterator[tuple[int, int]]:
    """Slots that bear an owner's mark, and the batch."""
    needle = owner_id.to_bytes(8, "little")
    at = claims.find(needle)
    while at >= 0:
        slot, rest = divmod(at, CLAIM.size)
        if not rest:
            yield slot, int(CLAIM.unpack_from(claims, at)[1])
        at = claims.find(needle, at + 1)


def _charge(queue: QueueDir, segment: Segment, slot: int, tag: bytes, charge: Charge, tally: _Tally) -> bool:
    """Update the record of one message; False when it has crashed too often to be returned."""
    crashes, flags = segment.record(slot)
    guilty = bool(charge.cause) and (tag == charge.running or (charge.started and bool(flags & FLAG_STARTED)))
    charged_before = bool(flags & FLAG_CHARGED)
    if guilty and not charged_before:
        crashes += 1
        add_causes(queue, segment.id, slot, crashes, [charge.cause])
    suspect = charge.suspects and not (guilty or charged_before)
    new_flags = flags
    if guilty:
        new_flags |= FLAG_REDELIVERED | FLAG_CHARGED
    if suspect:
        new_flags |= FLAG_REDELIVERED | FLAG_SUSPECT
        tally.suspects += 1
    if new_flags != flags or guilty:
        # Count and mark in one write: who repeats this sees that the crash was charged.
        segment.write_record(slot, crashes, new_flags)
    if not (guilty or charged_before):
        return True
    if crashes >= charge.max_crashes:
        return False
    document = segment.read_documents(slot, 1)[0]
    tally.crashed.append(b"" if document is None else document)
    return True


def _bury(store: Store, queues: Queues, name: str, tags: list[bytes]) -> tuple[DeadLetter, ...]:
    """Make dead letters of what crashed too often, on behalf of the fenced owner."""
    owner = owners.find(store, name) if tags else None
    if owner is None:
        return ()
    transaction = Transaction(store, queues, owner, fenced=True)
    try:
        transaction.settle([Outcome(tag, Verdict.DEAD, reason=REASON_CRASHES) for tag in tags])
    finally:
        transaction.close()
        owner.close()
    letters = (read_dead_letter(store, key) for key in transaction.letters)
    return tuple(letter for letter in letters if letter is not None)
