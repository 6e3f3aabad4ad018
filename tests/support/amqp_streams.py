"""Queues whose messages are pushed while others run, and consumers that take them."""

from __future__ import annotations

from prefork.transports.amqp import AmqpTransport
from prefork.transports.amqp.consumer import AmqpConsumer
from prefork.transports.amqp.stream import READ_AHEAD_MIN
from prefork.transports.base import Delivery, Outcome, Outgoing, Streams
from support.waiting import eventually

ASKED = READ_AHEAD_MIN


def fill(transport: AmqpTransport, queue: str, count: int, first: int = 0) -> None:
    """Send so many messages, numbered from the first."""
    transport.send([Outgoing(queue, b"%d" % number) for number in range(first, first + count)])


def consumer_of(transport: AmqpTransport, queue: str, *others: str) -> AmqpConsumer:
    """A consumer that may have messages pushed."""
    consumer = transport.consumer([queue, *others], f"{queue}.o", "w")
    assert isinstance(consumer, AmqpConsumer)
    assert isinstance(consumer, Streams)
    consumer.allow_streaming()
    return consumer


def number_of(delivery: Delivery) -> int:
    """Which message of `fill` this is."""
    return int(delivery.document)


def run(consumer: AmqpConsumer, deliveries: list[Delivery]) -> list[int]:
    """Settle messages; their numbers."""
    assert all(consumer.settle([Outcome(one.tag) for one in deliveries]))
    return [number_of(one) for one in deliveries]


def streaming(consumer: AmqpConsumer) -> list[int]:
    """Take batches until messages are pushed, and settle them; their numbers."""
    ran: list[int] = []
    for _ in range(3):
        ran += run(consumer, consumer.reserve(ASKED, timeout_s=5.0))
        if consumer.streaming:
            return ran
    raise AssertionError("nothing is pushed")


def all_of(consumer: AmqpConsumer, count: int) -> set[int]:
    """Run all there is, one way or the other, until so many have come."""
    seen: set[int] = set()

    def step() -> bool:
        for delivery in consumer.reserve(ASKED, timeout_s=0.2):
            if not delivery.suspect or consumer.mark_started(delivery.tag):
                assert consumer.settle([Outcome(delivery.tag)]) == [True]
                seen.add(number_of(delivery))
        return len(seen) >= count

    eventually(step, deadline_s=30.0)
    return seen


def ready(transport: AmqpTransport, queue: str) -> int:
    """How many messages of a queue nobody holds."""
    return transport.depth(queue).ready
