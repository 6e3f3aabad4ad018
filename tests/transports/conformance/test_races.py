"""Conformance: owners that are recovered, or whose tags are moved, while they still work.

A ledger decides: each message leaves one follow-up in the queue ``done``, whoever finished it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest

from prefork.transports.base import Consumer, Delivery, Depth, Outcome, Outgoing, Transport
from prefork.transports.errors import OwnerLost
from support.waiting import Background

from .conftest import Broker

Send = Callable[..., None]

ROUNDS = 12
MESSAGES = 40


def documents(count: int) -> list[bytes]:
    return [b"%d" % i for i in range(count)]


def finish(consumer: Consumer, deliveries: list[Delivery], done: str) -> list[bool]:
    return consumer.settle(
        [Outcome(one.tag, follow_ups=(Outgoing(done, one.document),)) for one in deliveries]
    )


def drain(consumer: Consumer, done: str) -> None:
    while batch := consumer.reserve(64):
        assert all(finish(consumer, batch, done))


def ledger(broker: Broker, transport: Transport, done: str) -> list[bytes]:
    finished: list[bytes] = []
    reader = broker.consumer(transport, [done])
    while batch := reader.reserve(64):
        finished += [one.document for one in batch]
    return sorted(finished, key=int)


@pytest.mark.needs("quick")
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_an_owner_that_is_recovered_while_it_works_neither_loses_nor_doubles(
    broker: Broker, transport: Transport, send: Send, queue: str, round_: int
) -> None:
    done = broker.unique("done")
    send(*documents(MESSAGES))
    stale = broker.consumer(broker.open(), [queue])
    half_way = threading.Event()

    def work() -> None:
        finished = 0
        try:
            while batch := stale.reserve(3):
                finished += sum(finish(stale, batch, done))
                if finished > round_:
                    half_way.set()
        except OwnerLost:
            pass
        half_way.set()

    working = Background(work)
    assert half_way.wait(10.0)
    transport.recover(stale.owner)
    working.result()
    drain(broker.consumer(transport, [queue]), done)
    assert transport.depth(queue) == Depth(ready=0, delayed=0, in_work=0)
    assert ledger(broker, transport, done) == documents(MESSAGES)


@pytest.mark.needs("recall_by_others", "quick")
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_two_that_recover_the_same_owner_at_once_return_its_messages_once(
    broker: Broker, transport: Transport, send: Send, queue: str, round_: int
) -> None:
    send(*documents(MESSAGES))
    dead = broker.consumer(transport, [queue])
    held: list[Delivery] = []
    while batch := dead.reserve(16):
        held += batch
    start = threading.Barrier(2)

    def recover() -> int:
        handle = broker.open()
        start.wait()
        return handle.recover(dead.owner, running=held[round_].tag, cause="signal 9").returned

    both = [Background(recover) for _ in range(2)]
    assert sum(one.result() for one in both) == MESSAGES
    successor = broker.consumer(transport, [queue])
    received: list[Delivery] = []
    while batch := successor.reserve(64):
        received += batch
    assert sorted((one.document for one in received), key=int) == documents(MESSAGES)
    assert [one.document for one in received if one.crashes] == [held[round_].document]


@pytest.mark.needs("recall_by_others", "quick")
@pytest.mark.parametrize("round_", range(ROUNDS))
def test_a_recall_while_the_owner_settles_neither_loses_nor_doubles(
    broker: Broker, transport: Transport, send: Send, queue: str, round_: int
) -> None:
    done = broker.unique("done")
    send(*documents(MESSAGES))
    worker = broker.consumer(broker.open(), [queue])
    agent = transport.attach(worker.owner)
    held: list[Delivery] = []
    while batch := worker.reserve(16):
        held += batch
    start = threading.Barrier(2)

    def settle() -> int:
        start.wait()
        return sum(sum(finish(worker, [one], done)) for one in held)

    settling = Background(settle)
    start.wait()
    returned = sum(agent.give_back([one.tag]) for one in reversed(held[round_:]))
    assert settling.result() + returned == MESSAGES
    drain(worker, done)
    assert ledger(broker, transport, done) == documents(MESSAGES)


def test_an_owner_that_closes_while_it_settles_neither_loses_nor_doubles(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    done = broker.unique("done")
    send(*documents(MESSAGES))
    leaving = broker.consumer(transport, [queue])
    held: list[Delivery] = []
    while batch := leaving.reserve(16):
        held += batch
    assert all(finish(leaving, held[:10], done))
    leaving.close()
    assert not any(finish(leaving, held, done))
    drain(broker.consumer(transport, [queue]), done)
    assert ledger(broker, transport, done) == documents(MESSAGES)
