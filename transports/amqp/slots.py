"""Slots: a holder is a consumer of an empty queue, and the queue counts its consumers.

The broker forgets a consumer together with its connection, so that nothing has to lapse when a process
dies. No message is involved, so that ``consumer_timeout`` ends nothing.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Final

from ..coordination import is_of
from .session import Counts, Session
from .turns import Turns, digest, shard_of

_ARGUMENTS: Final[Mapping[str, Any]] = MappingProxyType({"x-queue-type": "classic", "x-expires": 600_000})

_log = logging.getLogger("prefork.amqp")


class Slots:
    """What this process holds.

    :param session: a connection without heartbeats: it is kept while tasks run.
    """

    def __init__(self, session: Session, turns: Turns) -> None:
        self._session = session
        self._turns = turns
        # Written under the lock of the session.
        self._held: dict[tuple[str, str], str] = {}
        self._generation = 0
        self._pid = os.getpid()
        self._count = 0

    def take(self, name: str, limit: int, holder: str) -> bool:
        """Take a slot, as in `Coordinates.take_slot`."""
        key, queue = (name, holder), queue_of(name)
        with self._session.use() as end_mono_s:
            self._hold_again(end_mono_s)
            if key in self._held:
                return True
            if self._ask([], queue, end_mono_s) >= limit:
                return False
        with self._turns.turn(f"slots.{shard_of(digest(name))}"), self._session.use() as end_mono_s:
            self._hold_again(end_mono_s)
            if self._ask([], queue, end_mono_s) >= limit:
                return False
            self._count += 1
            tag = f"s{self._count}"
            if self._ask([self._session.consume(queue, tag)], queue, end_mono_s) > limit:
                # Only if the turn was lost meanwhile.
                self._ask([self._session.cancel(tag)], queue, end_mono_s)
                return False
            self._held[key] = tag
            return True

    def free(self, name: str, holder: str) -> None:
        """Give a slot back, as in `Coordinates.free_slot`."""
        if not self._held:
            return
        with self._session.use() as end_mono_s:
            self._hold_again(end_mono_s)
            tag = self._held.pop((name, holder), None)
            if tag is not None:
                self._ask([self._session.cancel(tag)], queue_of(name), end_mono_s)

    def free_all_of(self, owner: str) -> int:
        """Give back what an owner of this process holds; how many there were."""
        mine = [(name, holder) for name, holder in list(self._held) if is_of(holder, owner)]
        for name, holder in mine:
            self.free(name, holder)
        return len(mine)

    def close(self) -> None:
        """Give everything back. Safe to call twice."""
        self._held.clear()
        self._session.close()

    def _ask(self, frames: Sequence[bytes], queue: str, end_mono_s: float) -> int:
        """How many hold a slot, after these frames."""
        session = self._session
        frames = [session.declare(queue, _ARGUMENTS, wait=False), *frames, session.declare(queue, _ARGUMENTS)]
        (answer,) = session.ask(frames, 1, end_mono_s)
        assert isinstance(answer, Counts)
        return answer.consumers

    def _hold_again(self, end_mono_s: float) -> None:
        """Take again what was lost with a connection, or with its queue: those who hold it still run."""
        session = self._session
        if self._pid != os.getpid():
            self._pid = os.getpid()
            self._held.clear()  # they are the parent's
        lost = {key for key, tag in self._held.items() if tag in session.cancelled}
        session.cancelled.clear()
        if self._generation != session.generation:
            self._generation = session.generation
            lost = set(self._held)
        for name, holder in lost:
            tag = self._held[name, holder]
            _log.warning("slot %r of %s was lost with a connection, and is taken again", name, holder)
            self._ask([session.consume(queue_of(name), tag)], queue_of(name), end_mono_s)


def queue_of(name: str) -> str:
    """The queue whose consumers are the holders."""
    return f"prefork.slots.{digest(name)}"
