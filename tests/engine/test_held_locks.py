"""Locks of running tasks: what a child shows, what is read of it, and when whoever reads it prolongs."""

from __future__ import annotations

import itertools
import logging
from collections.abc import Iterable

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from prefork.engine import held_locks
from prefork.engine.held_locks import MAIN, STARTED, KeptLocks, ShownLocks, held_in, is_due, living
from prefork.engine.scoreboard import (
    LOCK_CELLS,
    LOCKS_OFFSET,
    S_HIGH_SLOT,
    S_PID,
    Scoreboard,
    Slot,
)
from prefork.engine.unique import DONE, TIME, Mark, replaced_lock, started_lock
from prefork.engine.unique import STARTED as UNTIL_STARTED
from prefork.engine.unique_locks import (
    MARGIN_S,
    RUNNING_S,
    UniqueLocks,
    held_while_running,
    keeping,
    lasts_s,
    names_of,
)
from prefork.transports.errors import BrokerUnavailable
from prefork.transports.memory import MemoryTransport

log = logging.getLogger("tests")
_names = itertools.count()
DIGEST = "ab" * 20


@pytest.fixture
def slot() -> Slot:
    return Scoreboard().slot(3)


def test_what_is_shown_is_read_until_it_is_hidden(slot: Slot) -> None:
    shown = ShownLocks(slot)
    assert shown.show("one", DIGEST, 7.5, MAIN)
    assert shown.show("two ü", DIGEST, 60.0, MAIN | STARTED)
    (first_cell, first), (second_cell, second) = held_in(slot)
    assert (first.task_id, first.digest, first.lasts_s, first.what) == ("one", DIGEST, 7.5, MAIN)
    assert (second.task_id, second.what) == ("two ü", MAIN | STARTED)
    shown.hide("one")
    shown.hide("one")
    shown.hide("never shown")
    assert [held.task_id for _, held in held_in(slot)] == ["two ü"]
    assert shown.show("three", DIGEST, 6.0, STARTED)
    assert {cell for cell, _ in held_in(slot)} == {first_cell, second_cell}, "a cell was not used again"


def test_the_longest_id_stays_within_its_cell(slot: Slot) -> None:
    shown = ShownLocks(slot)
    for letter in "abc":
        assert shown.show(letter * 100, DIGEST, 6.0, MAIN)
    assert [held.task_id for _, held in held_in(slot)] == ["a" * 100, "b" * 100, "c" * 100]


def test_the_same_task_has_one_cell(slot: Slot) -> None:
    shown = ShownLocks(slot)
    shown.show("one", DIGEST, 6.0, MAIN)
    shown.show("one", DIGEST, 8.0, MAIN)
    assert [held.lasts_s for _, held in held_in(slot)] == [8.0]
    shown.hide("one")
    assert list(held_in(slot)) == []


def test_what_has_no_room_is_not_shown(slot: Slot) -> None:
    shown = ShownLocks(slot)
    assert not shown.show("x" * 101, DIGEST, 6.0, MAIN)
    assert all(shown.show(str(number), DIGEST, 6.0, MAIN) for number in range(LOCK_CELLS))
    assert not shown.show("one too many", DIGEST, 6.0, MAIN)
    assert len(list(held_in(slot))) == LOCK_CELLS
    shown.hide("7")
    assert shown.show("one too many", DIGEST, 6.0, MAIN)


def test_what_a_dead_child_left_is_not_read_and_may_have_been_half_written(slot: Slot) -> None:
    ShownLocks(slot).show("dead", DIGEST, 6.0, MAIN)
    at = LOCKS_OFFSET + slot.index * LOCK_CELLS * held_locks.LOCK_CELL_BYTES
    slot.buffer[at] |= 1
    assert list(held_in(slot)) == [], "its writer died, or is stopped, in the middle"
    slot.clear(2)
    assert list(held_in(slot)) == []
    ShownLocks(slot).show("next", DIGEST, 6.0, MAIN)
    assert [held.task_id for _, held in held_in(slot)] == ["next"]


def test_slots_of_the_living_are_those_with_a_process() -> None:
    board = Scoreboard()
    board.words[S_HIGH_SLOT] = 3
    board.slot(1).words[S_PID] = 77
    board.slot(4).words[S_PID] = 78
    assert [slot.index for slot in living(board)] == [1]


