"""Reserves messages for one owner and settles them."""

from __future__ import annotations

import logging
import math
import os
import time
from collections.abc import Callable, Sequence
from typing import NamedTuple

from ..base import Delivery, Outcome, StoredResult, Verdict
from ..errors import OwnerLost
from . import recovery
from .faults import refused_to_publish
from .keys import FLAG_SUSPECT, Keys, encode
from .link import Arg, Link
from .outcomes import Batch, Destinations
from .owners import Registered, Sources, fence_of, read_tag
from .result_script import lifetime_ms
from .scripts import ACK, EXTEND, INFORM, MARK_STARTED, RESERVE, SETTLE

LOST = "recovered or closed; open a consumer with a new owner"
BATCH_BYTES_MAX = 8 << 20
PROMOTED_PER_RESERVE = 100
_POLL_FIRST_S = 0.002
_POLL_LAST_S = 0.1
_SETTLED_PER_CALL = 500
_COMPLAINTS_EVERY_S = 60.0

# A look at a member of an enumeration is a call on Python 3.11.
_ACK = Verdict.ACK

_log = logging.getLogger("prefork.transports.redis")


class _Lists(NamedTuple):
    """What one call of reserve.lua is about.

    :param tail: the last of its arguments: queues and steps, and the numbers of their lists.
    """

    keys: list[bytes]
    tail: list[Arg]


