"""The AMQP transport, on RabbitMQ.

URL: ``amqp://user:password@host:5672/virtual-host``, or ``amqps://`` with TLS; several, separated by
``;``, are tried in turn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import Unroutable
from .errors import DeclarationClash, Refused
from .settings import AmqpSettings, InvalidOption, read_settings
from .transport import AmqpTransport

__all__ = [
    "OPTIONS",
    "AmqpSettings",
    "AmqpTransport",
    "DeclarationClash",
    "InvalidOption",
    "Refused",
    "Unroutable",
    "open_transport",
    "read_settings",
]

OPTIONS = frozenset(
    {
        "confirm_publish",
        "consumer_timeout",
        "dead_letter_queue",
        "held_ttl",
        "login_method",
        "missing_exchange_type",
        "missing_queue_type",
        "native_delayed_delivery_queue_type",
        "publish_deadline",
        "queue_max_priority",
        "quorum_queues",
        "redelivery_pause",
        "socket_connect_timeout",
        "ssl",
    }
)
"""Options that have an effect here."""


def open_transport(url: str, options: Mapping[str, Any]) -> AmqpTransport:
    """Describe a broker; nothing is connected before it is used.

    :param options: ``publish_deadline``, ``socket_connect_timeout``, ``consumer_timeout`` (seconds),
        ``confirm_publish``, ``native_delayed_delivery_queue_type``, ``dead_letter_queue``, ``ssl``,
        ``login_method``, and ``declarations``; the query of the URL wins.
    :raises InvalidUrl: the URL cannot be read.
    :raises InvalidOption: an option has a value that it cannot have.
    """
    return AmqpTransport(read_settings(url, options))