@pytest.mark.parametrize(
    ("mark", "held", "names"),
    [
        (Mark(DIGEST, DONE, 9.0), MAIN, [f"unique:{DIGEST}"]),
        (Mark(DIGEST, DONE, 9.0, True), MAIN | STARTED, [f"unique:{DIGEST}", started_lock("t")]),
        (Mark(DIGEST, UNTIL_STARTED, 9.0), 0, []),
        (Mark(DIGEST, UNTIL_STARTED, 9.0, True), STARTED, [started_lock("t")]),
        (Mark(DIGEST, TIME, 9.0), 0, []),
        (Mark(DIGEST, TIME, 9.0, True), STARTED, [started_lock("t")]),
    ],
)
def test_what_lasts_while_a_task_runs(mark: Mark, held: int, names: list[str]) -> None:
    assert held_while_running(mark) == held
    assert names_of(held_locks.Held(2, 0, 9.0, held, DIGEST, "t")) == names
    assert replaced_lock("t") not in names


def test_how_long_a_lock_lasts_from_the_start_on() -> None:
    assert lasts_s(Mark(DIGEST, DONE, 100.0), None) == 100.0
    assert lasts_s(Mark(DIGEST, DONE, 1.0), None) == lasts_s(Mark(DIGEST, DONE, 1.0), 0.0) == RUNNING_S
    assert lasts_s(Mark(DIGEST, DONE, 1.0), 5.0) == 5.0 + MARGIN_S


def test_a_broker_without_locks_has_nothing_to_keep() -> None:
    plain: object = object()
    assert keeping(plain, lambda: (), log) == []  # type: ignore[arg-type]


class Broker(MemoryTransport):
    """A broker whose clock is turned, and that may be away."""

    def __init__(self) -> None:
        self.now_s = 1_000.0
        self.away = False
        self.prolonged: list[str] = []
        super().__init__(f"held-{next(_names)}", wall=lambda: self.now_s, mono=lambda: self.now_s)

    def prolong(self, name: str, value: str, ttl_s: float) -> bool:
        if self.away:
            raise BrokerUnavailable("away")
        self.prolonged.append(name)
        return super().prolong(name, value, ttl_s)


class World:
    """One slot, its child, and who prolongs; `since` is written by the fake clock."""

    def __init__(self) -> None:
        self.broker = Broker()
        self.slot = Scoreboard().slot(0)
        self.alive = True
        self.shown = ShownLocks(self.slot, self.now_ns)
        self.kept = self.agent()

    def now_ns(self) -> int:
        return int(self.broker.now_s * 1e9)

    def agent(self) -> KeptLocks:
        return KeptLocks(self.broker, self.slots, names_of, log, self.now_ns)

    def slots(self) -> Iterable[Slot]:
        return (self.slot,) if self.alive else ()


def test_nothing_is_asked_of_the_broker_before_a_third_of_the_time_is_over() -> None:
    world = World()
    world.broker.lock(f"unique:{DIGEST}", "t", 30.0)
    world.shown.show("t", DIGEST, 30.0, MAIN)
    for _ in range(9):
        world.broker.now_s += 1.0
        world.kept.turn()
    assert world.broker.prolonged == []
    world.broker.now_s += 1.0
    world.kept.turn()
    world.kept.turn()
    assert world.broker.prolonged == [f"unique:{DIGEST}"]
    assert is_due(10, 0, 30e-9)
    assert not is_due(9, 0, 30e-9)


