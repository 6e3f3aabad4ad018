"""Conformance: delayed messages, DEFER, `promote`. Every test needs the capability ``schedule``."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from prefork.transports.base import Consumer, Delivery, Outcome, Outgoing, Transport, Verdict
from support.waiting import eventually

from .conftest import Broker

Send = Callable[..., None]
Take = Callable[..., Delivery]

pytestmark = pytest.mark.needs("schedule")

SOON_S = 0.15
# Where a test must send before the time comes, however busy the machine is.
LATER_S = 2.0
FAR_S = 3600.0
# A transport may keep times rounded up to this, never down.
GRAIN_S = 0.01


def documents(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.document for delivery in deliveries]


def test_a_delayed_message_never_comes_early(send: Send, consumer: Consumer, transport: Transport) -> None:
    due_wall_s = time.time() + SOON_S
    send(b"m", due_wall_s=due_wall_s)
    received: list[Delivery] = []
    while not received:
        transport.promote()
        received = consumer.reserve(1)
        arrived_wall_s = time.time()
        assert arrived_wall_s < due_wall_s + 5.0
    assert arrived_wall_s >= due_wall_s


def test_reserve_promotes_without_the_help_of_others(send: Send, consumer: Consumer) -> None:
    due_wall_s = time.time() + SOON_S
    send(b"m", due_wall_s=due_wall_s)
    assert documents(eventually(lambda: consumer.reserve(1))) == [b"m"]
    assert time.time() >= due_wall_s


def test_a_waiting_reserve_gets_a_message_that_becomes_due(send: Send, consumer: Consumer) -> None:
    due_wall_s = time.time() + SOON_S
    send(b"m", due_wall_s=due_wall_s)
    assert documents(consumer.reserve(1, timeout_s=8.0)) == [b"m"]
    assert due_wall_s <= time.time() < due_wall_s + 5.0


@pytest.mark.parametrize("due_wall_s", [0.0, -1.0, 1.5e9])
def test_a_time_in_the_past_is_at_once(send: Send, take: Take, due_wall_s: float) -> None:
    send(b"m", due_wall_s=due_wall_s)
    assert take().document == b"m"


@pytest.mark.needs("inspects_schedule")
def test_a_far_time_is_kept(send: Send, consumer: Consumer, transport: Transport, queue: str) -> None:
    times = [time.time() + FAR_S, time.time() + 366 * 24 * FAR_S, 4e9]
    for due_wall_s in times:
        send(b"m", due_wall_s=due_wall_s)
    assert consumer.reserve(10) == []
    seen = transport.peek(queue, delayed=True)
    assert [one.due_wall_s for one in seen] == pytest.approx(times, abs=0.01)


@pytest.mark.needs("highest_priority_first", "strict_priorities")
def test_due_messages_come_by_priority_among_the_others(send: Send, consumer: Consumer) -> None:
    due_wall_s = time.time() + SOON_S
    send(b"0")
    send(b"5", priority=5, due_wall_s=due_wall_s)
    send(b"9", priority=9, due_wall_s=due_wall_s)
    eventually(lambda: time.time() > due_wall_s + GRAIN_S)
    received: list[Delivery] = []

    def all_came() -> bool:
        nonlocal received
        if len(received) < 3:
            consumer.give_back([one.tag for one in received])
            received = []
            while batch := consumer.reserve(3):
                received += batch
        return len(received) == 3

    eventually(all_came)
    assert documents(received) == [b"9", b"5", b"0"]


@pytest.mark.needs("inspects_schedule")
def test_promote_makes_due_messages_ready_and_says_when_the_next_is_due(
    send: Send, transport: Transport, queue: str
) -> None:
    # Given messages that are not due while a test runs
    next_hour, later = time.time() + FAR_S, time.time() + 2 * FAR_S
    send(b"later", due_wall_s=later)
    send(b"next hour", due_wall_s=next_hour)
    # "If known": a transport may know it only to the grain of its buckets, but never too late.
    next_due = transport.promote()
    assert next_due is None or next_due <= next_hour + 0.001
    assert transport.depth(queue).ready == 0
    # And one that is soon
    soon = time.time() + SOON_S
    send(b"soon", due_wall_s=soon)

    def promoted() -> bool:
        transport.promote()
        return transport.depth(queue).ready == 1

    eventually(promoted)
    assert time.time() >= soon
    next_due = transport.promote()
    assert next_due is None or next_due <= next_hour + 0.001
    assert transport.depth(queue).delayed == 2


@pytest.mark.needs("inspects_schedule")
def test_promote_is_bounded(send: Send, transport: Transport, queue: str) -> None:
    due_wall_s = time.time() + LATER_S
    send(*(b"%d" % i for i in range(10)), due_wall_s=due_wall_s)
    eventually(lambda: time.time() > due_wall_s + GRAIN_S)
    counts = []
    while transport.depth(queue).delayed:
        transport.promote(limit=4)
        counts.append(transport.depth(queue).ready)
        assert len(counts) <= 10
    steps = [after - before for before, after in zip([0, *counts], counts)]
    assert max(steps) <= 4
    assert counts[-1] == 10


def test_promote_with_nothing_delayed_promotes_nothing(transport: Transport, queue: str) -> None:
    transport.promote()
    assert transport.depth(queue).ready == 0


@pytest.mark.needs("inspects_schedule")
def test_a_deferred_message_returns_at_its_time_with_its_record(
    send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"m", priority=6)
    assert consumer.settle([Outcome(take().tag, verdict=Verdict.REQUEUE, crashed=True)]) == [True]
    first = take()
    due_wall_s = time.time() + LATER_S
    assert consumer.settle([Outcome(first.tag, Verdict.DEFER, due_wall_s=due_wall_s)]) == [True]
    depth = transport.depth(queue)
    # Where the machine stood still in between, it was due already.
    assert (depth.ready, depth.delayed, depth.in_work) == (0, 1, 0) or time.time() >= due_wall_s
    again = eventually(lambda: consumer.reserve(1))[0]
    assert time.time() >= due_wall_s
    assert (again.document, again.priority, again.crashes) == (b"m", 6, 1)
    assert consumer.settle([Outcome(first.tag)]) == [False]


def test_a_deferral_into_the_past_is_ready_at_once(send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m")
    assert consumer.settle([Outcome(take().tag, Verdict.DEFER, due_wall_s=1.0)]) == [True]
    assert take().document == b"m"


@pytest.mark.needs("leases")
def test_a_deferred_suspect_stays_a_suspect(
    broker: Broker, send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"m")
    worker = broker.unique("lapsing")
    transport.consumer([queue], broker.unique("lost"), worker).reserve(1)
    transport.heartbeat(worker, 0.02)
    eventually(lambda: transport.recover_lapsed().returned)
    assert consumer.settle([Outcome(take().tag, Verdict.DEFER, due_wall_s=1.0)]) == [True]
    assert take().suspect is True


def test_delayed_messages_of_many_queues_are_promoted(broker: Broker, transport: Transport) -> None:
    names = [broker.unique(f"q{i}") for i in range(12)]
    due_wall_s = time.time() + SOON_S
    transport.send([Outgoing(name, name.encode(), due_wall_s=due_wall_s) for name in names])
    for name in names:
        consumer = broker.consumer(transport, [name])
        assert documents(consumer.reserve(5, timeout_s=8.0)) == [name.encode()]


@pytest.mark.needs("inspects_schedule")
def test_the_schedule_is_seen_by_every_handle(broker: Broker, queue: str) -> None:
    broker.open().send([Outgoing(queue, b"far", due_wall_s=time.time() + FAR_S)])
    assert broker.open().depth(queue).delayed == 1
    broker.open().send([Outgoing(queue, b"m", due_wall_s=time.time() + SOON_S)])
    consumer = broker.consumer(broker.open(), [queue])
    assert documents(consumer.reserve(1, timeout_s=8.0)) == [b"m"]


def test_a_delayed_message_that_is_recovered_was_due_and_stays_so(
    broker: Broker, send: Send, transport: Transport, queue: str
) -> None:
    send(b"m", due_wall_s=time.time() + SOON_S)
    dead = broker.consumer(transport, [queue])
    assert eventually(lambda: dead.reserve(1))
    assert transport.recover(dead.owner).returned == 1
    assert documents(broker.consumer(transport, [queue]).reserve(1)) == [b"m"]
