"""Conformance: `Transport.watch`. It may fire without cause, and never stays silent with one."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import pytest

from prefork.transports.base import Consumer, Delivery, Outcome, Outgoing, Transport, Verdict, Watch
from support.waiting import Background, eventually, readable

from .conftest import Broker

Send = Callable[..., None]
Take = Callable[..., Delivery]

# A transport may keep times rounded up to this, never down.
GRAIN_S = 0.01


@pytest.fixture
def watch(transport: Transport, queue: str) -> Watch:
    watch = transport.watch([queue])
    watch.drain()
    return watch


def test_a_watch_and_a_consumer_have_the_shape_of_their_ports(watch: Watch, consumer: Consumer) -> None:
    assert isinstance(watch, Watch)
    assert isinstance(consumer, Consumer)


def test_a_send_fires_the_watch(watch: Watch, send: Send) -> None:
    send(b"m")
    assert readable(watch.fileno())


def test_a_send_through_another_handle_fires_the_watch(broker: Broker, watch: Watch, queue: str) -> None:
    broker.open().send([Outgoing(queue, b"m")])
    assert readable(watch.fileno())


def test_a_drained_watch_is_silent_until_the_next_message(watch: Watch, send: Send) -> None:
    send(b"m")
    assert readable(watch.fileno())
    watch.drain()
    eventually(lambda: not readable(watch.fileno(), 0.0) or watch.drain())
    send(b"n")
    assert readable(watch.fileno())


def test_draining_a_silent_watch_does_not_block(watch: Watch) -> None:
    for _ in range(3):
        watch.drain()


def test_messages_given_back_fire_the_watch(watch: Watch, send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m")
    tag = take().tag
    watch.drain()
    consumer.give_back([tag])
    assert readable(watch.fileno())


def test_a_requeue_fires_the_watch(watch: Watch, send: Send, take: Take, consumer: Consumer) -> None:
    send(b"m")
    tag = take().tag
    watch.drain()
    consumer.settle([Outcome(tag, verdict=Verdict.REQUEUE)])
    assert readable(watch.fileno())


def test_a_follow_up_fires_the_watch(broker: Broker, transport: Transport, watch: Watch, queue: str) -> None:
    elsewhere = broker.unique("elsewhere")
    transport.send([Outgoing(elsewhere, b"m")])
    consumer = broker.consumer(transport, [elsewhere])
    (held,) = consumer.reserve(1)
    watch.drain()
    consumer.settle([Outcome(held.tag, follow_ups=(Outgoing(queue, b"next"),))])
    assert readable(watch.fileno())


def test_a_recovery_fires_the_watch(
    broker: Broker, transport: Transport, watch: Watch, send: Send, queue: str
) -> None:
    send(b"m")
    dead = broker.consumer(transport, [queue])
    dead.reserve(1)
    watch.drain()
    transport.recover(dead.owner)
    assert readable(watch.fileno())


@pytest.mark.needs("schedule")
def test_a_promotion_fires_the_watch(watch: Watch, send: Send, transport: Transport, queue: str) -> None:
    due_wall_s = time.time() + 2.0  # it is sent before, wherever the machine stands still
    send(b"m", due_wall_s=due_wall_s)
    eventually(lambda: time.time() > due_wall_s + GRAIN_S)
    watch.drain()
    transport.promote()
    assert readable(watch.fileno())
    if transport.capabilities.inspects_schedule:
        assert transport.depth(queue).ready == 1
    # Else the broker promotes by itself: no call of ours is followed by it, and its watch fires regularly.
    eventually(lambda: transport.depth(queue).ready == 1)


@pytest.mark.needs("dead_letters")
def test_a_replay_fires_the_watch(
    watch: Watch, send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"m")
    consumer.settle([Outcome(take().tag, Verdict.DEAD, reason="test")])
    (letter,) = [one for one in transport.dead_letters(10_000) if one.queue == queue]
    watch.drain()
    assert transport.dead_replay(letter.key) is True
    assert readable(watch.fileno())


def test_a_watch_covers_all_its_queues_even_those_that_do_not_exist_yet(
    broker: Broker, transport: Transport
) -> None:
    names = [broker.unique(f"new{i}") for i in range(4)]
    watch = transport.watch(names)
    for name in names:
        watch.drain()
        transport.send([Outgoing(name, b"m")])
        assert readable(watch.fileno())


def test_several_watches_all_fire(broker: Broker, queue: str, send: Send) -> None:
    watches = [broker.open().watch([queue]) for _ in range(5)]
    for watch in watches:
        watch.drain()
    send(b"m")
    for watch in watches:
        assert readable(watch.fileno())


def test_a_closed_watch_disturbs_nobody(transport: Transport, watch: Watch, queue: str, send: Send) -> None:
    other = transport.watch([queue])
    other.drain()
    watch.close()
    watch.close()
    send(b"m")
    assert readable(other.fileno())


def test_closing_the_transport_twice_is_harmless_and_takes_its_watches(broker: Broker, queue: str) -> None:
    transport = broker.open()
    transport.watch([queue])
    transport.close()
    transport.close()
    survivor = broker.open()
    survivor.send([Outgoing(queue, b"m")])
    assert survivor.depth(queue).ready == 1


def test_a_watch_never_stays_silent_while_others_send(broker: Broker, queue: str) -> None:
    total, senders = 400, 4
    transport = broker.open()
    watch = transport.watch([queue])
    consumer = broker.consumer(transport, [queue])
    start = threading.Barrier(senders)

    def sending() -> None:
        sender = broker.open()
        start.wait()
        for i in range(total // senders):
            sender.send([Outgoing(queue, b"m", priority=i % 10)])

    running = [Background(sending) for _ in range(senders)]
    received = 0
    while received < total:
        assert readable(watch.fileno()), f"silent after {received} of {total} messages"
        watch.drain()
        while batch := consumer.reserve(16):
            received += len(batch)
            consumer.settle([Outcome(one.tag) for one in batch])
    for one in running:
        one.result()
    assert received == total
