"""What becomes of the locks of unique tasks that a child runs, or drops.

What frees a lock is done after the outcome is settled: should this process die between the two, the next
sender sees that the task has its result, or the lock ends by itself.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, Final

from ...transports.base import Delivery, Outcome, Transport, Verdict
from ..clock import wall_s
from ..execution import Executed
from ..held_locks import ShownLocks
from ..message import TaskMessage
from ..replacing import Replaced
from ..scoreboard import Slot
from ..settle import Ending
from ..unique_claims import coordinates_of
from ..unique_locks import UniqueLocks, held_while_running, lasts_s, mark_of_message

_log = logging.getLogger("prefork.unique")

_RUN_AGAIN: Final = frozenset({Ending.RETRY, Ending.SNOOZE})
_COMES_BACK: Final = frozenset({Verdict.REQUEUE, Verdict.DEFER})


class Uniqueness:
    """The locks of one child. `ended` may be called by the thread that runs tasks, the others by the one that
    settles.

    :param tasks: the registered ones, by name.
    :param slot: where the locks of what runs are shown, to be prolonged.
    :raises ImproperlyConfigured: one is unique, and the broker has no locks.
    """

    def __init__(self, transport: Transport, tasks: Any, slot: Slot) -> None:
        self._locks = UniqueLocks(transport)
        self._shown = ShownLocks(slot)
        # What is to be done once the outcome of a delivery is settled.
        self.waiting: dict[bytes, Callable[[], None]] = {}
        if not self._locks.possible:
            for name, task in tasks.items():
                if getattr(task, "unique", None):
                    coordinates_of(transport, name)

    def started(self, message: TaskMessage, hard_limit_s: float | None) -> str | None:
        """A task is about to start; returns the id of the one that has taken its place, if one has."""
        mark = mark_of_message(message)
        if mark is None:
            return None
        replaced_by = self._locks.start(mark, message, hard_limit_s)
        held = held_while_running(mark)
        if held and replaced_by is None:
            self._show(message, mark.digest, lasts_s(mark, hard_limit_s), held)
        return replaced_by

    def _show(self, message: TaskMessage, digest: str, for_s: float, held: int) -> None:
        if not self._shown.show(message.id, digest, for_s, held):
            _log.warning(
                "%s[%s]: its lock is not prolonged while it runs, and lasts for %g s",
                message.task,
                message.id,
                for_s,
            )

    def taken_back(self, message: TaskMessage) -> None:
        """A task does not run after all: somebody else has its message."""
        self._shown.hide(message.id)

    def executed(
        self,
        delivery: Delivery,
        message: TaskMessage,
        executed: Executed,
        ending: Ending,
        verdict: Verdict | None,
    ) -> None:
        """An execution came to an end, as in `ended`; its replacement may have its lock."""
        follows = executed.value if isinstance(executed.value, Replaced) else executed.retry
        due_wall_s = None if follows is None else follows.due_wall_s
        if isinstance(follows, Replaced) and follows.takes_lock:
            ending = Ending.SNOOZE  # one of this id runs later
        self.ended(delivery, message, ending, verdict, due_wall_s)

    def ended(
        self,
        delivery: Delivery,
        message: TaskMessage,
        ending: Ending,
        verdict: Verdict | None = None,
        due_wall_s: float | None = None,
    ) -> None:
        """An execution came to an end, or will never begin; its outcome is about to be settled.

        :param verdict: what becomes of the message; None for one that is gone.
        :param due_wall_s: Unix time at which the task runs again, if it does.
        """
        mark = mark_of_message(message)
        if mark is None:
            return
        self._shown.hide(message.id)
        if verdict in _COMES_BACK:
            return
        if ending in _RUN_AGAIN:
            waits_s = 0.0 if due_wall_s is None else max(0.0, due_wall_s - wall_s())
            self.waiting[delivery.tag] = partial(self._locks.wait, mark, message, waits_s)
        else:
            self.waiting[delivery.tag] = partial(self._locks.free, mark, message.id)

    def settled(self, outcomes: Iterable[Outcome], answers: Iterable[bool]) -> None:
        """Outcomes are settled, or not: what somebody took back is his to care for."""
        for outcome, settled in zip(outcomes, answers, strict=True):
            action = self.waiting.pop(outcome.tag, None)
            if action is not None and settled:
                action()

    def forget(self) -> None:
        """Nobody knows whether anything is settled: the locks are left as they are."""
        self.waiting.clear()
