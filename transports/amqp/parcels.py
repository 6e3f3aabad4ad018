"""What is published: one message on its way, and by what it is known when it is sent again."""

from __future__ import annotations

from typing import Any, NamedTuple

from .ladder import origin


class Parcel(NamedTuple):
    """One message on its way.

    :param queue: that must exist first; None when somebody else sees to it.
    :param delayed: it goes through the delay ladder to `queue`, or to where `leads_from` leads.
    :param leads_from: the exchange that a delayed message was meant for; empty for a queue.
    """

    exchange: str
    routing_key: str
    properties: dict[str, Any]
    body: bytes
    queue: str | None = None
    delayed: bool = False
    leads_from: str = ""


class Mark(NamedTuple):
    """By what a message that bears an id is known again when it is sent again.

    :param where: exchange and routing key, without the delay: how long it still has to wait changes.
    """

    where: tuple[str, str]
    properties: bytes
    body: bytes


def mark_of(parcel: Parcel, encoded: bytes) -> Mark | None:
    """None for what bears no id: two that look alike may be two.

    :param encoded: its properties.
    """
    if not parcel.properties.get("correlation_id"):
        return None
    return Mark(origin(parcel.exchange, parcel.routing_key), encoded, parcel.body)
