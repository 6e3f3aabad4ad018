"""From what is to be sent to what is published. Pure: the time is passed in."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from ..base import Outgoing
from . import ladder
from .codec import Unencodable
from .documents import to_content
from .publisher import Parcel


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
    message: Outgoing, now_wall_s: float, is_fanout: Callable[[str], bool] = lambda exchange: False
) -> Parcel:
    """The parcel of a message, through the delay ladder if it is not due yet.

    :param is_fanout: whether an exchange heeds no routing key.
    :raises ValueError: see `check_outgoing`, and `ladder.address`.
    """
    check_outgoing(message)
    properties, body = to_content(message.document, message.priority)
    if (properties.get("headers") or {}).get("expires") is not None:
        # The broker would drop it without a word. A worker looks at the header, and says REVOKED.
        properties.pop("expiration", None)
    key = message.routing_key if message.exchange else message.queue
    if message.due_wall_s is not None and message.due_wall_s > now_wall_s:
        if is_fanout(message.exchange):
            key = ladder.fanout_key(message.exchange)
        return delayed_parcel(message.queue, key, properties, body, message.due_wall_s - now_wall_s)
    return Parcel(message.exchange, key, properties, body, message.queue)


def delayed_parcel(queue: str, key: str, properties: dict[str, Any], body: bytes, delay_s: float) -> Parcel:
    """A message that reaches its queue after a delay.

    :raises ValueError: the delay is too long, or the name of the queue is.
    """
    size = len(key.encode("utf-8", "surrogateescape"))
    if size > ladder.KEY_BYTES_MAX:
        raise Unencodable(
            f"queue {key[:40]!r}… has {size} bytes; a delayed message needs a name of at most "
            f"{ladder.KEY_BYTES_MAX}, because RabbitMQ keeps the delay in the routing key"
        )
    exchange, routing_key = ladder.address(delay_s, key)
    # A lifetime would end the wait on a rung early.
    properties = {name: value for name, value in properties.items() if name != "expiration"}
    return Parcel(exchange, routing_key, properties, body, queue, delayed=True)
