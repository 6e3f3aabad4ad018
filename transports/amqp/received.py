"""A message that this process holds, as it came."""

from __future__ import annotations

from typing import Any

from ..base import Delivery
from .documents import HEADER_OWNER, again, causes_of, every_cause, starts_of, suspect_of, to_document


class Received:
    """One held message. Written by the thread that holds the lock of its consumer.

    :param tag: names it to the engine; stays when the message moves to the queue of started suspects.
    :param delivery_tag: names it to the broker, on the channel that it came on.
    :param queue: where it belongs.
    :param marked: its headers may hold names that are not the sender's.
    :param plain: its headers are known to have the same form in JSON.
    :ivar crashes: how many processes died while they ran it.
    :ivar suspect: a process that held it vanished, so that it may be what killed it.
    :ivar started: its start is on record: it lies in the queue of its owner's started suspect.
    """

    __slots__ = (
        "_marked",
        "_plain",
        "body",
        "crashes",
        "delivery_tag",
        "exchange",
        "properties",
        "queue",
        "redelivered",
        "routing_key",
        "started",
        "suspect",
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
        marked: bool = True,
        plain: bool = False,
    ) -> None:
        self.tag = tag
        self.delivery_tag = delivery_tag
        self.queue = queue
        self.properties = properties
        self.body = body
        self.exchange = exchange
        self.routing_key = routing_key
        self.redelivered = redelivered
        self.crashes = starts_of(properties) if marked else 0
        self.suspect = marked and (self.crashes > 0 or suspect_of(properties))
        self.started = False
        self._marked = marked
        self._plain = plain

    @property
    def causes(self) -> tuple[str, ...]:
        """Why they died, as far as somebody knew."""
        return causes_of(self.properties)

    def as_started_by(self, owner: str) -> dict[str, Any]:
        """Its properties while this owner runs it: a start that nobody takes back is a death."""
        causes = every_cause(self.causes, self.crashes)
        properties = again(self.properties, starts=self.crashes + 1, causes=causes, suspect=True)
        properties["headers"][HEADER_OWNER] = owner
        return properties

    def charge(self, cause: str) -> None:
        """Count a death, and say why."""
        causes = (*every_cause(self.causes, self.crashes), cause)
        self.crashes, self.suspect = self.crashes + 1, True
        self.properties = again(self.properties, starts=self.crashes, causes=causes, suspect=True)

    @property
    def message_id(self) -> str:
        """The id of the task, as far as there is one."""
        headers = self.properties.get("headers") or {}
        return str(headers.get("id") or self.properties.get("correlation_id") or "")

    def delivery(self) -> Delivery:
        """As the engine sees it."""
        document = to_document(
            self.properties,
            self.body,
            self.exchange,
            self.routing_key,
            self.tag.hex(),
            marked=self._marked,
            plain=self._plain,
        )
        return Delivery(
            tag=self.tag,
            queue=self.queue,
            document=document,
            priority=int(self.properties.get("priority") or 0),
            crashes=self.crashes,
            suspect=self.suspect,
            redelivered=self.redelivered or self.suspect,
            causes=every_cause(self.causes, self.crashes) if self.crashes else (),
        )
