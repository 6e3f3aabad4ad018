"""Random histories of senders and workers with a clock that the test turns.

While nothing takes longer than its lock lasts, there is never more than one task of a key on its way; and
whatever is killed where, the next call is sent again after the time of a lock at the latest.
"""

from __future__ import annotations

import itertools
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prefork.engine import App, Unique
from prefork.engine.message import parse
from prefork.engine.unique_claims import SENDING_S
from prefork.engine.unique_locks import UniqueLocks, mark_of_message
from prefork.transports.base import Delivery, Outcome, StoredResult, Verdict
from prefork.transports.memory import MemoryResults, MemoryTransport

TTL_S = 100.0
_names = itertools.count()
keys = st.sampled_from([1, 2])


class Killed(BaseException):
    """The client was killed where this is raised."""


class Broker(MemoryTransport):
    """A broker whose clock is turned, and whose clients may be killed just before they send."""

    def __init__(self, name: str) -> None:
        self.now_s = 1_000_000.0
        self.kills = self.dead = False
        super().__init__(name, wall=lambda: self.now_s, mono=lambda: self.now_s)

    def send(self, messages: Any) -> None:
        if self.kills:
            self.dead = True
            raise Killed
        super().send(messages)

    def unlock(self, name: str, value: str) -> bool:
        # Who is dead frees nothing.
        return False if self.dead else super().unlock(name, value)


class UniqueMachine(RuleBasedStateMachine):
    """One app, one queue, two keys."""

    def __init__(self) -> None:
        super().__init__()
        name = f"model-{next(_names)}"
        self.app = App(
            "model", broker=f"memory://{name}", result_backend=f"memory://{name}", set_as_current=False
        )
        self.broker = Broker(name)
        self.app.client.adopt(self.broker, MemoryResults(name))
        self.task = self.app.task(name="t", unique=Unique(ttl_s=TTL_S))(lambda key: None)
        self.consumer = self.broker.consumer(["celery"], "owner", "worker")
        self.broker.heartbeat("worker", 1e9)
        self.locks = UniqueLocks(self.broker)
        # Tasks on their way, by key; whose lock it is, and until when; what has its result.
        self.live: dict[int, list[str]] = {1: [], 2: []}
        self.lock: dict[int, tuple[str, float]] = {}
        self.ended: set[str] = set()
        self.held: list[tuple[int, Delivery]] = []
        self.overdue = {1: False, 2: False}

    def teardown(self) -> None:
        self.app.close()

    def _owner(self, key: int) -> str | None:
        """Whose lock keeps the next one from being sent: that of a task on its way, or of a dead client."""
        owner, end_s = self.lock.get(key, ("", 0.0))
        return owner if end_s > self.broker.now_s and owner not in self.ended else None

    def _take(self, key: int, task_id: str, lasts_s: float = TTL_S) -> None:
        """Whoever runs, or will run again, has the lock, unless its time was over and another has it now."""
        owner, end_s = self.lock.get(key, ("", 0.0))
        if end_s <= self.broker.now_s or owner == task_id:
            self.lock[key] = (task_id, self.broker.now_s + lasts_s)

    @rule(key=keys)
    def send(self, key: int) -> None:
        owner = self._owner(key)
        result = self.task.delay(key)
        if owner is not None:
            assert result.id == owner, "a second one was sent while a lock lasted"
            return
        assert result.id not in self.ended, "the result of a task that is over was returned"
        self.overdue[key] = bool(self.live[key])
        self.live[key].append(result.id)
        self.lock[key] = (result.id, self.broker.now_s + TTL_S)

    @rule(key=keys)
    def a_client_is_killed_before_it_sends(self, key: int) -> None:
        free = self._owner(key) is None
        self.broker.kills = True
        try:
            self.task.delay(key)
        except Killed:
            assert free
            ghost = self.app.client.unique.holder("t", (key,))
            assert ghost is not None
            self.lock[key] = (ghost, self.broker.now_s + SENDING_S)
        else:
            assert not free
        finally:
            self.broker.kills = self.broker.dead = False

    @rule()
    def reserve(self) -> None:
        for delivery in self.consumer.reserve(1):
            message = parse(delivery.document, self.app.client.table)
            mark = mark_of_message(message)
            assert mark is not None
            assert self.locks.start(mark, message, None) is None
            key = next(key for key, ids in self.live.items() if message.id in ids)
            self.held.append((key, delivery))
            self._take(key, message.id)

    @precondition(lambda self: self.held)
    @rule(how=st.sampled_from(["end", "end and die", "retry", "die"]), index=st.integers(0, 5))
    def execution_ends(self, how: str, index: int) -> None:
        key, delivery = self.held.pop(index % len(self.held))
        message = parse(delivery.document, self.app.client.table)
        mark = mark_of_message(message)
        assert mark is not None
        if how == "die":
            assert self.consumer.give_back([delivery.tag]) == 1
            return
        if how == "retry":
            assert self.consumer.settle([Outcome(delivery.tag, Verdict.REQUEUE)]) == [True]
            self.locks.wait(mark, message, 10.0)
            self._take(key, message.id, TTL_S + 10.0)
            return
        document = b'{"status": "SUCCESS", "result": null, "task_id": "%s"}' % message.id.encode()
        assert self.consumer.settle([Outcome(delivery.tag, results=(StoredResult(message.id, document),))])
        if how == "end":
            self.locks.free(mark, message.id)
            assert self.app.client.unique.holder("t", (key,)) != message.id
            if self.lock.get(key, ("", 0.0))[0] == message.id:
                del self.lock[key]  # and one whose own time was over, and that goes on, may have it again
        self.live[key].remove(message.id)
        self.ended.add(message.id)

    @rule(step_s=st.sampled_from([1.0, SENDING_S, TTL_S]))
    def time_passes(self, step_s: float) -> None:
        self.broker.now_s += step_s

    @invariant()
    def one_of_a_key_is_on_its_way_unless_a_lock_was_over(self) -> None:
        for key, ids in self.live.items():
            assert len(ids) <= 1 or self.overdue[key]
            depth = self.broker.depth("celery")
            assert depth.ready + depth.in_work == sum(map(len, self.live.values())), "sent, or not sent"


def test_random_histories_never_send_two_and_never_stop_sending() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        UniqueMachine,
        settings=settings(
            max_examples=150,
            stateful_step_count=40,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
