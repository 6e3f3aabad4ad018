"""Asking the broker until it answers: how a child gets through an outage."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import Final, TypeVar

from ...transports.errors import TransportError
from ..scoreboard import S_STOP, Stop
from .parts import Parts

_BACKOFF_S: Final = (0.02, 0.05, 0.1, 0.25, 0.5, 1.0)
_TRIES_WHEN_LEAVING: Final = 5

T = TypeVar("T")

_log = logging.getLogger("prefork.child")


class Attempts:
    """Tries, backs off, and tries again. Used by the loop's thread only."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        self._words = parts.slot.words
        self._failures = 0

    def make(self, action: Callable[[], T]) -> T | None:
        """Do it, however long the broker is away; None when the worker leaves before that.

        None as well when it is refused for good, and nothing else could be done instead (`refusals`).
        """
        while True:
            try:
                result = action()
            except TransportError as error:
                if error.permanent:
                    _log.error("broker: %s; to try again is of no use", error)
                    return None
                self.failed(error)
                if self._words[S_STOP] != Stop.RUN and self._failures > _TRIES_WHEN_LEAVING:
                    _log.error("leaving without an answer of the broker: %s", error)
                    return None
            else:
                self._failures = 0
                return result

    def succeeded(self) -> None:
        """The broker answers: the next failure is the first again."""
        self._failures = 0

    def failed(self, error: TransportError) -> None:
        """Say so, the first time, and wait before the next attempt.

        :raises OSError: a task has closed descriptors that are not its own.
        """
        # A task may have closed descriptors that are not its own. No attempt will ever succeed then:
        # this raises, the process ends, and that counts as a crash of the message.
        os.fstat(self._parts.doorbell_fd)
        if self._failures == 0:
            _log.error("broker: %s; trying again", error)
        delay_s = _BACKOFF_S[min(self._failures, len(_BACKOFF_S) - 1)]
        self._failures += 1
        self._parts.pause(delay_s)
