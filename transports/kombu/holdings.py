"""What a consumer holds, and how one message of it is claimed for an end."""

from __future__ import annotations

import itertools
import os
from typing import Protocol

from ..base import Delivery
from ..errors import OwnerLost
from .documents import DUE, QUEUE, Received
from .journal import TAG_BYTES, Claimed, Entry, Shelf
from .line import Line
from .outbox import give_back

_COUNTER_BYTES = 6


class Claim(Protocol):
    """One message that is about to be settled, by one process alone."""

    @property
    def entry(self) -> Entry:
        """The message."""

    def done(self) -> None:
        """It is settled.

        :raises BrokerUnavailable: the broker does not know of it; it may come again.
        """

    def undo(self) -> None:
        """It is held as before."""

    def give_back(self) -> None:
        """Return it to its queue."""


class Holdings(Protocol):
    """The messages of one owner."""

    def hold(self, message: Received) -> bytes:
        """Keep a message that was just read; returns its tag.

        :raises OwnerLost: the owner was recovered; the message is back in its queue.
        """

    def claim(self, tag: bytes) -> Claim | None:
        """Claim a message; None when it is not held."""

    def read(self, tag: bytes) -> Entry | None:
        """A message that is held, or None."""

    def tags(self) -> list[bytes]:
        """What is held, oldest first."""

    def alive(self) -> bool:
        """Whether the owner may take something more."""

    def close(self) -> None:
        """Forget the owner, who holds nothing any more."""


def entry_of(message: Received) -> Entry:
    """What is kept of a message.

    Anybody may have written our headers: what makes no sense in them is not looked at.
    """
    due, home = message.marks.get(DUE), message.marks.get(QUEUE)
    waits = isinstance(due, (int, float)) and isinstance(home, str)
    return Entry(
        queue=message.queue,
        document=message.document,
        priority=message.priority,
        crashes=message.crashes,
        causes=message.causes,
        redelivered=message.redelivered,
        due_wall_s=float(due) if waits and due is not None else None,
        home=str(home) if waits else "",
    )


def delivery(tag: bytes, entry: Entry) -> Delivery:
    """What a worker sees of a message that is held."""
    return Delivery(
        tag=tag,
        queue=entry.queue,
        document=entry.document,
        priority=entry.priority,
        crashes=entry.crashes,
        redelivered=entry.redelivered,
    )


class _Tags:
    """Tags that sort as they are made, and are never made twice."""

    def __init__(self) -> None:
        self._numbers = itertools.count()

    def fresh(self) -> bytes:
        return next(self._numbers).to_bytes(_COUNTER_BYTES, "big") + os.urandom(TAG_BYTES - _COUNTER_BYTES)


class JournalHoldings:
    """Messages that the broker has given away: they stand in the journal, for any process of this host."""

    def __init__(self, owner: str, shelf: Shelf, line: Line) -> None:
        self._owner = owner
        self._shelf = shelf
        self._line = line
        self._tags = _Tags()

    def hold(self, message: Received) -> bytes:
        """See `Holdings.hold`."""
        tag = self._tags.fresh()
        entry = entry_of(message)
        try:
            self._shelf.hold(tag, entry)
        except FileNotFoundError:
            give_back(self._line, entry)
            self._line.acknowledge(message)
            raise OwnerLost(self._owner, "recovered or closed; open a consumer with a new owner") from None
        # From here on the journal has it, and kombu must not put it back when this process ends.
        self._line.acknowledge(message)
        return tag

    def claim(self, tag: bytes) -> Claim | None:
        """See `Holdings.claim`."""
        claimed = self._shelf.take(tag)
        return None if claimed is None else _JournalClaim(claimed, self._line)

    def read(self, tag: bytes) -> Entry | None:
        """See `Holdings.read`."""
        return self._shelf.read(tag)

    def tags(self) -> list[bytes]:
        """See `Holdings.tags`."""
        return self._shelf.tags()

    def alive(self) -> bool:
        """See `Holdings.alive`."""
        return self._shelf.exists()

    def close(self) -> None:
        """See `Holdings.close`."""
        self._shelf.discard()


class _JournalClaim:
    def __init__(self, claimed: Claimed, line: Line) -> None:
        self._claimed = claimed
        self._line = line
        self.entry = claimed.entry

    def done(self) -> None:
        self._claimed.remove()

    def undo(self) -> None:
        self._claimed.undo()

    def give_back(self) -> None:
        give_back(self._line, self.entry)
        self._claimed.remove()


class BrokerHoldings:
    """Messages that the broker keeps until they are acknowledged, and gives to others when we die."""

    def __init__(self, line: Line) -> None:
        self._line = line
        self._held: dict[bytes, Received] = {}
        self._tags = _Tags()

    def hold(self, message: Received) -> bytes:
        """See `Holdings.hold`."""
        tag = self._tags.fresh()
        self._held[tag] = message
        return tag

    def claim(self, tag: bytes) -> Claim | None:
        """See `Holdings.claim`."""
        message = self._held.get(tag)
        if message is None or not self._line.still_holds(message):
            self._held.pop(tag, None)  # the connection that it came by has ended: others have it
            return None
        del self._held[tag]
        return _BrokerClaim(self, tag, message, self._line)

    def restore(self, tag: bytes, message: Received) -> None:
        """Hold again what was claimed."""
        self._held[tag] = message

    def read(self, tag: bytes) -> Entry | None:
        """See `Holdings.read`."""
        message = self._held.get(tag)
        return None if message is None else entry_of(message)

    def tags(self) -> list[bytes]:
        """See `Holdings.tags`."""
        return sorted(self._held)

    def alive(self) -> bool:
        """See `Holdings.alive`."""
        return True

    def close(self) -> None:
        """See `Holdings.close`."""
        self._held.clear()


class _BrokerClaim:
    def __init__(self, holdings: BrokerHoldings, tag: bytes, message: Received, line: Line) -> None:
        self._holdings = holdings
        self._tag = tag
        self._message = message
        self._line = line
        self.entry = entry_of(message)

    def done(self) -> None:
        self._line.acknowledge(self._message)

    def undo(self) -> None:
        self._holdings.restore(self._tag, self._message)

    def give_back(self) -> None:
        self._line.give_back(self._message)


class NoHoldings:
    """What can be seen here of an owner whose messages only its own connection holds: nothing."""

    def hold(self, message: Received) -> bytes:
        """Never called: an attached consumer does not reserve."""
        raise OwnerLost("", "a consumer that is attached to another's owner never reserves")

    def claim(self, tag: bytes) -> Claim | None:
        """See `Holdings.claim`."""
        return None

    def read(self, tag: bytes) -> Entry | None:
        """See `Holdings.read`."""
        return None

    def tags(self) -> list[bytes]:
        """See `Holdings.tags`."""
        return []

    def alive(self) -> bool:
        """See `Holdings.alive`."""
        return False

    def close(self) -> None:
        """See `Holdings.close`."""
