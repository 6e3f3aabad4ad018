"""Word of messages whose process was ended on purpose, for whoever gets them again.

When a child dies, RabbitMQ returns what it held; nobody else can acknowledge it. So the agent leaves
word under the id of the task, in a queue of its own that expires, while the message rests
(`AmqpSettings.redelivery_pause_s`); whoever reserves it next finds the word and settles by it.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable
from typing import Any

import amqp

from ..errors import TransportError
from .parcels import Parcel
from .publisher import Publisher
from .received import Received

_PREFIX = "prefork.ended."
_KEPT_MS = 3_600_000
TIMED_OUT_NOTE = b'{"verdict":"consumer_timeout","cause":"held beyond consumer_timeout of RabbitMQ, twice"}'

_log = logging.getLogger("prefork.amqp")


def queue_of(message_id: str) -> str:
    """The queue for one message; ids may be longer than the name of a queue may be."""
    return _PREFIX + hashlib.sha256(message_id.encode("utf-8", "replace")).hexdigest()[:40]


def leave_word(publisher: Publisher, message_id: str, note: bytes) -> None:
    """Leave word about a message.

    :raises BrokerUnavailable: not to be had; try again.
    """
    name = queue_of(message_id)
    arguments = {"x-queue-type": "classic", "x-expires": _KEPT_MS, "x-max-length": 1}
    publisher.declare(
        lambda _topology, channel: channel.queue_declare(
            name, durable=True, auto_delete=False, arguments=arguments
        )
    )
    publisher.publish([Parcel("", name, {"delivery_mode": 2}, note)])


def read_obituary(publisher: Publisher, message_id: str) -> bytes | None:
    """What was left, None for nothing. It stays for whoever gets the message after us, and expires."""
    name = queue_of(message_id)

    def read(channel: Any) -> bytes | None:
        try:
            message = channel.basic_get(name, no_ack=False)
        except amqp.exceptions.NotFound:
            return None
        if message is None:
            return None
        body = message.body
        return body.encode("utf-8") if isinstance(body, str) else bytes(body)

    note: bytes | None = publisher.ask(read)
    return note


def tell_of_timeout(publisher: Publisher, held: Iterable[Received]) -> None:
    """What was held too long comes again; for what had its second chance, word is left first."""
    for one in held:
        _log.error(
            "task %s was held longer than RabbitMQ's consumer_timeout: it runs %s; raise "
            "consumer_timeout at the broker, or shorten the task",
            one.message_id or "without an id",
            "no more" if one.started else "once more",
        )
        if one.started and one.message_id:
            try:
                leave_word(publisher, one.message_id, TIMED_OUT_NOTE)
            except TransportError as error:
                _log.error("no word could be left of it, so it runs once more: %s", error)
