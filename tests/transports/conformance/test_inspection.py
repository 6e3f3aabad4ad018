"""Conformance: `queues`, `depth`, `ready`, `peek`, `purge`, dead letters, `maintain`, `capabilities`."""

from __future__ import annotations

import time
from collections.abc import Callable

import pytest

from prefork.transports.base import (
    Consumer,
    DeadLetter,
    Delivery,
    Depth,
    Outcome,
    Outgoing,
    Rotates,
    Selects,
    Transport,
    Verdict,
)
from prefork.transports.coordination import Coordinates
from support.implementations import Implementation

from .conftest import Broker

Send = Callable[..., None]
Take = Callable[..., Delivery]


def test_the_capabilities_are_those_that_the_suite_was_told(
    transport: Transport, implementation: Implementation
) -> None:
    capabilities = transport.capabilities
    flags = [name for name in capabilities.__struct_fields__ if isinstance(getattr(capabilities, name), bool)]
    assert {name for name in flags if not getattr(capabilities, name)} == implementation.gaps
    assert capabilities.name == implementation.name


def test_what_a_transport_says_of_its_ports_is_so(broker: Broker, transport: Transport) -> None:
    able = transport.capabilities
    consumer = broker.consumer(transport, [broker.unique("q")])
    assert able.coordinates == isinstance(transport, Coordinates)
    assert able.selects == isinstance(consumer, Selects)
    assert able.rotates == isinstance(consumer, Rotates)
    consumer.close()


@pytest.mark.needs("lists_queues", "long_names")
def test_a_queue_exists_from_its_first_message_on(broker: Broker, transport: Transport) -> None:
    names = [broker.unique(name) for name in ("plain", "../up", "ünï/cödé", "y" * 280)]
    assert not set(names) & set(transport.queues())
    transport.send([Outgoing(name, b"m") for name in names])
    listed = broker.open().queues()
    assert set(names) <= set(listed)
    assert len(listed) == len(set(listed))


def test_the_depth_counts_where_messages_are(send: Send, consumer: Consumer, transport: Transport) -> None:
    queue_depth = transport.depth
    send(*(b"%d" % i for i in range(7)))
    (first, *_rest) = held = consumer.reserve(3)
    assert queue_depth(first.queue) == Depth(ready=4, delayed=0, in_work=3)
    consumer.settle([Outcome(held[0].tag)])
    consumer.give_back([held[1].tag])
    assert queue_depth(first.queue) == Depth(ready=5, delayed=0, in_work=1)


@pytest.mark.needs("schedule", "inspects_schedule")
def test_the_depth_counts_delayed_messages_apart(send: Send, transport: Transport, queue: str) -> None:
    send(b"now")
    send(b"later", b"later still", due_wall_s=time.time() + 3600)
    assert transport.depth(queue) == Depth(ready=1, delayed=2, in_work=0)


def test_a_queue_that_does_not_exist_is_empty_and_is_not_made(broker: Broker, transport: Transport) -> None:
    missing = broker.unique("missing")
    assert transport.depth(missing) == Depth(ready=0, delayed=0, in_work=0)
    assert transport.ready([missing]) == 0
    assert transport.ready([]) == 0
    assert transport.peek(missing) == []
    assert transport.purge(missing) == 0
    assert missing not in transport.queues()


def test_the_estimate_of_ready_messages_is_never_nothing_while_something_is(
    broker: Broker, transport: Transport
) -> None:
    names = [broker.unique(f"q{i}") for i in range(3)]
    consumer = broker.consumer(transport, names)
    assert transport.ready(names) == 0
    transport.send([Outgoing(names[1], b"m")])
    assert transport.ready(names) >= 1
    assert broker.open().ready([names[1]]) >= 1
    (held,) = consumer.reserve(1)
    consumer.give_back([held.tag])
    assert transport.ready(names) >= 1
    (held,) = consumer.reserve(1)
    transport.recover(consumer.owner)
    assert transport.ready(names) >= 1


