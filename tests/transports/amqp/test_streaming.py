"""Messages that are pushed while others run: never more than asked for, and none is lost or left behind."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence

import amqp
import pytest

from prefork.transports.amqp import AmqpTransport
from prefork.transports.amqp.consumer import AmqpConsumer
from prefork.transports.amqp.parcels import Parcel
from prefork.transports.amqp.stream import READ_AHEAD_MIN, Stream
from prefork.transports.base import Delivery, Outcome, Outgoing, QueueDeclaration, Streams
from prefork.transports.errors import BrokerUnavailable, TransportError
from support.rabbitmq_server import RabbitMQ
from support.waiting import eventually, readable

from .conftest import Open

ASKED = READ_AHEAD_MIN


def fill(transport: AmqpTransport, queue: str, count: int, first: int = 0) -> None:
    transport.send([Outgoing(queue, b"%d" % number) for number in range(first, first + count)])


def consumer_of(transport: AmqpTransport, queue: str, *others: str) -> AmqpConsumer:
    consumer = transport.consumer([queue, *others], f"{queue}.o", "w")
    assert isinstance(consumer, AmqpConsumer)
    assert isinstance(consumer, Streams)
    consumer.allow_streaming()
    return consumer


def number_of(delivery: Delivery) -> int:
    return int(delivery.document)


def run(consumer: AmqpConsumer, deliveries: list[Delivery]) -> list[int]:
    assert all(consumer.settle([Outcome(one.tag) for one in deliveries]))
    return [number_of(one) for one in deliveries]


def streaming(consumer: AmqpConsumer) -> list[int]:
    """Take batches until messages are pushed, and settle them; their numbers."""
    ran: list[int] = []
    for _ in range(3):
        ran += run(consumer, consumer.reserve(ASKED, timeout_s=5.0))
        if consumer.streaming:
            return ran
    raise AssertionError("nothing is pushed")


def all_of(consumer: AmqpConsumer, count: int) -> set[int]:
    """Run all there is, one way or the other, until so many have come."""
    seen: set[int] = set()

    def step() -> bool:
        for delivery in consumer.reserve(ASKED, timeout_s=0.2):
            if not delivery.suspect or consumer.mark_started(delivery.tag):
                assert consumer.settle([Outcome(delivery.tag)]) == [True]
                seen.add(number_of(delivery))
        return len(seen) >= count

    eventually(step, deadline_s=30.0)
    return seen


def ready(transport: AmqpTransport, queue: str) -> int:
    return transport.depth(queue).ready


def test_whoever_takes_full_batches_has_the_next_one_pushed_in_order(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 10 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    while len(ran) < 10 * ASKED:
        ran += run(consumer, consumer.reserve(ASKED, timeout_s=5.0))
    assert ran == list(range(10 * ASKED))


def test_never_more_is_held_than_was_asked_for(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 10 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = len(streaming(consumer))
    for _ in range(4):
        batch = consumer.reserve(ASKED, timeout_s=5.0)
        # What is held, read or not, is what the queue does not have any more.
        assert ready(transport, queue) >= 10 * ASKED - ran - ASKED
        ran += len(run(consumer, batch))
    assert consumer.streaming


def test_nothing_is_pushed_to_who_did_not_allow_it_or_has_several_queues(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 8 * ASKED)
    plain = transport.consumer([queue], f"{queue}.p", "w")
    assert isinstance(plain, AmqpConsumer)
    several = consumer_of(transport, queue, f"{queue}.2")
    for consumer in (plain, several):
        for _ in range(3):
            run(consumer, consumer.reserve(ASKED, timeout_s=5.0))
            assert not consumer.streaming


def test_nothing_is_pushed_for_a_small_read_ahead(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    for _ in range(4):
        run(consumer, consumer.reserve(READ_AHEAD_MIN - 1, timeout_s=5.0))
        assert not consumer.streaming


def test_giving_back_nothing_returns_what_nobody_was_handed(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    last = consumer.reserve(ASKED, timeout_s=5.0)
    # Given a task that takes long and is the last of its batch
    run(consumer, last[:-1])
    consumer.give_back([])
    assert not consumer.streaming
    others = 6 * ASKED - len(ran) - len(last)
    eventually(lambda: ready(transport, queue) == others)
    # Then others get them at once, and none bears the mark of a lost process
    other = transport.consumer([queue], f"{queue}.2", "w")
    got = other.reserve(others, timeout_s=5.0)
    assert len(got) == others and not any(one.redelivered or one.suspect for one in got)
    assert consumer.settle([Outcome(last[-1].tag)]) == [True]


def test_what_is_given_back_is_returned_with_what_was_pushed(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    last = consumer.reserve(ASKED, timeout_s=5.0)
    assert consumer.give_back([one.tag for one in last[1:]]) == len(last) - 1
    eventually(lambda: ready(transport, queue) == 6 * ASKED - len(ran) - 1)
    assert consumer.settle([Outcome(one.tag) for one in last]) == [True] + [False] * (len(last) - 1)


def test_what_is_handed_out_is_not_acknowledged_with_what_is_returned(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    eventually(lambda: ready(transport, queue) < 6 * ASKED - len(ran) - 1)
    (one,) = consumer.reserve(1, timeout_s=5.0)
    assert transport.depth(queue).in_work >= 1
    # Given a process that vanishes with the one that it was handed
    consumer.flush()
    consumer._intake.link.drop()
    other = consumer_of(open_amqp(redelivery_pause=0.05), f"{queue}")
    left = 6 * ASKED - len(ran)
    assert number_of(one) in all_of(other, left)


def test_a_smaller_read_ahead_ends_it(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    (one,) = consumer.reserve(1, timeout_s=5.0)
    assert not consumer.streaming
    eventually(lambda: ready(transport, queue) == 6 * ASKED - len(ran) - 1)
    run(consumer, [one])


def test_a_queue_that_is_empty_ends_it_and_the_next_message_still_wakes(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 3 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    while batch := consumer.reserve(ASKED):
        ran += run(consumer, batch)
    assert len(ran) == 3 * ASKED
    assert not consumer.streaming
    fill(transport, queue, 3, first=1000)
    assert run(consumer, consumer.reserve(1, timeout_s=5.0)) == [1000]
    # An idle consumer holds one message at most
    assert ready(transport, queue) == 2


def test_closing_returns_what_was_pushed_without_a_mark(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    fill(transport, queue, 6 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    held = consumer.reserve(ASKED, timeout_s=5.0)
    consumer.close()
    others = 6 * ASKED - len(ran)
    eventually(lambda: ready(transport, queue) == others)
    got = transport.consumer([queue], f"{queue}.2", "w").reserve(others, timeout_s=5.0)
    assert len(got) == others > len(held)
    assert not any(one.redelivered for one in got)


def test_another_queue_can_be_asked_in_between(open_amqp: Open, queue: str) -> None:
    transport = open_amqp()
    lane = f"{queue}.lane"
    fill(transport, queue, 6 * ASKED)
    fill(transport, lane, 2, first=5000)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    assert run(consumer, consumer.reserve_from(lane, 2)) == [5000, 5001]
    assert not consumer.streaming
    eventually(lambda: ready(transport, queue) == 6 * ASKED - len(ran))


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


class Nothing:
    """A wire on which nothing comes."""

    def __init__(self) -> None:
        self.written: list[bytes] = []
        self.waited_s: list[float] = []

    def write(self, data: bytes, timeout_s: float) -> None:
        self.written.append(data)

    def pump(self, timeout_s: float) -> bool:
        self.waited_s.append(timeout_s)
        return False


class Begun:
    """A stream of 100 messages, and what it has asked of the broker."""

    def __init__(self) -> None:
        self.counts: list[int] = []
        self.cancelled: list[str] = []
        self.wire = Nothing()
        self.stream = Stream(self.counts.append, lambda wire, tags, s: self.cancelled.extend(tags))
        self.stream.allowed = self.stream.plenty = True
        self.stream.begin(self.wire, 1, "q", 100)  # type: ignore[arg-type]

    def flow(self, max_n: int, has_come: bool) -> bool:
        """Whether it goes on."""
        self.stream.flow(self.wire, max_n, lambda: has_come)  # type: ignore[arg-type]
        return self.stream.prefetch > 0


def test_it_begins_when_batches_are_full_and_do_not_grow_any_more() -> None:
    stream = Stream([].append, lambda wire, tags, s: None)
    assert not stream.fits(READ_AHEAD_MIN) and not stream.fits(READ_AHEAD_MIN)
    stream = Stream([].append, lambda wire, tags, s: None)
    stream.allowed = stream.plenty = True
    assert [stream.fits(max_n) for max_n in (64, 128, 255, 255)] == [False, False, True, True]
    assert [stream.fits(max_n) for max_n in (READ_AHEAD_MIN - 1, READ_AHEAD_MIN - 1)] == [False, False]
    stream.prefetch = 100
    assert not stream.fits(READ_AHEAD_MIN), "it has begun"


def test_one_slow_run_does_not_end_it_and_several_do() -> None:
    begun = Begun()
    assert [begun.flow(max_n, True) for max_n in (74, 74, 75, 74, 74)] == [True] * 5
    assert not begun.flow(74, True)
    assert begun.cancelled == ["s0"]


def test_a_task_that_is_not_short_ends_it_at_once() -> None:
    begun = Begun()
    assert not begun.flow(11, True)


def test_a_pause_ends_it() -> None:
    begun = Begun()
    assert begun.flow(100, True)
    assert begun.wire.waited_s == [0]
    assert not begun.flow(100, False)
    assert max(begun.wire.waited_s) > 0
    begun.stream.end(begun.wire)  # type: ignore[arg-type]
    assert begun.cancelled == ["s0"], "what has ended is not ended again"


def test_a_stream_that_is_lost_with_its_channel_is_forgotten() -> None:
    begun = Begun()
    begun.stream.forget()
    assert (begun.stream.prefetch, begun.stream.fits(100), begun.cancelled) == (0, False, [])


@pytest.mark.parametrize("queue_type", ["classic", "quorum"])
def test_both_types_of_queue_are_emptied(open_amqp: Open, queue: str, queue_type: str) -> None:
    described = QueueDeclaration(queue, arguments={"x-queue-type": queue_type})
    transport = open_amqp(declarations={queue: described})
    fill(transport, queue, 5 * ASKED)
    consumer = consumer_of(transport, queue)
    ran = streaming(consumer)
    while len(ran) < 5 * ASKED:
        batch = eventually(lambda: consumer.reserve(ASKED, timeout_s=1.0))
        ran += run(consumer, batch)
    assert sorted(ran) == list(range(5 * ASKED))
