"""Reserving and settling through kombu, for one owner."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from time import monotonic, sleep
from types import MappingProxyType

from ..base import Delivery, Outcome, Verdict
from ..errors import BrokerUnavailable, OwnerLost
from . import outbox
from .holdings import Claim, Holdings, delivery
from .journal import Entry
from .line import Line


class KombuConsumer:
    """Implements `transports.base.Consumer`. Has a connection of its own, for one thread.

    :param queues: what it reserves from, in turn; None for one that is attached to another's owner.
    :param poll_s: how long to pause when there is nothing, in seconds.
    """

    def __init__(
        self, owner: str, line: Line, holdings: Holdings, queues: Sequence[str] | None, poll_s: float
    ) -> None:
        self._owner = owner
        self._line = line
        self._holdings = holdings
        self._queues = None if queues is None else list(dict.fromkeys(queues))
        self._poll_s = poll_s
        # Only a recovery by another thread of this process ever contends for it.
        self._lock = threading.RLock()
        self._closed = False  # written under _lock
        # How many follow-ups of a delivery are sent although it is not settled yet.
        self._sent: dict[bytes, int] = {}

    @property
    def owner(self) -> str:
        """See `Consumer.owner`."""
        return self._owner

    @property
    def closed(self) -> bool:
        """Whether it will take nothing more."""
        return self._closed

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        """Take messages, as in `Consumer.reserve`; one queue after the other."""
        if self._queues is None:
            raise OwnerLost(self._owner, "a consumer that is attached to another's owner never reserves")
        end_mono_s = monotonic() + timeout_s
        while True:
            with self._lock:
                if self._closed or not self._holdings.alive():
                    raise OwnerLost(self._owner, "recovered or closed; open a consumer with a new owner")
                taken = self._take(max_n)
            left_s = end_mono_s - monotonic()
            if taken or max_n <= 0 or left_s <= 0:
                return taken
            sleep(min(left_s, self._poll_s))

    def _take(self, max_n: int) -> list[Delivery]:
        assert self._queues is not None
        taken: list[Delivery] = []
        empty = 0
        while self._queues and len(taken) < max_n and empty < len(self._queues):
            queue = self._queues[0]
            self._queues.append(self._queues.pop(0))
            try:
                message = self._line.get(queue)
            except BrokerUnavailable:
                if not taken:
                    raise
                return taken  # the next call says what is wrong
            if message is None:
                empty += 1
                continue
            empty = 0
            tag = self._holdings.hold(message)
            entry = self._holdings.read(tag)
            if entry is not None:
                taken.append(delivery(tag, entry))
        return taken

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle deliveries, as in `Consumer.settle`: follow-ups first, so that nothing is lost.

        :raises ValueError: an outcome says nothing that could be done; nothing was settled.
        :raises BrokerUnavailable: call again with the same outcomes; what is done stays done.
        """
        for outcome in outcomes:
            _check(outcome)
        with self._lock:
            return [self._settle(outcome) for outcome in outcomes]

    def _settle(self, outcome: Outcome) -> bool:
        claim = self._holdings.claim(outcome.tag)
        if claim is None:
            return False
        try:
            for message in outcome.follow_ups[self._sent.get(outcome.tag, 0) :]:
                outbox.send(self._line, message)
                self._sent[outcome.tag] = self._sent.get(outcome.tag, 0) + 1
            _ENDS[outcome.verdict](self._line, claim, outcome)
        except BrokerUnavailable:
            claim.undo()
            raise
        self._sent.pop(outcome.tag, None)
        return True

    def give_back(self, tags: Sequence[bytes]) -> int:
        """Return messages, as in `Consumer.give_back`; where kombu has no way to do it, to the end."""
        returned = 0
        with self._lock:
            for tag in tags:
                claim = self._holdings.claim(tag)
                if claim is None:
                    continue
                try:
                    claim.give_back()
                except BrokerUnavailable:
                    claim.undo()
                    raise
                returned += 1
        return returned

    def mark_started(self, tag: bytes) -> bool:
        """See `Consumer.mark_started`; there are no suspects here."""
        return self._holdings.read(tag) is not None

    def fetch(self, tag: bytes) -> Delivery | None:
        """See `Consumer.fetch`."""
        entry = self._holdings.read(tag)
        return None if entry is None else delivery(tag, entry)

    def close(self) -> None:
        """Give back and forget, as in `Consumer.close`; for an attached one, nothing."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            if self._queues is not None:
                self.give_back(self._holdings.tags())
                self._holdings.close()
            self._line.close()

    @contextmanager
    def retired(self) -> Iterator[tuple[Line, Holdings]]:
        """Let it take nothing more, and have what it holds."""
        with self._lock:
            self._closed = True
            yield self._line, self._holdings

    def held(self) -> list[Entry]:
        """The messages that it holds."""
        with self._lock:
            found = [self._holdings.read(tag) for tag in self._holdings.tags()]
        return [entry for entry in found if entry is not None]


def _acknowledge(line: Line, claim: Claim, outcome: Outcome) -> None:
    claim.done()


def _requeue(line: Line, claim: Claim, outcome: Outcome) -> None:
    if not outcome.crashed:
        claim.give_back()
        return
    outbox.give_back(line, outbox.charge(claim.entry, outcome.causes))
    claim.done()


def _defer(line: Line, claim: Claim, outcome: Outcome) -> None:
    assert outcome.due_wall_s is not None
    outbox.park(line, claim.entry, outcome.due_wall_s)
    claim.done()


def _bury(line: Line, claim: Claim, outcome: Outcome) -> None:
    outbox.bury(line, claim.entry, outcome.reason, outcome.causes)
    claim.done()


_ENDS: Mapping[Verdict, Callable[[Line, Claim, Outcome], None]] = MappingProxyType(
    {
        Verdict.ACK: _acknowledge,
        Verdict.REQUEUE: _requeue,
        Verdict.DEFER: _defer,
        Verdict.DEAD: _bury,
    }
)


def _check(outcome: Outcome) -> None:
    if outcome.verdict not in _ENDS:
        raise ValueError(f"{outcome.verdict!r} is not a verdict; use one of {list(Verdict)}")
    if outcome.verdict is Verdict.DEFER and outcome.due_wall_s is None:
        raise ValueError("a deferred message needs due_wall_s, the Unix time at which it is ready again")
    for message in outcome.follow_ups:
        outbox.check(message)
