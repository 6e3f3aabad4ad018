"""Conformance: owners, `recover`, stale owners, `unregister`, `attach`."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from prefork.transports.base import (
    REASON_CRASHES,
    Consumer,
    Delivery,
    Outcome,
    Outgoing,
    Recovery,
    ResultStore,
    StoredResult,
    Transport,
    Verdict,
)
from prefork.transports.errors import OwnerLost
from support.waiting import eventually

from .conftest import Broker

Send = Callable[..., None]
Take = Callable[..., Delivery]


def documents(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.document for delivery in deliveries]


def letters_of(transport: Transport, queue: str) -> list[bytes]:
    return [letter.document for letter in transport.dead_letters(10_000) if letter.queue == queue]


@pytest.mark.needs("recall_by_others", "places")
def test_a_dead_owner_returns_its_messages_untouched_and_in_place(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(*(b"%d" % i for i in range(6)))
    dead = broker.consumer(transport, [queue])
    assert len(dead.reserve(4)) == 4
    recovery = broker.open().recover(dead.owner)
    assert (recovery.returned, recovery.crashed, recovery.dead) == (4, (), ())
    received = broker.consumer(transport, [queue]).reserve(10)
    assert documents(received) == [b"%d" % i for i in range(6)]
    assert {(one.crashes, one.suspect) for one in received} == {(0, False)}


@pytest.mark.needs("recall_by_others")
def test_the_running_message_alone_is_charged(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(*(b"%d" % i for i in range(3)))
    dead = broker.consumer(transport, [queue])
    held = dead.reserve(3)
    recovery = transport.recover(dead.owner, running=held[1].tag, cause="signal 9", max_crashes=3)
    assert (recovery.returned, recovery.crashed, recovery.dead) == (3, (b"1",), ())
    successor = broker.consumer(transport, [queue])
    received = successor.reserve(10) + successor.reserve(10)
    assert {one.document: one.crashes for one in received} == {b"0": 0, b"1": 1, b"2": 0}


@pytest.mark.parametrize("named", [True, False])
def test_nothing_is_charged_without_a_cause(
    broker: Broker, transport: Transport, send: Send, queue: str, named: bool
) -> None:
    send(b"m")
    dead = broker.consumer(transport, [queue])
    (held,) = dead.reserve(1)
    recovery = transport.recover(dead.owner, running=held.tag if named else None, cause="", max_crashes=1)
    assert (recovery.returned, recovery.crashed, recovery.dead) == (1, (), ())
    assert broker.consumer(transport, [queue]).reserve(1)[0].crashes == 0


@pytest.mark.needs("recall_by_others")
def test_a_cause_without_a_running_message_charges_nobody(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    # Given a batch, of which nobody can say that a message ran
    send(b"first", b"second")
    dead = broker.consumer(transport, [queue])
    assert len(dead.reserve(2)) == 2
    # When its owner died of something
    recovery = transport.recover(dead.owner, running=None, cause="signal 9", max_crashes=1)
    # Then all return: neither charged, nor suspected, nor dead letters
    assert (recovery.returned, recovery.suspects, recovery.crashed, recovery.dead) == (2, 0, (), ())
    successor = broker.consumer(transport, [queue])
    received = successor.reserve(2)
    assert [(one.document, one.crashes, one.suspect) for one in received] == [
        (b"first", 0, False),
        (b"second", 0, False),
    ]


def test_a_running_tag_that_is_no_longer_held_charges_nobody(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"first", b"second")
    dead = broker.consumer(transport, [queue])
    first, second = dead.reserve(2)
    assert dead.settle([Outcome(first.tag)]) == [True]
    recovery = transport.recover(dead.owner, running=first.tag, cause="signal 9", max_crashes=1)
    assert (recovery.returned, recovery.crashed, recovery.dead) == (1, (), ())
    assert documents(broker.consumer(transport, [queue]).reserve(5)) == [second.document]


@pytest.mark.needs("dead_letters", "recall_by_others")
def test_the_crash_limit_makes_a_dead_letter_with_all_causes(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"poison", priority=7)
    recovery = Recovery()
    for crash in range(3):
        dead = broker.consumer(transport, [queue])
        (held,) = dead.reserve(1)
        assert held.crashes == crash
        recovery = transport.recover(dead.owner, running=held.tag, cause=f"signal {crash}", max_crashes=3)
    assert (recovery.returned, recovery.crashed) == (0, ())
    (letter,) = recovery.dead
    assert letter.document == b"poison"
    assert letter.causes == ("signal 0", "signal 1", "signal 2")
    assert (letter.queue, letter.priority, letter.crashes) == (queue, 7, 3)
    assert letter.reason == REASON_CRASHES
    assert transport.dead_get(letter.key) == letter
    assert transport.depth(queue).ready == 0


@pytest.mark.needs("recall_by_others")
def test_recovering_twice_does_nothing_the_second_time(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"m")
    dead = broker.consumer(transport, [queue])
    (held,) = dead.reserve(1)
    assert transport.recover(dead.owner, running=held.tag, cause="signal 9").returned == 1
    assert transport.recover(dead.owner, running=held.tag, cause="signal 9") == Recovery()
    assert broker.open().recover(dead.owner) == Recovery()
    assert broker.consumer(transport, [queue]).reserve(1)[0].crashes == 1


def test_recovering_an_owner_that_never_was_is_nothing(broker: Broker, transport: Transport) -> None:
    assert transport.recover(broker.unique("nobody"), running=b"x", cause="signal 9") == Recovery()


@pytest.mark.needs("recall_by_others")
def test_a_stale_owner_can_neither_settle_nor_publish_nor_give_back(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"m")
    stale = broker.consumer(transport, [queue])
    (held,) = stale.reserve(1)
    assert broker.open().recover(stale.owner).returned == 1
    for verdict in Verdict:
        follow_ups = (Outgoing(queue, b"follow-up"),)
        outcome = Outcome(held.tag, verdict, due_wall_s=4e9, follow_ups=follow_ups)
        assert stale.settle([outcome]) == [False]
    assert stale.give_back([held.tag]) == 0
    assert stale.mark_started(held.tag) is False
    assert stale.fetch(held.tag) is None
    depth = transport.depth(queue)
    assert (depth.ready, depth.delayed, depth.in_work) == (1, 0, 0)
    assert letters_of(transport, queue) == []


def test_a_stale_owner_does_not_touch_its_successor(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"m")
    stale = broker.consumer(transport, [queue])
    (held,) = stale.reserve(1)
    transport.recover(stale.owner)
    successor = broker.consumer(transport, [queue])
    (again,) = successor.reserve(1)
    assert stale.settle([Outcome(held.tag), Outcome(again.tag)]) == [False, False]
    assert successor.settle([Outcome(again.tag)]) == [True]


@pytest.mark.needs("stores_results")
def test_a_stale_owner_cannot_store_a_result(
    broker: Broker, transport: Transport, store: ResultStore, send: Send, queue: str
) -> None:
    key = broker.unique("task")
    send(b"m")
    stale = broker.consumer(transport, [queue])
    (held,) = stale.reserve(1)
    transport.recover(stale.owner)
    result = StoredResult(key, b'{"status": "SUCCESS"}')
    assert stale.settle([Outcome(held.tag, results=(result,))]) == [False]
    assert store.get([key]) == [None]


def test_a_stale_owner_reserves_nothing_any_more(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    stale = broker.consumer(transport, [queue])
    transport.recover(stale.owner)
    send(b"m")
    with pytest.raises(OwnerLost) as raised:
        stale.reserve(1)
    assert raised.value.owner == stale.owner
    assert transport.depth(queue).ready == 1
    stale.close()


@pytest.mark.needs("lists_queues")
def test_owners_are_registered_for_their_worker_until_recovered(
    broker: Broker, transport: Transport, queue: str
) -> None:
    worker, first, second = (broker.unique(name) for name in ("worker", "owner1", "owner2"))
    assert transport.owners(worker) == []
    transport.consumer([queue], first, worker)
    transport.consumer([queue], second, worker)
    transport.consumer([queue], broker.unique("owner3"), broker.unique("another"))
    assert sorted(broker.open().owners(worker)) == [first, second]
    transport.recover(first)
    assert transport.owners(worker) == [second]


def test_unregistering_a_worker_that_still_holds_something_loses_nothing(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(b"m")
    worker = broker.unique("leaving")
    transport.consumer([queue], broker.unique("lost"), worker).reserve(1)
    transport.unregister(worker)
    transport.unregister(broker.unique("nobody"))
    successor = broker.consumer(transport, [queue])

    def comes_back() -> list[Delivery]:
        transport.recover_lapsed()
        return successor.reserve(1)

    assert documents(eventually(comes_back)) == [b"m"]


def test_unregistering_forgets_a_worker_that_holds_nothing(
    broker: Broker, transport: Transport, queue: str
) -> None:
    worker = broker.unique("leaving")
    transport.consumer([queue], broker.unique("owner"), worker)
    transport.unregister(worker)
    assert transport.owners(worker) == []


@pytest.mark.needs("recall_by_others", "places")
def test_an_attached_consumer_settles_gives_back_and_fetches_for_the_owner(
    broker: Broker, send: Send, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(*(b"%d" % i for i in range(3)))
    first, second, third = consumer.reserve(3)
    agent = broker.open().attach(consumer.owner)
    assert agent.owner == consumer.owner
    assert agent.fetch(second.tag) == second
    assert agent.settle([Outcome(first.tag, follow_ups=(Outgoing(queue, b"next"),))]) == [True]
    assert agent.give_back([second.tag]) == 1
    assert consumer.settle([Outcome(first.tag), Outcome(second.tag), Outcome(third.tag)]) == [
        False,
        False,
        True,
    ]
    assert documents(consumer.reserve(10)) == [b"1", b"next"]


@pytest.mark.needs("recall_by_others")
def test_closing_an_attached_consumer_changes_nothing(
    broker: Broker, send: Send, take: Take, consumer: Consumer
) -> None:
    send(b"m")
    held = take()
    agent = broker.open().attach(consumer.owner)
    agent.close()
    agent.close()
    assert consumer.fetch(held.tag) == held
    assert consumer.settle([Outcome(held.tag)]) == [True]


@pytest.mark.needs("recall_by_others")
def test_an_attached_consumer_never_reserves(
    send: Send, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"m")
    with pytest.raises(OwnerLost):
        transport.attach(consumer.owner).reserve(1)
    assert transport.depth(queue).ready == 1


@pytest.mark.needs("recall_by_others")
def test_attaching_to_an_owner_that_is_gone_finds_nothing(
    broker: Broker, send: Send, take: Take, consumer: Consumer, transport: Transport
) -> None:
    send(b"m")
    tag = take().tag
    consumer.close()
    agent = transport.attach(consumer.owner)
    assert agent.settle([Outcome(tag)]) == [False]
    assert agent.give_back([tag]) == 0
    assert agent.fetch(tag) is None
