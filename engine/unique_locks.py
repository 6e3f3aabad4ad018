"""The locks of unique tasks, as workers handle them: prolonged while a task runs, freed when it is over."""

from __future__ import annotations

import logging
from typing import Final

from ..transports.base import Transport
from ..transports.coordination import Coordinates
from ..transports.errors import TransportError
from .message import TaskMessage
from .unique import DONE, HEADER, STARTED, TIME, Mark, read_mark, replaced_lock

MARGIN_S: Final = 60.0
"""How long beyond its hard time limit the lock of a running task lasts."""

_log = logging.getLogger("prefork.unique")


def mark_of_message(message: TaskMessage) -> Mark | None:
    """What a message bears; None for one of a task that is not unique."""
    headers = message.more_headers
    return None if headers is None else read_mark(headers.get(HEADER))


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
        try:
            if mark.replaceable:
                replaced_by = self._port.locked(replaced_lock(message.id))
                if replaced_by is not None:
                    return replaced_by
            return self._hold(self._port, mark, message.id, hard_limit_s)
        except TransportError as error:
            _log.warning("%s[%s] starts with its lock as it is: %s", message.task, message.id, error)
            return None

    @staticmethod
    def _hold(port: Coordinates, mark: Mark, task_id: str, hard_limit_s: float | None) -> str | None:
        if mark.until == DONE:
            held = port.lock(mark.lock, task_id, max(mark.ttl_s, (hard_limit_s or 0.0) + MARGIN_S))
        else:
            held = port.locked(mark.lock)
            if mark.until == STARTED and held == task_id:
                port.unlock(mark.lock, task_id)
        # Somebody else's, and this one is of those that may be replaced: it has been.
        return held if mark.replaceable and held not in (None, task_id) else None

    def wait(self, mark: Mark, message: TaskMessage, waits_s: float) -> None:
        """Note that a task will run again, after so many seconds."""
        if self._port is not None and mark.until == DONE:
            try:
                self._port.prolong(mark.lock, message.id, mark.ttl_s + waits_s)
            except TransportError as error:
                _log.warning("the lock of %s[%s] is not prolonged: %s", message.task, message.id, error)

    def free(self, mark: Mark, task_id: str) -> None:
        """Note that a task came to its end, or will never run."""
        if self._port is not None and mark.until != TIME:
            try:
                self._port.unlock(mark.lock, task_id)
            except TransportError as error:
                _log.warning("the lock of %s stays for up to %g s: %s", task_id, mark.ttl_s, error)
