"""Declares what RabbitMQ must have before something is published or consumed (interop §6.1, §6.4).

Queues are described as Celery describes them, so that both can share them. What was declared on one
connection is remembered until that connection is replaced, or somebody finds it missing.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
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
_LADDER_REMEDY = (
    "set broker_native_delayed_delivery_queue_type to the type that all who share the broker have"
)


class Topology:
    """What is known to exist, as seen from one connection."""

    def __init__(self, settings: AmqpSettings) -> None:
        self._settings = settings
        self._queues: set[str] = set()
        self._delayed: set[str] = set()
        self._has_ladder = False
        self._has_dead = False

    def forget(self, queue: str | None = None) -> None:
        """Declare again before the next use; everything, unless a queue is named."""
        if queue is None:
            self._queues.clear()
            self._delayed.clear()
            self._has_ladder = self._has_dead = False
        else:
            self._queues.discard(queue)
            self._delayed.discard(queue)

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

    def delayed(self, channel: Any, queue: str) -> None:
        """The ladder, and the bindings that bring delayed messages to a queue."""
        if queue in self._delayed:
            return
        self.queue(channel, queue)
        try:
            self._ladder(channel)
            described = self._settings.declaration(queue)
            for exchange, key in _delayed_bindings(described):
                channel.queue_bind(queue, exchange, key)
            if described.exchange_type == "fanout":
                for exchange, key in ladder.bindings_of(ladder.fanout_key(described.exchange)):
                    channel.exchange_bind(described.exchange, exchange, key)
        except amqp.exceptions.PreconditionFailed as error:
            raise DeclarationClash("celery_delayed_*", str(error.reply_text), _LADDER_REMEDY) from error
        self._delayed.add(queue)

    def _ladder(self, channel: Any) -> None:
        if self._has_ladder:
            return
        for rungs, last in (
            (ladder.celery_levels(self._settings.ladder_type), ladder.DELIVERY_EXCHANGE),
            (ladder.our_rungs(self._settings.ladder_type), ladder.OUR_DELIVERY_EXCHANGE),
        ):
            made = list(rungs)
            for name in [*(rung.name for rung in made), last]:
                channel.exchange_declare(name, "topic", durable=True, auto_delete=False)
            for rung in made:
                channel.queue_declare(rung.name, durable=True, auto_delete=False, arguments=rung.arguments)
                channel.queue_bind(rung.name, rung.name, rung.waits)
                channel.exchange_bind(rung.next_exchange, rung.name, rung.passes)
        first = ladder.level_name(ladder.LEVELS - 1)
        channel.exchange_bind(first, ladder.OUR_DELIVERY_EXCHANGE, ladder.FROM_OURS_TO_CELERYS)
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


def _delayed_bindings(described: QueueDeclaration) -> Iterable[tuple[str, str]]:
    if described.broadcast:
        return
    yield from ladder.bindings_of(described.name)
    if described.exchange_type == "topic":
        yield from ladder.bindings_of(described.routing_key)


def _declare(channel: Any, described: QueueDeclaration) -> None:
    exchange = described.exchange
    if exchange:
        channel.exchange_declare(
            exchange,
            described.exchange_type,
            durable=described.exchange_durable,
            auto_delete=described.exchange_auto_delete,
            arguments=dict(described.exchange_arguments),
        )
    if described.broadcast:
        return
    channel.queue_declare(
        described.name,
        durable=described.durable,
        exclusive=described.exclusive,
        auto_delete=described.auto_delete,
        arguments=dict(described.arguments),
    )
    if exchange:
        channel.queue_bind(described.name, exchange, described.routing_key or described.name)
