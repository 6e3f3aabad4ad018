"""Looks into the lanes: what other workers parked there, or this one before it was started again."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any, Final

from ..clock import mono_s
from ..storage import Storage
from .board import RateBoard, TableBusy
from .kinds import Limited, declare_all, limited_kinds
from .lanes import lanes_of
from .strays import Strays

LOOK_S: Final = 1.0
# How often lanes are looked for that nobody here should have filled: a worker with other code may have,
# and be gone.
LEFT_OVER_S: Final = 60.0
# To ask RabbitMQ for a queue that does not exist makes it log an error.
LEFT_OVER_UNLISTED_S: Final = 900.0
_LANES_PER_S: Final = 200
# So long one look for left-over lanes takes at most: the lease is renewed by the same thread.
_LOOK_S_MAX: Final = 1.0
_ASKED_AT_ONCE: Final = 100


class Lookout:
    """The lanes of one worker, as its broker has them. Used by one thread.

    :ivar every_s: how often `look` is due: less often when there are many lanes.
    """

    def __init__(
        self,
        board: RateBoard,
        storage: Storage,
        tasks: Sequence[Any],
        config: Any,
        queues: Sequence[str],
        log: logging.Logger,
    ) -> None:
        self._board = board
        self._transport = storage.transport
        self._names = [task.name for task in tasks]
        self._queues = queues
        self._log = log
        declare_all(board, tasks, config)
        self._seen = -1
        self._kinds: list[Limited] = []
        self._strays = Strays(storage, self._names, queues, config.task_unknown_grace, log)
        # Tasks without a limit whose lanes must still be looked for; None until it is time again.
        self._left_over: list[str] | None = None
        self._left_over_mono_s = float("-inf")
        self.every_s = max(LOOK_S, len(self.kinds()) * len(queues) / _LANES_PER_S)

    def kinds(self) -> list[Limited]:
        """The kinds that have, or had, a limit."""
        if self._board.changes != self._seen:
            self._seen = self._board.changes
            self._kinds = list(limited_kinds(self._board, self._names, self._queues).values())
        return self._kinds

    def look(self) -> None:
        """See in which lanes something waits; a duty.

        :raises TransportError: the broker cannot be reached.
        """
        if mono_s() >= self._left_over_mono_s:
            self._look_for_left_over()
        kinds = self.kinds()
        if not kinds or not self._ready([lane for kind in kinds for lane in kind.lanes]):
            return
        for kind in kinds:
            # Said again even if it is known: two that parked at the same moment may have looked like one.
            if self._ready(kind.lanes):
                kind.bucket.park()

    def _ready(self, lanes: Sequence[str]) -> int:
        return sum(
            self._transport.ready(lanes[at : at + _ASKED_AT_ONCE])
            for at in range(0, len(lanes), _ASKED_AT_ONCE)
        )

    def _look_for_left_over(self) -> None:
        """Enter tasks that have no limit here, and still have messages in lanes; see to strays."""
        lists = self._transport.capabilities.lists_queues
        there = set(self._transport.queues()) if lists else set()
        if self._left_over is None:
            limited = {kind.name for kind in self.kinds()}
            self._left_over = [name for name in self._names if name not in limited]
        names = self._left_over
        if lists:
            names[:] = [name for name in names if there & set(lanes_of(self._queues, name))]
        ends_mono_s = mono_s() + _LOOK_S_MAX
        while names:
            if mono_s() > ends_mono_s:
                return  # the rest at the next look
            if self._ready(lanes_of(self._queues, names[-1])) and not self._enter(names[-1]):
                return  # it and the rest at the next look
            names.pop()
        self._strays.look(there, mono_s())
        self._left_over = None
        self._left_over_mono_s = mono_s() + (LEFT_OVER_S if lists else LEFT_OVER_UNLISTED_S)

    def _enter(self, name: str) -> bool:
        """Have messages taken from the lanes of a task without a limit; whether that can be had now."""
        try:
            self._board.enter(name).park()
        except TableBusy as error:
            self._log.warning("%s", error)
            return False
        self._log.info("%s has no limit any more: what waited is run", name)
        return True
