"""Retries and snoozes through real workers: when, how often, with what, and what a killed child changes."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter
from itertools import pairwise
from typing import Any

import psutil
import pytest

from prefork.engine.exceptions import MaxRetriesExceededError, RemoteTaskError
from support.semantics import OUTSIDE_S, Fleet
from support.waiting import eventually

WORKER = {"task_max_crashes": 100}
SOURCE = """
app = App("retries", **SETTINGS)

def began(self, key):
    note(key, f"{self.request.retries} {time.time()} {os.getpid()}")

def told(self, exc, task_id, args, kwargs, einfo):
    note(args[0] + ".told", f"{self.name} {type(exc).__name__} {self.request.retries}")

@app.task(bind=True, max_retries=None)
def by_hand(self, key, times, countdown):
    began(self, key)
    if self.request.retries < times:
        raise self.retry(countdown=countdown)
    return self.request.retries

@app.task(bind=True, autoretry_for=(LookupError,), dont_autoretry_for=(KeyError,), retry_delays=[0.1, 0.25],
          max_retries=4, on_retry=told, on_failure=told)
def by_list(self, key, error="IndexError"):
    began(self, key)
    raise {"IndexError": IndexError, "KeyError": KeyError}[error]("again")

@app.task(bind=True, autoretry_for=(OSError,), retry_backoff=0.1, retry_backoff_max=0.3, retry_jitter=False,
          max_retries=3)
def by_backoff(self, key):
    began(self, key)
    raise OSError("again")

@app.task(bind=True, retry_for_s=2.0, retry_delays=[0.6])
def for_a_second(self, key):
    began(self, key)
    try:
        raise LookupError("the last one")
    except LookupError:
        raise self.retry()

@app.task(bind=True, retry_for_s=2000.0, retry_delays=[600])
def for_half_an_hour(self, key):
    began(self, key)
    raise self.retry()

class Told(app.Task):
    def on_retry(self, exc, task_id, args, kwargs, einfo):
        note(args[0] + ".told", "class " + repr(exc))

@app.task(bind=True, base=Told, max_retries=1, default_retry_delay=0)
def exhausted(self, key):
    try:
        raise ValueError("the last one")
    except ValueError:
        self.retry()

@app.task(bind=True, max_retries=1)
def other_error(self, key):
    raise self.retry(exc=ValueError("mine"), countdown=0)

@app.task(bind=True)
def anew(self, key, a, b=0, c=0):
    if self.request.retries == 0:
        raise self.retry(kwargs={"a": 10, "c": 30}, countdown=0, priority=3, headers={"more": 1})
    return [a, b, c, self.request.headers, self.request.delivery_info["priority"]]

@app.task(bind=True)
def put_off(self, key, times, delay_s):
    began(self, key)
    if self.request.snoozes < times:
        raise Snooze(delay_s)
    return [self.request.retries, self.request.snoozes, self.request.headers]

@app.task(bind=True, max_snoozes=2)
def put_off_too_often(self, key):
    began(self, key)
    raise Snooze(0)

@app.task(bind=True, autoretry_for=(Exception,), default_retry_delay=0, max_retries=5)
def snoozes_and_retries(self, key):
    began(self, key)
    if self.request.snoozes == 0:
        raise Snooze(0)
    if self.request.retries == 0:
        raise ValueError("again")
    return [self.request.retries, self.request.snoozes]

@app.task(bind=True, max_retries=3)
def kill_once(self, key, when):
    began(self, key)
    if self.request.retries < 2:
        raise self.retry(countdown=0.05)
    return self.request.retries

@signals.task_postrun.connect
def kill(sender, task_id, task, args, state, **named):
    # Between the body and its settlement.
    if task.name == kill_once.name and state == "RETRY" and task.request.retries == args[1]:
        killed = ROOT / (args[0] + ".killed")
        if not killed.exists():
            killed.write_text("")
            os.kill(os.getpid(), signal.SIGKILL)

@app.task(bind=True, max_retries=3)
def storm(self, key):
    began(self, key)
    time.sleep(0.02)
    if self.request.retries < 2:
        raise self.retry(countdown=0.0)
    note(key + ".ended", self.request.id)
