"""Brings home the delayed messages that found no queue when their time had come.

A queue that is deleted loses its bindings, and what waits on the ladder for it arrives at the end of
it all the same. RabbitMQ keeps that in a queue of its own (`Topology`), where it lies until there is
a queue for it again. Whoever dies in between sending it there and taking it away sends it twice.
Anybody can put anything into that queue: no message in it keeps others from being looked at.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Sequence
from time import monotonic
from typing import Any

import amqp

from ..errors import BrokerFull, BrokerUnavailable, TransportError, Unroutable
from .codec import encode_properties
from .documents import again, causes_of, starts_of, suspect_of
from .graveyard import Found, browse
from .ladder import STRAYS_EXCHANGE, STRAYS_QUEUE, origin
from .link import CHANNEL_ERRORS
from .parcels import Parcel
from .publisher import Publisher
from .settings import AmqpSettings

_LOOK_S, _LOOK_AGAIN_S = 5.0, 30.0
"""The longer one while nothing comes or goes: all that is missing was missing at the look before."""
_LASTS_S = 1.0
"""How long one look may take: who looks has a lease to renew."""
_AT_ONCE = 500
"""As many stay where they are. If there are more, those that find no queue make room for others."""
_MOVED_MAX, _MOVED_BYTES = 100, 1 << 20
_FAILURES_MAX = 3
"""After so many, a place is left alone until the next look."""
_NAMED_MAX = 5
_KNOWN_MAX = 10_000
"""So many names are known from looks that did not see everything."""
_RESOURCE_LOCKED = 405

_log = logging.getLogger("prefork.amqp")


class Strays:
    """Used by one thread; several workers may do it at the same time.

    :param mono: the clock that says when to look again, and when to end a look, in seconds.
    """

    def __init__(
        self, publisher: Publisher, settings: AmqpSettings, mono: Callable[[], float] = monotonic
    ) -> None:
        self._publisher = publisher
        self._settings = settings
        self._mono = mono
        self._next_mono_s = 0.0
        self._homeless: frozenset[str] = frozenset()  # found without a home so far
        self._told: frozenset[str] = frozenset()  # of which the log says that they are missing
        self._doubted: frozenset[str] = frozenset()  # of these, what the last look did not find

    def bring_home(self) -> int:
        """Send what has a queue again to that queue; returns how many. Most times it is too early to look.

        What was not missing before is looked for again soon: a worker looks for the first time before it
        has declared what it consumes.

        :raises BrokerUnavailable: the broker is away.
        """
        now_mono_s = self._mono()
        if now_mono_s < self._next_mono_s:
            return 0
        self._next_mono_s = now_mono_s + _LOOK_AGAIN_S
        look = _Look(self._settings, self._mono)
        try:
            self._publisher.ask(look.run)
        except CHANNEL_ERRORS as error:
            _log.warning("queue %r cannot be emptied at present: %s", STRAYS_QUEUE, error)
        finally:
            look.close()
        if look.sent or not look.homeless or look.homeless.keys() - self._homeless:
            self._next_mono_s = now_mono_s + _LOOK_S
        self._tell_missing(look.homeless)
        if look.saw_all:
            self._tell_over(look.homeless)
        self._note(look)
        return look.sent

    def _tell_missing(self, homeless: Counter[str]) -> None:
        """Say what is missing for the second time, unless that was said."""
        news = sorted((homeless.keys() & self._homeless) - self._told)
        if news:
            _log.error(
                "queue %r holds delayed messages (%d), because nothing is bound for %s any more; they "
                "leave it when a worker consumes that again, or when you purge it",
                STRAYS_QUEUE,
                sum(homeless[where] for where in news),
                _named(news),
            )
        self._told = self._told.union(news)

    def _tell_over(self, homeless: Counter[str]) -> None:
        """Say what was told and is over.

        Only at the second look that does not find it: during the first, another worker may have had it.
        """
        absent = self._told - homeless.keys()
        over = sorted(absent & self._doubted)
        if over:
            _log.info("queue %r holds no delayed messages for %s any more", STRAYS_QUEUE, _named(over))
        self._told = self._told.difference(over)
        self._doubted = absent.difference(over)

    def _note(self, look: _Look) -> None:
        if look.saw_all or len(self._homeless) > _KNOWN_MAX:
            self._homeless = frozenset(look.homeless)
            if not look.saw_all:
                self._told &= self._homeless
        else:
            self._homeless = self._homeless.union(look.homeless)


class _Look:
    """One look at all of them, or at as many as there is time for.

    What it sends goes over a connection of its own: a message that is refused ends that connection.

    :ivar sent: how many were sent to a queue.
    :ivar homeless: how many were found for each place that there is no more.
    :ivar saw_all: nothing is there that it did not look at.
    """

    def __init__(self, settings: AmqpSettings, mono: Callable[[], float]) -> None:
        self._settings = settings
        self._mono = mono
        self._end_mono_s = mono() + _LASTS_S
        self._sender = Publisher(settings, "strays")
        self.sent = 0
        self.saw_all = False
        self.homeless: Counter[str] = Counter()
        self._ways: dict[str, bool] = {}  # routing keys, and whether they lead anywhere
        self._failures: Counter[str] = Counter()
        self._moving: list[tuple[int, Parcel]] = []
        self._moving_bytes = 0

    def close(self) -> None:
        """Close the connection, if one was needed."""
        self._sender.close()

    def run(self, channel: Any) -> None:
        """Look.

        :raises BrokerUnavailable: the broker is away.
        """
        try:
            count = int(channel.queue_declare(STRAYS_QUEUE, passive=True).message_count)
        except amqp.exceptions.NotFound:
            count = 0
        if not count:
            self.saw_all = True
            return
        wire = channel.connection
        asking = wire.channel()
        try:
            for one in browse(channel, STRAYS_QUEUE, count):
                if self._brought(asking, one):
                    channel.basic_ack(one.delivery_tag)
                    self.sent += 1
                elif count > _AT_ONCE:
                    self._move(channel, one)
                if self._is_over():
                    break
            else:
                self.saw_all = True
            self._move_all(channel)
        finally:
            if wire.connected and asking.is_open:
                asking.close()

    def _is_over(self) -> bool:
        """No time is left, or the broker takes nothing, which would cost the whole deadline each time."""
        return self._mono() >= self._end_mono_s or self._sender.blocked

    def _brought(self, asking: Any, one: Found) -> bool:
        exchange, key = origin("", one.routing_key)
        where = f"exchange {exchange!r}, key {key!r}" if exchange else f"queue {key!r}"
        way = self._ways.get(one.routing_key)
        if way is None:
            leads = self._settings.leads(exchange, key) if exchange else _exists(asking, key)
            way = self._ways[one.routing_key] = leads
        if way:
            if self._failures[where] >= _FAILURES_MAX:
                return False
            try:
                self._sender.publish([_parcel(one, exchange, key, "" if exchange else None)])
            except Unroutable:
                pass  # it was deleted just now
            except (TransportError, ValueError) as error:
                _raise_if_away(error)
                if not self._failures[where]:
                    _log.warning("a message in queue %r cannot go to %s: %s", STRAYS_QUEUE, where, error)
                self._failures[where] += 1
                return False
            else:
                return True
        self.homeless[where] += 1
        return False

    def _move(self, channel: Any, one: Found) -> None:
        """Have it moved to the end of the queue, soon."""
        parcel = _parcel(one, STRAYS_EXCHANGE, one.routing_key)
        try:
            encode_properties(parcel.properties)
        except ValueError as error:
            _log.debug("a message stays where it is in queue %r: %s", STRAYS_QUEUE, error)
            return
        self._moving.append((one.delivery_tag, parcel))
        self._moving_bytes += len(one.body)
        if len(self._moving) >= _MOVED_MAX or self._moving_bytes >= _MOVED_BYTES:
            self._move_all(channel)

    def _move_all(self, channel: Any) -> None:
        moving, self._moving, self._moving_bytes = self._moving, [], 0
        if not moving or self._moved(channel, moving) or len(moving) == 1:
            return
        for one in moving:  # one of them is refused
            if self._is_over():
                return
            self._moved(channel, [one])

    def _moved(self, channel: Any, some: list[tuple[int, Parcel]]) -> bool:
        try:
            self._sender.publish([parcel for _, parcel in some])
        except TransportError as error:
            _raise_if_away(error)
            _log.debug("%d messages stay where they are in queue %r: %s", len(some), STRAYS_QUEUE, error)
            return False
        for tag, _ in some:
            channel.basic_ack(tag)
        return True


def _named(places: Sequence[str]) -> str:
    more = f" and {len(places) - _NAMED_MAX} others" if len(places) > _NAMED_MAX else ""
    return ", ".join(places[:_NAMED_MAX]) + more


def _raise_if_away(error: Exception) -> None:
    if isinstance(error, BrokerUnavailable) and not isinstance(error, BrokerFull):
        raise error


def _parcel(one: Found, exchange: str, key: str, queue: str | None = None) -> Parcel:
    properties = again(
        one.properties,
        starts=starts_of(one.properties),
        causes=causes_of(one.properties),
        suspect=suspect_of(one.properties),
    )
    return Parcel(exchange, key, properties, one.body, queue)


def _exists(channel: Any, queue: str) -> bool:
    try:
        queue.encode()
    except UnicodeEncodeError:
        return False  # RabbitMQ has no such names, and anybody can make such keys
    try:
        channel.queue_declare(queue, passive=True)
    except CHANNEL_ERRORS as error:
        # Somebody's alone is there all the same. py-amqp has opened the channel again.
        return bool(error.code == _RESOURCE_LOCKED)
    return True