class RedisConsumer:
    """See the port `Consumer`. Used by one thread of one process.

    :param sources: the lists of the owner; none of it when nobody knows the owner.
    :param register: enters the owner in the broker; None for one that acts for the owner of another
        process.
    :param worker: the worker of the owner; for one that reserves.
    """

    def __init__(
        self,
        link: Link,
        keys: Keys,
        owner: str,
        sources: Sources,
        destinations: Destinations,
        *,
        register: Callable[[], None] | None = None,
        worker: str = "",
    ) -> None:
        self._worker = worker
        self._link = link
        self._keys = keys
        self._owner = owner
        self._sources = sources
        self._destinations = destinations
        self._attached = register is None
        self._register = register  # until it has succeeded
        self._held = keys.held(owner)
        self._fence = fence_of(owner)
        self._number = 1  # of the next message
        self._unsure_from: int | None = None  # first number of a reserve that had no answer
        self._rotation = 0
        self._closed = False
        self._pid = os.getpid()
        self._complained: dict[bytes, float] = {}
        self._untold = False  # whether it was said that nobody may be told of what is settled
        self._suffixes = [b":%d:%b" % (index, self._fence) for index in range(len(sources.all))]
        self._fixed_keys = [keys.owners, self._held, keys.marked_lists, keys.due_queues, keys.dead]
        schedules = [keys.due(queue) for queue in sources.queues]
        self._own = _Lists(
            [*self._fixed_keys, *schedules, *sources.pairs()],
            [len(sources.queues), 0, *map(encode, sources.queues), *sources.steps],
        )
        self._others: dict[str, _Lists] = {}  # by queue, as each is first asked for

    @property
    def owner(self) -> str:
        """The incarnation that holds what this consumer reserves."""
        return self._owner

    def register(self) -> None:
        """Enter the owner in the broker, unless that is done.

        :raises TransportError: the broker cannot be reached; `reserve` tries again.
        """
        if self._register is not None:
            self._register()
            self._register = None

    # --- reserve ---------------------------------------------------------------------------------

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        """Take up to `max_n` messages, best priority first; see the port.

        Less than `max_n` come when they are large: it stops after `BATCH_BYTES_MAX`.

        :raises OwnerLost: the owner was recovered or closed, or belongs to somebody else.
        """
        self._check_own()
        if max_n <= 0:
            return []
        found = self._take(self._own, max_n)
        if found or timeout_s <= 0:
            return found
        ends_mono_s = time.monotonic() + timeout_s
        pause_s = _POLL_FIRST_S
        while not found and (left_s := ends_mono_s - time.monotonic()) > 0:
            time.sleep(min(pause_s, left_s))
            pause_s = min(pause_s * 1.5, _POLL_LAST_S)
            found = self._take(self._own, max_n)
        return found

    def reserve_from(self, queue: str, max_n: int) -> list[Delivery]:
        """Take up to `max_n` messages of one queue; see the protocol `Selects`.

        :raises OwnerLost: as `reserve`.
        """
        self._check_own()
        if max_n <= 0:
            return []
        return self._take(self._lists_of(queue), max_n)

    def reserve_rotated(self, by: int, max_n: int, queue: str | None = None) -> list[Delivery]:
        """Take up to `max_n` messages in another order; see the protocol `Rotates`.

        :raises OwnerLost: as `reserve`.
        """
        self._check_own()
        if max_n <= 0:
            return []
        others = len(self._sources.steps) - 1
        first_step = 1 + (by - 1) % others if by and others > 0 else 0
        return self._take(self._own if queue is None else self._lists_of(queue), max_n, first_step)

    def _lists_of(self, queue: str) -> _Lists:
        lists = self._others.get(queue)
        if lists is None:
            lists = self._others[queue] = self._extended(queue)
        return lists

    def _check_own(self) -> None:
        if self._attached:
            raise OwnerLost(self._owner, "a consumer that is attached to another's owner never reserves")
        self.register()

    def _extended(self, queue: str) -> _Lists:
        """Enter one more queue with the owner, so that whoever recovers it knows where messages came from."""
        keys = self._keys
        sources = self._sources.extended(keys, queue)
        registered = Registered(self._worker, sources.queues, sources.steps, sources.others)
        entered = self._link.run(
            EXTEND, (keys.owners, keys.queues), (encode(self._owner), registered.encoded(), encode(queue))
        )
        if not entered:
            raise OwnerLost(self._owner, LOST)
        self._sources = sources
        self._suffixes = [b":%d:%b" % (index, self._fence) for index in range(len(sources.all))]
        return _Lists(
            [*self._fixed_keys, keys.due(queue), *sources.pairs_of(queue)],
            [1, sources.first_of(queue), encode(queue), *sources.steps],
        )

    def _take(self, lists: _Lists, max_n: int, first_step: int = 0) -> list[Delivery]:
        if self._unsure_from is not None:
            self._return_unknown(self._unsure_from)
        first, self._number = self._number, self._number + max_n
        self._unsure_from = first
        rotation = 0
        if lists is self._own:
            queues = len(self._sources.queues)
            rotation = self._rotation = (self._rotation + 1) % queues if queues else 0
        answer = self._link.run(
            RESERVE,
            lists.keys,
            [
                encode(self._owner),
                self._fence,
                max_n,
                BATCH_BYTES_MAX,
                first,
                PROMOTED_PER_RESERVE,
                rotation,
                first_step,
                *lists.tail,
            ],
        )
        self._unsure_from = None
        if answer is None:
            raise OwnerLost(self._owner, LOST)
        runs, documents, wrong = answer
        if wrong:
            self._complain(wrong)
        return self._deliveries(runs, documents)

    def _deliveries(self, runs: list[int], documents: list[bytes]) -> list[Delivery]:
        found: list[Delivery] = []
        next_document = iter(documents).__next__
        for at in range(0, len(runs), 5):
            index, first, count, crashes, flags = runs[at : at + 5]
            source = self._sources.all[index]
            queue, step = source.queue, source.step
            if crashes or flags:
                tag = b"r%d:%d:%d:%d:%b" % (first, index, crashes, flags, self._fence)
                suspect = bool(flags & FLAG_SUSPECT)
                found.append(Delivery(tag, queue, next_document(), step, crashes, suspect, True))
                continue
            suffix = self._suffixes[index]
            found += [
                Delivery(b"%d%b" % (number, suffix), queue, next_document(), step)
                for number in range(first, first + count)
            ]
        return found

    def _return_unknown(self, first: int) -> None:
        """Give back what a reserve may have taken whose answer never came."""
        fields = self._link.call("HKEYS", self._held)
        unknown = [
            recovery.Back(name, tag)
            for name, tag in recovery.tagged(fields, self._fence)
            if tag.number >= first
        ]
        recovery.bring_back(self._link, self._keys, self._held, self._sources, unknown)
        self._unsure_from = None

    def _complain(self, wrong: Sequence[bytes]) -> None:
        """Say, now and then, that keys are of the wrong type. Other queues go on."""
        now_mono_s = time.monotonic()
        for key in wrong:
            if now_mono_s - self._complained.get(key, -math.inf) >= _COMPLAINTS_EVERY_S:
                self._complained[key] = now_mono_s
                _log.error("the key %r is not of the type of a queue; delete or rename it", key)

    # --- settle ----------------------------------------------------------------------------------

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle deliveries in one atomic call; see the port.

        :raises ValueError: an outcome says nothing that could be done; nothing was settled.
        """
        plain = True
        for outcome in outcomes:
            if outcome.verdict is not _ACK or outcome.results or outcome.follow_ups:
                plain = False
                self._destinations.check(outcome)
        answers: list[bool] = []
        for at in range(0, len(outcomes), _SETTLED_PER_CALL):
            part = outcomes[at : at + _SETTLED_PER_CALL]
            answers += self._acknowledge(part) if plain else self._settle(part)
        return answers

    def _acknowledge(self, outcomes: Sequence[Outcome]) -> list[bool]:
        answer = self._link.run(ACK, (self._held,), [outcome.tag for outcome in outcomes])
        if isinstance(answer, int):
            return [True] * answer
        return [one == 1 for one in answer]

    def _settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        batch = Batch(self._destinations, self._sources, self._fence, self._held)
        for outcome in outcomes:
            batch.add(self._link, outcome)
        *answers, untold = self._link.run(SETTLE, batch.keys, batch.args())
        if untold and not self._untold:
            self._untold = True
            settings = self._destinations.settings
            _log.warning("%s", refused_to_publish(settings.shown, settings.user))
        return batch.answers(answers)

    def inform(self, tag: bytes, results: Sequence[StoredResult], *, more: bool = False) -> None:
        """Store documents about a delivery without waiting; see the protocol `Informs`."""
        to = self._destinations
        keys = [self._held]
        args: list[Arg] = [tag, to.settings.db, to.result_settings.db]
        for result in results:
            keys.append(to.result_keys.task(result.key))
            args += (result.document, lifetime_ms(result.expires_s))
        self._link.send_only(INFORM, keys, args, more=more)

    # --- the rest --------------------------------------------------------------------------------

    def give_back(self, tags: Sequence[bytes]) -> int:
        """Return unstarted messages, untouched and in order; see the port."""
        messages = [
            recovery.Back(name, tag) for name, tag in recovery.tagged(dict.fromkeys(tags), self._fence)
        ]
        if not messages:
            return 0
        return recovery.bring_back(self._link, self._keys, self._held, self._sources, messages).returned

    def mark_started(self, tag: bytes) -> bool:
        """Record in the broker that a suspect is about to run; False if no longer held."""
        return read_tag(tag) is not None and bool(self._link.run(MARK_STARTED, (self._held,), (tag,)))

    def fetch(self, tag: bytes) -> Delivery | None:
        """Read a delivery that this owner still holds, or None."""
        read = read_tag(tag)
        source = None if read is None else self._sources.of(read)
        if read is None or source is None:
            return None
        document = self._link.call("HGET", self._held, tag)
        if document is None:
            return None
        suspect, again = bool(read.flags & FLAG_SUSPECT), bool(read.flags or read.crashes)
        return Delivery(tag, source.queue, document, source.step, read.crashes, suspect, again)

    def close(self) -> None:
        """Give back whatever is held and forget the owner; for an attached one, only disconnect."""
        if self._closed:
            return
        try:
            # A forked child has only a copy of its parent's consumer.
            if not self._attached and self._pid == os.getpid():
                recovery.recover_owner(self._link, self._keys, self._owner)
            self._closed = True
        finally:
            self._link.close()
