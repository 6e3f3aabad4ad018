"""Which revoked tasks run in a worker all the same, or may: what the scoreboard tells."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import pytest

from prefork.engine import may_run as may_run_module
from prefork.engine.may_run import may_run
from prefork.engine.revoked_keys import slot_id
from prefork.engine.scoreboard import (
    C_BATCH,
    C_CURSOR,
    C_HELD,
    C_OUTCOME_BYTES,
    C_POLICY,
    C_RUNNING,
    S_GENERATION,
    S_HIGH_SLOT,
    S_PID,
    Policy,
    Scoreboard,
    Slot,
)
from support.set_clock import SetClock

IDS = ["mine", "other"]


@pytest.fixture
def board() -> Scoreboard:
    return Scoreboard()


def child(board: Scoreboard, at: int = 0, *, held: int = 0, cursor: int = 0, runs: str = "") -> Slot:
    slot = board.slot(at)
    board.words[S_HIGH_SLOT] = max(board.words[S_HIGH_SLOT], at + 1)
    words = slot.words
    words[S_PID], words[S_GENERATION], words[C_BATCH] = 100 + at, 1, 1
    words[C_HELD], words[C_CURSOR] = held, cursor
    if runs:
        slot.write_texts(slot_id(runs), b"work", b"tag")
        words[C_RUNNING] = 7
    return slot


def test_nothing_runs_in_a_worker_that_is_idle(board: Scoreboard) -> None:
    assert may_run(board, IDS, 0.0) == set()
    child(board)
    child(board, 1)
    assert may_run(board, IDS, 0.0) == set()


def test_what_runs_is_told_from_what_does_not(board: Scoreboard) -> None:
    child(board, 0, held=1, cursor=1, runs="mine")
    child(board, 1, held=3, cursor=1, runs="not asked for")
    assert may_run(board, IDS, 0.0) == {"mine"}
    assert may_run(board, ["other"], 0.0) == set()


def ended_outcomes(slot: Slot) -> None:
    slot.words[C_OUTCOME_BYTES] = 10


def beside(slot: Slot) -> None:
    slot.words[C_HELD], slot.words[C_CURSOR] = 1, 1
    slot.write_texts(slot_id("not asked for"), b"work", b"tag")
    slot.words[C_POLICY], slot.words[C_RUNNING] = Policy.BESIDE, 7


def claimed(slot: Slot) -> None:
    slot.words[C_HELD], slot.words[C_CURSOR] = 1, 1


def after_another(slot: Slot) -> None:
    slot.words[C_HELD], slot.words[C_CURSOR] = 2, 2
    slot.write_texts(slot_id("not asked for"), b"work", b"tag")
    slot.words[C_RUNNING] = 7


@pytest.mark.parametrize("unsure", [ended_outcomes, beside, claimed, after_another])
def test_where_one_of_them_may_be_in_hand_all_may_run(
    board: Scoreboard, unsure: Callable[[Slot], None]
) -> None:
    unsure(child(board))
    assert may_run(board, IDS, 0.01) == set(IDS)


@pytest.fixture
def at_the_first_pause(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something happen after the first look, when the second one is waited for; no other time passes."""
    clock = SetClock()

    def arrange(happens: Callable[[], None]) -> None:
        left = [happens]

        def sleep(seconds: float) -> None:
            clock.now_s += seconds
            if left:
                left.pop()()

        monkeypatch.setattr(may_run_module, "time", SimpleNamespace(sleep=sleep))
        monkeypatch.setattr(may_run_module, "mono_s", clock)

    return arrange


@pytest.mark.parametrize("then", ["settled", "next batch", "runs it"])
def test_a_child_that_has_one_in_hand_is_waited_for(
    board: Scoreboard, at_the_first_pause: Callable[[Callable[[], None]], None], then: str
) -> None:
    slot = child(board, held=1, cursor=1)

    def go_on() -> None:
        if then == "settled":
            slot.words[C_HELD] = 0
        elif then == "next batch":
            slot.words[C_BATCH] += 1
        else:
            slot.write_texts(slot_id("mine"), b"work", b"tag")
            slot.words[C_RUNNING] = 8

    at_the_first_pause(go_on)
    assert may_run(board, IDS, 20.0) == ({"mine"} if then == "runs it" else set())


def test_of_a_child_that_died_meanwhile_nothing_is_known(
    board: Scoreboard, at_the_first_pause: Callable[[Callable[[], None]], None]
) -> None:
    slot = child(board, held=1, cursor=1)

    def die() -> None:
        slot.words[S_GENERATION], slot.words[C_HELD] = 2, 0

    at_the_first_pause(die)
    assert may_run(board, IDS, 0.2) == set(IDS)
    assert slot.words[C_HELD] == 0
