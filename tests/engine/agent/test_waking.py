"""The agent wakes idle children for what waits in the broker, and no more of them."""

from __future__ import annotations

import os
import uuid

import pytest

from prefork.engine.agent.waking import Waker
from prefork.engine.linux import Linux
from prefork.engine.scoreboard import (
    A_WAITING,
    C_STATE,
    S_HIGH_SLOT,
    S_PID,
    SLOTS,
    W_WAKE,
    Scoreboard,
    State,
)
from prefork.transports.base import Outgoing
from prefork.transports.memory import MemoryTransport
from support.waiting import Background, eventually


class Scene:
    """Children on a scoreboard, and a broker of their own."""

    def __init__(self) -> None:
        self.board = Scoreboard()
        self.transport = MemoryTransport(uuid.uuid4().hex)
        self.waker = Waker(self.board, self.transport, ["q", "r"])

    def children(self, *states: int) -> None:
        for index, state in enumerate(states):
            self.board.slot(index).words[S_PID] = 1000 + index
            self.board.slot(index).words[C_STATE] = state
        self.board.words[S_HIGH_SLOT] = len(states)

    def send(self, n: int, queue: str = "q") -> None:
        self.transport.send([Outgoing(queue, b"m")] * n)

    def woken(self) -> list[int]:
        """How often each child was woken."""
        return [self.board.slot(i).words[W_WAKE] for i in range(min(self.board.words[S_HIGH_SLOT], SLOTS))]


@pytest.fixture
def scene() -> Scene:
    return Scene()


def test_those_that_have_room_are_woken_after_those_that_do_nothing(scene: Scene) -> None:
    scene.children(State.HAS_ROOM, State.WORKING, State.IDLE, State.HAS_ROOM)
    for waiting, woken in ((1, [0, 0, 1, 0]), (1, [1, 0, 2, 0]), (1, [2, 0, 3, 1])):
        scene.send(waiting)
        assert scene.waker.wake() is False
        assert scene.woken() == woken


def test_nobody_is_woken_for_nothing(scene: Scene) -> None:
    scene.children(State.IDLE, State.IDLE)
    assert scene.waker.wake() is False
    assert (scene.woken(), scene.board.words[A_WAITING]) == ([0, 0], 0)


@pytest.mark.parametrize(
    ("messages", "woken"), [(1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1]), (50, [1, 1, 1])]
)
def test_no_more_idle_children_are_woken_than_messages_wait(
    scene: Scene, messages: int, woken: list[int]
) -> None:
    scene.children(State.IDLE, State.IDLE, State.IDLE)
    scene.send(messages)
    assert scene.waker.wake() is False
    assert scene.woken() == woken


def test_only_idle_children_are_woken(scene: Scene) -> None:
    scene.children(
        State.EMPTY, State.BOOTING, State.WORKING, State.RETIRING, State.BOOT_FAILED, State.IDLE, State.IDLE
    )
    scene.board.slot(5).words[S_PID] = 0  # the child has died and its slot waits for another
    scene.send(9)
    assert scene.waker.wake() is False
    assert scene.woken() == [0, 0, 0, 0, 0, 0, 1]


def test_it_is_said_when_something_waits_and_nobody_is_idle(scene: Scene) -> None:
    scene.children(State.WORKING, State.BOOTING)
    scene.send(1)
    assert scene.waker.wake() is True
    assert scene.woken() == [0, 0]


def test_a_worker_without_children_has_nobody_idle(scene: Scene) -> None:
    scene.send(1)
    assert scene.waker.wake() is True


def test_what_waits_in_all_served_queues_is_written_on_the_scoreboard(scene: Scene) -> None:
    scene.send(2)
    scene.send(3, "r")
    scene.send(7, "of-others")
    scene.waker.wake()
    assert scene.board.words[A_WAITING] == 5
    scene.transport.consumer(["q", "r"], "o", "w").reserve(5)
    scene.waker.wake()
    assert scene.board.words[A_WAITING] == 0


def test_slots_above_the_highest_used_one_are_not_looked_at(scene: Scene) -> None:
    scene.children(State.IDLE, State.IDLE)
    scene.board.words[S_HIGH_SLOT] = 1
    scene.send(2)
    scene.waker.wake()
    assert [scene.board.slot(i).words[W_WAKE] for i in range(2)] == [1, 0]


def test_a_nonsensical_high_slot_is_survived(scene: Scene) -> None:
    scene.children(State.IDLE)
    scene.board.words[S_HIGH_SLOT] = SLOTS * 1000
    scene.send(2)
    assert scene.waker.wake() is False
    assert scene.woken()[0] == 1


def test_a_child_is_woken_each_time(scene: Scene) -> None:
    scene.children(State.IDLE)
    scene.send(1)
    for _ in range(3):
        scene.waker.wake()
    assert scene.woken() == [3]


def test_a_process_that_sleeps_on_its_slot_wakes_up(scene: Scene) -> None:
    scene.children(State.BOOTING)
    slot = scene.board.slot(0)
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            futex = Linux().futex(scene.board.buffer, slot.wake_address())
            seen = futex.value()
            slot.words[C_STATE] = State.IDLE
            futex.wait(seen, 60.0)
            code = 0 if futex.value() != seen else 2
        finally:
            os._exit(code)
    ended = Background(lambda: os.waitpid(pid, 0)[1])
    eventually(lambda: slot.words[C_STATE] == State.IDLE)
    scene.send(1)
    assert scene.waker.wake() is False
    assert os.waitstatus_to_exitcode(ended.result()) == 0


class CountingWatch:
    """A watch that knows how many messages wait, or does not."""

    def __init__(self, waiting: int | None) -> None:
        self.known = waiting

    def waiting(self) -> int | None:
        return self.known

    def fileno(self) -> int:
        return -1

    def drain(self) -> None:
        """Nothing fired."""

    def close(self) -> None:
        """Nothing is open."""


def test_a_watch_that_counts_saves_the_question(scene: Scene) -> None:
    scene.children(State.IDLE, State.IDLE, State.IDLE)
    watch = CountingWatch(2)
    scene.waker.follow(watch)
    assert scene.waker.wake() is False
    assert (sum(scene.woken()), scene.board.words[A_WAITING]) == (2, 2)


def test_a_watch_that_does_not_know_makes_it_ask(scene: Scene) -> None:
    scene.children(State.IDLE)
    scene.waker.follow(CountingWatch(None))
    scene.waker.remind()
    assert sum(scene.woken()) == 0
    scene.send(1)
    scene.waker.wake()
    assert (sum(scene.woken()), scene.board.words[A_WAITING]) == (1, 1)


def test_a_watch_that_does_not_count_is_not_believed(scene: Scene) -> None:
    scene.children(State.IDLE)
    scene.waker.follow(scene.transport.watch(["q"]))
    scene.send(1)
    scene.waker.remind()
    assert sum(scene.woken()) == 0
    scene.waker.wake()
    assert sum(scene.woken()) == 1


def test_children_are_reminded_of_what_is_known_to_wait(scene: Scene) -> None:
    """One that was woken while it was paused looks again."""
    scene.children(State.IDLE)
    scene.waker.follow(CountingWatch(1))
    scene.waker.wake()
    scene.waker.remind()
    assert scene.woken() == [2]
    scene.waker.follow(CountingWatch(0))
    scene.waker.remind()
    assert scene.woken() == [2]