@pytest.mark.needs("inspection", "highest_priority_first", "strict_priorities")
def test_peeking_shows_the_next_messages_and_takes_none(
    send: Send, transport: Transport, consumer: Consumer, queue: str
) -> None:
    send(b"low1", b"low2")
    send(b"high", priority=9)
    seen = transport.peek(queue)
    assert [(one.document, one.priority) for one in seen] == [(b"high", 9), (b"low1", 0), (b"low2", 0)]
    assert {(one.queue, one.due_wall_s, one.crashes) for one in seen} == {(queue, None, 0)}
    assert [one.document for one in transport.peek(queue, 2)] == [b"high", b"low1"]
    assert transport.peek(queue, 0) == []
    assert transport.depth(queue).ready == 3
    assert len(consumer.reserve(3)) + len(consumer.reserve(3)) == 3
    assert transport.peek(queue) == []


@pytest.mark.needs("inspection")
def test_peeking_shows_the_crash_record(
    send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"m")
    consumer.settle([Outcome(take().tag, verdict=Verdict.REQUEUE, crashed=True)])
    assert [one.crashes for one in transport.peek(queue)] == [1]


@pytest.mark.needs("inspection", "schedule", "inspects_schedule")
def test_peeking_into_the_schedule_shows_the_times(send: Send, transport: Transport, queue: str) -> None:
    due_wall_s = time.time() + 7200.0
    send(b"later", priority=2, due_wall_s=due_wall_s)
    send(b"sooner", due_wall_s=due_wall_s - 3600.0)
    send(b"now")
    seen = transport.peek(queue, delayed=True)
    assert [(one.document, one.priority) for one in seen] == [(b"sooner", 0), (b"later", 2)]
    assert seen[1].due_wall_s == pytest.approx(due_wall_s, abs=0.01)
    assert [one.document for one in transport.peek(queue, 1, delayed=True)] == [b"sooner"]
    assert [one.document for one in transport.peek(queue)] == [b"now"]


def test_purging_leaves_alone_what_is_in_work(send: Send, consumer: Consumer, transport: Transport) -> None:
    send(*(b"%d" % i for i in range(6)))
    held = consumer.reserve(2)
    queue = held[0].queue
    assert transport.purge(queue) == 4
    assert transport.purge(queue) == 0
    assert transport.depth(queue) == Depth(ready=0, delayed=0, in_work=2)
    assert consumer.settle([Outcome(one.tag) for one in held]) == [True, True]


def test_purging_spares_other_queues(broker: Broker, transport: Transport) -> None:
    names = [broker.unique("high"), broker.unique("orders.high"), broker.unique("hig")]
    transport.send([Outgoing(name, b"m") for name in names])
    assert transport.purge(names[0]) == 1
    assert [transport.depth(name).ready for name in names] == [0, 1, 1]


@pytest.mark.needs("schedule", "inspects_schedule")
def test_purging_drops_delayed_messages(send: Send, transport: Transport, queue: str) -> None:
    send(b"now", priority=9)
    send(b"later", due_wall_s=time.time() + 3600)
    assert transport.purge(queue) == 2
    assert transport.depth(queue) == Depth(ready=0, delayed=0, in_work=0)


def test_a_purged_queue_can_be_used_again(
    send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
) -> None:
    send(b"old")
    transport.purge(queue)
    send(b"new")
    assert take().document == b"new"
    assert consumer.reserve(1) == []


