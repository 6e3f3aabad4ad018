"""Reserving from one queue alone, on a real RabbitMQ: the lanes of limited tasks."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence

import amqp
import pytest

from prefork.transports.amqp import AmqpTransport
from prefork.transports.base import Delivery, Outcome, Outgoing, Selects, Verdict
from prefork.transports.errors import BrokerUnavailable, OwnerLost
from support.waiting import eventually, readable

from .conftest import Open


def documents(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [one.document for one in deliveries]


def test_only_messages_of_that_queue_come_in_order_and_settle_like_all_others(
    open_amqp: Open, queue: str
) -> None:
    transport, lane = open_amqp(), f"{queue}.lane"
    transport.send([Outgoing(lane, b"%d" % number) for number in range(5)] + [Outgoing(queue, b"other")])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    assert isinstance(consumer, Selects)
    taken = consumer.reserve_from(lane, 3)
    assert documents(taken) == [b"0", b"1", b"2"]
    assert {one.queue for one in taken} == {lane}
    assert consumer.settle([Outcome(taken[0].tag), Outcome(taken[1].tag)]) == [True, True]
    assert consumer.give_back([taken[2].tag]) == 1
    assert documents(consumer.reserve_from(lane, 10)) == [b"3", b"4", b"2"]


def test_a_queue_that_does_not_exist_is_empty_and_stays_away(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    assert consumer.reserve_from(f"{queue}.lane", 1) == []
    assert f"{queue}.lane" not in transport.queues()
    with pytest.raises(amqp.exceptions.NotFound):
        transport._publisher.ask(lambda channel: channel.queue_declare(f"{queue}.lane", passive=True))
    transport.send([Outgoing(f"{queue}.lane", b"m")])
    assert documents(consumer.reserve_from(f"{queue}.lane", 1)) == [b"m"]


def test_what_was_pushed_while_it_idled_returns_to_its_own_queue(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    assert consumer.reserve(1) == []
    transport.send([Outgoing(f"{queue}.lane", b"lane"), Outgoing(queue, b"main")])
    assert readable(consumer.fileno(), 5.0)
    (delivery,) = consumer.reserve_from(f"{queue}.lane", 5)
    assert delivery.document == b"lane"
    assert transport.depth(queue).ready == 1
    consumer.settle([Outcome(delivery.tag)])
    assert documents(consumer.reserve(1, timeout_s=5.0)) == [b"main"]


def test_what_a_dead_process_took_from_it_comes_back_to_it_as_a_suspect(open_amqp: Open, queue: str) -> None:
    transport, lane = open_amqp(redelivery_pause=0.1), f"{queue}.lane"
    transport.send([Outgoing(lane, b"m")])
    pid = os.fork()
    if pid == 0:
        try:
            transport.consumer([queue], f"{queue}.dead", "w").reserve_from(lane, 1)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    (delivery,) = eventually(lambda: consumer.reserve_from(lane, 2))
    assert (delivery.document, delivery.queue, delivery.suspect) == (b"m", lane, True)
    assert consumer.mark_started(delivery.tag)
    assert consumer.settle([Outcome(delivery.tag, Verdict.ACK)]) == [True]
    assert transport.depth(lane).ready == 0


def test_a_queue_deleted_since_the_last_look_is_an_outage_that_the_next_look_mends(
    open_amqp: Open, queue: str
) -> None:
    transport, lane = open_amqp(), f"{queue}.lane"
    transport.send([Outgoing(lane, b"m")])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    (delivery,) = consumer.reserve_from(lane, 1)
    consumer.settle([Outcome(delivery.tag)])
    transport._publisher.ask(lambda channel: channel.queue_delete(lane))
    with pytest.raises(BrokerUnavailable, match="NOT_FOUND"):
        consumer.reserve_from(lane, 1)
    assert consumer.reserve_from(lane, 1) == []


def test_nothing_is_asked_for_when_nothing_is_wanted_or_the_consumer_is_closed(
    open_amqp: Open, queue: str
) -> None:
    transport: AmqpTransport = open_amqp()
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    assert consumer.reserve_from(queue, 0) == []
    assert consumer.fileno() == -1
    consumer.close()
    with pytest.raises(OwnerLost):
        consumer.reserve_from(queue, 1)
