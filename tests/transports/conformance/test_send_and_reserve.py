"""Conformance: what `Transport.send` accepts, `Consumer.reserve` hands out, in order."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from prefork.transports.base import TAG_BYTES_MAX, Consumer, Delivery, Outcome, Outgoing, Transport
from support.waiting import Background

from .conftest import Broker

Send = Callable[..., None]
Take = Callable[..., Delivery]

AWKWARD_NAMES = [
    "high",
    "orders.high",
    "orders",
    "orders.high.very",
    "High",
    "../x",
    "..",
    ".",
    "a/b",
    "/abs",
    "%2e%2e",
    "with space",
    "line\nbreak",
    "prénom-队列-🚀",
    "tilde~",
    "-rf",
    "*",
    "x" * 300,
    "x" * 299 + "y",
    "é" * 300,
]


def documents(deliveries: list[Delivery]) -> list[bytes]:
    return [delivery.document for delivery in deliveries]


def test_a_document_arrives_byte_for_byte_with_its_queue_and_a_clean_record(
    send: Send, consumer: Consumer, queue: str
) -> None:
    document = bytes(range(256)) * 3
    send(document, priority=4)
    (delivery,) = consumer.reserve(10)
    assert (delivery.document, delivery.queue, delivery.priority) == (document, queue, 4)
    assert (delivery.crashes, delivery.suspect, delivery.redelivered) == (0, False, False)
    assert 0 < len(delivery.tag) <= TAG_BYTES_MAX


def test_a_large_document_arrives_whole(send: Send, consumer: Consumer) -> None:
    large = bytes(i % 251 for i in range(3_000_000))
    send(b"before", large, b"after")
    received = documents(consumer.reserve(3))
    received += documents(consumer.reserve(3))
    assert received == [b"before", large, b"after"]


def test_messages_of_one_priority_come_oldest_first(send: Send, consumer: Consumer) -> None:
    for i in range(10):
        send(b"%d" % i)
    send(*(b"%d" % i for i in range(10, 20)))
    assert documents(consumer.reserve(100)) == [b"%d" % i for i in range(20)]


@pytest.mark.needs("highest_priority_first")
def test_the_highest_priority_comes_first(send: Send, consumer: Consumer) -> None:
    for priority in (0, 9, 5, 3, 9, 0):
        send(b"%d" % priority, priority=priority)
    received: list[bytes] = []
    while batch := consumer.reserve(4):
        received += documents(batch)
    assert received == [b"9", b"9", b"5", b"3", b"0", b"0"]


@pytest.mark.needs("priorities")
@pytest.mark.parametrize("priority", [-1, 10, 255, -(2**40), 2**40])
def test_a_priority_out_of_range_is_served_all_the_same(send: Send, take: Take, priority: int) -> None:
    send(b"m", priority=priority)
    assert take().document == b"m"


@pytest.mark.needs("highest_priority_first", "strict_priorities")
def test_priority_dominates_the_choice_between_queues(broker: Broker, transport: Transport) -> None:
    first, second = broker.unique("first"), broker.unique("second")
    consumer = broker.consumer(transport, [first, second])
    for priority in range(10):
        transport.send([Outgoing(first if priority % 2 else second, b"%d" % priority, priority)])
    received: list[bytes] = []
    while batch := consumer.reserve(3):
        received += documents(batch)
    assert received == [b"%d" % priority for priority in range(9, -1, -1)]


def test_no_queue_starves_beside_a_full_one(broker: Broker, transport: Transport) -> None:
    names = [broker.unique(name) for name in ("full", "other")]
    consumer = broker.consumer(transport, names)
    transport.send([Outgoing(names[0], b"full") for _ in range(50)])
    transport.send([Outgoing(names[1], b"other") for _ in range(3)])
    received: list[bytes] = []
    while batch := consumer.reserve(1):
        received += documents(batch)
    assert received.count(b"full") == 50
    assert received.count(b"other") == 3


@pytest.mark.needs("long_names")
def test_queue_names_match_exactly(broker: Broker, transport: Transport) -> None:
    names = [broker.unique("") + name for name in AWKWARD_NAMES]
    for name in names:
        transport.send([Outgoing(name, name.encode())])
    for name in names:
        assert documents(broker.consumer(transport, [name]).reserve(100)) == [name.encode()]


@pytest.mark.needs("long_names")
def test_a_queue_name_alone_cannot_leave_the_broker(transport: Transport, broker: Broker) -> None:
    for name in ("..", ".", "../../escape", "/", "//", "x" * 4000):
        transport.send([Outgoing(name, b"m")])
        consumer = broker.consumer(transport, [name])
        (delivery,) = consumer.reserve(1)
        assert (delivery.queue, delivery.document) == (name, b"m")
        assert consumer.settle([Outcome(delivery.tag)]) == [True]


def test_a_consumer_takes_from_its_own_queues_only(broker: Broker, transport: Transport, queue: str) -> None:
    transport.send([Outgoing(queue, b"m")])
    assert broker.consumer(transport, [broker.unique("another")]).reserve(10) == []
    assert transport.depth(queue).ready == 1


def test_a_message_sent_before_anybody_listened_waits(broker: Broker, queue: str) -> None:
    broker.open().send([Outgoing(queue, b"early")])
    assert documents(broker.consumer(broker.open(), [queue]).reserve(1)) == [b"early"]


def test_one_call_may_send_to_several_queues(broker: Broker, transport: Transport) -> None:
    names = [broker.unique(f"q{i}") for i in range(5)]
    transport.send([Outgoing(name, name.encode(), priority=3) for name in names * 2])
    for name in names:
        assert documents(broker.consumer(transport, [name]).reserve(10)) == [name.encode()] * 2


def test_sending_nothing_is_nothing(transport: Transport, queue: str) -> None:
    transport.send([])
    assert transport.depth(queue).ready == 0


def test_a_queue_without_a_name_is_refused(transport: Transport) -> None:
    with pytest.raises(ValueError):
        transport.send([Outgoing("", b"m")])


@pytest.mark.needs("schedule")
def test_a_time_that_is_not_a_number_is_refused_with_all_of_its_call(
    transport: Transport, queue: str
) -> None:
    with pytest.raises(ValueError):
        transport.send([Outgoing(queue, b"good"), Outgoing(queue, b"bad", due_wall_s=float("nan"))])
    assert transport.depth(queue).ready == 0


def test_a_batch_is_no_larger_than_asked_for(send: Send, consumer: Consumer) -> None:
    send(*(b"%d" % i for i in range(10)))
    sizes = [len(consumer.reserve(n)) for n in (1, 3, 64)]
    assert sizes == [1, 3, 6]
    assert consumer.reserve(64) == []


@pytest.mark.parametrize("max_n", [0, -1])
def test_asking_for_nothing_takes_nothing_and_does_not_wait(
    send: Send, consumer: Consumer, transport: Transport, queue: str, max_n: int
) -> None:
    send(b"m")
    assert consumer.reserve(max_n, timeout_s=60.0) == []
    assert transport.depth(queue).ready == 1


def test_a_reserved_message_is_not_handed_out_twice(
    broker: Broker, send: Send, consumer: Consumer, queue: str
) -> None:
    send(b"m")
    assert len(consumer.reserve(5)) == 1
    assert consumer.reserve(5) == []
    assert broker.consumer(broker.open(), [queue]).reserve(5) == []


@pytest.mark.needs("clean_returns")
def test_no_two_deliveries_ever_have_the_same_tag(send: Send, consumer: Consumer) -> None:
    send(b"a", b"b")
    tags: set[bytes] = set()
    for _ in range(20):
        deliveries = consumer.reserve(2)
        tags.update(delivery.tag for delivery in deliveries)
        consumer.give_back([delivery.tag for delivery in deliveries])
    assert len(tags) == 40


def test_an_empty_queue_answers_at_once_without_a_timeout(consumer: Consumer) -> None:
    assert consumer.reserve(10) == []  # which connects
    started_mono_s = time.monotonic()
    assert consumer.reserve(10) == []
    assert time.monotonic() - started_mono_s < 1.0


def test_a_timeout_is_waited_for_and_no_longer(consumer: Consumer) -> None:
    assert consumer.reserve(10) == []  # which connects
    started_mono_s = time.monotonic()
    assert consumer.reserve(10, timeout_s=0.15) == []
    assert 0.14 <= time.monotonic() - started_mono_s < 2.0


def test_a_message_ends_the_wait(broker: Broker, consumer: Consumer, queue: str) -> None:
    sender = broker.open()
    waiting = Background(lambda: consumer.reserve(10, timeout_s=10.0))
    sender.send([Outgoing(queue, b"m")])
    assert documents(waiting.result(5.0)) == [b"m"]


def test_a_message_given_back_ends_the_wait_of_another(
    broker: Broker, send: Send, take: Take, consumer: Consumer, queue: str
) -> None:
    send(b"m")
    tag = take().tag
    waiting = Background(lambda: broker.consumer(broker.open(), [queue]).reserve(1, timeout_s=10.0))
    assert consumer.give_back([tag]) == 1
    assert documents(waiting.result(5.0)) == [b"m"]


def test_the_first_message_ends_the_wait_and_no_full_batch_is_waited_for(
    send: Send, consumer: Consumer
) -> None:
    send(b"m")
    started_mono_s = time.monotonic()
    assert len(consumer.reserve(64, timeout_s=10.0)) == 1
    assert time.monotonic() - started_mono_s < 5.0


@pytest.mark.needs("quick")
def test_consumers_that_race_share_the_messages_without_loss_or_double(broker: Broker, queue: str) -> None:
    total, senders, takers = 600, 3, 3
    end_mono_s = time.monotonic() + 30.0
    start = threading.Barrier(senders + takers)
    sent_all = threading.Event()

    def sending(offset: int) -> None:
        transport = broker.open()
        start.wait()
        for i in range(offset, total, senders):
            transport.send([Outgoing(queue, b"%d" % i, priority=i % 10)])

    received: list[bytes] = []

    def taking() -> None:
        consumer = broker.consumer(broker.open(), [queue])
        start.wait()
        while True:
            # What was sent is on its way to one of them, perhaps to one that has just found nothing.
            finished = sent_all.is_set() and (len(received) >= total or time.monotonic() > end_mono_s)
            batch = consumer.reserve(7, timeout_s=0.02)
            assert all(consumer.settle([Outcome(delivery.tag) for delivery in batch]))
            received.extend(documents(batch))
            if finished and not batch:
                return

    sending_now = [Background(lambda offset=offset: sending(offset)) for offset in range(senders)]
    taking_now = [Background(taking) for _ in range(takers)]
    for one in sending_now:
        one.result(30.0)
    sent_all.set()
    for one in taking_now:
        one.result(30.0)
    assert sorted(received, key=int) == [b"%d" % i for i in range(total)]
