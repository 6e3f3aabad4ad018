"""Time limits set at run time, in the memory that all processes of a worker share."""

from __future__ import annotations

import os

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from prefork.engine.scoreboard import (
    A_TIME_LIMITS,
    TIME_LIMIT_WORDS,
    TIME_LIMITS_MAX,
    TIME_LIMITS_OFFSET,
    Scoreboard,
)
from prefork.engine.time_limit_board import RunTimeLimits, TimeLimitBoard


@pytest.fixture
def scoreboard() -> Scoreboard:
    return Scoreboard()


@pytest.fixture
def board(scoreboard: Scoreboard) -> TimeLimitBoard:
    return TimeLimitBoard(scoreboard.buffer, scoreboard.words)


def test_a_task_that_no_command_was_about_has_none(board: TimeLimitBoard) -> None:
    assert board.get("shop.add") is None


def test_what_was_set_last_is_in_force(scoreboard: Scoreboard, board: TimeLimitBoard) -> None:
    before = scoreboard.words[A_TIME_LIMITS]
    board.set("shop.add", RunTimeLimits(1.5, 2.0))
    board.set("shop.add", RunTimeLimits(None, 3.25))
    assert board.get("shop.add") == RunTimeLimits(None, 3.25)
    assert scoreboard.words[A_TIME_LIMITS] == before + 2
    assert board.get("shop.sub") is None


def test_less_than_a_millisecond_is_not_taken_for_none(board: TimeLimitBoard) -> None:
    board.set("t", RunTimeLimits(1e-9, None))
    assert board.get("t") == RunTimeLimits(0.001, None)


def test_another_process_reads_it(board: TimeLimitBoard) -> None:
    reads, writes = os.pipe()
    pid = os.fork()
    if pid == 0:
        while board.get("t") is None:
            pass
        os.write(writes, repr(board.get("t")).encode())
        os._exit(0)
    board.set("t", RunTimeLimits(1.0, 2.0))
    assert os.read(reads, 100) == b"RunTimeLimits(soft_s=1.0, hard_s=2.0)"
    os.waitpid(pid, 0)
    os.close(reads)
    os.close(writes)


def test_an_entry_whose_writer_died_in_the_middle_says_nothing_and_can_be_written_again(
    scoreboard: Scoreboard, board: TimeLimitBoard
) -> None:
    board.set("t", RunTimeLimits(1.0, 2.0))
    words = memoryview(scoreboard.buffer)[TIME_LIMITS_OFFSET:].cast("Q")
    (at,) = [at for at in range(0, TIME_LIMITS_MAX * TIME_LIMIT_WORDS, TIME_LIMIT_WORDS) if words[at]]
    words[at + 1] |= 1
    assert board.get("t") is None
    board.set("t", RunTimeLimits(None, 5.0))
    assert board.get("t") == RunTimeLimits(None, 5.0)


def test_a_full_table_refuses_new_names_and_keeps_the_old_ones(board: TimeLimitBoard) -> None:
    for number in range(TIME_LIMITS_MAX):
        board.set(f"t{number}", RunTimeLimits(None, float(number + 1)))
    with pytest.raises(ValueError, match="at most"):
        board.set("one more", RunTimeLimits(None, 1.0))
    assert board.get("one more") is None
    board.set("t7", RunTimeLimits(2.0, None))
    assert board.get("t7") == RunTimeLimits(2.0, None)
    assert board.get(f"t{TIME_LIMITS_MAX - 1}") == RunTimeLimits(None, float(TIME_LIMITS_MAX))


SECONDS = st.none() | st.integers(1, 10**6).map(lambda ms: ms / 1000)


@settings(max_examples=50)
@example([("a", None, 262.143)])  # a thousand times that is a little less than 262143
@given(st.lists(st.tuples(st.sampled_from("abcdef"), SECONDS, SECONDS), max_size=20))
def test_it_agrees_with_a_dictionary(commands: list[tuple[str, float | None, float | None]]) -> None:
    scoreboard = Scoreboard()
    board = TimeLimitBoard(scoreboard.buffer, scoreboard.words)
    model: dict[str, RunTimeLimits] = {}
    for name, soft_s, hard_s in commands:
        board.set(name, RunTimeLimits(soft_s, hard_s))
        model[name] = RunTimeLimits(soft_s, hard_s)
    assert {name: board.get(name) for name in "abcdef"} == {name: model.get(name) for name in "abcdef"}
