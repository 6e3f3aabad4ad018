"""The signals about messages: each is told once, and nothing is made for it when nobody listens.

Those about what a task does are sent by `execution`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ...transports.base import Delivery
from .. import signals
from ..exceptions import NotRegistered
from ..message import MalformedMessage, TaskMessage
from ..received import ReceivedMessage, ReceivedRequest
from ..request import Context
from ..settle import Ending
from .admit import UNKNOWN_SINCE_HEADER
from .parts import Parts


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


def _message(parts: Parts, delivery: Delivery) -> ReceivedMessage:
    return ReceivedMessage(delivery.document, delivery.queue, parts.table, redelivered=delivery.redelivered)
