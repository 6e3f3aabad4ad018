"""Looks into queues without taking anything: dead letters, and what waits.

AMQP has no such operation. Messages are taken without being acknowledged, on a channel that is then
closed, and the broker puts them back where they were.
"""

from __future__ import annotations

from collections.abc import Iterator
from time import monotonic
from typing import Any

import amqp

from ..base import DeadLetter
from .consequences import (
    HEADER_CRASHES,
    HEADER_DIED,
    HEADER_EXCHANGE,
    HEADER_KEY,
    HEADER_LETTER_CAUSES,
    HEADER_QUEUE,
    HEADER_REASON,
    HEADER_ROUTING_KEY,
    LETTER_HEADERS,
)
from .documents import again, to_document
from .publisher import Parcel, Publisher

_ANSWER_S = 5.0
SCANNED_MAX = 100_000
"""How many letters are looked at, at most, for one of them."""


class Found:
    """One message seen on a channel."""

    __slots__ = ("body", "delivery_tag", "properties", "routing_key")

    def __init__(self, message: Any) -> None:
        properties = dict(message.properties)
        properties["headers"] = properties.pop("application_headers", None) or {}
        self.properties: dict[str, Any] = properties
        body = message.body
        self.body: bytes = body.encode("utf-8") if isinstance(body, str) else bytes(body)
        self.delivery_tag: int = message.delivery_info["delivery_tag"]
        self.routing_key: str = message.delivery_info["routing_key"]


def browse(channel: Any, queue: str, limit: int) -> Iterator[Found]:
    """The first messages of a queue; they return when the channel is closed.

    However many they are: the deadline is that of one answer.
    """
    wire = channel.connection
    for _ in range(limit):
        if wire.end_mono_s is not None:
            wire.end_mono_s = max(wire.end_mono_s, monotonic() + _ANSWER_S)
        try:
            message = channel.basic_get(queue)
        except amqp.exceptions.NotFound:
            return
        if message is None:
            return
        yield Found(message)


class Graveyard:
    """The dead letters of one broker."""

    def __init__(self, publisher: Publisher, dead_queue: str) -> None:
        self._publisher = publisher
        self._queue = dead_queue

    def letters(self, limit: int) -> list[DeadLetter]:
        """The oldest letters."""

        def look(channel: Any) -> list[DeadLetter]:
            return [_letter(found) for found in browse(channel, self._queue, limit)]

        return list(self._publisher.ask(look))

    def get(self, key: str) -> DeadLetter | None:
        """One letter."""

        def look(channel: Any) -> DeadLetter | None:
            return next((_letter(found) for found in self._find(channel, key)), None)

        found: DeadLetter | None = self._publisher.ask(look)
        return found

    def replay(self, key: str) -> bool:
        """Send one again; the letter goes when the broker has confirmed its message."""

        def act(channel: Any) -> bool:
            for found in self._find(channel, key):
                self._publisher.publish([_alive(found)])
                channel.basic_ack(found.delivery_tag)
                return True
            return False

        return bool(self._publisher.ask(act))

    def drop(self, key: str) -> bool:
        """Delete one."""

        def act(channel: Any) -> bool:
            for found in self._find(channel, key):
                channel.basic_ack(found.delivery_tag)
                return True
            return False

        return bool(self._publisher.ask(act))

    def _find(self, channel: Any, key: str) -> Iterator[Found]:
        for found in browse(channel, self._queue, SCANNED_MAX):
            if found.properties["headers"].get(HEADER_KEY) == key:
                yield found
                return


def _alive(found: Found) -> Parcel:
    """A letter as the message that it was, with a clean record."""
    headers = found.properties["headers"]
    queue = str(headers.get(HEADER_QUEUE) or "")
    kept = {name: value for name, value in headers.items() if name not in LETTER_HEADERS}
    properties = again({**found.properties, "headers": kept}, starts=0)
    return Parcel("", queue, properties, found.body, queue)


def _letter(found: Found) -> DeadLetter:
    headers = found.properties["headers"]
    died = headers.get(HEADER_DIED)
    causes = headers.get(HEADER_LETTER_CAUSES)
    crashes = headers.get(HEADER_CRASHES)
    kept = {name: value for name, value in headers.items() if name not in LETTER_HEADERS}
    exchange, routing_key = str(headers.get(HEADER_EXCHANGE, "")), str(headers.get(HEADER_ROUTING_KEY, ""))
    key = str(headers.get(HEADER_KEY, ""))
    return DeadLetter(
        key=key,
        queue=str(headers.get(HEADER_QUEUE, "")),
        reason=str(headers.get(HEADER_REASON, "")),
        causes=tuple(str(one) for one in causes) if isinstance(causes, list) else (),
        document=to_document({**found.properties, "headers": kept}, found.body, exchange, routing_key, key),
        priority=int(found.properties.get("priority") or 0),
        crashes=crashes if isinstance(crashes, int) else 0,
        died_wall_s=float(died) if isinstance(died, (int, float)) else 0.0,
    )