"""


def starts(fleet: Fleet, key: str) -> list[tuple[int, float, int]]:
    """Attempt, moment and process of every start that a task has noted."""
    rows = [line.split() for line in fleet.notes(key)]
    return [(int(attempt), float(wall_s), int(pid)) for attempt, wall_s, pid in rows]


def gaps(fleet: Fleet, key: str) -> list[float]:
    """Seconds between the starts."""
    return [after[1] - before[1] for before, after in pairwise(starts(fleet, key))]


def lasted(gap_s: float, delay_s: float) -> bool:
    """Never early; how late a busy machine makes it is somebody else's test."""
    return delay_s - 0.002 <= gap_s < delay_s + 5.0


def send(fleet: Fleet, name: str, *args: Any, **kwargs: Any) -> tuple[str, Any]:
    key = fleet.unique(name)
    return key, fleet.task(name).delay(key, *args, **kwargs)


def test_the_nth_retry_waits_the_nth_delay(fleet: Fleet) -> None:
    key, result = send(fleet, "by_hand", 3, [0.3, 0.05])
    assert result.get(timeout=OUTSIDE_S) == 3
    assert [attempt for attempt, *_ in starts(fleet, key)] == [0, 1, 2, 3]
    assert all(map(lasted, gaps(fleet, key), [0.3, 0.05, 0.05]))


def test_a_list_of_delays_is_an_option_of_the_task_and_functions_of_the_decorator_are_called_as_hooks(
    fleet: Fleet,
) -> None:
    key, result = send(fleet, "by_list")
    with pytest.raises(IndexError, match="again"):
        result.get(timeout=OUTSIDE_S)
    assert all(map(lasted, gaps(fleet, key), [0.1, 0.25, 0.25, 0.25]))
    name = fleet.task("by_list").name
    assert fleet.notes(f"{key}.told") == [f"{name} IndexError {n}" for n in range(5)]


def test_exceptions_to_automatic_retries_fail_at_once(fleet: Fleet) -> None:
    key, result = send(fleet, "by_list", error="KeyError")
    with pytest.raises(KeyError):
        result.get(timeout=OUTSIDE_S)
    assert len(starts(fleet, key)) == 1


def test_a_backoff_doubles_up_to_its_maximum(fleet: Fleet) -> None:
    key, result = send(fleet, "by_backoff")
    with pytest.raises(OSError, match="again"):
        result.get(timeout=OUTSIDE_S)
    assert all(map(lasted, gaps(fleet, key), [0.1, 0.2, 0.3]))


def test_retries_end_when_the_next_would_begin_too_late(fleet: Fleet) -> None:
    key, result = send(fleet, "for_a_second")
    with pytest.raises(MaxRetriesExceededError, match=r"more than 2 s after the first"):
        result.get(timeout=OUTSIDE_S)
    found = starts(fleet, key)
    assert 2 <= len(found) <= 4  # 0, 0.6, 1.2 and 1.8 s, when nothing else delays them
    assert all(wall_s - found[0][1] <= 2.0 + 1.0 for _, wall_s, _ in found)


def test_the_last_error_is_the_cause_of_the_end(fleet: Fleet) -> None:
    key, result = send(fleet, "exhausted")
    with pytest.raises(MaxRetriesExceededError, match="all 1 retries"):
        result.get(timeout=OUTSIDE_S)
    assert "ValueError: the last one" in (result.traceback or "")
    assert "direct cause" in (result.traceback or "")
    assert fleet.notes(f"{key}.told") == ["class ValueError('the last one')"]


def test_an_error_that_was_named_is_raised_at_the_end(fleet: Fleet) -> None:
    with pytest.raises(ValueError, match="mine"):
        send(fleet, "other_error")[1].get(timeout=OUTSIDE_S)


def test_what_is_given_anew_takes_the_place_of_what_was(fleet: Fleet) -> None:
    key = fleet.unique()
    result = fleet.task("anew").apply_async((key, 1), {"b": 2}, headers={"trace": "x"})
    assert result.get(timeout=OUTSIDE_S) == [10, 0, 30, {"trace": "x", "more": 1}, 3]


def test_a_snooze_spends_no_attempt_and_records_no_failure(fleet: Fleet) -> None:
    key, result = send(fleet, "put_off", 3, 0.2)
    assert result.get(timeout=OUTSIDE_S) == [0, 3, None]
    assert [attempt for attempt, *_ in starts(fleet, key)] == [0, 0, 0, 0]
    assert all(map(lasted, gaps(fleet, key), [0.2] * 3))


