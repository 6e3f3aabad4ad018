"""Conformance: reserving from one queue by its name. See `transports.base.Selects`."""

from __future__ import annotations

import time

import pytest

from prefork.transports.base import Consumer, Delivery, Outcome, Outgoing, Selects, Transport, Verdict
from prefork.transports.errors import OwnerLost
from support.waiting import eventually

from .conftest import Broker

pytestmark = pytest.mark.needs("selects")


@pytest.fixture
def lane(broker: Broker) -> str:
    """A queue that the consumer does not consume."""
    return broker.unique("lane")


def take(consumer: Consumer, queue: str, max_n: int = 1) -> list[Delivery]:
    """Reserve from one queue, as soon as something is there."""
    assert isinstance(consumer, Selects)
    selects: Selects = consumer
    found: list[Delivery] = []
    eventually(lambda: bool(found.extend(selects.reserve_from(queue, max_n - len(found))) or found))
    return found


def send(transport: Transport, queue: str, *documents: bytes, priority: int = 0) -> None:
    transport.send([Outgoing(queue, document, priority) for document in documents])


def nothing(consumer: Consumer, queue: str) -> bool:
    assert isinstance(consumer, Selects)
    return consumer.reserve_from(queue, 5) == []


def test_a_queue_that_is_not_its_own_is_reserved_from_in_order(
    transport: Transport, consumer: Consumer, lane: str
) -> None:
    send(transport, lane, b"1", b"2", b"3")
    first = take(consumer, lane)
    assert [(one.document, one.queue) for one in first] == [(b"1", lane)]
    assert consumer.settle([Outcome(first[0].tag)]) == [True]
    rest = take(consumer, lane, 2)
    assert [one.document for one in rest] in ([b"2"], [b"2", b"3"])
    consumer.settle([Outcome(one.tag) for one in rest])


def test_its_own_queues_and_the_named_one_do_not_mix(
    transport: Transport, consumer: Consumer, queue: str, lane: str
) -> None:
    send(transport, queue, b"own")
    send(transport, lane, b"lane")
    named = take(consumer, lane)
    assert [one.document for one in named] == [b"lane"]
    consumer.settle([Outcome(one.tag) for one in named])
    assert nothing(consumer, lane)
    own = consumer.reserve(5, timeout_s=5.0)
    assert [one.document for one in own] == [b"own"]
    consumer.settle([Outcome(one.tag) for one in own])


def test_a_queue_of_its_own_can_be_named(transport: Transport, consumer: Consumer, queue: str) -> None:
    send(transport, queue, b"1")
    found = take(consumer, queue)
    assert [one.document for one in found] == [b"1"]
    assert consumer.settle([Outcome(found[0].tag)]) == [True]


def test_a_queue_that_nobody_knows_is_empty(consumer: Consumer, lane: str) -> None:
    assert nothing(consumer, lane)
    assert isinstance(consumer, Selects)
    assert consumer.reserve_from(lane, 0) == []


@pytest.mark.needs("clean_returns")
def test_what_is_given_back_returns_to_the_named_queue(
    transport: Transport, consumer: Consumer, lane: str
) -> None:
    send(transport, lane, b"1", b"2")
    found = take(consumer, lane)
    assert consumer.give_back([one.tag for one in found]) == len(found)
    assert take(consumer, lane)[0].document == b"1"


def test_a_message_can_be_moved_from_one_to_the_other(
    transport: Transport, consumer: Consumer, queue: str, lane: str
) -> None:
    send(transport, queue, b"x")
    (found,) = consumer.reserve(1, timeout_s=5.0)
    assert consumer.settle([Outcome(found.tag, follow_ups=(Outgoing(lane, b"x"),))]) == [True]
    (moved,) = take(consumer, lane)
    assert consumer.settle([Outcome(moved.tag, follow_ups=(Outgoing(queue, b"x"),))]) == [True]
    assert consumer.reserve(1, timeout_s=5.0)[0].document == b"x"


def test_what_is_put_off_comes_back_there_when_it_is_due(
    transport: Transport, consumer: Consumer, lane: str
) -> None:
    send(transport, lane, b"x")
    (found,) = take(consumer, lane)
    due_wall_s = time.time() + 0.3
    assert consumer.settle([Outcome(found.tag, Verdict.DEFER, due_wall_s=due_wall_s)]) == [True]
    eventually(lambda: bool(transport.promote() or True) and not nothing_left(transport, lane))
    assert [one.document for one in take(consumer, lane)] == [b"x"]
    assert time.time() >= due_wall_s - 0.01


def nothing_left(transport: Transport, queue: str) -> bool:
    return transport.ready([queue]) == 0


@pytest.mark.needs("leases")
def test_what_a_dead_owner_held_of_it_is_recovered_to_where_it_was(
    broker: Broker, transport: Transport, queue: str, lane: str
) -> None:
    dead = broker.consumer(transport, [queue], owner="dead")
    send(transport, lane, b"1", b"2")
    (first,) = take(dead, lane)
    consumer = broker.consumer(transport, [queue])
    recovery = broker.open().recover("dead", running=first.tag, cause="killed", max_crashes=3)
    assert (recovery.returned, recovery.crashed) == (1, (b"1",))
    (again,) = take(consumer, lane)
    assert (again.document, again.crashes) == (b"1", 1)
    assert isinstance(dead, Selects)
    with pytest.raises(OwnerLost):
        dead.reserve_from(lane, 1)


@pytest.mark.needs("recall_by_others")
def test_another_process_settles_what_it_held_of_it(
    broker: Broker, transport: Transport, queue: str, lane: str
) -> None:
    consumer = broker.consumer(transport, [queue], owner="stopped")
    send(transport, lane, b"1", b"2")
    (first,) = take(consumer, lane)
    attached = broker.open().attach("stopped")
    fetched = attached.fetch(first.tag)
    assert fetched is not None
    assert (fetched.queue, fetched.document) == (lane, b"1")
    assert attached.settle([Outcome(first.tag, Verdict.REQUEUE, crashed=True)]) == [True]
    assert isinstance(attached, Selects)
    with pytest.raises(OwnerLost):
        attached.reserve_from(lane, 1)
    (again,) = take(consumer, lane)
    assert (again.document, again.crashes) == (b"1", 1)


@pytest.mark.needs("counts_in_work")
def test_what_is_held_of_it_counts_as_in_work(
    broker: Broker, transport: Transport, consumer: Consumer, lane: str
) -> None:
    send(transport, lane, b"1", b"2")
    (held,) = take(consumer, lane)
    depth = broker.open().depth(lane)
    assert (depth.ready, depth.in_work) == (1, 1)
    consumer.settle([Outcome(held.tag)])
    assert transport.depth(lane).in_work == 0
