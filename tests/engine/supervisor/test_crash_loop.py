"""How fast dead children are replaced: the policy by properties and simulation, then with processes."""

from __future__ import annotations

import heapq
import itertools
import os
import random
import signal
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.supervisor.crash_loop import (
    CALM,
    FREE,
    HALF_LIFE_S,
    LAST_PAUSE_S,
    CrashLoop,
    Death,
    died,
    forks_allowed,
    settled,
    tried,
    weight_now,
)
from support.supervised import Supervised, eventually

Supervise = Callable[..., Supervised]

DEATHS = st.lists(
    st.tuples(
        st.floats(0, 30),  # seconds since the last death
        st.floats(0, 30),  # forked so long before it
        st.floats(0, 30),  # lived
        st.integers(0, 50),  # ended
        st.floats(0, 1, exclude_max=True),
    ),
    max_size=40,
)


def history(deaths: list[tuple[float, float, float, int, float]]) -> tuple[CrashLoop, float]:
    """The state after these deaths, and the time of the last one."""
    loop, now_s = CALM, 1000.0
    for after_s, age_s, lived_s, ended, fraction in deaths:
        now_s += after_s
        loop = died(loop, Death(now_s - age_s, 0.0, min(lived_s, age_s), ended), now_s, fraction)
    return loop, now_s


def barren(now_s: float) -> Death:
    """A child that was forked just now, and has died of its first message."""
    return Death(now_s, 0.0, 0.0, 0)


# --- the policy --------------------------------------------------------------------------------


@given(DEATHS)
def test_no_pause_is_longer_than_the_longest_and_no_weight_without_bounds(
    deaths: list[tuple[float, float, float, int, float]],
) -> None:
    loop, now_s = history(deaths)
    assert loop.not_before_s - now_s <= LAST_PAUSE_S
    assert 0 <= weight_now(loop, now_s) <= loop.weight
    assert loop.step >= 0
    assert loop.deaths == 0 or loop.since_s <= now_s


@given(DEATHS, st.floats(0, 1, exclude_max=True))
def test_a_single_death_after_a_healthy_time_is_answered_at_once(
    deaths: list[tuple[float, float, float, int, float]], fraction: float
) -> None:
    loop, now_s = history(deaths)
    now_s += LAST_PAUSE_S + 10 * HALF_LIFE_S
    loop = died(settled(loop, now_s), barren(now_s), now_s, fraction)
    assert (loop.step, loop.deaths, loop.since_s) == (0, 1, now_s)
    assert forks_allowed(loop, 3, now_s, now_s) == 3


@given(DEATHS)
def test_after_a_pause_exactly_one_child_tries_for_all(
    deaths: list[tuple[float, float, float, int, float]],
) -> None:
    loop, now_s = history(deaths)
    allowed_s = max(now_s, loop.not_before_s)
    if loop.step:
        assert forks_allowed(loop, 8, float("-inf"), loop.not_before_s - 1e-6) == 0
        assert forks_allowed(loop, 8, loop.counted_s, allowed_s) == 1
        assert forks_allowed(loop, 8, allowed_s, allowed_s) == 0
    else:
        assert forks_allowed(loop, 8, allowed_s, allowed_s) == 8


@given(DEATHS, st.integers(2, 100), st.floats(0, 1, exclude_max=True))
def test_whoever_kills_all_children_at_once_causes_no_pause(
    deaths: list[tuple[float, float, float, int, float]], children: int, fraction: float
) -> None:
    _, now_s = history(deaths)
    loop = CALM
    for number in range(children):
        moment_s = now_s + number * 0.001
        loop = died(loop, Death(now_s - 1.0, 0.1, 0.5, 0), moment_s, fraction)
    assert loop.step == 0
    assert loop.deaths == children


def test_the_pause_grows_step_by_step_to_its_maximum_while_the_loop_lasts() -> None:
    loop, now_s, pauses = CALM, 0.0, []
    for _ in range(14):
        loop = died(loop, barren(now_s), now_s, 0.999999)
        pauses.append(loop.not_before_s - now_s if loop.step else 0.0)
        now_s = max(now_s, loop.not_before_s) + 0.03
    assert pauses[:FREE] == [0.0] * FREE
    assert all(after > before - 1e-6 for before, after in itertools.pairwise(pauses))
    assert 0 < pauses[FREE] < 0.5
    assert pauses[-1] == pytest.approx(LAST_PAUSE_S, rel=0.01)


def test_pauses_have_jitter() -> None:
    def third(fraction: float) -> float:
        loop = CALM
        for _ in range(FREE + 1):
            loop = died(loop, barren(0.0), 0.0, fraction)
        return loop.not_before_s

    assert third(0.0) != third(0.9)


def test_work_that_was_done_makes_up_for_deaths() -> None:
    loop = CALM
    for number in range(500):
        now_s = number * 0.01
        loop = died(loop, Death(now_s, 0.0, 0.01, 2), now_s, 0.5)
    assert loop.step == 0


