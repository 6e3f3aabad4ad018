"""The tasks as dramatiq has them, on RabbitMQ."""

from __future__ import annotations

import os
import time

import dramatiq
import run_log
from dramatiq.brokers.rabbitmq import RabbitmqBroker

_log = run_log.from_environment()

# Its client takes the empty name after the slash at its word.
broker = RabbitmqBroker(url=os.environ["BENCH_REDIS"].removesuffix("/") + "%2F")
dramatiq.set_broker(broker)


@dramatiq.actor
def noop(number: int) -> None:
    """Nothing but the record that it ran."""
    _log.ran(number)


@dramatiq.actor
def stamped(number: int, sent_ns: int) -> None:
    """How long ago it was sent."""
    _log.add(number, time.monotonic_ns() - sent_ns)


send = noop.send
send_stamped = stamped.send
