"""Conformance: looking at other priorities before the best one. See `transports.base.Rotates`."""

from __future__ import annotations

import pytest

from prefork.transports.base import Consumer, Outcome, Outgoing, Rotates, Transport
from prefork.transports.errors import OwnerLost

from .conftest import Broker

pytestmark = pytest.mark.needs("rotates")

# Which all brokers tell apart.
PRIORITIES = (0, 3, 6, 9)


def rotating(consumer: Consumer) -> Rotates:
    assert isinstance(consumer, Rotates)
    return consumer


def best_first(transport: Transport) -> list[int]:
    return sorted(PRIORITIES, reverse=transport.capabilities.highest_priority_first)


def send_all(transport: Transport, queue: str, count: int = 1) -> None:
    transport.send([Outgoing(queue, b"%d" % one, one) for one in PRIORITIES for _ in range(count)])


def test_by_nothing_is_the_usual_order(transport: Transport, consumer: Consumer, queue: str) -> None:
    send_all(transport, queue)
    found = rotating(consumer).reserve_rotated(0, 9)
    assert [one.priority for one in found] == best_first(transport)
    consumer.settle([Outcome(one.tag) for one in found])


@pytest.mark.parametrize("by", range(1, 10))
def test_what_was_best_comes_after_the_others(
    transport: Transport, consumer: Consumer, queue: str, by: int
) -> None:
    send_all(transport, queue)
    found = [one.priority for one in rotating(consumer).reserve_rotated(by, 9)]
    order = best_first(transport)
    best, *others = order
    assert found in [[*others[place:], *others[:place], best] for place in range(len(others))]
    if by == 1:
        assert found == [*others, best]


def test_each_priority_is_the_first_for_some_rotation(
    transport: Transport, consumer: Consumer, queue: str
) -> None:
    send_all(transport, queue, 9)
    firsts = set()
    for by in range(1, 10):
        found = rotating(consumer).reserve_rotated(by, 1)
        firsts.add(found[0].priority)
        consumer.settle([Outcome(one.tag) for one in found])
    assert set(best_first(transport)[1:]) == firsts


@pytest.mark.parametrize("other", (1, 2, 3))
def test_the_one_that_waits_beside_the_best_is_taken_first_in_every_rotation(
    transport: Transport, consumer: Consumer, queue: str, other: int
) -> None:
    order = best_first(transport)
    transport.send([Outgoing(queue, b"", one) for one in (order[0], order[other]) for _ in range(9)])
    for by in range(1, 10):
        found = rotating(consumer).reserve_rotated(by, 1)
        assert [one.priority for one in found] == [order[other]], by
        consumer.settle([Outcome(one.tag) for one in found])


def test_one_queue_can_be_named(transport: Transport, consumer: Consumer, queue: str, broker: Broker) -> None:
    other = broker.unique("other")
    send_all(transport, queue)
    send_all(transport, other)
    found = rotating(consumer).reserve_rotated(1, 2, other)
    assert [(one.queue, one.priority) for one in found] == [(other, p) for p in best_first(transport)[1:3]]
    consumer.settle([Outcome(one.tag) for one in found])
    assert rotating(consumer).reserve_rotated(1, 5, broker.unique("missing")) == []
    assert rotating(consumer).reserve_rotated(1, 0) == []


def test_what_was_taken_out_of_order_returns_to_its_place(
    transport: Transport, consumer: Consumer, queue: str
) -> None:
    send_all(transport, queue, 2)
    found = rotating(consumer).reserve_rotated(1, 3)
    assert consumer.give_back([one.tag for one in found]) == 3
    again = consumer.reserve(8)
    assert [one.priority for one in again] == [one for one in best_first(transport) for _ in range(2)]


def test_an_attached_consumer_takes_nothing(
    transport: Transport, consumer: Consumer, queue: str, broker: Broker
) -> None:
    attached = broker.open().attach(consumer.owner)
    with pytest.raises(OwnerLost):
        rotating(attached).reserve_rotated(1, 1)