def test_a_lock_that_was_lost_is_not_taken_back(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    world.broker.lock(f"unique:{DIGEST}", "another", 600.0)
    world.shown.show("t", DIGEST, 6.0, MAIN)
    world.broker.now_s += 3.0
    with caplog.at_level(logging.INFO):
        world.kept.turn()
    assert world.broker.locked(f"unique:{DIGEST}") == "another"
    assert "without its lock" in caplog.text


def test_a_broker_that_is_away_is_asked_again_for_what_is_left() -> None:
    world = World()
    world.broker.lock(f"unique:{DIGEST}", "t", 6.0)
    world.shown.show("t", DIGEST, 6.0, MAIN)
    world.broker.now_s += 3.0
    world.broker.away = True
    with pytest.raises(BrokerUnavailable):
        world.kept.turn()
    world.broker.away = False
    world.broker.now_s += 2.0
    world.kept.turn()
    world.broker.now_s += 5.0
    assert world.broker.locked(f"unique:{DIGEST}") == "t"


class RunningMachine(RuleBasedStateMachine):
    """Tasks start, run for longer than their locks last, are replaced, end or die with their worker."""

    def __init__(self) -> None:
        super().__init__()
        self.world = World()
        self.locks = UniqueLocks(self.world.broker)
        self.running: dict[str, Mark] = {}
        self.handed_on: dict[str, tuple[Mark, float]] = {}
        self.ends_s: dict[str, float] = {}
        self.numbers = itertools.count()

    def _start(self, task_id: str, mark: Mark) -> None:
        assert self.world.broker.lock(mark.lock, task_id, lasts_s(mark, None)) is None
        assert self.world.shown.show(task_id, mark.digest, lasts_s(mark, None), held_while_running(mark))
        self.running[task_id] = mark

    @precondition(lambda self: self.world.alive and len(self.running) < 4)
    @rule(ttl_s=st.sampled_from([1.0, 10.0, 100.0]))
    def a_task_starts(self, ttl_s: float) -> None:
        number = next(self.numbers)
        self._start(f"task-{number}", Mark(f"{number:040x}", DONE, ttl_s))

    @precondition(lambda self: self.world.alive and self.running)
    @rule(index=st.integers(0, 3), replaced=st.booleans())
    def it_ends(self, index: int, replaced: bool) -> None:
        task_id = sorted(self.running)[index % len(self.running)]
        mark = self.running.pop(task_id)
        self.world.shown.hide(task_id)
        if replaced:
            assert self.world.broker.lock(mark.lock, task_id, mark.ttl_s) is None
            self.handed_on[task_id] = mark, self.world.broker.now_s + mark.ttl_s
            return
        self.locks.free(mark, task_id)
        self.world.kept.turn()
        assert self.world.broker.locked(mark.lock) is None, "a lock came back after it was freed"

    @precondition(lambda self: self.world.alive and self.handed_on)
    @rule()
    def what_replaces_it_starts(self) -> None:
        task_id, (mark, _) = self.handed_on.popitem()
        self._start(task_id, mark)

    @rule()
    def the_agent_dies_and_another_one_comes(self) -> None:
        self.world.kept = self.world.agent()

    @precondition(lambda self: self.world.alive)
    @rule()
    def the_child_dies(self) -> None:
        self.world.alive = False
        for mark in self.running.values():
            self.ends_s[mark.lock] = self.world.broker.now_s + lasts_s(mark, None)
        self.running.clear()

    @precondition(lambda self: not self.world.alive)
    @rule()
    def another_child_comes(self) -> None:
        self.world.slot.clear(next(self.numbers) + 2)
        self.world.shown = ShownLocks(self.world.slot, self.world.now_ns)
        self.world.alive = True

    @rule(seconds=st.integers(1, 60))
    def time_passes(self, seconds: int) -> None:
        for _ in range(seconds):
            self.world.broker.now_s += held_locks.KEEP_S
            self.world.kept.turn()

    @invariant()
    def whoever_runs_or_was_handed_on_has_its_lock(self) -> None:
        now_s = self.world.broker.now_s
        for task_id, mark in self.running.items():
            assert self.world.broker.locked(mark.lock) == task_id
        for task_id, (mark, ends_s) in self.handed_on.items():
            assert now_s >= ends_s or self.world.broker.locked(mark.lock) == task_id

    @invariant()
    def the_lock_of_a_dead_worker_ends_with_its_time(self) -> None:
        for lock, ends_s in self.ends_s.items():
            assert self.world.broker.now_s < ends_s or self.world.broker.locked(lock) is None


def test_random_histories_keep_the_lock_of_what_runs_and_of_nothing_else() -> None:
    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        RunningMachine,
        settings=settings(
            max_examples=60,
            stateful_step_count=30,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
