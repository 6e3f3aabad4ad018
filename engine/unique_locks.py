"""The locks of unique tasks, as workers handle them: prolonged while a task runs, freed when it is over."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import Final

from ..transports.base import Transport
from ..transports.coordination import Coordinates
from ..transports.errors import TransportError
from . import held_locks
from .held_locks import KEEP_S, Held, KeptLocks
from .housekeeping import Duty
from .message import TaskMessage
from .scoreboard import Slot
from .unique import DONE, HEADER, STARTED, TIME, Mark, read_mark, replaced_lock, started_lock

MARGIN_S: Final = 60.0
"""How long beyond its hard time limit the lock of a running task lasts."""

RUNNING_S: Final = 6.0
"""How long the lock of a running task without a limit lasts at least; it is prolonged in time."""

_log = logging.getLogger("prefork.unique")


def mark_of_message(message: TaskMessage) -> Mark | None:
    """What a message bears; None for one of a task that is not unique."""
    headers = message.more_headers
    return None if headers is None else read_mark(headers.get(HEADER))


def lasts_s(mark: Mark, hard_limit_s: float | None) -> float:
    """How long the locks of a task last from its start on, unless they are prolonged. Pure."""
    return max(mark.ttl_s, RUNNING_S if not hard_limit_s else hard_limit_s + MARGIN_S)


def held_while_running(mark: Mark) -> int:
    """Which locks of a task last for as long as it runs: bits of `held_locks`. Pure."""
    main = held_locks.MAIN if mark.until == DONE else 0
    return main | (held_locks.STARTED if mark.replaceable else 0)


def names_of(held: Held) -> list[str]:
    """The names of the locks that a running task holds."""
    names = [Mark(held.digest, DONE, held.lasts_s).lock] if held.what & held_locks.MAIN else []
    return [*names, started_lock(held.task_id)] if held.what & held_locks.STARTED else names


def keeping(transport: Transport, slots: Callable[[], Iterable[Slot]], log: logging.Logger) -> list[Duty]:
    """The duty to prolong the locks of what runs; none where there are no locks.

    :param slots: those whose children live.
    """
    if not isinstance(transport, Coordinates):
        return []
    return [Duty("unique locks", KEEP_S, KeptLocks(transport, slots, names_of, log).turn)]


class UniqueLocks:
    """Acts for tasks on their locks; a broker that is away costs uniqueness, and holds up nothing.

    :param transport: one without locks has no marks to act on, either.
    """

    def __init__(self, transport: Transport) -> None:
        self._port = transport if isinstance(transport, Coordinates) else None

    @property
    def possible(self) -> bool:
        """Whether there can be locks at all."""
        return self._port is not None

    def start(self, mark: Mark, message: TaskMessage, hard_limit_s: float | None) -> str | None:
        """Note that a task starts now; returns by which one it has been replaced instead, if it has.

        :param hard_limit_s: it does not run for longer; None for one without a limit.
        """
        if self._port is None or (mark.until == TIME and not mark.replaceable):
            return None
        for_s = lasts_s(mark, hard_limit_s)
        try:
            if mark.replaceable:
                return self._start_unless_replaced(self._port, mark, message.id, for_s)
            self._hold(self._port, mark, message.id, for_s)
        except TransportError as error:
            _log.warning("%s[%s] starts with its lock as it is: %s", message.task, message.id, error)
        return None

    def _start_unless_replaced(self, port: Coordinates, mark: Mark, task_id: str, for_s: float) -> str | None:
        # First said, then looked; who replaces it says so first, too. So one of the two sees the other.
        port.lock(started_lock(task_id), task_id, for_s)
        replaced_by = port.locked(replaced_lock(task_id)) or self._hold(port, mark, task_id, for_s)
        if replaced_by is not None:
            port.unlock(started_lock(task_id), task_id)
        return replaced_by

    @staticmethod
    def _hold(port: Coordinates, mark: Mark, task_id: str, for_s: float) -> str | None:
        """Do with the lock what the start means for it; returns another one that has it."""
        if mark.until == DONE:
            return port.lock(mark.lock, task_id, for_s)
        if mark.until == STARTED and port.unlock(mark.lock, task_id):
            return None
        held = port.locked(mark.lock)
        return None if held == task_id else held

    def wait(self, mark: Mark, message: TaskMessage, waits_s: float) -> None:
        """Note that a task will run again, after so many seconds."""
        # Taken again, should its time have been over meanwhile.
        self._end(mark, message.id, lambda port: port.lock(mark.lock, message.id, mark.ttl_s + waits_s))

    def free(self, mark: Mark, task_id: str) -> None:
        """Note that a task came to its end, or will never run."""
        self._end(mark, task_id, lambda port: port.unlock(mark.lock, task_id))

    def _end(self, mark: Mark, task_id: str, end: Callable[[Coordinates], object]) -> None:
        port = self._port
        if port is None or (mark.until == TIME and not mark.replaceable):
            return
        try:
            if mark.replaceable:
                port.unlock(started_lock(task_id), task_id)
            if mark.until != TIME:
                end(port)
        except TransportError as error:
            _log.warning("the lock of %s stays as it is, for up to %g s: %s", task_id, mark.ttl_s, error)
