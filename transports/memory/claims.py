"""Who holds which message of a memory broker, and how long a worker is believed to live.

Every method is called under the lock of the broker; `now_mono_s` is passed in.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence
from itertools import count

from ..base import Delivery
from .messages import Stored

_TAG = struct.Struct(">QQ")


class Claims:
    """Held messages by tag, owners by worker, leases by worker.

    A tag names one message in one batch, and batches are numbered for ever: a tag that was settled,
    given back or taken back finds nothing, whoever holds the message now.
    """

    def __init__(self) -> None:
        self._held: dict[str, dict[bytes, Stored]] = {}
        self._worker_of: dict[str, str] = {}
        self._lease_ends_mono_s: dict[str, float] = {}
        self._batches = count(1)

    def register(self, owner: str, worker: str, lease_ends_mono_s: float) -> None:
        """Enter an owner; its worker gets a first lease unless it has one."""
        self._held.setdefault(owner, {})
        self._worker_of[owner] = worker
        self._lease_ends_mono_s.setdefault(worker, lease_ends_mono_s)

    def knows(self, owner: str) -> bool:
        """Whether an owner may hold anything."""
        return owner in self._held

    def claim(self, owner: str, messages: Sequence[Stored]) -> list[Delivery]:
        """Let an owner hold messages, as one batch."""
        batch = next(self._batches)
        held = self._held[owner]
        deliveries = []
        for index, message in enumerate(messages):
            message.started = False
            tag = _TAG.pack(batch, index)
            held[tag] = message
            deliveries.append(delivery(tag, message))
        return deliveries

    def find(self, owner: str, tag: bytes) -> Stored | None:
        """The message that an owner holds under a tag."""
        return self._held.get(owner, {}).get(tag)

    def release(self, owner: str, tag: bytes) -> Stored | None:
        """End one claim; None when the owner does not hold it (any more)."""
        return self._held.get(owner, {}).pop(tag, None)

    def release_owner(self, owner: str) -> dict[bytes, Stored]:
        """End all claims of an owner and forget it."""
        self._worker_of.pop(owner, None)
        return self._held.pop(owner, {})

    def owners(self, worker: str) -> list[str]:
        """The owners of a worker."""
        return sorted(owner for owner, its_worker in self._worker_of.items() if its_worker == worker)

    def in_work(self, queue: str) -> int:
        """How many messages of a queue are held."""
        return sum(message.queue == queue for held in self._held.values() for message in held.values())

    def extend(self, worker: str, lease_ends_mono_s: float) -> None:
        """Enter a worker, or extend its lease."""
        self._lease_ends_mono_s[worker] = lease_ends_mono_s

    def lives(self, worker: str, now_mono_s: float) -> bool:
        """Whether a worker has a lease that goes on."""
        return self._lease_ends_mono_s.get(worker, -math.inf) > now_mono_s

    def lapsed(self, now_mono_s: float) -> list[str]:
        """The workers whose lease has run out."""
        return sorted(name for name, end in self._lease_ends_mono_s.items() if end <= now_mono_s)

    def workers(self, now_mono_s: float) -> list[str]:
        """The workers that have a lease that goes on."""
        return sorted(name for name, end in self._lease_ends_mono_s.items() if end > now_mono_s)

    def forget_worker(self, worker: str) -> None:
        """Forget a worker and its owners; one that still holds something lapses instead, at once."""
        for owner in self.owners(worker):
            if not self._held[owner]:
                self.release_owner(owner)
        if self.owners(worker):
            self._lease_ends_mono_s[worker] = -math.inf
        else:
            self._lease_ends_mono_s.pop(worker, None)


def delivery(tag: bytes, message: Stored) -> Delivery:
    """A held message as its consumer sees it."""
    return Delivery(
        tag=tag,
        queue=message.queue,
        document=message.document,
        priority=message.priority,
        crashes=message.crashes,
        suspect=message.suspect,
        redelivered=message.redelivered,
    )
