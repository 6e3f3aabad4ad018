"""The signals about messages: each is told once, and nothing is made for it when nobody listens.

Those about what a task does are sent by `execution`.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any

from ...transports.base import Delivery
from .. import signals
from ..einfo import ExceptionInfo
from ..exceptions import NotRegistered
from ..execution import send_failure
from ..message import Embed, MalformedMessage, TaskMessage
from ..received import ReceivedMessage, ReceivedRequest
from ..request import Context
from ..settle import Ending
from .admit import UNKNOWN_SINCE_HEADER
from .parts import Parts

Payload = tuple[list[Any], dict[str, Any], Embed]

Make = Callable[[list[Any], dict[str, Any], Embed], Context]
"""Makes the request of a message, with a payload."""

_log = logging.getLogger("prefork.child")


def tell_received(parts: Parts, task: Any, request: Context) -> None:
    """Send `task_received`; asked for only where somebody listens."""
    about = ReceivedRequest(request, task, parts.app, parts.table)
    signals.task_received.send(parts.sender, request=about)


def tell_malformed(parts: Parts, delivery: Delivery, error: MalformedMessage) -> None:
    """Send `task_rejected` for bytes that are no task message."""
    if signals.task_rejected.receivers:
        signals.task_rejected.send(parts.sender, message=_message(parts, delivery), exc=error)


def tell_refused(
    parts: Parts, delivery: Delivery, message: TaskMessage, ending: Ending, make: Callable[[], Context]
) -> None:
    """Send the signal that goes with a message that does not run.

    :param make: makes its request, without arguments.
    """
    if ending in (Ending.REVOKED, Ending.EXPIRED):
        if signals.task_revoked.receivers:
            task = parts.app.tasks.get(message.task)
            request = ReceivedRequest(make(), task, parts.app, parts.table, decoded=False)
            expired = ending is Ending.EXPIRED
            signals.task_revoked.send(task, request=request, terminated=False, signum=None, expired=expired)
    elif ending is not Ending.NOT_DUE and signals.task_unknown.receivers:
        if UNKNOWN_SINCE_HEADER in message.all_headers(parts.table):
            return  # it was told when the header was written, by whoever found it first
        signals.task_unknown.send(
            parts.sender,
            message=_message(parts, delivery),
            exc=NotRegistered(message.task),
            name=message.task,
            id=message.id,
        )


def tell_terminated(parts: Parts, task: Any, request: Context, signum: int) -> None:
    """Send `task_revoked` for an execution that was ended on request."""
    if signals.task_revoked.receivers:
        about = ReceivedRequest(request, task, parts.app, parts.table)
        signals.task_revoked.send(task, request=about, terminated=True, signum=signum, expired=False)


def tell_crashed(parts: Parts, message: TaskMessage, make: Make, error: Exception, *, readable: bool) -> None:
    """Send `task_failure` for a message that has crashed too often.

    :param make: makes its request.
    :param readable: its arguments may be read.
    """
    if not signals.task_failure.receivers:
        return
    payload: Payload = ([], {}, Embed())
    if readable:
        try:
            payload = message.payload(parts.table)
        except MalformedMessage as problem:
            _log.warning("%s[%s] is told without arguments: %s", message.task, message.id, problem)
    send_failure(parts.app.tasks.get(message.task), make(*payload), error, ExceptionInfo(error))


def _message(parts: Parts, delivery: Delivery) -> ReceivedMessage:
    return ReceivedMessage(delivery.document, delivery.queue, parts.table, redelivered=delivery.redelivered)
