"""Messages that are pushed while others run: never more than asked for, and none is left behind."""

from __future__ import annotations

import pytest

from prefork.transports.amqp.consumer import AmqpConsumer
from prefork.transports.amqp.stream import READ_AHEAD_MIN
from prefork.transports.base import Outcome, QueueDeclaration
from support.amqp_streams import ASKED, all_of, consumer_of, fill, number_of, ready, run, streaming
from support.waiting import eventually

from .conftest import Open


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
