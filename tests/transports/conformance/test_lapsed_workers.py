"""Conformance: leases, `recover_lapsed`, suspects."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefork.transports.base import Consumer, Delivery, Outcome, Recovery, Transport
from support.waiting import eventually

from .conftest import Broker

Send = Callable[..., None]
Take = Callable[..., Delivery]


SHORT_LEASE_S = 0.02


def lapse(transport: Transport, worker: str, *, max_crashes: int = 3) -> Recovery:
    """Let the lease of a worker run out, and recover what it held."""
    transport.heartbeat(worker, SHORT_LEASE_S)
    return eventually(
        lambda: next(
            (found for found in [transport.recover_lapsed(max_crashes=max_crashes)] if found != Recovery()),
            None,
        )
    )


@pytest.mark.needs("leases")
def test_a_lapsed_worker_leaves_suspects_that_come_alone(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(*(b"%d" % i for i in range(4)))
    worker = broker.unique("lapsing")
    assert len(transport.consumer([queue], broker.unique("lost"), worker).reserve(4)) == 4
    send(b"innocent")
    recovery = lapse(broker.open(), worker)
    assert (recovery.returned, recovery.suspects, recovery.crashed, recovery.dead) == (4, 4, (), ())
    successor = broker.consumer(transport, [queue])
    received: list[Delivery] = []
    while batch := successor.reserve(10):
        assert len(batch) == 1 or not any(one.suspect for one in batch)
        received += batch
    suspicion = {one.document: (one.suspect, one.crashes) for one in received}
    assert suspicion == {**{b"%d" % i: (True, 0) for i in range(4)}, b"innocent": (False, 0)}


@pytest.mark.needs("leases")
def test_every_owner_of_a_lapsed_worker_is_recovered_and_forgotten(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(*(b"%d" % i for i in range(6)))
    worker = broker.unique("lapsing")
    for i in range(3):
        transport.consumer([queue], broker.unique(f"lost{i}"), worker).reserve(2)
    assert transport.depth(queue).in_work == 6
    assert lapse(transport, worker).returned == 6
    assert transport.owners(worker) == []
    assert transport.depth(queue).in_work == 0


@pytest.mark.needs("leases")
def test_a_lease_that_is_extended_does_not_lapse(
    broker: Broker, transport: Transport, send: Send, take: Take, consumer: Consumer
) -> None:
    send(b"m")
    tag = take().tag
    worker = broker.unique("worker")
    transport.heartbeat(worker, SHORT_LEASE_S)
    transport.heartbeat(worker, 60.0)
    other = broker.unique("lapsing")
    transport.consumer([broker.unique("elsewhere")], broker.unique("lost"), other)
    transport.heartbeat(other, SHORT_LEASE_S)

    def other_is_gone() -> bool:
        transport.recover_lapsed()
        return transport.owners(other) == []

    eventually(other_is_gone)
    assert consumer.settle([Outcome(tag)]) == [True]


@pytest.mark.needs("leases")
def test_a_worker_that_never_sent_a_heartbeat_has_a_first_lease(
    broker: Broker, transport: Transport, send: Send, take: Take, consumer: Consumer
) -> None:
    send(b"m")
    tag = take().tag
    assert broker.open().recover_lapsed() == Recovery()
    assert consumer.settle([Outcome(tag)]) == [True]


@pytest.mark.needs("leases")
def test_a_suspect_whose_start_was_recorded_is_charged(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"guilty", b"unlucky")
    worker = broker.unique("lapsing")
    transport.consumer([queue], broker.unique("lost"), worker).reserve(2)
    lapse(transport, worker)
    guilty = transport.consumer([queue], broker.unique("lost1"), worker)
    (started,) = guilty.reserve(1)
    assert guilty.mark_started(started.tag) is True
    unlucky = transport.consumer([queue], broker.unique("lost2"), worker)
    (unstarted,) = unlucky.reserve(1)
    recovery = lapse(transport, worker)
    assert (recovery.returned, recovery.crashed) == (2, (started.document,))
    successor = broker.consumer(transport, [queue])
    received = successor.reserve(10) + successor.reserve(10)
    assert {one.document: (one.crashes, one.suspect) for one in received} == {
        started.document: (1, True),
        unstarted.document: (0, True),
    }


@pytest.mark.needs("leases", "dead_letters")
def test_a_poison_message_among_good_ones_dies_alone_after_one_worker_more_than_the_limit(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"good1", b"poison", b"good2")
    finished: list[bytes] = []
    deaths = 0
    while True:
        worker = broker.unique(f"worker{deaths}")
        consumer = transport.consumer([queue], broker.unique(f"owner{deaths}"), worker)
        died = False
        while not died and (batch := consumer.reserve(3)):
            for one in batch:
                if one.suspect:
                    assert consumer.mark_started(one.tag) is True
                if one.document == b"poison":
                    died = True
                    break
                # The first worker dies before it settles anything: its batch is unsettled as a whole.
                if deaths:
                    assert consumer.settle([Outcome(one.tag)]) == [True]
                    finished.append(one.document)
        if not died:
            break
        deaths += 1
        lapse(transport, worker, max_crashes=3)
    assert deaths == 4
    assert sorted(finished) == [b"good1", b"good2"]
    (letter,) = [one for one in transport.dead_letters(10_000) if one.queue == queue]
    assert (letter.document, letter.crashes, len(letter.causes)) == (b"poison", 3, 3)


@pytest.mark.needs("leases")
def test_a_suspect_that_was_returned_unstarted_is_not_charged_for_its_old_start(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"m")
    worker = broker.unique("lapsing")
    transport.consumer([queue], broker.unique("lost"), worker).reserve(1)
    lapse(transport, worker)
    starter = broker.consumer(transport, [queue])
    (started,) = starter.reserve(1)
    assert starter.mark_started(started.tag) is True
    assert starter.give_back([started.tag]) == 1
    transport.consumer([queue], broker.unique("lost2"), worker).reserve(1)
    assert lapse(transport, worker).crashed == ()
