"""From what is to be sent to what is published. Pure: the time is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..base import Outgoing
from . import ladder
from .codec import Unencodable
from .documents import to_content
from .parcels import Parcel


def check_outgoing(message: Outgoing) -> None:
    """Refuse what could not be sent, before anything of its call is.

    :raises ValueError: no queue, a name that is too long for AMQP, or a time that is no number.
    """
    if not message.queue:
        raise ValueError("a message needs the name of a queue")
    check_due(message.due_wall_s)
    size = len(message.queue.encode("utf-8", "surrogateescape"))
    if size > 255:
        raise Unencodable(f"queue {message.queue[:40]!r}… has {size} bytes; RabbitMQ allows 255 for a name")


def check_due(due_wall_s: float | None) -> None:
    """Refuse a time that is none.

    :raises ValueError: not a finite number.
    """
    if due_wall_s is not None and not math.isfinite(due_wall_s):
        raise ValueError(f"due_wall_s={due_wall_s!r} is no Unix time")


def parcel_of(
    message: Outgoing, now_wall_s: float, leads: Callable[[str, str], bool] = lambda exchange, key: False
) -> Parcel:
    """The parcel of a message, through the delay ladder if it is not due yet.

    What goes to an exchange of which nobody here knows where it leads is sent at once, as Celery does
    it: so that the broker says if it leads nowhere, and nobody else's queues are missed. Whoever takes
    it from a queue finds in its headers that it is not due, and lets it wait for that queue.

    :param leads: whether an exchange hands a routing key to a queue that is known here.
    :raises ValueError: see `check_outgoing`, and `ladder.address`.
    """
    check_outgoing(message)
    properties, body = to_content(message.document, message.priority)
    if (properties.get("headers") or {}).get("expires") is not None:
        # The broker would drop it without a word. A worker looks at the header, and says REVOKED.
        properties.pop("expiration", None)
    queue, exchange = message.queue, message.exchange
    key = message.routing_key if exchange else queue
    if message.due_wall_s is None or message.due_wall_s <= now_wall_s:
        return Parcel(exchange, key, properties, body, queue)
    delay_s = message.due_wall_s - now_wall_s
    if not exchange:
        return delayed_parcel(queue, properties, body, delay_s)
    target = ladder.via_exchange(exchange, key)
    if not leads(exchange, key) or not ladder.fits(target):
        return Parcel(exchange, key, properties, body, queue)
    return _on_the_ladder(target, properties, body, delay_s)._replace(queue=queue, leads_from=exchange)


def delayed_parcel(queue: str, properties: dict[str, Any], body: bytes, delay_s: float) -> Parcel:
    """A message that reaches its queue after a delay.

    :raises ValueError: the delay is too long, or the name of the queue is.
    """
    target = ladder.to_queue(queue)
    if not ladder.fits(target):
        size = len(queue.encode("utf-8", "surrogateescape"))
        raise Unencodable(
            f"queue {queue[:40]!r}… has {size} bytes; a delayed message needs a name of at most "
            f"{ladder.KEY_BYTES_MAX}, because RabbitMQ keeps the delay in the routing key"
        )
    return _on_the_ladder(target, properties, body, delay_s)._replace(queue=queue)


def _on_the_ladder(target: str, properties: dict[str, Any], body: bytes, delay_s: float) -> Parcel:
    exchange, routing_key = ladder.address(delay_s, target)
    # A lifetime would end the wait on a rung early.
    properties = {name: value for name, value in properties.items() if name != "expiration"}
    return Parcel(exchange, routing_key, properties, body, delayed=True)
