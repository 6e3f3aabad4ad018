"""Asking for queues that do not exist: seldom, and never for long too seldom."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.amqp.absences import PAUSE_S_MAX, PAUSE_S_MIN, Absences
from prefork.transports.base import Outgoing
from support.waiting import eventually

from .conftest import Open


def test_a_queue_that_stays_away_is_asked_for_less_and_less_often() -> None:
    absences, asked_s = Absences(), []
    for tenth in range(6000):
        now_mono_s = tenth / 10
        if absences.worth_asking(["q"], now_mono_s):
            asked_s.append(now_mono_s)
            absences.learn({"q": None}, now_mono_s)
    assert len(asked_s) < 35
    assert (
        max(after - before for before, after in zip(asked_s, asked_s[1:], strict=False)) <= PAUSE_S_MAX + 0.1
    )


@given(st.lists(st.tuples(st.floats(0, 100), st.sampled_from([None, 0, 3]))))
def test_what_was_there_is_always_asked_for(history: list[tuple[float, int | None]]) -> None:
    absences, now_mono_s = Absences(), 0.0
    for step_s, count in history:
        now_mono_s += step_s
        absences.learn({"q": count}, now_mono_s)
        if count is None:
            assert absences.worth_asking(["q"], now_mono_s + PAUSE_S_MIN / 2) == []
            assert absences.worth_asking(["q"], now_mono_s + PAUSE_S_MAX) == ["q"]
        else:
            assert absences.worth_asking(["q"], now_mono_s) == ["q"]
    absences.forget(["q"])
    assert absences.worth_asking(["q"], now_mono_s) == ["q"]


def test_the_queues_that_are_remembered_are_bounded() -> None:
    absences = Absences()
    for number in range(20_001):
        absences.learn({str(number): None}, 0.0)
    assert len(absences._pauses) <= 10_000


def test_a_queue_that_another_makes_is_found(open_amqp: Open, queue: str) -> None:
    transport, other = open_amqp(), open_amqp()
    assert [transport.ready([queue]) for _ in range(3)] == [0, 0, 0]
    other.send([Outgoing(queue, b"m")])
    assert eventually(lambda: transport.ready([queue])) == 1
    assert transport.ready([f"{queue}.2"]) == 0
    transport.send([Outgoing(f"{queue}.2", b"m")])
    assert transport.ready([f"{queue}.2", queue]) == 2
