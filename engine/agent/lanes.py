"""Wakes children for the lanes of limited tasks: when something waits there and may run."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any, Final

from ...transports.base import Transport
from ...transports.errors import TransportError
from ..clock import mono_ns
from ..limits.board import RateBoard
from ..limits.kinds import Limited, declare_all, limited_kinds
from ..limits.lanes import lanes_of
from ..scoreboard import S_PAUSED, Scoreboard
from .waking import Waker

LOOK_S: Final = 1.0
"""How often the lanes themselves are looked at: for what other workers parked, and this one forgot."""
_LANES_PER_S: Final = 200
# A child that was woken needs so long to take its token; if nobody is idle, nobody needs to be woken.
_AGAIN_NS: Final = 5_000_000
_ALL_BUSY_NS: Final = 50_000_000
_LONGEST_NS: Final = 1_000_000_000
_ASKED_AT_ONCE: Final = 100


class Lanes:
    """The lanes of one worker. Used by the agent's thread."""

    def __init__(
        self,
        scoreboard: Scoreboard,
        transport: Transport,
        waker: Waker,
        tasks: Sequence[Any],
        config: Any,
        queues: Sequence[str],
        log: logging.Logger,
    ) -> None:
        self._words = scoreboard.words
        self._bell_fd = scoreboard.agent_bell_fd
        self._transport = transport
        self._waker = waker
        self._names = [task.name for task in tasks]
        self._queues = queues
        self._log = log
        self._board = RateBoard(scoreboard)
        declare_all(self._board, tasks, config)
        self._seen = -1
        self._kinds: list[Limited] = []
        self._left_over = True  # whether lanes of tasks without a limit must still be looked for

    def fileno(self) -> int:
        """Readable when something was parked, or a rate has changed."""
        return self._bell_fd

    def hear(self) -> None:
        """Forget the bell; `turn` follows."""
        try:
            os.eventfd_read(self._bell_fd)
        except BlockingIOError:
            return  # another agent of this worker has heard it

    def look(self) -> None:
        """See in which lanes something waits; a duty.

        :raises TransportError: the broker cannot be reached.
        """
        self._refresh()
        if self._left_over:
            self._look_for_left_over()
            self._left_over = False
        if not self._kinds or not self._ready([lane for kind in self._kinds for lane in kind.lanes]):
            return
        for kind in self._kinds:
            if not kind.bucket.holds and self._ready(kind.lanes):
                kind.bucket.park()

    @property
    def look_every_s(self) -> float:
        """How often `look` is due: less often when there are many lanes."""
        return max(LOOK_S, sum(len(kind.lanes) for kind in self._kinds) / _LANES_PER_S)

    def turn(self) -> float:
        """Wake a child for each kind that may run; returns in how many seconds to look again."""
        self._refresh()
        now_ns = mono_ns()
        wait_ns = _LONGEST_NS
        if self._words[S_PAUSED]:
            return wait_ns / 1e9
        for kind in self._kinds:
            if not kind.bucket.holds:
                continue
            due_in_ns = kind.bucket.due_ns() - now_ns
            if due_in_ns <= 0:
                due_in_ns = _AGAIN_NS if self._waker.wake_idle(1) else _ALL_BUSY_NS
            wait_ns = min(wait_ns, due_in_ns)
        return max(0, wait_ns) / 1e9

    def _refresh(self) -> None:
        if self._board.changes != self._seen:
            self._seen = self._board.changes
            self._kinds = list(limited_kinds(self._board, self._names, self._queues).values())

    def _ready(self, lanes: Sequence[str]) -> int:
        return sum(
            self._transport.ready(lanes[at : at + _ASKED_AT_ONCE])
            for at in range(0, len(lanes), _ASKED_AT_ONCE)
        )

    def _look_for_left_over(self) -> None:
        """Enter tasks that have no limit any more, and still have messages in lanes."""
        limited = {kind.name for kind in self._kinds}
        others = [name for name in self._names if name not in limited]
        if self._transport.capabilities.lists_queues:
            there = set(self._transport.queues())
            others = [name for name in others if there & set(lanes_of(self._queues, name))]
        for name in others:
            try:
                waiting = self._ready(lanes_of(self._queues, name))
            except TransportError as error:
                self._log.warning("cannot see whether messages of %s wait: %s", name, error)
                continue
            if waiting:
                self._log.info("%s has no limit any more: what waited is run", name)
                self._board.enter(name).park()
