"""Countdown, ETA and expiry in real workers: never early, soon after, and never after their time."""

from __future__ import annotations

import json
import random
import time
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import psutil
import pytest

from prefork.engine.exceptions import InvalidTaskError, TaskRevokedError
from support.semantics import OUTSIDE_S, Fleet
from support.waiting import eventually

LATE_S = 0.5
SOURCE = """
app = App("delays", **SETTINGS)

@app.task
def when(key, due):
    note(key, f"{due} {time.time()}")

@app.task(expires=0.05)
def short_lived(key):
    note(key, "ran")

@signals.task_revoked.connect
def revoked(sender, request, terminated, signum, expired, **named):
    note(f"{request.id}.revoked", f"{sender.name} {terminated} {signum} {expired}")
"""


def idle_share(before: Any) -> float:
    """How much of the processors nobody used since a moment."""
    after = psutil.cpu_times()
    return float((after.idle - before.idle) / (sum(after) - sum(before)))


def lateness(fleet: Fleet, count: int, within_s: float) -> list[float]:
    """Seconds that each of so many tasks, due at random moments, began after its time."""
    key = fleet.unique("due")
    rng = random.Random(count)
    start_wall_s = time.time()
    when = fleet.task("when")
    with fleet.app.bulk():
        for _ in range(count):
            due = start_wall_s + rng.uniform(0.2, within_s)
            when.apply_async((key, due), eta=datetime.fromtimestamp(due, timezone.utc))
    eventually(lambda: len(fleet.notes(key)) >= count, deadline_s=within_s + OUTSIDE_S, every_s=0.05)
    rows = [line.split() for line in fleet.notes(key)]
    assert len(rows) == count, "each runs once"
    return [float(began) - float(due) for due, began in rows]


@pytest.mark.serial
def test_no_task_is_early_and_none_late_where_the_workers_are_idle(fleet: Fleet) -> None:
    with fleet.another_worker():
        latest: list[tuple[float, float]] = []
        for _ in range(3):  # another program may have had the processors meanwhile
            before = psutil.cpu_times()
            late = lateness(fleet, 200, 3.0)
            assert min(late) >= -0.001
            latest.append((max(late), idle_share(before)))
            if latest[-1][0] < LATE_S:
                return
        quiet = [seconds for seconds, idle in latest if idle > 0.4]
        assert quiet == [], f"late by so many seconds although the host was idle: {quiet}"
        assert min(latest)[0] < 20 * LATE_S, latest


@pytest.mark.parametrize(
    "options",
    [
        {"expires": 0.1},
        {"expires": timedelta(seconds=0.1)},
        {"expires": lambda: datetime.now(timezone.utc) + timedelta(seconds=0.1)},
        {"expires": lambda: datetime.now(timezone.utc).replace(tzinfo=None) + timedelta(seconds=0.1)},
    ],
    ids=["seconds", "timedelta", "aware", "naive"],
)
def test_what_expires_while_it_waits_is_revoked_and_does_not_run(
    fleet: Fleet, options: dict[str, Any]
) -> None:
    given = {name: value() if isinstance(value, Callable) else value for name, value in options.items()}
    key = fleet.unique()
    result = fleet.task("when").apply_async((key, 0.0), countdown=0.25, **given)
    in_time = fleet.task("when").apply_async((fleet.unique(), 0.0), countdown=0.05, expires=60)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=OUTSIDE_S)
    assert (result.state, fleet.notes(key)) == ("REVOKED", [])
    name = fleet.task("when").name
    assert fleet.notes(f"{result.id}.revoked") == [f"{name} False None True"]
    in_time.get(timeout=OUTSIDE_S)
    assert fleet.notes(f"{in_time.id}.revoked") == []


@pytest.mark.parametrize("expires", [-1, 0, lambda: datetime.now(timezone.utc) - timedelta(days=1)])
def test_what_has_expired_before_it_is_sent_is_revoked(fleet: Fleet, expires: Any) -> None:
    key = fleet.unique()
    given = expires() if callable(expires) else expires
    result = fleet.task("when").apply_async((key, 0.0), expires=given)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=OUTSIDE_S)
    assert fleet.notes(key) == []


def test_a_task_may_have_a_lifetime_of_its_own(fleet: Fleet) -> None:
    result = fleet.task("short_lived").apply_async((fleet.unique(),), countdown=0.15)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=OUTSIDE_S)
    assert fleet.task("short_lived").apply_async((fleet.unique(),), expires=60).get(timeout=OUTSIDE_S) is None


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"countdown": float("nan")}, r"countdown=nan: out of range"),
        ({"countdown": 1e12}, r"countdown=1000000000000.0: out of range"),
        ({"countdown": "5"}, r"countdown='5': give seconds"),
        ({"eta": 5}, r"eta=5: give a datetime"),
        ({"eta": "tomorrow"}, r"eta='tomorrow': not an ISO 8601"),
        ({"eta": datetime(1, 1, 1, tzinfo=timezone.utc)}, r"eta=.*between 1970 and 9999"),
        ({"expires": float("inf")}, r"expires=inf: out of range"),
        ({"expires": True}, r"expires=True: give"),
        ({"time_limit": -1}, r"time_limit=-1: a limit is"),
        ({"priority": 1000}, r"priority=1000: give"),
    ],
)
def test_what_nobody_could_honour_is_refused_at_the_call(
    fleet: Fleet, options: dict[str, Any], named: str
) -> None:
    with pytest.raises(InvalidTaskError, match=named):
        fleet.task("when").apply_async(("never", 0.0), **options)


@pytest.mark.parametrize(
    "headers",
    [
        {"eta": "never"},
        {"eta": "+999999-01-01T00:00:00"},
        {"expires": "0000-00-00"},
        {"timelimit": [1e300, None]},
        {"timelimit": [-1, None]},
        {"retries": -1},
        {"retries": 1e300},
    ],
    ids=str,
)
def test_what_somebody_sent_all_the_same_becomes_a_dead_letter(fleet: Fleet, headers: dict[str, Any]) -> None:
    key = fleet.unique()
    with fleet.app.client.collecting() as messages:
        result = fleet.task("when").apply_async((key, 0.0))
    document = json.loads(messages[0].document)
    document["headers"].update(headers)
    fleet.send_raw(json.dumps(document).encode())

    def is_dead() -> bool:
        return any(result.id.encode() in letter.document for letter in fleet.dead())

    eventually(is_dead, deadline_s=OUTSIDE_S)
    eventually(lambda: result.state == "FAILURE", deadline_s=OUTSIDE_S)
    assert fleet.notes(key) == []
