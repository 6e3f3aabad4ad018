"""Consuming from a real RabbitMQ: suspects, counts of crashes, limits of deliveries, deleted queues."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Sequence

import amqp
import pytest

from prefork.transports.amqp import AmqpTransport, Refused
from prefork.transports.amqp.documents import VANISHED
from prefork.transports.base import (
    REASON_CRASHES,
    Consumer,
    Delivery,
    Entombs,
    Message,
    Outcome,
    Outgoing,
    QueueDeclaration,
    Remembers,
    Verdict,
    Wakeable,
)
from prefork.transports.envelope import encode
from prefork.transports.errors import BrokerUnavailable, OwnerLost, TransportError
from support.calibration import Waits
from support.rabbitmq_server import RabbitMQ
from support.waiting import Background, eventually, readable

from .conftest import Open


def documents(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [one.document for one in deliveries]


def in_killed_process(
    transport: AmqpTransport, queue: str, owner: str, *, start: bool, count: int = 1
) -> None:
    """Reserve in a process of its own, perhaps record the start, and be killed."""
    pid = os.fork()
    if pid == 0:
        try:
            consumer = transport.consumer([queue], owner, "w")
            held = consumer.reserve(count, timeout_s=5.0)
            if start:
                consumer.mark_started(held[0].tag)
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)


def take(consumer: Consumer) -> Delivery:
    (delivery,) = eventually(lambda: consumer.reserve(1, timeout_s=2.0))
    return delivery


def test_it_has_the_shape_of_its_ports(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    assert (
        isinstance(consumer, Consumer) and isinstance(consumer, Wakeable) and isinstance(consumer, Remembers)
    )
    assert isinstance(transport, Entombs)


def test_an_idle_consumer_is_woken_by_the_message_itself(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    consumer = transport.consumer([queue, f"{queue}.2"], f"{queue}.o", "w")
    assert consumer.fileno() == -1
    assert consumer.reserve(1) == []
    assert not readable(consumer.fileno(), 0.05)
    transport.send([Outgoing(f"{queue}.2", b"m")])
    assert readable(consumer.fileno(), 5.0)
    assert documents(consumer.reserve(1)) == [b"m"]


def test_nothing_is_held_that_was_not_asked_for(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    names = [queue, f"{queue}.2", f"{queue}.3"]
    busy = transport.consumer(names, f"{queue}.busy", "w")
    assert busy.reserve(1) == []
    for name in names:
        transport.send([Outgoing(name, b"%d" % i) for i in range(3)])
    (first,) = busy.reserve(1, timeout_s=5.0)
    assert busy.settle([Outcome(first.tag)]) == [True]  # and now it runs something long
    free = open_amqp().consumer(names, f"{queue}.free", "w")
    rest: list[Delivery] = []
    eventually(lambda: rest.extend(free.reserve(20, timeout_s=0.5)) or len(rest) == 8)


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_what_a_killed_process_held_comes_back_as_a_suspect_after_a_rest(
    open_amqp: Open, queue: str, queue_type: str
) -> None:
    described = QueueDeclaration(queue, arguments={"x-queue-type": queue_type})
    transport = open_amqp(declarations={queue: described}, redelivery_pause=0.2)
    transport.send([Outgoing(queue, b"%d" % i) for i in range(3)])
    in_killed_process(transport, queue, f"{queue}.dead", start=False, count=3)
    transport.send([Outgoing(queue, b"innocent")])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    received: list[Delivery] = []
    while len(received) < 4:
        batch = consumer.reserve(10, timeout_s=5.0)
        assert len(batch) == 1 or not any(one.suspect for one in batch), "a suspect in company"
        received += batch
        assert all(consumer.settle([Outcome(one.tag) for one in batch]))
    assert {one.document: (one.suspect, one.crashes) for one in received} == {
        b"0": (True, 0),
        b"1": (True, 0),
        b"2": (True, 0),
        b"innocent": (False, 0),
    }


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
@pytest.mark.parametrize("by_agent", [True, False])
def test_starts_are_counted_across_processes_and_the_last_one_is_a_dead_letter(
    open_amqp: Open, queue: str, queue_type: str, by_agent: bool
) -> None:
    described = QueueDeclaration(queue, arguments={"x-queue-type": queue_type})
    # An agent comes before it is over, wherever the machine stands still; without one it is waited for.
    held_ttl = 30.0 if by_agent else 0.3
    transport = open_amqp(declarations={queue: described}, redelivery_pause=0.05, held_ttl=held_ttl)
    transport.send([Outgoing(queue, b"poison", priority=3)])
    in_killed_process(transport, queue, f"{queue}.0", start=False)
    for death in range(1, 4):
        in_killed_process(transport, queue, f"{queue}.{death}", start=True)
        if by_agent:
            recovery = eventually(
                lambda death=death: next(
                    (
                        one
                        for one in [
                            transport.recover(f"{queue}.{death}", cause=f"signal {death}", max_crashes=3)
                        ]
                        if one.crashed or one.dead
                    ),
                    None,
                )
            )
            if death < 3:
                assert recovery.crashed == (b"poison",)
            else:
                (letter,) = recovery.dead
                assert (letter.document, letter.crashes, letter.queue) == (b"poison", 3, queue)
    if by_agent:
        (stored,) = transport.dead_letters()
        assert (stored.reason, stored.causes) == (REASON_CRASHES, ("signal 1", "signal 2", "signal 3"))
        assert (stored.crashes, stored.document) == (3, b"poison")
        assert transport.dead_replay(stored.key)
    last = take(transport.consumer([queue], f"{queue}.last", "w"))
    assert (last.document, last.crashes, last.suspect) == (
        (b"poison", 0, False) if by_agent else (b"poison", 3, True)
    )
    assert last.causes == (() if by_agent else (VANISHED,) * 3)


@pytest.mark.parametrize("told", [(), (1,), (2,), (3,), (1, 3)])
def test_a_dead_letter_has_a_cause_for_each_death_whether_or_not_anybody_was_left_to_tell(
    open_amqp: Open, queue: str, told: tuple[int, ...]
) -> None:
    transport = open_amqp(redelivery_pause=0.05, held_ttl=0.3)
    # Whoever tells comes before it is over, wherever the machine stands still.
    patient = open_amqp(redelivery_pause=0.05, held_ttl=30.0)
    transport.send([Outgoing(queue, b"poison")])
    in_killed_process(transport, queue, f"{queue}.0", start=False)
    for death in range(1, 4):
        in_killed_process(patient if death in told else transport, queue, f"{queue}.{death}", start=True)
        if death in told:
            eventually(
                lambda death=death: transport.recover(f"{queue}.{death}", cause="told", max_crashes=9).crashed
            )
    consumer = transport.consumer([queue], f"{queue}.last", "w")
    last = take(consumer)
    assert consumer.settle([Outcome(last.tag, Verdict.DEAD, reason=REASON_CRASHES)]) == [True]
    (letter,) = transport.dead_letters()
    assert letter.causes == last.causes == tuple("told" if n in told else VANISHED for n in range(1, 4))


def test_a_start_that_was_no_crash_after_all_is_not_charged(open_amqp: Open, queue: str) -> None:
    transport = open_amqp(redelivery_pause=0.05)
    transport.send([Outgoing(queue, b"m")])
    in_killed_process(transport, queue, f"{queue}.0", start=False)
    in_killed_process(transport, queue, f"{queue}.1", start=True)
    eventually(lambda: transport.recover(f"{queue}.1").returned == 1)
    consumer = transport.consumer([queue], f"{queue}.2", "w")
    for how in ("give back", "requeue", "defer", "crash"):
        held = take(consumer)
        assert (held.crashes, held.suspect) == (0, True)
        assert consumer.mark_started(held.tag) and consumer.mark_started(held.tag)
        assert consumer.fetch(held.tag) == held
        if how == "give back":
            assert consumer.give_back([held.tag]) == 1
        else:
            verdict = Verdict.DEFER if how == "defer" else Verdict.REQUEUE
            outcome = Outcome(held.tag, verdict, due_wall_s=1.0, crashed=how == "crash", causes=("boom",))
            assert consumer.settle([outcome]) == [True]
    held = take(consumer)
    assert held.crashes == 1
    assert consumer.settle([Outcome(held.tag, Verdict.DEAD, reason="r", causes=("end",))]) == [True]
    assert [one.causes for one in transport.dead_letters()] == [("boom", "end")]


def test_a_delivery_limit_is_never_reached_by_giving_back(open_amqp: Open, queue: str) -> None:
    described = QueueDeclaration(queue, arguments={"x-queue-type": "quorum", "x-delivery-limit": 3})
    transport = open_amqp(declarations={queue: described})
    transport.send([Outgoing(queue, b"%d" % i) for i in range(3)])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    for _ in range(100):
        held = consumer.reserve(3)
        assert consumer.give_back([one.tag for one in held]) == len(held) > 0
    received: list[bytes] = []
    eventually(lambda: received.extend(documents(consumer.reserve(3, timeout_s=0.2))) or len(received) == 3)
    assert sorted(received) == [b"0", b"1", b"2"]


def test_word_about_a_message_reaches_whoever_gets_it_next(open_amqp: Open, queue: str) -> None:
    transport = open_amqp(redelivery_pause=0.3)
    message = Message(b"[[], {}, {}]", "application/json", "utf-8", {"task": "t", "id": queue}, {})
    transport.send([Outgoing(queue, encode(message))])
    in_killed_process(transport, queue, f"{queue}.0", start=False)
    transport.entomb(queue, b"word")
    consumer = transport.consumer([queue], f"{queue}.1", "w")
    held = take(consumer)
    assert consumer.obituary(held.tag) == b"word"
    assert consumer.obituary(held.tag) == b"word", "whoever dies after reading it leaves it to the next"
    assert consumer.obituary(b"unknown") is None
    assert consumer.settle([Outcome(held.tag)]) == [True]
    transport.send([Outgoing(queue, b"no id")])
    assert consumer.obituary(take(consumer).tag) is None


def test_an_owner_may_have_a_longer_name_than_a_queue(open_amqp: Open, queue: str) -> None:
    transport = open_amqp(redelivery_pause=0.05)
    transport.send([Outgoing(queue, b"m")])
    in_killed_process(transport, queue, f"{queue}.0", start=False)
    consumer = transport.consumer([queue], f"{queue}." + "é" * 200, "w")
    held = take(consumer)
    assert consumer.mark_started(held.tag) is True
    assert consumer.settle([Outcome(held.tag)]) == [True]


def test_nobody_acts_for_the_owner_of_another_process(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    transport.send([Outgoing(queue, b"m")])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    held = take(consumer)
    agent = open_amqp().attach(consumer.owner)
    assert agent.owner == consumer.owner
    assert (agent.settle([Outcome(held.tag)]), agent.give_back([held.tag])) == ([False], 0)
    assert (agent.mark_started(held.tag), agent.fetch(held.tag)) == (False, None)
    with pytest.raises(OwnerLost):
        agent.reserve(1)
    agent.close()
    assert consumer.settle([Outcome(held.tag)]) == [True]


@pytest.mark.parametrize("listening", [True, False])
def test_a_queue_deleted_under_a_consumer_is_declared_again(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str, listening: bool
) -> None:
    transport = open_amqp()
    consumer = transport.consumer([queue, f"{queue}.2"], f"{queue}.o", "w")
    transport.send([Outgoing(f"{queue}.2", b"other")])
    first = take(consumer)
    if listening:
        assert consumer.reserve(1) == []
    connection = amqp.Connection(f"127.0.0.1:{rabbitmq.port}")
    connection.connect()
    connection.channel().queue_delete(queue)
    connection.close()
    assert consumer.settle([Outcome(first.tag)]) == [True]

    def comes() -> list[Delivery]:
        try:
            return consumer.reserve(1, timeout_s=0.2)
        except BrokerUnavailable:
            return []

    comes()
    open_amqp().send([Outgoing(queue, b"m")])
    assert documents(eventually(comes)) == [b"m"]


def test_a_connection_that_is_cut_gives_everything_to_the_next_one(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp(redelivery_pause=0.05)
    transport.send([Outgoing(queue, b"m")])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    held = take(consumer)
    rabbitmq.control("close_all_connections", "a test")
    eventually(lambda: consumer.settle([Outcome(held.tag, follow_ups=(Outgoing(queue, b"no"),))]) == [False])
    again = eventually(lambda: _patiently(consumer))
    assert (again[0].document, again[0].suspect) == (b"m", True)


def _patiently(consumer: Consumer) -> list[Delivery]:
    try:
        return consumer.reserve(1, timeout_s=0.5)
    except TransportError:
        return []


def test_consuming_goes_on_when_the_broker_is_back(open_amqp: Open, rabbitmq: RabbitMQ, queue: str) -> None:
    transport = open_amqp(redelivery_pause=0.05, publish_deadline=1.0)
    transport.send([Outgoing(queue, b"before")])
    consumer = transport.consumer([queue], f"{queue}.o", "w")
    assert consumer.settle([Outcome(take(consumer).tag)]) == [True]
    rabbitmq.control("stop_app")
    with pytest.raises(BrokerUnavailable):
        for _ in range(50):
            consumer.reserve(1, timeout_s=0.1)
    rabbitmq.control("start_app")
    back_mono_s, waits = time.monotonic(), Waits()
    eventually(lambda: _sent(transport, queue), deadline_s=15.0)
    assert eventually(lambda: _patiently(consumer))[0].document == b"after"
    assert time.monotonic() - back_mono_s < 5.0, waits.so_far_s


def _sent(transport: AmqpTransport, queue: str) -> bool:
    try:
        transport.send([Outgoing(queue, b"after")])
    except TransportError:
        return False
    return True


def test_a_message_held_beyond_the_timeout_of_the_broker_is_lost_to_its_holder_alone(
    open_amqp: Open, rabbitmq: RabbitMQ, queue: str
) -> None:
    transport = open_amqp(redelivery_pause=0.05)
    rabbitmq.control("eval", "application:set_env(rabbit, channel_tick_interval, 1000).")
    rabbitmq.control("eval", "application:set_env(rabbit, consumer_timeout, 1000).")
    try:
        message = Message(b"[[], {}, {}]", "application/json", "utf-8", {"task": "t", "id": queue}, {})
        transport.send([Outgoing(queue, encode(message))])
        slow = transport.consumer([queue], f"{queue}.slow", "w")
        for chance in ("first", "second"):
            held = eventually(lambda: _patiently(slow))[0]
            if chance == "second":
                assert held.suspect and slow.mark_started(held.tag)
            assert readable(slow.fileno()), "it was not told that its time is over"
            # RabbitMQ gives it to nobody else before this one has heard that it is not its own any more.
            other = transport.consumer([queue], f"{queue}.{chance}", "w")
            assert other.reserve(1, timeout_s=0.2) == []
            other.close()
            assert slow.settle([Outcome(held.tag)]) == [False]
        again = eventually(lambda: _patiently(slow))[0]
        assert b"consumer_timeout" in (slow.obituary(again.tag) or b"")
        assert slow.settle([Outcome(again.tag)]) == [True]
    finally:
        rabbitmq.control("eval", "application:set_env(rabbit, consumer_timeout, 1800000).")
        rabbitmq.control("eval", "application:set_env(rabbit, channel_tick_interval, 60000).")


def test_a_look_into_a_quorum_queue_is_refused_because_it_would_count(open_amqp: Open, queue: str) -> None:
    described = QueueDeclaration(queue, arguments={"x-queue-type": "quorum"})
    transport = open_amqp(declarations={queue: described})
    transport.send([Outgoing(queue, b"m")])
    with pytest.raises(Refused):
        transport.peek(queue)


def test_a_waiting_consumer_closes_while_others_wait(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    consumers = [transport.consumer([queue], f"{queue}.{i}", "w") for i in range(3)]
    waiting = [Background(lambda one=one: one.reserve(1, timeout_s=3.0)) for one in consumers]
    select.select([], [], [], 0.1)
    transport.send([Outgoing(queue, b"%d" % i) for i in range(3)])
    assert sorted(documents([d for one in waiting for d in one.result(10)])) == [b"0", b"1", b"2"]
    transport.unregister("w")
    for consumer in consumers:
        with pytest.raises(OwnerLost):
            consumer.reserve(1)
    assert transport.depth(queue).ready == 3
