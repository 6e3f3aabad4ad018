"""Looks into queues without taking anything: dead letters, and what waits.

AMQP has no such operation. Messages are taken without being acknowledged, on a channel that is then
closed, and the broker puts them back where they were.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from time import monotonic
from typing import Any, NamedTuple

import amqp

from ..base import DeadLetter
from .codec import Undecodable, decode_properties
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
from .frames import GET_EMPTY, GET_OK, Method, get_frame, read_arrival
from .parcels import Parcel
from .publisher import Publisher
from .wire import Wire

_ANSWER_S = 5.0
SCANNED_MAX = 100_000
"""How many letters are looked at, at most, for one of them."""

_log = logging.getLogger("prefork.amqp")


class Found(NamedTuple):
    """One message seen on a channel."""

    delivery_tag: int
    routing_key: str
    properties: dict[str, Any]
    body: bytes


def browse(channel: Any, queue: str, limit: int) -> Iterator[Found]:
    """The first messages of a queue; they return when the channel is closed.

    However many they are: the deadline is that of one answer. What has damaged properties is passed over.

    :param channel: of `Publisher.ask`.
    """
    wire: Wire = channel.connection
    came: list[tuple[bytes, bytes, bytes] | None] = []

    def on_content(method: Method, arguments: bytes, header: bytes, body: bytes) -> None:
        if method == GET_OK:
            came.append((arguments, header, body))

    def on_method(method: Method, _payload: bytes) -> bool:
        if method == GET_EMPTY:
            came.append(None)
        return method == GET_EMPTY

    wire.take(channel.channel_id, on_content, on_method)
    has_damaged = False
    for _ in range(limit):
        end_mono_s = monotonic() + _ANSWER_S
        if wire.end_mono_s is not None:
            wire.end_mono_s = max(wire.end_mono_s, end_mono_s)
        wire.write(get_frame(channel.channel_id, queue), _ANSWER_S)
        try:
            while not came:
                wire.blocking_read(end_mono_s - monotonic())
        except amqp.exceptions.NotFound:
            return
        one = came.pop()
        if one is None:
            return
        arguments, header, body = one
        arrival = read_arrival(GET_OK, arguments)
        try:
            properties = decode_properties(header, 12)
        except Undecodable as error:
            if not has_damaged:
                _log.warning("a message with damaged properties lies in queue %r: %s", queue, error)
            has_damaged = True
            continue
        properties.setdefault("headers", {})
        yield Found(arrival.delivery_tag, arrival.routing_key, properties, body)


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
