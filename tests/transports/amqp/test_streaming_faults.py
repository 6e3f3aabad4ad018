"""Messages that are pushed while queues, connections and processes are lost: none is lost with them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import amqp
import pytest

from prefork.transports.amqp.consumer import AmqpConsumer
from prefork.transports.amqp.parcels import Parcel
from prefork.transports.base import Outcome
from prefork.transports.errors import BrokerUnavailable, TransportError
from support.amqp_streams import ASKED, all_of, consumer_of, fill, number_of, ready, run, streaming
from support.rabbitmq_server import RabbitMQ
from support.waiting import eventually, readable

from .conftest import Open


def test_a_queue_that_is_deleted_ends_it_and_is_there_again(
    open_amqp: Open, queue: str, rabbitmq: RabbitMQ
) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    streaming(consumer)
    consumer.reserve(ASKED, timeout_s=5.0)
    with amqp.Connection(host=f"127.0.0.1:{rabbitmq.port}") as connection:
        connection.channel().queue_delete(queue)

    def declared() -> bool:
        try:
            while consumer.reserve(ASKED, timeout_s=0.1):
                pass  # what had been pushed before
            fill(transport, queue, 1, first=7000)
        except TransportError:
            return False
        return True

    eventually(declared)
    got = eventually(lambda: consumer.reserve(1, timeout_s=1.0))
    assert number_of(got[0]) == 7000


def test_a_killed_process_loses_nothing_that_was_pushed(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 4 * ASKED)
    told, tell = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            consumer = consumer_of(transport, queue)
            ran = streaming(consumer)
            consumer.reserve(ASKED, timeout_s=5.0)
            consumer.flush()
            os.write(tell, b"%d" % len(ran))
        finally:
            os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    left = 4 * ASKED - int(os.read(told, 20))
    os.close(told)
    os.close(tell)
    # What was held comes again, each one alone: it may be what killed the process
    consumer = consumer_of(transport, queue)
    seen: set[int] = set()
    end_mono_s = time.monotonic() + 60
    while len(seen) < left and time.monotonic() < end_mono_s:
        for delivery in consumer.reserve(ASKED, timeout_s=1.0):
            if consumer.mark_started(delivery.tag) if delivery.suspect else True:
                assert consumer.settle([Outcome(delivery.tag)]) == [True]
                seen.add(number_of(delivery))
    assert len(seen) == left


def fail_once(consumer: AmqpConsumer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the other connection, on which messages are sent anew, be lost at the next attempt."""

    def publish(parcels: Sequence[Parcel]) -> None:
        monkeypatch.undo()
        raise BrokerUnavailable("lost while publishing")

    monkeypatch.setattr(consumer._publisher, "publish", publish)


def test_what_cannot_be_returned_now_is_returned_later_and_never_acknowledged(
    open_amqp: Open, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = set(streaming(consumer))
    last = consumer.reserve(ASKED, timeout_s=5.0)
    ran |= set(run(consumer, last[:-1]))
    # Given that something was pushed beside the one that is still held
    eventually(lambda: ready(transport, queue) < 6 * ASKED - len(ran) - 1)
    fail_once(consumer, monkeypatch)
    with pytest.raises(BrokerUnavailable, match="lost while publishing"):
        consumer.give_back([])
    assert consumer.streaming, "something is still here that nobody was handed"
    assert consumer.give_back([]) == 0
    assert not consumer.streaming
    ran |= set(run(consumer, last[-1:]))
    others = 6 * ASKED - len(ran)
    assert eventually(lambda: ready(transport, queue) == others)
    assert ran | all_of(consumer, others) == set(range(6 * ASKED))


def test_a_batch_whose_rest_cannot_be_returned_is_not_lost(
    open_amqp: Open, queue: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = set(streaming(consumer))
    eventually(lambda: ready(transport, queue) <= 6 * ASKED - len(ran) - ASKED // 2)
    fail_once(consumer, monkeypatch)
    with pytest.raises(BrokerUnavailable, match="lost while publishing"):
        consumer.reserve(1, timeout_s=5.0)
    assert ran | all_of(consumer, 6 * ASKED - len(ran)) == set(range(6 * ASKED))


@pytest.mark.parametrize("asks", ["reserve", "give_back", "close"])
def test_what_comes_back_from_a_lost_process_keeps_its_mark(open_amqp: Open, queue: str, asks: str) -> None:
    transport = open_amqp(redelivery_pause=0.2)
    fill(transport, queue, 8 * ASKED)
    dying = open_amqp().consumer([queue], f"{queue}.dying", "w")
    assert isinstance(dying, AmqpConsumer)
    held = {number_of(one) for one in dying.reserve(40, timeout_s=5.0)}
    consumer = consumer_of(transport, queue)
    seen = len(held) + len(streaming(consumer))
    # Given a process that vanishes while messages are pushed here
    dying._intake.link.drop()
    if asks == "give_back":
        consumer.give_back([])
    elif asks == "close":
        consumer.close()
        consumer = transport.consumer([queue], f"{queue}.3", "w")  # type: ignore[assignment]
    clean: set[int] = set()
    suspects: set[int] = set()

    def step() -> bool:
        for delivery in consumer.reserve(ASKED, timeout_s=0.2):
            (suspects if delivery.suspect else clean).add(number_of(delivery))
            if not delivery.suspect or consumer.mark_started(delivery.tag):
                assert consumer.settle([Outcome(delivery.tag)]) == [True]
        return len(clean | suspects) >= 8 * ASKED - (seen - len(held))

    eventually(step, deadline_s=60.0)
    assert held <= suspects, "what may have killed a process ran like any other"


def test_an_idle_consumer_holds_one_message_after_its_queue_was_deleted_under_a_stream(
    open_amqp: Open, queue: str, rabbitmq: RabbitMQ
) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    streaming(consumer)
    with amqp.Connection(host=f"127.0.0.1:{rabbitmq.port}") as connection:
        connection.channel().queue_delete(queue)

    def idles() -> bool:
        try:
            return not consumer.reserve(ASKED)
        except TransportError:
            return False

    eventually(idles)
    assert not consumer.streaming
    fill(transport, queue, 10, first=7000)
    assert readable(consumer.fileno(), 5.0)
    assert eventually(lambda: ready(transport, queue) == 9)
    assert run(consumer, consumer.reserve(1, timeout_s=5.0)) == [7000]
