"""Makes what follows a success. For a unique task that follows, the broker must be asked; it may be away."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, Final

from ...transports.errors import BrokerUnavailable
from ..execution import Interrupted
from ..follow_ups import Following, on_success
from ..message import TaskMessage
from ..request import Context
from ..scoreboard import S_STOP, Stop
from .parts import Parts

AGAIN_S: Final = 0.5
"""How long to wait before the broker is asked again."""

_log = logging.getLogger("prefork.child")

AfterSuccess = Callable[[TaskMessage, Context, Any], Following]
"""Makes what follows an execution, from its message, request and result."""


class Unmade(Exception):
    """What follows cannot be made here and now: the broker has to be asked first.

    :ivar message, request, value: of the execution, as in `AfterSuccess`.
    """

    def __init__(self, message: TaskMessage, request: Context, value: Any) -> None:
        super().__init__("what follows has to be made first")
        self.message = message
        self.request = request
        self.value = value


class FollowingHere:
    """Waits for the broker in the thread that asks, as it is waited for when the outcome is settled."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts

    def __call__(self, message: TaskMessage, request: Context, value: Any) -> Following:
        """See `AfterSuccess`.

        :raises Interrupted: the broker is away, and the worker leaves: the message goes back, if it can.
        """
        said = False
        while True:
            try:
                return on_success(self._parts.app, request, value)
            except BrokerUnavailable as error:
                given_up = leaving(self._parts, error)
                if given_up is not None:
                    raise given_up from None
                if not said:
                    said = True
                    complain(message, error)
                self._parts.pause(AGAIN_S)


def leaving(parts: Parts, error: Exception) -> Interrupted | None:
    """What an execution ends with whose success cannot be followed by anything, if the worker leaves."""
    if parts.slot.words[S_STOP] == Stop.RUN:
        return None
    return Interrupted(f"what follows cannot be made, and the worker leaves: {error}")


def complain(message: TaskMessage, error: Exception) -> None:
    """Say that what follows has to wait."""
    _log.error("%s[%s]: what follows waits for the broker: %s", message.task, message.id, error)
