"""Conformance: `Consumer.settle`, `give_back`, `fetch` and the fence around them."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import cast

import pytest

from prefork.transports.base import (
    Consumer,
    Delivery,
    Outcome,
    Outgoing,
    ResultStore,
    StoredResult,
    Transport,
    Verdict,
)

from .conftest import Broker

Send = Callable[..., None]
Take = Callable[..., Delivery]

SUCCESS = b'{"status": "SUCCESS", "result": 1}'
UNKNOWN_TAGS = [b"", b"x", b"\0" * 64, b"\xff" * 64, b"y" * 500]


def documents(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.document for delivery in deliveries]


def test_an_acknowledged_message_is_gone(
    send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"m")
    assert consumer.settle([Outcome(take().tag)]) == [True]
    depth = transport.depth(queue)
    assert (depth.ready, depth.delayed, depth.in_work) == (0, 0, 0)
    assert consumer.reserve(1) == []


def test_a_batch_is_answered_one_by_one_and_in_order(send: Send, consumer: Consumer) -> None:
    send(*(b"%d" % i for i in range(6)))
    deliveries = consumer.reserve(6)
    assert consumer.settle([Outcome(deliveries[1].tag), Outcome(deliveries[4].tag)]) == [True, True]
    answers = consumer.settle([Outcome(delivery.tag) for delivery in reversed(deliveries)])
    assert answers == [True, False, True, True, False, True]


def test_settling_nothing_is_nothing(consumer: Consumer) -> None:
    assert consumer.settle([]) == []


def test_settling_twice_is_harmless(send: Send, take: Take, consumer: Consumer, queue: str) -> None:
    send(b"m")
    tag = take().tag
    follow_up = Outgoing(queue, b"follow-up")
    assert consumer.settle([Outcome(tag, follow_ups=(follow_up,))]) == [True]
    assert consumer.settle([Outcome(tag, follow_ups=(follow_up,))]) == [False]
    assert documents(consumer.reserve(10)) == [b"follow-up"]


def test_the_same_delivery_twice_in_one_call_is_settled_once(
    send: Send, take: Take, consumer: Consumer, queue: str
) -> None:
    send(b"m")
    outcome = Outcome(take().tag, follow_ups=(Outgoing(queue, b"follow-up"),))
    assert consumer.settle([outcome, outcome]) == [True, False]
    assert documents(consumer.reserve(10)) == [b"follow-up"]


@pytest.mark.parametrize("tag", UNKNOWN_TAGS)
def test_a_tag_that_never_was_is_answered_false(consumer: Consumer, tag: bytes) -> None:
    assert consumer.settle([Outcome(tag)]) == [False]
    assert consumer.give_back([tag]) == 0
    assert consumer.mark_started(tag) is False
    assert consumer.fetch(tag) is None


def test_nobody_settles_what_another_owner_holds(
    broker: Broker, send: Send, take: Take, consumer: Consumer, queue: str
) -> None:
    send(b"m")
    tag = take().tag
    other = broker.consumer(broker.open(), [queue])
    assert other.settle([Outcome(tag)]) == [False]
    assert other.give_back([tag]) == 0
    assert other.mark_started(tag) is False
    assert other.fetch(tag) is None
    assert consumer.settle([Outcome(tag)]) == [True]


def test_an_unknown_verdict_is_refused_before_anything_is_settled(send: Send, consumer: Consumer) -> None:
    send(b"a", b"b")
    first, second = consumer.reserve(2)
    with pytest.raises(ValueError):
        consumer.settle([Outcome(first.tag), Outcome(second.tag, verdict=cast(Verdict, 17))])
    assert consumer.settle([Outcome(first.tag), Outcome(second.tag)]) == [True, True]


def test_a_deferral_without_a_time_is_refused(send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m")
    tag = take().tag
    with pytest.raises(ValueError):
        consumer.settle([Outcome(tag, verdict=Verdict.DEFER)])
    assert consumer.settle([Outcome(tag)]) == [True]


def test_a_requeued_message_comes_again_under_another_tag(send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m", priority=5)
    first = take()
    assert consumer.settle([Outcome(first.tag, verdict=Verdict.REQUEUE)]) == [True]
    second = take()
    assert (second.document, second.priority, second.crashes) == (b"m", 5, 0)
    assert second.tag != first.tag
    assert consumer.settle([Outcome(first.tag)]) == [False]
    assert consumer.settle([Outcome(second.tag)]) == [True]


def test_a_requeue_for_a_crash_is_counted(send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m")
    for crashes in range(4):
        delivery = take()
        assert delivery.crashes == crashes
        assert consumer.settle([Outcome(delivery.tag, verdict=Verdict.REQUEUE, crashed=True)]) == [True]


@pytest.mark.parametrize("verdict", list(Verdict))
def test_follow_ups_become_visible_with_any_verdict(
    broker: Broker, transport: Transport, send: Send, take: Take, consumer: Consumer, verdict: Verdict
) -> None:
    other = broker.unique("other")
    listener = broker.consumer(transport, [other])
    send(b"m")
    follow_ups = (Outgoing(other, b"low"), Outgoing(other, b"high", priority=9))
    outcome = Outcome(take().tag, verdict, due_wall_s=time.time() + 3600, reason="r", follow_ups=follow_ups)
    assert listener.reserve(10) == []
    assert consumer.settle([outcome]) == [True]
    assert sorted(documents(listener.reserve(10) + listener.reserve(10))) == [b"high", b"low"]


@pytest.mark.needs("schedule", "inspects_schedule")
def test_a_follow_up_may_be_delayed(
    send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"m")
    later = Outgoing(queue, b"later", due_wall_s=time.time() + 3600)
    assert consumer.settle([Outcome(take().tag, follow_ups=(later,))]) == [True]
    assert transport.depth(queue).delayed == 1
    assert consumer.reserve(1) == []


def test_many_follow_ups_of_one_batch_all_arrive(
    broker: Broker, transport: Transport, send: Send, consumer: Consumer
) -> None:
    names = [broker.unique(f"next{i}") for i in range(3)]
    send(*(b"%d" % i for i in range(30)))
    outcomes = [
        Outcome(one.tag, follow_ups=tuple(Outgoing(name, one.document) for name in names))
        for one in consumer.reserve(30)
    ]
    assert len(outcomes) == 30
    assert consumer.settle(outcomes) == [True] * 30
    for name in names:
        received = documents(broker.consumer(transport, [name]).reserve(100))
        assert received == [b"%d" % i for i in range(30)]


@pytest.mark.needs("stores_results")
def test_results_become_readable_with_the_verdict(
    broker: Broker, store: ResultStore, send: Send, take: Take, consumer: Consumer
) -> None:
    key = broker.unique("task")
    send(b"m")
    tag = take().tag
    assert store.get([key]) == [None]
    assert consumer.settle([Outcome(tag, results=(StoredResult(key, SUCCESS),))]) == [True]
    assert store.get([key]) == [SUCCESS]
    assert store.wait([key], 5.0) == {key: SUCCESS}


@pytest.mark.needs("stores_results")
def test_a_settled_result_does_not_overwrite_a_success(
    broker: Broker, store: ResultStore, send: Send, take: Take, consumer: Consumer
) -> None:
    key = broker.unique("task")
    store.store([StoredResult(key, SUCCESS)])
    send(b"m")
    late = StoredResult(key, b'{"status": "FAILURE"}')
    assert consumer.settle([Outcome(take().tag, results=(late,))]) == [True]
    assert store.get([key]) == [SUCCESS]


@pytest.mark.needs("stores_results")
def test_a_false_leaves_no_result(
    broker: Broker, store: ResultStore, send: Send, take: Take, consumer: Consumer
) -> None:
    key = broker.unique("task")
    send(b"m")
    tag = take().tag
    assert consumer.give_back([tag]) == 1
    assert consumer.settle([Outcome(tag, results=(StoredResult(key, SUCCESS),))]) == [False]
    assert store.get([key]) == [None]


@pytest.mark.needs("clean_returns", "places")
def test_messages_given_back_keep_their_place(send: Send, consumer: Consumer) -> None:
    send(*(b"%d" % i for i in range(6)))
    deliveries = consumer.reserve(4)
    assert consumer.give_back([deliveries[i].tag for i in (3, 1, 2)]) == 3
    assert documents(consumer.reserve(10)) + documents(consumer.reserve(10)) == [b"1", b"2", b"3", b"4", b"5"]


@pytest.mark.needs("highest_priority_first")
def test_messages_given_back_keep_their_place_in_each_priority(send: Send, consumer: Consumer) -> None:
    for priority in (0, 5, 9):
        send(b"%d first" % priority, b"%d second" % priority, priority=priority)
    deliveries: list[Delivery] = []
    while batch := consumer.reserve(6):
        deliveries += batch
    before = documents(deliveries)
    assert consumer.give_back([delivery.tag for delivery in deliveries]) == 6
    after: list[bytes] = []
    while batch := consumer.reserve(6):
        after += documents(batch)
    assert after == before


def test_giving_back_leaves_the_record_untouched(send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m", priority=3)
    crashed = Outcome(take().tag, verdict=Verdict.REQUEUE, crashed=True)
    assert consumer.settle([crashed]) == [True]
    before = take()
    assert consumer.give_back([before.tag]) == 1
    after = take()
    assert (after.document, after.queue, after.priority) == (before.document, before.queue, before.priority)
    assert (after.crashes, after.suspect, after.redelivered) == (1, before.suspect, before.redelivered)


def test_giving_back_twice_counts_once(send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m")
    tag = take().tag
    assert consumer.give_back([tag, tag]) == 1
    assert consumer.give_back([tag]) == 0
    assert consumer.give_back([]) == 0


def test_an_old_tag_does_not_touch_a_newer_claim_of_the_same_message(
    send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"m")
    old = take()
    assert consumer.give_back([old.tag]) == 1
    new = take()
    assert consumer.give_back([old.tag]) == 0
    assert consumer.settle([Outcome(old.tag, follow_ups=(Outgoing(queue, b"no"),))]) == [False]
    assert consumer.mark_started(old.tag) is False
    assert consumer.fetch(old.tag) is None
    assert transport.depth(queue).in_work == 1
    assert transport.depth(queue).ready == 0
    assert consumer.settle([Outcome(new.tag)]) == [True]


def test_a_held_delivery_can_be_read_again(send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m", priority=2)
    delivery = take()
    assert consumer.fetch(delivery.tag) == delivery
    assert consumer.settle([Outcome(delivery.tag)]) == [True]
    assert consumer.fetch(delivery.tag) is None


@pytest.mark.needs("clean_returns", "places")
def test_closing_a_consumer_gives_back_what_it_holds(
    broker: Broker, transport: Transport, send: Send, queue: str
) -> None:
    send(*(b"%d" % i for i in range(5)))
    leaving = broker.consumer(transport, [queue])
    held = leaving.reserve(3)
    leaving.close()
    leaving.close()
    assert leaving.settle([Outcome(held[0].tag)]) == [False]
    staying = broker.consumer(transport, [queue])
    assert documents(staying.reserve(10)) == [b"%d" % i for i in range(5)]


def test_closing_a_consumer_forgets_its_owner(broker: Broker, transport: Transport, queue: str) -> None:
    worker = broker.unique("worker")
    owner = broker.unique("leaving")
    consumer = transport.consumer([queue], owner, worker)
    assert consumer.owner == owner
    assert transport.owners(worker) == [owner]
    consumer.close()
    assert transport.owners(worker) == []
