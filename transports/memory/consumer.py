"""Reserving and settling for one owner of a memory broker."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import monotonic

from ..base import Delivery, Outcome
from ..errors import OwnerLost
from .broker import MemoryBroker
from .claims import delivery


class MemoryConsumer:
    """Implements `transports.base.Consumer`.

    :param queues: what it reserves from; None for one that is attached to an owner of somebody else.
    :param wall: the clock for due times. How long a call may block is always real time.
    """

    def __init__(
        self, broker: MemoryBroker, owner: str, queues: Sequence[str] | None, wall: Callable[[], float]
    ) -> None:
        self._broker = broker
        self._owner = owner
        self._queues = queues
        self._wall = wall

    @property
    def owner(self) -> str:
        """The owner, as in `Consumer.owner`."""
        return self._owner

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        """Take messages, as in `Consumer.reserve`.

        :raises OwnerLost: the owner was recovered or closed, or belongs to somebody else.
        """
        queues = self._queues_of_own()
        end_mono_s = monotonic() + timeout_s
        with self._broker.locked():
            while True:
                self._check_known()
                deliveries = self._broker.reserve(self._owner, queues, max_n, self._wall())
                left_s = end_mono_s - monotonic()
                if deliveries or max_n <= 0 or left_s <= 0:
                    return deliveries
                self._broker.wait(self._until_due(left_s))

    def reserve_from(self, queue: str, max_n: int) -> list[Delivery]:
        """Take messages of one queue, as in `Selects.reserve_from`.

        :raises OwnerLost: as `reserve`.
        """
        self._queues_of_own()
        with self._broker.locked():
            self._check_known()
            return self._broker.reserve(self._owner, (queue,), max_n, self._wall())

    def reserve_rotated(self, by: int, max_n: int, queue: str | None = None) -> list[Delivery]:
        """Take messages in another order, as in `Rotates.reserve_rotated`.

        :raises OwnerLost: as `reserve`.
        """
        names = self._queues_of_own() if queue is None else (queue,)
        with self._broker.locked():
            self._check_known()
            return self._broker.reserve(self._owner, names, max_n, self._wall(), by)

    def _queues_of_own(self) -> Sequence[str]:
        if self._queues is None:
            raise OwnerLost(self._owner, "a consumer that is attached to another's owner never reserves")
        return self._queues

    def _check_known(self) -> None:
        if not self._broker.claims.knows(self._owner):
            raise OwnerLost(self._owner, "recovered or closed; open a consumer with a new owner")

    def settle(self, outcomes: Sequence[Outcome]) -> list[bool]:
        """Settle deliveries, as in `Consumer.settle`.

        :raises ValueError: an outcome says nothing that could be done; nothing was settled.
        """
        with self._broker.locked():
            return self._broker.settle(self._owner, outcomes, self._wall())

    def give_back(self, tags: Sequence[bytes]) -> int:
        """Return messages, as in `Consumer.give_back`."""
        with self._broker.locked():
            return self._broker.give_back(self._owner, tags)

    def mark_started(self, tag: bytes) -> bool:
        """Record a start, as in `Consumer.mark_started`."""
        with self._broker.locked():
            message = self._broker.claims.find(self._owner, tag)
            if message is None:
                return False
            message.started = True
            return True

    def fetch(self, tag: bytes) -> Delivery | None:
        """Read a delivery, as in `Consumer.fetch`."""
        with self._broker.locked():
            message = self._broker.claims.find(self._owner, tag)
            return None if message is None else delivery(tag, message)

    def close(self) -> None:
        """Give back and forget, as in `Consumer.close`; for an attached one, nothing."""
        if self._queues is None or not self._broker.is_ours:
            return
        with self._broker.locked():
            self._broker.recover(self._owner, None, "", 0, self._wall())

    def _until_due(self, left_s: float) -> float:
        due_wall_s = self._broker.queues.next_due_wall_s()
        return left_s if due_wall_s is None else min(left_s, max(0.0, due_wall_s - self._wall()))
