"""Conformance: random histories of one broker, compared step by step with a tiny model.

The model knows where each message must be, and how much of the order a transport promises: a message
that was only sent, given back or recovered unstarted keeps its place among its like; one that was
requeued, charged, delayed or suspected may stand anywhere in its priority. In lists that workers of
other makes share, what returns is next in line, and so may stand before what is older.

Which of those comes first is up to the broker, and may differ when a history is tried again. So nothing that
is drawn depends on what came: every rule applies at any time, and numbers choose among what there is.
Hypothesis would call the test flaky otherwise.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from prefork.transports.base import Consumer, Delivery, Depth, Outcome, Outgoing, Transport, Verdict
from support.implementations import Implementation

from .conftest import Broker

QUEUES = ("high", "orders.high")
OWNERS = 2
CRASH_LIMIT = 2
FAR_WALL_S = 4_000_000_000.0
PAST_WALL_S = 1_000_000_000.0
HELD_MAX = 12

numbers = st.integers(0, OWNERS - 1)

pytestmark = [
    pytest.mark.slow,
    pytest.mark.needs("schedule", "dead_letters", "leases", "recall_by_others", "inspection"),
]


@dataclass
class Expected:
    """What must be known of one message. `holder` is an owner, or a place: ready, delayed, dead, gone."""

    document: bytes
    queue: str
    priority: int
    order: int
    in_order: bool = True
    crashes: int = 0
    suspect: bool = False
    started: bool = False
    holder: str = "ready"
    tag: bytes = b""
    old_tags: list[bytes] = field(default_factory=list)


class BrokerMachine(RuleBasedStateMachine):
    """Several owners on two queues; each step is checked against the expectation."""

    def __init__(self, open_broker: Callable[[], Broker]) -> None:
        super().__init__()
        self._broker = open_broker()
        self._transport: Transport = self._broker.open()
        capabilities = self._transport.capabilities
        self._best = max if capabilities.highest_priority_first else min
        self._places_are_kept = not capabilities.shares_queues
        self._names = [self._broker.unique(name) for name in QUEUES]
        self._messages: dict[bytes, Expected] = {}
        self._count = 0
        self._generation = 0
        self._consumers: list[Consumer] = []
        self._opened: list[Consumer] = []  # the dead among them

    @initialize()
    def open_consumers(self) -> None:
        for index in range(OWNERS):
            self._consumers.append(self._open_consumer(index))

    def teardown(self) -> None:
        # Hypothesis remembers many machines: what is left to the garbage collector stays open for long.
        for consumer in self._opened:
            consumer.close()
        self._broker.close()

    def _open_consumer(self, index: int) -> Consumer:
        self._generation += 1
        owner = self._broker.unique(f"owner{self._generation}")
        consumer = self._transport.consumer(self._names, owner, self._worker(index))
        self._opened.append(consumer)
        return consumer

    def _worker(self, index: int) -> str:
        return self._broker.unique(f"worker{index}")

    def _new(self, queue: str, priority: int, holder: str, *, in_order: bool) -> Expected:
        self._count += 1
        document = b"%d" % self._count
        message = Expected(document, queue, priority, self._count, in_order, holder=holder)
        self._messages[document] = message
        return message

    def _at(self, holder: str) -> list[Expected]:
        return [one for one in self._messages.values() if one.holder == holder]

    def _holding(self) -> list[int]:
        return [index for index, one in enumerate(self._consumers) if self._at(one.owner)]

    def _holder(self, number: int) -> int | None:
        """One of those that hold something; None when nobody does, and then somebody tries to take some."""
        holding = self._holding()
        if not holding:
            self._reserve(number % OWNERS, 4)
            return None
        return holding[number % len(holding)]

    def _release(self, message: Expected, holder: str) -> None:
        message.old_tags.append(message.tag)
        message.holder, message.started = holder, False
        message.in_order = message.in_order and self._places_are_kept

    @rule(
        queue=st.sampled_from([0, 1]),
        priorities=st.lists(st.sampled_from([0, 0, 0, 4, 9]), min_size=2, max_size=6),
        delay=st.sampled_from([None, None, None, PAST_WALL_S, FAR_WALL_S]),
    )
    def send(self, queue: int, priorities: list[int], delay: float | None) -> None:
        name = self._names[queue]
        holder = "delayed" if delay == FAR_WALL_S else "ready"
        new = [self._new(name, priority, holder, in_order=delay is None) for priority in priorities]
        self._transport.send([Outgoing(name, one.document, one.priority, delay) for one in new])

    @rule(index=st.integers(0, OWNERS - 1), max_n=st.sampled_from([2, 1, 4, 6]))
    def reserve(self, index: int, max_n: int) -> None:
        self._reserve(index, max_n)

    def _reserve(self, index: int, max_n: int) -> None:
        consumer = self._consumers[index]
        deliveries = consumer.reserve(max_n)
        assert len(deliveries) <= max_n
        assert deliveries or not self._at("ready"), "something was ready and nothing came"
        assert len(deliveries) == 1 or not any(one.suspect for one in deliveries), "a suspect in company"
        for delivery in deliveries:
            self._check_taken(delivery)
            message = self._messages[delivery.document]
            message.holder, message.tag = consumer.owner, delivery.tag

    def _check_taken(self, delivery: Delivery) -> None:
        message = self._messages[delivery.document]
        ready = self._at("ready")
        assert message in ready, f"{message} was handed out"
        assert (delivery.queue, delivery.priority) == (message.queue, message.priority)
        assert (delivery.crashes, delivery.suspect) == (message.crashes, message.suspect)
        assert delivery.tag not in message.old_tags
        best = self._best(one.priority for one in ready)
        assert message.priority == best, "a better priority was passed over"
        like = [one for one in ready if one.queue == message.queue and one.priority == message.priority]
        if message.in_order:
            assert message.order == min(one.order for one in like if one.in_order), (
                "an older one was passed over"
            )

    @rule(
        verdict=st.sampled_from([*Verdict, Verdict.ACK]),
        due=st.sampled_from([PAST_WALL_S, FAR_WALL_S]),
        crashed=st.booleans(),
        follow_up=st.booleans(),
        by_agent=st.booleans(),
        number=numbers,
        picks=st.lists(st.integers(0, HELD_MAX - 1), min_size=1, max_size=3, unique=True),
    )
    def settle(
        self,
        verdict: Verdict,
        due: float,
        crashed: bool,
        follow_up: bool,
        by_agent: bool,
        number: int,
        picks: list[int],
    ) -> None:
        index = self._holder(number)
        if index is None:
            return
        owner = self._consumers[index].owner
        held = self._at(owner)
        chosen = [held[at] for at in dict.fromkeys(pick % len(held) for pick in picks)]
        outcomes = []
        for message in chosen:
            new = [self._new(message.queue, 4, "ready", in_order=False)] if follow_up else []
            follow_ups = tuple(Outgoing(one.queue, one.document, one.priority) for one in new)
            outcomes.append(
                Outcome(
                    message.tag,
                    verdict,
                    due_wall_s=due if verdict is Verdict.DEFER else None,
                    reason="model" if verdict is Verdict.DEAD else "",
                    follow_ups=follow_ups,
                    crashed=crashed and verdict is Verdict.REQUEUE,
                )
            )
            self._apply(message, verdict, due, crashed)
        for other in [one for one in self._consumers if one.owner != owner]:
            assert other.settle(outcomes) == [False] * len(outcomes)
        by = self._transport.attach(owner) if by_agent else self._consumers[index]
        assert by.settle(outcomes) == [True] * len(outcomes)
        assert self._consumers[index].settle(outcomes) == [False] * len(outcomes)

    def _apply(self, message: Expected, verdict: Verdict, due: float, crashed: bool) -> None:
        message.in_order = False
        if verdict is Verdict.REQUEUE:
            message.crashes += crashed
            self._release(message, "ready")
        elif verdict is Verdict.DEFER:
            self._release(message, "delayed" if due == FAR_WALL_S else "ready")
        else:
            self._release(message, "gone" if verdict is Verdict.ACK else "dead")

    @rule(by_agent=st.booleans(), number=numbers, picks=st.sets(st.integers(0, HELD_MAX - 1)))
    def give_back(self, by_agent: bool, number: int, picks: set[int]) -> None:
        index = self._holder(number)
        if index is None:
            return
        consumer = self._consumers[index]
        held = self._at(consumer.owner)
        chosen = [one for at, one in enumerate(held) if at % HELD_MAX in picks]
        by = self._transport.attach(consumer.owner) if by_agent else consumer
        assert by.give_back([one.tag for one in chosen]) == len(chosen)
        for message in chosen:
            self._release(message, "ready")

    @rule(index=st.integers(0, OWNERS - 1))
    def mark_started(self, index: int) -> None:
        for message in self._at(self._consumers[index].owner):
            if message.suspect:
                assert self._consumers[index].mark_started(message.tag) is True
                message.started = True

    @rule(charged=st.booleans(), number=numbers, pick=st.integers(0, HELD_MAX - 1))
    def owner_dies(self, charged: bool, number: int, pick: int) -> None:
        index = self._holder(number)
        if index is None:
            return
        dead = self._consumers[index]
        held = self._at(dead.owner)
        running = held[pick % len(held)] if charged else None
        recovery = self._transport.recover(
            dead.owner,
            running=running.tag if running else None,
            cause="signal 9" if running else "",
            max_crashes=CRASH_LIMIT,
        )
        for message in held:
            self._release(message, "ready")
        if running is not None:
            self._charge(running)
        assert recovery.returned == sum(one.holder == "ready" for one in held)
        assert [one.document for one in recovery.dead] == [m.document for m in held if m.holder == "dead"]
        assert dead.settle([Outcome(one.tag) for one in held]) == [False] * len(held)
        self._consumers[index] = self._open_consumer(index)

    @rule(number=numbers)
    def worker_lapses(self, number: int) -> None:
        index = self._holder(number)
        if index is None:
            return
        held = self._at(self._consumers[index].owner)
        self._transport.heartbeat(self._worker(index), 0.001)
        time.sleep(0.002)
        recovery = self._transport.recover_lapsed(max_crashes=CRASH_LIMIT)
        for message in held:
            started = message.started
            self._release(message, "ready")
            message.suspect, message.in_order = True, False
            if started:
                self._charge(message)
        assert recovery.returned == sum(one.holder == "ready" for one in held)
        self._transport.heartbeat(self._worker(index), 600.0)
        self._consumers[index] = self._open_consumer(index)

    def _charge(self, message: Expected) -> None:
        message.crashes += 1
        message.in_order = False
        if message.crashes >= CRASH_LIMIT:
            message.holder = "dead"

    @rule(queue=st.sampled_from([0, 1]))
    def purge(self, queue: int) -> None:
        if len(self._at("ready")) <= 6:
            return  # histories would be empty ones for the most part
        name = self._names[queue]
        dropped = [one for one in self._at("ready") + self._at("delayed") if one.queue == name]
        assert self._transport.purge(name) == len(dropped)
        for message in dropped:
            message.holder = "gone"

    @rule(replay=st.booleans())
    def end_a_dead_letter(self, replay: bool) -> None:
        for letter in self._transport.dead_letters(1):
            message = self._messages[letter.document]
            assert (message.holder, letter.crashes) == ("dead", message.crashes)
            if not replay:
                assert self._transport.dead_drop(letter.key) is True
                message.holder = "gone"
                return
            assert self._transport.dead_replay(letter.key) is True
            message.holder, message.crashes, message.suspect = "ready", 0, False

    @rule(index=st.integers(0, OWNERS - 1))
    def an_old_tag_does_nothing(self, index: int) -> None:
        consumer = self._consumers[index]
        for tag in [tag for one in self._messages.values() for tag in one.old_tags[-2:]]:
            assert consumer.settle([Outcome(tag)]) == [False]
            assert consumer.give_back([tag]) == 0
            assert consumer.fetch(tag) is None

    @invariant()
    def every_message_is_where_it_must_be(self) -> None:
        # A message that was due in the past may wait for its promotion: both counts are one here.
        self._transport.promote()
        for name in self._names:
            mine = [one for one in self._messages.values() if one.queue == name]
            ready = sum(one.holder == "ready" for one in mine)
            delayed = sum(one.holder == "delayed" for one in mine)
            in_work = sum(one.holder not in ("ready", "delayed", "dead", "gone") for one in mine)
            assert self._transport.depth(name) == Depth(ready=ready, delayed=delayed, in_work=in_work)
            assert self._transport.ready([name]) >= min(ready, 1)
        letters = {one.document for one in self._transport.dead_letters(10_000) if one.queue in self._names}
        assert letters == {one.document for one in self._at("dead")}


@pytest.mark.timeout(400)  # a failure is made small first
def test_random_histories_agree_with_the_model(implementation: Implementation, tmp_path: Path) -> None:
    def open_broker() -> Broker:
        return Broker(implementation, Path(tempfile.mkdtemp(dir=tmp_path)))

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        lambda: BrokerMachine(open_broker),
        settings=settings(
            max_examples=300,
            stateful_step_count=50,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
