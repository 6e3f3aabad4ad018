"""What can go wrong with RabbitMQ beyond its being away."""

from __future__ import annotations

import re

from ..errors import TransportError

_INEQUIVALENT = re.compile(r"inequivalent arg '(?P<argument>[^']*)' for (?P<kind>\w+) '(?P<name>[^']*)'")


class DeclarationClash(TransportError):
    """A queue or exchange exists, and is not what this side describes (406).

    :param name: of the queue or exchange.
    :param argument: what differs, or empty when the broker does not say.
    """

    def __init__(self, name: str, said: str) -> None:
        found = _INEQUIVALENT.search(said)
        argument = found["argument"] if found else ""
        kind = found["kind"] if found else "queue"
        differs = f" in {argument!r}" if argument else ""
        super().__init__(
            f"{kind} {name!r} exists and differs{differs} from what is configured ({said}); "
            "describe it in task_queues as it is, or delete it"
        )
        self.name = name
        self.argument = argument


class Unroutable(TransportError):
    """No queue is bound where a message was published to; it was not stored.

    :param exchange: empty for the default exchange.
    """

    def __init__(self, exchange: str, routing_key: str, said: str) -> None:
        super().__init__(
            f"no queue takes routing key {routing_key!r} of exchange {exchange!r} ({said}); "
            "bind a queue, or correct task_routes"
        )
        self.exchange = exchange
        self.routing_key = routing_key


class Refused(TransportError):
    """The broker refused an operation for good: rights, a queue that somebody holds alone, a bad name."""
