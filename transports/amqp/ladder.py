"""Delays in the broker: the ladder that Celery ≥ 5.5 declares (interop §6.4), and rungs below a second.

A delay is a row of binary digits in front of the routing key; each digit that is 1 is a queue in
which the message waits for that power of two. Celery's ladder counts whole seconds. What is left
waits on rungs of our own of 512 … 8 ms, which a message climbs down before Celery's: at the end of
those, whatever Celery has bound there with ``#`` takes the message at once. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, NamedTuple

LEVELS = 28
DELIVERY_EXCHANGE = "celery_delayed_delivery"
RUNGS_MS = (512, 256, 128, 64, 32, 16, 8)
RUNG_MS = RUNGS_MS[-1]
OUR_DELIVERY_EXCHANGE = "prefork_delayed_delivery"
OUR_MARK = "prefork"
DELAY_S_MAX = float(2**LEVELS - 1)
KEY_BYTES_MAX = 255 - len("0." * LEVELS) - len(f"{OUR_MARK}.") - len("0." * len(RUNGS_MS))
"""How long the name of a queue may be for a message to be delayed on its way there."""

_STARS = "*." * LEVELS
_OUR_STARS = "*." * len(RUNGS_MS)


class Rung(NamedTuple):
    """One queue of a ladder, with the exchange of the same name before it.

    :param arguments: of the queue.
    :param waits: binds the queue to its exchange.
    :param passes: binds the next exchange to this rung's.
    """

    name: str
    arguments: dict[str, Any]
    next_exchange: str
    waits: str
    passes: str


def level_name(level: int) -> str:
    """Celery's name of a level."""
    return f"celery_delayed_{level}"


def rung_name(milliseconds: int) -> str:
    """Our name of a rung."""
    return f"prefork_delayed_{milliseconds}ms"


def celery_levels(queue_type: str) -> Iterator[Rung]:
    """The levels that Celery declares, from the highest, with identical arguments.

    :param queue_type: `broker_native_delayed_delivery_queue_type`.
    """
    for level in range(LEVELS - 1, -1, -1):
        following = level_name(level - 1) if level else DELIVERY_EXCHANGE
        arguments: dict[str, Any] = {
            "x-queue-type": queue_type,
            "x-overflow": "reject-publish",
            "x-message-ttl": (1 << level) * 1000,
            "x-dead-letter-exchange": following,
        }
        if queue_type == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        before = "*." * (LEVELS - 1 - level)
        yield Rung(level_name(level), arguments, following, f"{before}1.#", f"{before}0.#")


def our_rungs(queue_type: str) -> Iterator[Rung]:
    """The rungs below a second, from the longest."""
    for index, milliseconds in enumerate(RUNGS_MS):
        last = index == len(RUNGS_MS) - 1
        following = OUR_DELIVERY_EXCHANGE if last else rung_name(RUNGS_MS[index + 1])
        arguments: dict[str, Any] = {
            "x-queue-type": queue_type,
            "x-overflow": "reject-publish",
            "x-message-ttl": milliseconds,
            "x-dead-letter-exchange": following,
        }
        if queue_type == "quorum":
            arguments["x-dead-letter-strategy"] = "at-least-once"
        before = f"{_STARS}{OUR_MARK}." + "*." * index
        yield Rung(rung_name(milliseconds), arguments, following, f"{before}1.#", f"{before}0.#")


FROM_OURS_TO_CELERYS = "#"
"""Binds the first level of Celery's ladder to the exchange at the end of ours."""


def bindings_of(queue: str) -> tuple[tuple[str, str], ...]:
    """Exchange and key of each binding that a queue needs to get delayed messages.

    Exactly as many words as there are digits: ``#`` would hand what is meant for ``orders.high`` to
    ``high`` as well.
    """
    return (
        (DELIVERY_EXCHANGE, f"{_STARS}{queue}"),
        (DELIVERY_EXCHANGE, f"{_STARS}{OUR_MARK}.{_OUR_STARS}{queue}"),
    )


def fanout_key(exchange: str) -> str:
    """What stands for the routing key of a delayed message to a fanout exchange, which heeds none: the
    bindings of other queues must not take it for theirs."""
    return f"prefork-fanout.{exchange}"


def address(delay_s: float, routing_key: str) -> tuple[str, str]:
    """Exchange and routing key for a delay, which is rounded up to 8 ms and never down.

    :raises ValueError: the delay is no number, or longer than the ladder (8.5 years).
    """
    if not 0 <= delay_s <= DELAY_S_MAX:
        raise ValueError(f"a delay of {delay_s} s: RabbitMQ can wait from 0 to {DELAY_S_MAX:.0f} s")
    units = math.ceil(delay_s * 1000 / RUNG_MS)
    seconds, rest = divmod(units * RUNG_MS, 1000)
    eighths = math.ceil(rest / RUNG_MS)
    digits = ".".join(format(seconds, f"0{LEVELS}b"))
    if not eighths:
        return level_name(LEVELS - 1), f"{digits}.{routing_key}"
    ours = ".".join(format(eighths, f"0{len(RUNGS_MS)}b"))
    return rung_name(RUNGS_MS[0]), f"{digits}.{OUR_MARK}.{ours}.{routing_key}"