def test_snoozes_may_be_bounded(fleet: Fleet) -> None:
    key, result = send(fleet, "put_off_too_often")
    with pytest.raises(MaxRetriesExceededError, match="put off 2 times"):
        result.get(timeout=OUTSIDE_S)
    assert len(starts(fleet, key)) == 3


def test_snoozes_and_retries_are_counted_apart(fleet: Fleet) -> None:
    key, result = send(fleet, "snoozes_and_retries")
    assert result.get(timeout=OUTSIDE_S) == [1, 1]
    assert [attempt for attempt, *_ in starts(fleet, key)] == [0, 0, 1]


def test_what_waits_for_its_next_attempt_is_in_state_retry_with_its_reason(fleet: Fleet) -> None:
    _, result = send(fleet, "by_hand", 1, 60)
    assert eventually(lambda: result.state == "RETRY", deadline_s=OUTSIDE_S)
    result.revoke()


@pytest.mark.needs("several_processes")
@pytest.mark.parametrize("attempt", [0, 1])
def test_a_child_that_is_killed_before_it_settles_neither_loses_nor_doubles_an_attempt(
    fleet: Fleet, attempt: int
) -> None:
    key, result = send(fleet, "kill_once", attempt)
    assert result.get(timeout=OUTSIDE_S) == 2
    attempts = [attempt for attempt, *_ in starts(fleet, key)]
    assert attempts == sorted([0, 1, 2, attempt])


@pytest.mark.slow
@pytest.mark.needs("several_processes")
def test_kills_lose_no_attempt_and_double_none(fleet: Fleet) -> None:
    keys: list[str] = []

    def send_some() -> None:
        for _ in range(60):
            keys.append(fleet.unique("storm"))
            fleet.task("storm").delay(keys[-1])

    def all_ended() -> bool:
        return all(fleet.notes(f"{key}.ended") for key in keys)

    killed: set[int] = set()
    end_mono_s = time.monotonic() + 8.0
    rng = random.Random(5)
    send_some()
    while len(killed) < 5 or (time.monotonic() < end_mono_s and not all_ended()):
        if all_ended():
            send_some()  # they were quicker than their killer
        time.sleep(rng.uniform(0.02, 0.2))
        alive = [child.pid for child in psutil.Process(fleet.worker.pid).children(recursive=True)]
        busy = {pid for key in keys for *_, pid in starts(fleet, key)} & set(alive) - killed
        if busy:
            victim = rng.choice(sorted(busy))
            killed.add(victim)
            os.kill(victim, signal.SIGKILL)
    eventually(all_ended, deadline_s=60, every_s=0.1)
    assert len(killed) >= 5
    runs = sorted((wall_s, pid, key, attempt) for key in keys for attempt, wall_s, pid in starts(fleet, key))
    last_of = {pid: (key, attempt) for _, pid, key, attempt in runs}
    excused = Counter(last_of[pid] for pid in killed)
    ran = Counter((key, attempt) for _, _, key, attempt in runs)
    assert {attempt for _, attempt in ran} == {0, 1, 2}
    assert all(ran[key, attempt] for key in keys for attempt in range(3)), "an attempt was lost"
    if fleet.name != "amqp":  # where sending the next attempt and acknowledging this one are two steps
        assert [one for one in ran if ran[one] > 1 + excused[one]] == []


def test_eager_attempts_agree(fleet: Fleet) -> None:
    by_hand, put_off = fleet.task("by_hand"), fleet.task("put_off")
    assert by_hand.apply((fleet.unique(), 3, [5, 10])).get() == 3
    assert put_off.apply((fleet.unique(), 3, 60)).get() == [0, 3, None]
    for name, error in [
        ("for_half_an_hour", MaxRetriesExceededError),
        ("put_off_too_often", RemoteTaskError),
    ]:
        key = fleet.unique()
        result = fleet.task(name).apply((key,))
        assert result.state == "FAILURE"
        assert isinstance(result.result, (error, MaxRetriesExceededError))
        assert len(starts(fleet, key)) == {"for_half_an_hour": 4, "put_off_too_often": 3}[name]
