"""Broadcasts: each worker has a queue of its own at a fanout exchange."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

from ..errors import BrokerUnavailable
from .errors import DeclarationClash, Refused
from .publisher import Publisher
from .settings import AmqpSettings
from .topology import Topology

_log = logging.getLogger("prefork.amqp")


def declare_copies(publisher: Publisher, settings: AmqpSettings, queues: Sequence[str]) -> None:
    """Have the copies of broadcasts kept from now on: who says next that it is ready must not miss one.

    Other queues keep what is sent whether or not anybody is there, and are declared by the consumer, as
    these are if the broker is away at present.
    """
    copies = [queue for queue in queues if settings.is_copy(queue)]

    def declare(topology: Topology, channel: Any) -> None:
        for queue in copies:
            topology.consumed(channel, queue)

    if not copies:
        return
    try:
        publisher.declare(declare)
    except (BrokerUnavailable, DeclarationClash, Refused) as error:
        _log.warning("broadcasts are missed until their queues can be declared: %s", error)
