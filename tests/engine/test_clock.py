"""The clocks, and the one that tests hold in their hand."""

from __future__ import annotations

import time

import pytest

from prefork.engine import clock


def test_the_clocks_are_those_of_the_machine() -> None:
    before_s = time.monotonic()
    assert before_s <= clock.mono_s() <= time.monotonic()
    assert before_s <= clock.mono_ns() / 1e9 <= time.monotonic()
    assert abs(clock.wall_s() - time.time()) < 5
    assert clock.cpu_s() > 0
    mono_ns = clock.mono_ns()  # read first: the other one counts what the machine slept, and is never behind
    assert clock.boot_ns() >= mono_ns


def test_the_system_clock_reads_the_same_clocks() -> None:
    system: clock.Clock = clock.SystemClock()
    assert system.mono_s() <= clock.mono_s()
    assert system.wall_s() <= clock.wall_s() + 5


def test_a_fake_clock_stands_still_until_it_is_moved() -> None:
    fake = clock.FakeClock(mono_s=10.0, wall_s=100.0)
    held: clock.Clock = fake
    assert (held.mono_s(), held.wall_s()) == (10.0, 100.0)
    fake.advance(2.5)
    assert (held.mono_s(), held.wall_s()) == (12.5, 102.5)


def test_setting_the_wall_clock_back_leaves_the_monotonic_clock_alone() -> None:
    fake = clock.FakeClock(mono_s=10.0, wall_s=100.0)
    fake.jump_wall(-50)
    assert (fake.mono_s(), fake.wall_s()) == (10.0, 50.0)


def test_time_refuses_to_run_back() -> None:
    with pytest.raises(ValueError, match="jump_wall"):
        clock.FakeClock().advance(-1)
