"""The logical clock of remote control."""

from __future__ import annotations

import threading
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.control.lamport import LATEST, LamportClock


def test_each_event_is_later_than_the_one_before() -> None:
    clock = LamportClock()
    assert [clock.forward() for _ in range(3)] == [1, 2, 3]
    assert clock.value == 3


@given(st.lists(st.integers(0, 1000)))
def test_it_is_later_than_whatever_it_has_heard(heard: list[int]) -> None:
    clock = LamportClock()
    for one in heard:
        before = clock.value
        assert clock.adjust(one) > max(before, one)


@pytest.mark.parametrize("heard", [None, -1, True, "7", 1.5, LATEST, 1 << 100])
def test_what_is_no_number_of_a_clock_changes_nothing(heard: Any) -> None:
    clock = LamportClock(5)
    assert clock.adjust(heard) == 5


def test_it_stays_where_every_reader_of_json_can_follow() -> None:
    clock = LamportClock(LATEST - 1)
    assert [clock.forward(), clock.forward()] == [LATEST, LATEST]


def test_no_two_threads_are_given_the_same_number() -> None:
    clock, numbers = LamportClock(), []

    def count() -> None:
        numbers.extend([clock.forward() for _ in range(500)])

    threads = [threading.Thread(target=count) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(numbers) == list(range(1, 2001))
