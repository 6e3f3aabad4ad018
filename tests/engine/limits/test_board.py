"""Buckets in shared memory: several processes, dead and stopped ones among them."""

from __future__ import annotations

import fcntl
import os
import signal
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.limits import board as board_module
from prefork.engine.limits import locks as locks_module
from prefork.engine.limits.board import KINDS_MAX, NEVER_NS, RateBoard, TableBusy
from prefork.engine.limits.gcra import shape_of
from prefork.engine.limits.locks import ByteLocks
from prefork.engine.scoreboard import Scoreboard

S = 1_000_000_000
START_NS = 10**12


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def board(scoreboard: Scoreboard) -> RateBoard:
    return RateBoard(scoreboard, clock_ns=lambda: START_NS)


def test_a_kind_is_found_by_every_process(scoreboard: Scoreboard, board: RateBoard) -> None:
    assert board.bucket("shop.pay") is None
    made = board.declare("shop.pay", 10.0, 1.0)
    other = RateBoard(scoreboard).bucket("shop.pay")
    assert other is not None
    assert other.index == made.index
    assert other.per_s == pytest.approx(10)
    assert board.rate("shop.pay") == pytest.approx(10)
    assert board.rate("shop.other") is None


def test_tokens_come_at_the_rate(board: RateBoard) -> None:
    bucket = board.declare("a", 10.0, 2.0)
    assert bucket.take(5, START_NS) == 2
    assert bucket.take(1, START_NS) == 0
    assert bucket.take(1, START_NS + S // 20) == 1
    assert bucket.due_ns(START_NS) == START_NS + S // 20 + S // 10
    bucket.give_back(1)
    assert bucket.take(2, START_NS + S // 20) == 1


def test_nothing_pauses_and_none_does_not_limit(board: RateBoard) -> None:
    bucket = board.declare("a", 10.0, 1.0)
    changes = board.changes
    assert board.set_rate("a", 0) == 0
    assert board.changes != changes
    assert (bucket.take(1, START_NS), bucket.due_ns(0), bucket.per_s) == (0, NEVER_NS, 0)
    assert board.set_rate("a", None) is None
    assert (bucket.take(7, START_NS), bucket.per_s) == (7, None)
    bucket.give_back(7)
    assert board.set_rate("a", "1/m") == pytest.approx(1 / 60)
    assert bucket.take(7, START_NS) == 1
    board.set_rate("a", "10/s")  # the minute is forgotten
    assert bucket.due_ns(START_NS) == START_NS
    assert bucket.take(1, START_NS) == 0
    assert bucket.take(1, bucket.due_ns(START_NS)) == 1
    assert bucket.due_ns(START_NS) <= START_NS + 2 * S // 10


def test_a_rate_of_the_code_replaces_one_of_run_time_only_when_the_code_changes(board: RateBoard) -> None:
    bucket = board.declare("a", 10.0, 5.0)
    board.set_rate("a", 100)
    board.declare("a", 10.0, 5.0)
    assert bucket.per_s == pytest.approx(100)
    assert bucket.take(50, START_NS) == 10  # the burst, and 50 ms worth
    board.declare("a", 20.0, 5.0)
    assert bucket.per_s == pytest.approx(20)


def test_a_rate_that_is_none_is_refused(board: RateBoard) -> None:
    with pytest.raises(ImproperlyConfigured, match="'fast' is no rate"):
        board.set_rate("a", "fast")


def test_what_is_parked_is_seen_until_somebody_finds_nothing(board: RateBoard) -> None:
    bucket = board.declare("a", 1.0, 1.0)
    assert not bucket.holds
    bucket.park()
    seen = bucket.parked
    bucket.park()
    bucket.emptied(seen)
    assert bucket.holds  # something was parked since
    bucket.emptied(bucket.parked)
    assert not bucket.holds


def test_nothing_is_due_before_others_have_something(board: RateBoard) -> None:
    bucket = board.declare("a", None, 1.0)
    assert bucket.due_ns(0) == 0
    bucket.not_before(START_NS)
    assert bucket.due_ns(0) == START_NS


def test_there_are_only_so_many_kinds(board: RateBoard) -> None:
    for number in range(KINDS_MAX):
        board.enter(f"task-{number}")
    assert len({board.enter(f"task-{number}").index for number in range(KINDS_MAX)}) == KINDS_MAX
    with pytest.raises(ImproperlyConfigured, match=f"at most {KINDS_MAX} limits"):
        board.enter("one more")


# --- keys ------------------------------------------------------------------------------------------


def test_each_key_has_a_bucket_and_books_what_comes_next(board: RateBoard) -> None:
    shape = shape_of(10.0, 1.0)
    waits = [board.take_keyed("a", "x", shape, START_NS, 10 * S) for _ in range(4)]
    assert [one.booked for one in waits] == [True] * 4
    assert [one.wait_ns for one in waits] == [0, S // 20, 3 * S // 20, 5 * S // 20]
    assert board.take_keyed("a", "y", shape, START_NS, 10 * S) == (0, True)
    assert board.take_keyed("b", "x", shape, START_NS, 10 * S) == (0, True)


def test_beyond_the_horizon_nothing_is_booked(board: RateBoard) -> None:
    shape = shape_of(1.0, 1.0)
    waits = [board.take_keyed("a", "x", shape, START_NS, 2 * S) for _ in range(6)]
    assert [one.booked for one in waits] == [True, True, True, False, False, False]
    assert waits[-1].wait_ns == 2 * S


def test_a_key_forgets_what_was_booked_at_a_slower_rate(board: RateBoard) -> None:
    for _ in range(3):
        board.take_keyed("a", "x", shape_of(1 / 3600, 1.0), START_NS, 2 * 3600 * S)
    found = board.take_keyed("a", "x", shape_of(10.0, 1.0), START_NS, 60 * S)
    assert found.booked
    assert found.wait_ns <= S // 10


def test_a_key_that_is_full_again_makes_room(board: RateBoard, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board_module, "_KEYS_PROBED", 2)
    shape = shape_of(1.0, 1.0)
    for number in range(20_000):
        assert board.take_keyed("a", f"key-{number}", shape, START_NS + number * S, 60 * S).wait_ns == 0


# --- processes -------------------------------------------------------------------------------------


@pytest.fixture
def children() -> Iterator[list[int]]:
    """Processes that are ended and waited for."""
    made: list[int] = []
    yield made
    for pid in made:
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def child_that_holds(scoreboard: Scoreboard, byte: int, children: list[int]) -> int:
    """A process that has a lock."""
    ready = os.eventfd(0)
    pid = os.fork()
    if pid == 0:
        fcntl.lockf(scoreboard.locks_fd, fcntl.LOCK_EX, 1, byte)
        os.eventfd_write(ready, 1)
        time.sleep(60)
        os._exit(0)
    children.append(pid)
    os.eventfd_read(ready)
    os.close(ready)
    return pid


def test_a_lock_is_waited_for_a_moment_only(
    scoreboard: Scoreboard, children: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # What it asks to wait for, and not how long the machine took over it
    pauses_s: list[float] = []
    monkeypatch.setattr(locks_module, "time", SimpleNamespace(sleep=pauses_s.append))
    board = RateBoard(scoreboard)
    bucket = board.declare("a", 10.0, 5.0)
    pid = child_that_holds(scoreboard, bucket.index, children)
    os.kill(pid, signal.SIGSTOP)
    assert bucket.take(1, START_NS) == 0
    assert 0 < sum(pauses_s) < 0.5
    bucket.give_back(1)  # lost, and nothing worse
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    children.remove(pid)
    assert bucket.take(1, START_NS) == 1


def test_a_key_whose_lock_is_held_asks_again(scoreboard: Scoreboard, children: list[int]) -> None:
    board = RateBoard(scoreboard)
    child_that_holds(scoreboard, board_module._KEYS_LOCK, children)
    assert board.take_keyed("a", "x", shape_of(1.0, 1.0), START_NS, S) == (board_module.BUSY_NS, False)


def test_a_table_whose_lock_is_kept_by_a_stopped_process_is_not_waited_for_without_end(
    scoreboard: Scoreboard, children: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(board_module, "_ENTER_TRIES", 3)
    board = RateBoard(scoreboard)
    board.declare("known", 1.0, 1.0)
    # Given a process that is stopped while it enters something
    pid = child_that_holds(scoreboard, board_module._TABLE_LOCK, children)
    os.kill(pid, signal.SIGSTOP)
    # Then what is there already is found as ever, and what is not is refused, with the remedy
    assert board.enter("known").per_s == pytest.approx(1)
    with pytest.raises(TableBusy, match="'new'.*SIGCONT") as caught:
        board.declare("new", 1.0, 1.0)
    assert caught.value.name == "new"
    # And it goes on once that process has gone
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    children.remove(pid)
    assert board.declare("new", 2.0, 1.0).per_s == pytest.approx(2)


def test_a_lock_on_a_closed_descriptor_is_an_error() -> None:
    fd = os.memfd_create("closed")
    os.close(fd)
    with pytest.raises(OSError), ByteLocks(fd).held(0):
        pass


def test_a_taker_that_was_held_up_does_not_take_again_what_others_took(scoreboard: Scoreboard) -> None:
    board = RateBoard(scoreboard, clock_ns=lambda: START_NS + S)
    bucket = board.declare("a", 1000.0, 1.0)
    assert bucket.take(1000, START_NS + S) == 51  # all there is, with what it makes up for
    # Given one that looked at its clock a second ago, and was stopped until now
    assert bucket.take(1000, START_NS) == 0
    # Then there is no more for anybody
    assert bucket.take(1000, START_NS + S) == 0
    assert bucket.take(1000, START_NS + S + S // 1000) == 1


def test_a_booker_that_was_held_up_does_not_book_again_what_others_booked(scoreboard: Scoreboard) -> None:
    board = RateBoard(scoreboard, clock_ns=lambda: START_NS + S)
    shape = shape_of(1000.0, 1.0)
    waits = []
    while (booked := board.take_keyed("a", "key", shape, START_NS + S, S // 100)).booked:
        waits.append(booked.wait_ns)
    assert len(waits) == 61  # 51 at once, ten within the horizon
    assert not board.take_keyed("a", "key", shape, START_NS, S // 100).booked
    assert not board.take_keyed("a", "key", shape, START_NS + S, S // 100).booked


@pytest.mark.timeout(60)
def test_children_that_are_killed_at_any_moment_never_get_more_than_the_rate(scoreboard: Scoreboard) -> None:
    board = RateBoard(scoreboard)
    board.declare("a", 5000.0, 1.0)
    reading, writing = os.pipe()
    begun_s = time.monotonic()
    pids: list[int] = []
    total = 0

    def child() -> int:
        pid = os.fork()
        if pid:
            return pid
        own = RateBoard(scoreboard).bucket("a")
        assert own is not None
        while True:
            tokens = own.take(3, time.monotonic_ns())
            if tokens:
                os.write(writing, b"x" * tokens)
            else:
                time.sleep(0.0005)

    try:
        for round_ in range(20):
            pids.append(child())
            if len(pids) > 3:
                victim = pids.pop(round_ % 3)
                os.kill(victim, signal.SIGKILL)
                os.waitpid(victim, 0)
            time.sleep(0.05)
            total += len(os.read(reading, 65536))
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    elapsed_s = time.monotonic() - begun_s
    os.close(writing)
    while data := os.read(reading, 65536):
        total += len(data)
    os.close(reading)
    assert total <= 5000 * (elapsed_s + 0.05) + 1
    assert total >= 5000 * elapsed_s * 0.3  # they were not idle
