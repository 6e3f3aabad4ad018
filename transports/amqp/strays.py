"""Brings home the delayed messages that found no queue when their time had come.

A queue that is deleted loses its bindings, and what waits on the ladder for it arrives at the end of
it all the same. RabbitMQ keeps that in a queue of its own (`Topology`), where it lies until there is
a queue for it again. Whoever dies in between sending it there and taking it away sends it twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from time import monotonic
from typing import Any

import amqp

from ..errors import BrokerFull, Unroutable
from .documents import again, causes_of, starts_of, suspect_of
from .errors import DeclarationClash, Refused
from .graveyard import Found, browse
from .ladder import STRAYS_QUEUE, origin
from .link import CHANNEL_ERRORS
from .publisher import Parcel, Publisher
from .settings import AmqpSettings

_LOOK_S, _LOOK_AGAIN_S = 5.0, 30.0
_AT_ONCE = 500

_log = logging.getLogger("prefork.amqp")


class Strays:
    """Used by one thread; several workers may do it at the same time.

    :param mono: the clock that says when to look again, in seconds.
    """

    def __init__(
        self, publisher: Publisher, settings: AmqpSettings, mono: Callable[[], float] = monotonic
    ) -> None:
        self._publisher = publisher
        self._settings = settings
        self._mono = mono
        self._next_mono_s = 0.0
        self._homeless: frozenset[str] = frozenset()

    def bring_home(self) -> int:
        """Send what has a queue again to that queue; returns how many. Most times it is too early to look.

        :raises BrokerUnavailable: the broker is away.
        """
        now_mono_s = self._mono()
        if now_mono_s < self._next_mono_s:
            return 0
        self._next_mono_s = now_mono_s + _LOOK_AGAIN_S
        homeless: set[str] = set()
        try:
            sent = int(self._publisher.ask(lambda channel: self._look(channel, homeless)))
        except (BrokerFull, DeclarationClash, Refused, *CHANNEL_ERRORS) as error:
            _log.warning("queue %r cannot be emptied at present: %s", STRAYS_QUEUE, error)
            return 0
        if sent or not homeless:
            self._next_mono_s = now_mono_s + _LOOK_S
        if homeless - self._homeless:
            _log.error(
                "delayed messages lie in queue %r, because nothing is bound for %s any more; they leave it "
                "when a worker consumes that again, or when you purge it",
                STRAYS_QUEUE,
                ", ".join(sorted(homeless)),
            )
        self._homeless = frozenset(homeless)
        return sent

    def _look(self, channel: Any, homeless: set[str]) -> int:
        try:
            if not channel.queue_declare(STRAYS_QUEUE, passive=True).message_count:
                return 0
        except amqp.exceptions.NotFound:
            return 0
        found = list(browse(channel, STRAYS_QUEUE, _AT_ONCE))
        asking = channel.connection.channel()
        ways: dict[str, bool] = {}
        sent = 0
        for one in found:
            way = ways.get(one.routing_key)
            exchange, key = origin("", one.routing_key)
            if way is None:
                leads = self._settings.leads(exchange, key) if exchange else _exists(asking, key)
                way = ways[one.routing_key] = leads
            if way and self._sent(one, exchange, key):
                channel.basic_ack(one.delivery_tag)
                sent += 1
            else:
                homeless.add(f"exchange {exchange!r}, key {key!r}" if exchange else f"queue {key!r}")
        asking.close()
        return sent

    def _sent(self, one: Found, exchange: str, key: str) -> bool:
        properties = again(
            one.properties,
            starts=starts_of(one.properties),
            causes=causes_of(one.properties),
            suspect=suspect_of(one.properties),
        )
        try:
            self._publisher.publish([Parcel(exchange, key, properties, one.body, "" if exchange else None)])
        except Unroutable:
            return False  # it was deleted just now
        return True


def _exists(channel: Any, queue: str) -> bool:
    try:
        channel.queue_declare(queue, passive=True)
    except amqp.exceptions.NotFound:
        return False  # py-amqp has opened the channel again
    return True
