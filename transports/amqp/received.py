"""A message that this process holds, as it came."""

from __future__ import annotations

from typing import Any

from ..base import Delivery
from .documents import starts_of, to_document


class Received:
    """One held message. Written by the thread that holds the lock of its consumer.

    :param tag: names it to the engine; stays when the message moves to the queue of started suspects.
    :param delivery_tag: names it to the broker, on the channel that it came on.
    :param queue: where it belongs.
    :ivar crashes: how many processes died while they ran it.
    :ivar started: its start is on record: it lies in the queue of its owner's started suspect.
    """

    __slots__ = (
        "body",
        "crashes",
        "delivery_tag",
        "exchange",
        "properties",
        "queue",
        "redelivered",
        "routing_key",
        "started",
        "tag",
    )

    def __init__(
        self,
        tag: bytes,
        delivery_tag: int,
        queue: str,
        properties: dict[str, Any],
        body: bytes,
        *,
        exchange: str,
        routing_key: str,
        redelivered: bool,
    ) -> None:
        self.tag = tag
        self.delivery_tag = delivery_tag
        self.queue = queue
        self.properties = properties
        self.body = body
        self.exchange = exchange
        self.routing_key = routing_key
        self.redelivered = redelivered
        self.crashes = starts_of(properties)
        self.started = False

    @property
    def suspect(self) -> bool:
        """Whether a process that held it vanished, so that it may be what killed it."""
        return self.redelivered or self.crashes > 0

    @property
    def times_returned(self) -> int:
        """How often a quorum queue has got it back; 0 for a classic one, which does not count."""
        count = (self.properties.get("headers") or {}).get("x-delivery-count")
        return count if type(count) is int else 0

    def delivery(self) -> Delivery:
        """As the engine sees it."""
        document = to_document(self.properties, self.body, self.exchange, self.routing_key, self.tag.hex())
        return Delivery(
            tag=self.tag,
            queue=self.queue,
            document=document,
            priority=int(self.properties.get("priority") or 0),
            crashes=self.crashes,
            suspect=self.suspect,
            redelivered=self.redelivered or self.crashes > 0,
        )
