"""Urgency: a priority that means the same on every broker, 9 first.

What `priority` means differs: RabbitMQ and the embedded brokers serve 9 first, Redis 0 first (interop §18, 1;
it is Celery's wire, so it stays). Whoever may change brokers says `urgency`, which is translated where a
message is sent.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .exceptions import InvalidTaskError

if TYPE_CHECKING:
    from .client import Client

URGENCY_MAX = 9


def checked(value: Any) -> int:
    """An urgency.

    :raises InvalidTaskError: it is no whole number from 0 to 9.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= URGENCY_MAX:
        raise InvalidTaskError(f"urgency={value!r}: give a whole number from 0 to 9; 9 is served first")
    return value


def priority_of(value: Any, client: Client) -> int:
    """The priority that has this urgency on the broker of a client."""
    urgency = checked(value)
    return urgency if client.transport.capabilities.highest_priority_first else URGENCY_MAX - urgency


def refuse_both(priority: Any, urgency: Any, where: str) -> None:
    """Whoever says how soon something is to run says it in one way.

    :raises InvalidTaskError: both are given.
    """
    if priority is not None and urgency is not None:
        raise InvalidTaskError(
            f"{where} has priority={priority!r} and urgency={urgency!r}: give one of them; "
            "urgency means the same on every broker"
        )


def said_as_priority(options: Mapping[str, Any], client: Client, where: str) -> dict[str, Any]:
    """Options of one call, with a priority in place of an urgency.

    :param where: the task, for the error.
    :raises InvalidTaskError: the urgency is none, or a priority is given as well.
    """
    refuse_both(options.get("priority"), options.get("urgency"), f"a call of {where}")
    rest = {key: value for key, value in options.items() if key != "urgency"}
    if options.get("urgency") is not None:
        rest["priority"] = priority_of(options["urgency"], client)
    return rest
