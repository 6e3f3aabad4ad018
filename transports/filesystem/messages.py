"""What callers ask for, checked and turned into what is stored."""

from __future__ import annotations

import math

from ..base import Outcome, Outgoing, Verdict
from . import clock
from .append import Item
from .failures import too_large
from .layout import DOCUMENT_BYTES_MAX, NEVER_MS, PRIORITIES

_DUE_MAX_S = 1e15


def check_outgoing(message: Outgoing) -> None:
    """Refuse what could not be served.

    :raises ValueError: no queue is named, or the due time is not a number.
    :raises Unacceptable: it is too large.
    """
    if not message.queue:
        raise ValueError("a message needs the name of a queue; got an empty one")
    if len(message.document) > DOCUMENT_BYTES_MAX:
        raise too_large(f"a message of {len(message.document)} bytes for queue {message.queue!r}")
    if message.due_wall_s is not None:
        _check_due(message.due_wall_s)


def check_outcome(outcome: Outcome) -> None:
    """Refuse what says nothing that could be done.

    :raises ValueError: an unknown verdict, or a deferral without a time.
    """
    verdict = outcome.verdict
    if verdict.__class__ is not Verdict:
        raise ValueError(f"{verdict!r} is not a verdict; use one of {list(Verdict)}")
    if verdict is Verdict.DEFER and outcome.due_wall_s is None:
        raise ValueError("a deferred message needs due_wall_s, the Unix time at which it is ready again")
    if outcome.due_wall_s is not None:
        _check_due(outcome.due_wall_s)
    for message in outcome.follow_ups:
        check_outgoing(message)


def _check_due(due_wall_s: float) -> None:
    if math.isnan(due_wall_s):
        raise ValueError("due_wall_s must be a Unix time or None, not NaN")


def item_of(message: Outgoing) -> Item:
    """A message as it is stored."""
    priority = message.priority
    clamped = 0 if priority < 0 else min(priority, PRIORITIES - 1)
    due_wall_s = message.due_wall_s
    return Item(message.document, clamped, 0 if due_wall_s is None else due_in_ms(due_wall_s))


def due_in_ms(due_wall_s: float | None) -> int:
    """A due time as it is stored, rounded up: never early. 0 for what is due at once."""
    if due_wall_s is None or due_wall_s <= clock.wall_s():
        return 0
    return min(math.ceil(min(due_wall_s, _DUE_MAX_S) * 1000), NEVER_MS - 1)
