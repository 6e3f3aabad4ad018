"""The state of a memory broker and the rules by which a delivery ends.

One lock guards everything, so each operation is atomic by construction: this is the behaviour that
the other transports reach with files, scripts and channels.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

from ..base import REASON_CRASHES, Delivery, Outcome, Outgoing, Recovery, Verdict
from ..errors import BrokerUnavailable
from .claims import Claims
from .coordination import Agreements
from .graveyard import Graveyard
from .mailbox import Mailboxes
from .messages import Stored, check_due, check_outgoing
from .queues import Queues
from .shelf import Shelf
from .watch import MemoryWatch

PROMOTED_PER_RESERVE = 100


class MemoryBroker:
    """One broker of one process. Use everything below inside ``with broker.locked():``."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.queues = Queues()
        self.claims = Claims()
        self.graveyard = Graveyard()
        self.shelf = Shelf()
        self.mailboxes = Mailboxes(self.locked)
        self.agreements = Agreements()
        self._pid = os.getpid()
        self._changed = threading.Condition(threading.Lock())
        self._watches: set[MemoryWatch] = set()
        self._settled_by: dict[Verdict, Callable[[Stored, Outcome, float], None]] = {
            Verdict.ACK: self._ack,
            Verdict.REQUEUE: self._requeue,
            Verdict.DEFER: self._defer,
            Verdict.DEAD: self._bury,
        }

    @property
    def is_ours(self) -> bool:
        """Whether this is the process that made the broker; a forked child has only a dead copy."""
        return os.getpid() == self._pid

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the lock of the broker.

        :raises BrokerUnavailable: in a forked child, where the lock itself may be held for ever.
        """
        if not self.is_ours:
            raise BrokerUnavailable(
                f"memory://{self.name} belongs to process {self._pid}; process {os.getpid()} cannot see it. "
                "Use filesystem:// for several processes"
            )
        with self._changed:
            yield

    def wait(self, timeout_s: float | None) -> None:
        """Release the lock until something changes or the time is over."""
        self._changed.wait(timeout_s)

    def announce(self, messages: Iterable[Stored]) -> None:
        """Wake whoever waits for these messages, which have just become ready, or for a result."""
        names = {message.queue for message in messages if message.due_wall_s is None}
        for watch in self._watches:
            if not names.isdisjoint(watch.queues):
                watch.ring()
        self._changed.notify_all()

    def add_watch(self, watch: MemoryWatch) -> None:
        """Let a watch be rung. One that comes to a queue with work in it is rung at once."""
        self._watches.add(watch)
        if any(self.queues.ready(name) for name in watch.queues):
            watch.ring()

    def remove_watch(self, watch: MemoryWatch) -> None:
        """Ring a watch no longer."""
        self._watches.discard(watch)

    def send(self, outgoing: Sequence[Outgoing], now_wall_s: float) -> None:
        """Accept messages, all or none."""
        for message in outgoing:
            check_outgoing(message)
        self.announce([self.queues.add(message, now_wall_s) for message in outgoing])

    def reserve(
        self, owner: str, names: Sequence[str], max_n: int, now_wall_s: float, rotated: int = 0
    ) -> list[Delivery]:
        """Let an owner hold the best ready messages, or those that come first in another order."""
        self.promote(PROMOTED_PER_RESERVE, now_wall_s)
        return self.claims.claim(owner, self.queues.take(names, max_n, rotated))

    def promote(self, limit: int, now_wall_s: float) -> float | None:
        """Make due messages ready; returns when the next is due."""
        promoted = self.queues.promote(now_wall_s, limit)
        if promoted:
            self.announce(promoted)
        return self.queues.next_due_wall_s()

    def settle(self, owner: str, outcomes: Sequence[Outcome], now_wall_s: float) -> list[bool]:
        """End claims by their verdicts; False for a claim that is not the owner's."""
        for outcome in outcomes:
            self._check(outcome)
        return [self._settle(owner, outcome, now_wall_s) for outcome in outcomes]

    def give_back(self, owner: str, tags: Iterable[bytes]) -> int:
        """Return messages to their places; returns how many the owner still held."""
        released = (self.claims.release(owner, tag) for tag in tags)
        returned = [message for message in released if message is not None]
        self._return(returned)
        return len(returned)

    def recover(
        self, owner: str, running: bytes | None, cause: str, max_crashes: int, now_wall_s: float
    ) -> Recovery:
        """End all claims of a dead owner; the message that ran pays for its death."""
        held = self.claims.release_owner(owner)
        ran = held.pop(running, None) if running is not None and cause else None
        returned = list(held.values())
        recovery = Recovery()
        if ran is not None:
            recovery = self._charge([ran], cause, max_crashes, now_wall_s)
        self._return(returned)
        return merged([recovery, Recovery(returned=len(returned))])

    def recover_lapsed(self, cause: str, max_crashes: int, now_wall_s: float, now_mono_s: float) -> Recovery:
        """End all claims of workers that are believed dead. Nobody knows what they ran: all are suspects."""
        recoveries = []
        for worker in self.claims.lapsed(now_mono_s):
            for owner in self.claims.owners(worker):
                held = list(self.claims.release_owner(owner).values())
                for message in held:
                    message.suspect = True
                    message.redelivered = True
                unknown = [message for message in held if not message.started]
                self._return(unknown)
                recoveries.append(Recovery(returned=len(unknown), suspects=len(unknown)))
                started = [message for message in held if message.started]
                recoveries.append(self._charge(started, cause, max_crashes, now_wall_s))
            self.claims.forget_worker(worker)
        return merged(recoveries)

    def replay(self, key: str, now_wall_s: float) -> bool:
        """Put a dead letter back into its queue as if it had just been sent."""
        letter = self.graveyard.remove(key)
        if letter is None:
            return False
        outgoing = Outgoing(queue=letter.queue, document=letter.document, priority=letter.priority)
        self.announce([self.queues.add(outgoing, now_wall_s)])
        return True

    def _check(self, outcome: Outcome) -> None:
        if outcome.verdict not in self._settled_by:
            raise ValueError(f"{outcome.verdict!r} is not a verdict; use one of {list(Verdict)}")
        if outcome.verdict is Verdict.DEFER and outcome.due_wall_s is None:
            raise ValueError("a deferred message needs due_wall_s, the Unix time at which it is ready again")
        check_due(outcome.due_wall_s)
        for message in outcome.follow_ups:
            check_outgoing(message)

    def _settle(self, owner: str, outcome: Outcome, now_wall_s: float) -> bool:
        message = self.claims.release(owner, outcome.tag)
        if message is None:
            return False
        self._settled_by[outcome.verdict](message, outcome, now_wall_s)
        self.shelf.store(outcome.results, now_wall_s)
        self.announce([self.queues.add(follow_up, now_wall_s) for follow_up in outcome.follow_ups])
        return True

    def _ack(self, message: Stored, outcome: Outcome, now_wall_s: float) -> None:
        """The message is done; its claim was all that was left of it."""

    def _requeue(self, message: Stored, outcome: Outcome, now_wall_s: float) -> None:
        message.redelivered = True
        if outcome.crashed:
            message.crashes += 1
            message.causes += outcome.causes
        self._return([message])

    def _defer(self, message: Stored, outcome: Outcome, now_wall_s: float) -> None:
        self.queues.put_at(message, outcome.due_wall_s, now_wall_s)
        self.announce([message])

    def _bury(self, message: Stored, outcome: Outcome, now_wall_s: float) -> None:
        self.graveyard.bury(message, outcome.reason, outcome.causes, now_wall_s)

    def _return(self, messages: Sequence[Stored]) -> None:
        for message in messages:
            self.queues.put(message)
        self.announce(messages)

    def _charge(
        self, messages: Sequence[Stored], cause: str, max_crashes: int, now_wall_s: float
    ) -> Recovery:
        """Count a crash on each message; those that reach the limit become dead letters."""
        for message in messages:
            message.crashes += 1
            message.causes += (cause,)
            message.redelivered = True
        spent = [message for message in messages if message.crashes >= max_crashes]
        again = [message for message in messages if message.crashes < max_crashes]
        self._return(again)
        return Recovery(
            returned=len(again),
            suspects=sum(message.suspect for message in again),
            crashed=tuple(message.document for message in again),
            dead=tuple(self.graveyard.bury(message, REASON_CRASHES, (), now_wall_s) for message in spent),
        )


def merged(recoveries: Iterable[Recovery]) -> Recovery:
    """The sum of several recoveries."""
    total = Recovery()
    for one in recoveries:
        total = Recovery(
            returned=total.returned + one.returned,
            suspects=total.suspects + one.suspects,
            crashed=total.crashed + one.crashed,
            dead=total.dead + one.dead,
        )
    return total
