"""Declares what RabbitMQ must have before something is published or consumed (interop §6.1, §6.4).

Queues are described as Celery describes them, so that both can share them. What was declared on one
connection is remembered until that connection is replaced, or somebody finds it missing; where delayed
messages go, for a second: nobody finds out that a queue was deleted and lost its bindings.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Callable, Iterator
from time import monotonic
from typing import Any

import amqp

from ..base import QueueDeclaration
from . import ladder
from .documents import HEADER_OWNER
from .errors import DeclarationClash, refused
from .settings import AmqpSettings

HELD_EXCHANGE = "prefork.started"
HELD_QUEUE_PREFIX = "prefork.started."
_HELD_QUEUE_EXPIRES_MS = 600_000
_NAME_BYTES_MAX = 255
_BOUND_S = 1.0
_LADDER_REMEDY = (
    "set broker_native_delayed_delivery_queue_type to the type that all who share the broker have"
)

_log = logging.getLogger("prefork.amqp")


class Topology:
    """What is known to exist, as seen from one connection.

    :param mono: the clock by which bindings are made anew, in seconds.
    """

    def __init__(self, settings: AmqpSettings, mono: Callable[[], float] = monotonic) -> None:
        self._settings = settings
        self._mono = mono
        self._queues: set[str] = set()
        self._bound_mono_s: dict[str, float] = {}
        self._has_ends = False
        self._has_ladder = False
        self._has_dead = False

    def forget(self, queue: str | None = None) -> None:
        """Declare again before the next use; everything, unless a queue is named."""
        if queue is None:
            self._queues.clear()
            self._bound_mono_s.clear()
            self._has_ends = self._has_ladder = self._has_dead = False
        else:
            self._queues.discard(queue)
            self._bound_mono_s.pop(queue, None)

    def queue(self, channel: Any, name: str) -> None:
        """A queue, with its exchange and binding.

        :raises DeclarationClash: it exists and differs.
        :raises Refused: the broker will not have it.
        """
        if name in self._queues:
            return
        if name == self._settings.dead_queue:
            self.dead_letters(channel)
            return
        described = self._settings.declaration(name)
        try:
            _declare(channel, described)
        except amqp.exceptions.PreconditionFailed as error:
            raise DeclarationClash(name, str(error.reply_text)) from error
        except amqp.exceptions.ChannelError as error:
            raise refused(f"to declare queue {name!r}", error.code, str(error.reply_text)) from error
        self._queues.add(name)

    def exchange(self, channel: Any, name: str) -> None:
        """All queues that are configured to be bound to an exchange."""
        for queue, described in self._settings.declarations.items():
            if described.exchange == name:
                self.queue(channel, queue)

    def consumed(self, channel: Any, queue: str) -> None:
        """A queue that somebody reads, with the bindings that bring delayed messages to it.

        Who deletes a queue deletes these with it, and what waits on the ladder comes later than that.
        A queue that cannot be bound is read all the same.

        :raises DeclarationClash: it exists and differs.
        :raises Refused: the broker will not have it.
        """
        self.queue(channel, queue)
        described = self._settings.declaration(queue)
        try:
            if described.exchange_type != "direct" and described.arguments.get("x-queue-type") == "quorum":
                self._ladder(channel)  # clients of Celery use it then, and leave it to workers to declare
            self._bind(channel, described)
        except amqp.exceptions.ChannelError as error:
            _log.error("delayed messages may not reach queue %r: %s", queue, error.reply_text)

    def delayed(self, channel: Any, queue: str) -> None:
        """The ladder, and the bindings that bring delayed messages to a queue."""
        bound_mono_s = self._bound_mono_s.get(queue)
        if self._has_ladder and bound_mono_s is not None:
            if self._mono() < bound_mono_s + _BOUND_S:
                return
            if self._settings.confirms:
                # Most likely all is there: no answers are awaited. A refusal fails what is sent next.
                described = self._settings.declaration(queue)
                if queue != self._settings.dead_queue:
                    _declare(channel, described, nowait=True)
                self._bind(channel, described, nowait=True)
                return
        # It may have been deleted since it was declared for what is not delayed; what binds must know.
        self._queues.discard(queue)
        self.queue(channel, queue)
        try:
            self._ladder(channel)
            self._bind(channel, self._settings.declaration(queue))
        except amqp.exceptions.PreconditionFailed as error:
            raise DeclarationClash("celery_delayed_*", str(error.reply_text), _LADDER_REMEDY) from error
        except amqp.exceptions.ChannelError as error:
            doing = f"to bind queue {queue!r} for delayed messages"
            raise refused(doing, error.code, str(error.reply_text)) from error

    def delayed_exchange(self, channel: Any, exchange: str) -> None:
        """The same for all queues that are configured to be bound to an exchange."""
        for queue, described in self._settings.declarations.items():
            if described.exchange == exchange:
                self.delayed(channel, queue)

    def _bind(self, channel: Any, described: QueueDeclaration, *, nowait: bool = False) -> None:
        self._ends(channel)
        if not described.broadcast:  # which has no queue of its own: each worker binds its copy
            for exchange, key in _delayed_bindings(described):
                channel.queue_bind(described.name, exchange, key, nowait=nowait)
        self._bound_mono_s[described.name] = self._mono()

    def _ends(self, channel: Any) -> None:
        """Where both ladders end. Cheap: whoever only reads a queue needs no more of them."""
        if self._has_ends:
            return
        channel.exchange_declare(ladder.DELIVERY_EXCHANGE, "topic", durable=True, auto_delete=False)
        channel.exchange_declare(ladder.STRAYS_EXCHANGE, "fanout", durable=True, auto_delete=False)
        classic = {"x-queue-type": "classic"}  # it is looked into, which must not count as deliveries
        channel.queue_declare(ladder.STRAYS_QUEUE, durable=True, auto_delete=False, arguments=classic)
        channel.queue_bind(ladder.STRAYS_QUEUE, ladder.STRAYS_EXCHANGE, "")
        strays = {"alternate-exchange": ladder.STRAYS_EXCHANGE}
        channel.exchange_declare(
            ladder.END_EXCHANGE, "topic", durable=True, auto_delete=False, arguments=strays
        )
        self._has_ends = True

    def _ladder(self, channel: Any) -> None:
        if self._has_ladder:
            return
        self._ends(channel)
        kind = self._settings.ladder_type
        rungs = [*ladder.celery_levels(kind), *ladder.our_rungs(kind)]
        for rung in rungs:
            channel.exchange_declare(rung.name, "topic", durable=True, auto_delete=False)
        for rung in rungs:
            channel.queue_declare(rung.name, durable=True, auto_delete=False, arguments=rung.arguments)
            channel.queue_bind(rung.name, rung.name, rung.waits)
            channel.exchange_bind(rung.next_exchange, rung.name, rung.passes)
        source, destination, key = ladder.WAY_OUT
        channel.exchange_bind(destination, source, key)
        self._has_ladder = True

    def dead_letters(self, channel: Any) -> None:
        """The queue of dead letters: classic, because looking into it must not count as deliveries."""
        if self._has_dead:
            return
        name = self._settings.dead_queue
        try:
            channel.queue_declare(
                name, durable=True, auto_delete=False, arguments={"x-queue-type": "classic"}
            )
        except amqp.exceptions.PreconditionFailed as error:
            raise DeclarationClash(name, str(error.reply_text)) from error
        self._has_dead = True

    def held(self, channel: Any, owner: str) -> str:
        """The queue in which the suspect of one owner lies while it runs; returns its name.

        When its owner dies, the broker returns the message to this queue, finds that its time there
        is over, and hands it to the queue that its routing key names. Later the queue expires.
        """
        name = held_queue(owner)
        channel.exchange_declare(HELD_EXCHANGE, "headers", durable=True, auto_delete=False)
        arguments = {
            "x-queue-type": "classic",  # whatever the virtual host has for its default
            "x-message-ttl": self._settings.held_ttl_ms,
            "x-expires": _HELD_QUEUE_EXPIRES_MS,
            "x-dead-letter-exchange": "",
        }
        channel.queue_declare(name, durable=True, auto_delete=False, arguments=arguments)
        matches = {"x-match": "all", HEADER_OWNER: owner}
        channel.queue_bind(name, HELD_EXCHANGE, "", arguments=matches)
        return name


def held_queue(owner: str) -> str:
    """The name of the queue of `Topology.held`; owners may have longer names than queues."""
    name = HELD_QUEUE_PREFIX + owner
    if len(name.encode("utf-8", "surrogateescape")) <= _NAME_BYTES_MAX:
        return name
    return HELD_QUEUE_PREFIX + hashlib.sha256(owner.encode("utf-8", "surrogateescape")).hexdigest()


def _delayed_bindings(described: QueueDeclaration) -> Iterator[tuple[str, str]]:
    """Exchange and key of each binding that a queue needs to get delayed messages."""
    name, exchange = described.name, described.exchange
    keys = [(ladder.END_EXCHANGE, ladder.end_key(ladder.to_queue(name)))]
    keys.append((ladder.DELIVERY_EXCHANGE, ladder.celery_key(name)))
    if described.exchange_type == "topic":
        keys.append((ladder.DELIVERY_EXCHANGE, ladder.celery_key(described.routing_key)))
    target = ""
    if exchange and described.exchange_type == "direct":
        target = ladder.via_exchange(exchange, described.routing_key or name)
    elif exchange and described.exchange_type == "topic":
        target = ladder.pattern_via_exchange(exchange, described.routing_key or name)
    elif exchange and described.exchange_type == "fanout":
        # Not its exchange: what that had no queue for would count as delivered there, or block its rung.
        target = ladder.pattern_via_exchange(exchange, "#")
    if target:
        keys.append((ladder.END_EXCHANGE, ladder.end_key(target)))
    # One with a longer name cannot be sent to with a delay.
    yield from (one for one in keys if len(one[1].encode("utf-8", "surrogateescape")) <= _NAME_BYTES_MAX)


def _declare(channel: Any, described: QueueDeclaration, *, nowait: bool = False) -> None:
    exchange = described.exchange
    if exchange:
        channel.exchange_declare(
            exchange,
            described.exchange_type,
            durable=described.exchange_durable,
            auto_delete=described.exchange_auto_delete,
            arguments=dict(described.exchange_arguments),
            nowait=nowait,
        )
    if described.broadcast:
        return
    channel.queue_declare(
        described.name,
        durable=described.durable,
        exclusive=described.exclusive,
        auto_delete=described.auto_delete,
        arguments=dict(described.arguments),
        nowait=nowait,
    )
    if exchange:
        key = described.routing_key or described.name
        channel.queue_bind(described.name, exchange, key, nowait=nowait)
