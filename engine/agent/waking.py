"""Wakes idle children: as many as there are messages, and no more."""

from __future__ import annotations

from collections.abc import Sequence

from ...transports.base import Counts, Transport, Watch
from ..linux import Futex, Linux, PollingFutex
from ..scoreboard import A_WAITING, C_STATE, S_HIGH_SLOT, S_PID, SLOTS, Scoreboard, State


class Waker:
    """Knows the children's futexes."""

    def __init__(self, scoreboard: Scoreboard, transport: Transport, queues: Sequence[str]) -> None:
        self._board = scoreboard
        self._transport = transport
        self._queues = queues
        self._counts: Counts | None = None
        self._linux = Linux()
        self._futexes: dict[int, Futex | PollingFutex] = {}

    def follow(self, watch: Watch) -> None:
        """Believe a watch that counts, and save the round trip."""
        self._counts = watch if isinstance(watch, Counts) else None

    def wake(self) -> bool:
        """Wake idle children for what waits; True if something waits and nobody was idle."""
        waiting = None if self._counts is None else self._counts.waiting()
        if waiting is None:
            waiting = self._transport.ready(self._queues)
        return self._wake_for(waiting)

    def remind(self) -> None:
        """Wake idle children for what is known to wait, without asking the broker.

        A child that was woken while it could not reserve (paused, or its own connection broken) looks
        again soon, and not only when something changes.
        """
        waiting = None if self._counts is None else self._counts.waiting()
        if waiting:
            self._wake_for(waiting)

    def wake_idle(self, at_most: int) -> int:
        """Wake up to so many idle children; how many there were."""
        idle = self._idle_slots(at_most)
        for index in idle:
            self._futex(index).wake()
        return len(idle)

    def _wake_for(self, waiting: int) -> bool:
        self._board.words[A_WAITING] = waiting
        if not waiting:
            return False
        idle = self._idle_slots(waiting)
        for index in idle:
            self._futex(index).wake()
        return not idle

    def _idle_slots(self, at_most: int) -> list[int]:
        """Children that do nothing; after them those that run coroutines and have room for more."""
        idle: list[int] = []
        roomy: list[int] = []
        for index in range(min(self._board.words[S_HIGH_SLOT], SLOTS)):
            words = self._board.slot(index).words
            state = words[C_STATE]
            if state == State.IDLE and words[S_PID]:
                idle.append(index)
                if len(idle) >= at_most:
                    return idle
            elif state == State.HAS_ROOM and words[S_PID]:
                roomy.append(index)
        return idle + roomy[: at_most - len(idle)]

    def _futex(self, index: int) -> Futex | PollingFutex:
        futex = self._futexes.get(index)
        if futex is None:
            address = self._board.slot(index).wake_address()
            futex = self._futexes[index] = self._linux.futex(self._board.buffer, address)
        return futex