class Simulated:
    """A pool in simulated time: children take the time `boot_s` to boot and then live by `life`.

    :param life: seconds and executions until a child dies of its work.
    """

    def __init__(self, children: int, boot_s: float, life: Callable[[], tuple[float, int]]) -> None:
        self.children, self.boot_s, self.life = children, boot_s, life
        self.loop, self.deaths, self.paused_s = CALM, 0, 0.0

    def run(self, until_s: float) -> Simulated:
        booting: list[tuple[float, float, float, int]] = []  # ready at, forked at, will live, will have ended
        living: list[tuple[float, float, float, int]] = []  # dies at, ...
        now_s = 0.0
        while now_s < until_s:
            if not booting:
                self.loop = settled(self.loop, now_s)
            newest_s = max((child[1] for child in booting + living), default=float("-inf"))
            missing = self.children - len(booting) - len(living)
            for _ in range(forks_allowed(self.loop, missing, newest_s, now_s)):
                heapq.heappush(booting, (now_s + self.boot_s, now_s, *self.life()))
            events = [now_s + 0.25, *(queue[0][0] for queue in (booting, living) if queue)]
            if self.loop.step and self.loop.not_before_s > now_s:
                events.append(self.loop.not_before_s)
                self.paused_s += min(events) - now_s
            now_s = min(events)
            while booting and booting[0][0] <= now_s:
                ready_s, *rest = heapq.heappop(booting)
                self.loop = tried(self.loop, now_s)
                heapq.heappush(living, (ready_s + rest[1], *rest))
            while living and living[0][0] <= now_s:
                _, forked_s, lived_s, ended = heapq.heappop(living)
                self.loop = died(self.loop, Death(forked_s, self.boot_s, lived_s, ended), now_s, 0.5)
                self.deaths += 1
        return self


@pytest.mark.parametrize("children", [1, 4, 32])
@pytest.mark.parametrize("boot_s", [0.005, 0.02, 0.3, 2.0])
def test_children_that_die_at_every_message_do_so_ever_more_rarely(children: int, boot_s: float) -> None:
    found = Simulated(children, boot_s, lambda: (0.001, 0)).run(120.0)
    # A few waves at once, then one child now and then.
    assert found.deaths <= 4 * children + 30


def test_a_loop_is_slowed_down_to_the_longest_pause() -> None:
    assert Simulated(2, 0.02, lambda: (0.001, 0)).run(100.0).deaths < 30


@pytest.mark.parametrize("seed", range(5))
def test_kills_from_outside_while_work_gets_done_are_no_loop(seed: int) -> None:
    # Given kills as in the storm of tests/stress: one every 21 ms among four, tasks of 12.5 ms
    dice = random.Random(seed)

    def life() -> tuple[float, int]:
        lived_s = dice.expovariate(1 / 0.084)
        return lived_s, int(lived_s / 0.0125)

    found = Simulated(4, 0.01, life).run(20.0)
    assert found.deaths > 500
    assert found.paused_s < 2.0


# --- with processes ----------------------------------------------------------------------------


def crash_loop(worker: Supervised) -> dict[str, object]:
    return dict(worker.ask("stats")["crash_loop"])


def test_a_worker_whose_children_die_at_every_message_slows_down_and_says_so(supervise: Supervise) -> None:
    worker = supervise(concurrency=1).start()
    for _ in range(200):
        worker.job({"do": "die", "signal": signal.SIGKILL})
    eventually(lambda: int(str(crash_loop(worker)["step"])) >= 3)
    stats = crash_loop(worker)
    assert int(str(stats["deaths"])) >= 5
    assert len(worker.events("dead")) < 12
    steps = [line for line in worker.log.splitlines() if "next replacement in" in line]
    assert "3 children died within" in steps[0]
    assert "cause signal 9" in steps[0]
    # It is one line for every step.
    assert len(steps) <= int(str(crash_loop(worker)["step"])) + 1
    reasons = eventually(lambda: [r for r in worker.ask("health")["reasons"] if "died in a row" in r])
    assert "the last of signal 9" in reasons[0]
    assert worker.ask("health")["notes"]
    # A stop does not wait for the pause.
    worker.signal(signal.SIGTERM)
    assert worker.wait(3.0) == 0
    worker.gone()


def test_a_reload_does_not_wait_for_the_pause_and_health_comes_back(supervise: Supervise) -> None:
    worker = supervise(concurrency=2).start()
    jobs = [worker.job({"do": "die", "signal": signal.SIGKILL}) for _ in range(200)]
    eventually(lambda: int(str(crash_loop(worker)["step"])) >= 4)
    for job in jobs:
        for path in worker.directory.glob(f"{job}.job"):
            path.unlink(missing_ok=True)
    worker.signal(signal.SIGHUP)
    eventually(worker.complete, within_s=3.0)
    assert crash_loop(worker) == {"deaths": 0, "step": 0, "pause_s": 0.0}


def test_what_is_missing_is_replaced_once_children_live_again(supervise: Supervise) -> None:
    worker = supervise(concurrency=3).start()
    for _ in range(10):
        newest = worker.events("child")[-1]["pid"]
        if int(str(crash_loop(worker)["step"])) > 0:
            break
        known = len(worker.events("child"))
        os.kill(newest, signal.SIGKILL)
        eventually(lambda known=known: len(worker.events("child")) > known)
    eventually(lambda: "children live again" in worker.log)
    eventually(worker.complete)
    assert crash_loop(worker)["step"] == 0


def test_kills_that_let_every_child_end_one_execution_never_slow_anything_down() -> None:
    # With half of that credit the pauses kept themselves up: the one child that tried for all was the
    # next to be killed, after one execution, and the pause grew to its longest.
    loop, now_s = CALM, 0.0
    for _ in range(2):  # as many as are answered at once
        now_s += 0.01
        loop = died(loop, Death(now_s - 0.01, 0.0, 0.01, 0), now_s, 0.99)
    for _ in range(200):
        now_s += 0.02
        loop = died(loop, Death(now_s - 0.02, 0.005, 0.015, 1), now_s, 0.99)
        assert loop.step == 0