class TestDeadLetters:
    """Every test of this class needs the capability ``dead_letters``."""

    pytestmark = pytest.mark.needs("dead_letters")

    @pytest.fixture
    def kill(
        self, send: Send, take: Take, consumer: Consumer, transport: Transport
    ) -> Callable[..., DeadLetter]:
        """Send a document, let it die, and return its letter."""

        def _kill(document: bytes, reason: str = "unknown-task", causes: tuple[str, ...] = ()) -> DeadLetter:
            send(document, priority=4)
            outcome = Outcome(take().tag, Verdict.DEAD, reason=reason, causes=causes)
            assert consumer.settle([outcome]) == [True]
            return [one for one in transport.dead_letters(10_000) if one.document == document][-1]

        return _kill

    def test_a_letter_says_what_died_and_why(
        self, kill: Callable[..., DeadLetter], transport: Transport, queue: str
    ) -> None:
        before_wall_s = time.time()
        letter = kill(b"\xff raw \x00 bytes", "unknown-task", ("no task 'a.b'", "asked again after 300 s: é"))
        assert (letter.document, letter.reason) == (b"\xff raw \x00 bytes", "unknown-task")
        assert letter.causes == ("no task 'a.b'", "asked again after 300 s: é")
        assert (letter.queue, letter.priority, letter.crashes) == (queue, 4, 0)
        assert before_wall_s - 1.0 <= letter.died_wall_s <= time.time() + 1.0
        assert transport.dead_get(letter.key) == letter
        assert transport.depth(queue) == Depth(ready=0, delayed=0, in_work=0)

    def test_letters_come_oldest_first_and_no_more_than_asked_for(
        self, kill: Callable[..., DeadLetter], transport: Transport, queue: str
    ) -> None:
        for i in range(5):
            kill(b"%d" % i)
        mine = [one.document for one in transport.dead_letters(10_000) if one.queue == queue]
        assert mine == [b"%d" % i for i in range(5)]
        assert len(list(transport.dead_letters(limit=2))) == 2
        assert list(transport.dead_letters(limit=0)) == []

    def test_letters_have_keys_of_their_own(
        self, kill: Callable[..., DeadLetter], transport: Transport, queue: str
    ) -> None:
        for _ in range(4):
            kill(b"same")
        keys = [one.key for one in transport.dead_letters(10_000) if one.queue == queue]
        assert len(set(keys)) == 4

    def test_letters_are_seen_by_every_handle(self, kill: Callable[..., DeadLetter], broker: Broker) -> None:
        letter = kill(b"m")
        assert broker.open().dead_get(letter.key) == letter

    def test_a_replayed_letter_comes_again_with_a_clean_record(
        self, send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
    ) -> None:
        send(b"m", priority=8)
        for _ in range(2):
            consumer.settle([Outcome(take().tag, Verdict.REQUEUE, crashed=True)])
        consumer.settle([Outcome(take().tag, Verdict.DEAD, reason="test")])
        (letter,) = [one for one in transport.dead_letters(10_000) if one.queue == queue]
        assert letter.crashes == 2
        assert transport.dead_replay(letter.key) is True
        again = take()
        assert (again.document, again.queue, again.priority) == (b"m", queue, 8)
        assert (again.crashes, again.suspect) == (0, False)
        assert transport.dead_get(letter.key) is None
        assert transport.dead_replay(letter.key) is False

    def test_a_replayed_message_that_dies_again_has_only_its_new_causes(
        self,
        kill: Callable[..., DeadLetter],
        take: Take,
        consumer: Consumer,
        transport: Transport,
        queue: str,
    ) -> None:
        assert transport.dead_replay(kill(b"m", causes=("old",)).key) is True
        consumer.settle([Outcome(take().tag, Verdict.DEAD, reason="again", causes=("new",))])
        (letter,) = [one for one in transport.dead_letters(10_000) if one.queue == queue]
        assert (letter.reason, letter.causes) == ("again", ("new",))

    def test_a_dropped_letter_is_gone(self, kill: Callable[..., DeadLetter], transport: Transport) -> None:
        letter = kill(b"m")
        assert transport.dead_drop(letter.key) is True
        assert transport.dead_drop(letter.key) is False
        assert transport.dead_get(letter.key) is None
        assert transport.dead_replay(letter.key) is False

    @pytest.mark.parametrize(
        "key", ["", "no-such-key", "../../etc/passwd", "/etc/passwd", "\0", "x" * 5000, "é"]
    )
    def test_a_key_that_never_was_names_nothing(self, transport: Transport, key: str) -> None:
        assert transport.dead_get(key) is None
        assert transport.dead_replay(key) is False
        assert transport.dead_drop(key) is False

    def test_a_false_leaves_no_letter(
        self, send: Send, take: Take, consumer: Consumer, transport: Transport, queue: str
    ) -> None:
        send(b"m")
        tag = take().tag
        consumer.give_back([tag])
        assert consumer.settle([Outcome(tag, Verdict.DEAD, reason="late")]) == [False]
        assert [one for one in transport.dead_letters(10_000) if one.queue == queue] == []


def test_housekeeping_of_a_healthy_broker_has_nothing_to_say(
    send: Send, take: Take, consumer: Consumer, transport: Transport
) -> None:
    send(b"a", b"b")
    held = take()
    for _ in range(3):
        assert transport.maintain() == []
    assert consumer.settle([Outcome(held.tag)]) == [True]
    assert take().document == b"b"
