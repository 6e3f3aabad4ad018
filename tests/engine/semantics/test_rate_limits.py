"""Rate limits of one worker: one bucket for all its children, lanes for what waits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from prefork.engine.embed import Worker
from support.calibration import Waits
from support.semantics import Fleet, fleet_of
from support.tokens import never_too_many, none_before_its_token
from support.waiting import eventually

SOURCE = """
app = App("limits", **SETTINGS)


@app.task(rate_limit="20/s", ignore_result=True)
def limited(run, number):
    note(run, f"{time.monotonic()} {number}")


@app.task(rate_limit="50/s", rate_limit_burst=10, ignore_result=True)
def bursting(run, number):
    note(run, f"{time.monotonic()} {number}")


@app.task(rate_limit="1/m", rate_limit_burst=10, ignore_result=True)
def rarely(run):
    note(run, "ran")


@app.task(rate_limit=0, ignore_result=True)
def paused(run):
    note(run, "ran")


@app.task(rate_limit="10/m", ignore_result=True)
def slow(run, number):
    note(run, f"{time.monotonic()} {number}")


@app.task(rate_limit=0, ignore_result=True)
def changeable(run, number):
    note(run, f"{time.monotonic()} {number}")


@app.task
def other(x):
    return x


@app.task
def who():
    return os.getpid()
"""


def moments(fleet: Fleet, run: str) -> list[float]:
    return sorted(float(line.split()[0]) for line in fleet.notes(run))


def numbers(fleet: Fleet, run: str) -> list[int]:
    return [int(line.split()[1]) for line in fleet.notes(run)]


def children_of(fleet: Fleet) -> int:
    return 2 if fleet.several_processes else 1


def set_rate(fleet: Fleet, task: str, rate: str | int | None) -> None:
    """Change a rate; it holds when this returns."""
    (answer,) = fleet.app.control.rate_limit(task, rate, reply=True, timeout=20, limit=1)
    assert all("ok" in said for said in answer.values()), answer


def nothing_in_hand(fleet: Fleet) -> None:
    """Wait until each child has run something else: what it had a token for before has run then."""
    seen: set[int] = set()

    def all_answered() -> bool:
        answers = [fleet.task("who").delay() for _ in range(4)]
        seen.update(answer.get(timeout=20) for answer in answers)
        return len(seen) == children_of(fleet)

    eventually(all_answered, deadline_s=20)


@pytest.mark.serial
def test_children_share_one_bucket_and_keep_the_order(fleet: Fleet) -> None:
    run, waits, begun_s = fleet.unique("limited"), Waits(), time.monotonic()
    for number in range(60):
        fleet.task("limited").delay(run, number)
    eventually(lambda: len(fleet.notes(run)) == 60, deadline_s=15)
    ran = moments(fleet, run)
    none_before_its_token(ran, begun_s, 20)
    never_too_many(ran, children_of(fleet), 20)
    elapsed_s, waited_s = ran[-1] - ran[0], waits.so_far_s
    # 59 intervals; a failure says what the machine took from takers.
    assert elapsed_s <= 59 / 20 * 1.1, (elapsed_s, waited_s)
    # Two children move messages side by side, in batches of 1, 2, 4, 8, 16 and 32 each: the order is kept
    # within a batch, and a child that was slow to move its own comes after the other's, however many.
    order = numbers(fleet, run)
    assert sorted(order) == list(range(60))
    assert sum(before > after for before, after in zip(order, order[1:])) <= 12, order


def test_a_burst_runs_at_once_and_the_rest_at_the_rate(fleet: Fleet) -> None:
    run, begun_s = fleet.unique("burst"), time.monotonic()
    for number in range(100):
        fleet.task("bursting").delay(run, number)
    eventually(lambda: len(fleet.notes(run)) == 100, deadline_s=15)
    ran = moments(fleet, run)
    none_before_its_token(ran, begun_s, 50, burst=10)
    never_too_many(ran, children_of(fleet), 50, burst=10)


def test_a_burst_waits_for_no_token_and_what_comes_after_it_does(fleet: Fleet) -> None:
    run, task = fleet.unique("rarely"), fleet.task("rarely")
    for _ in range(13):
        task.delay(run)
    # Far less than a minute later: ten without a token each would have taken nine.
    eventually(lambda: fleet.depth("celery.limited." + task.name).ready == 3, deadline_s=20)
    eventually(lambda: len(fleet.notes(run)) == 10, deadline_s=20)


def test_what_is_limited_keeps_nobody_else_waiting(fleet: Fleet) -> None:
    run = fleet.unique("slow")
    for number in range(30):
        fleet.task("slow").delay(run, number)
    begun_s = time.monotonic()
    assert [fleet.task("other").delay(n).get(timeout=20) for n in range(20)] == list(range(20))
    assert time.monotonic() - begun_s < 5
    eventually(lambda: len(fleet.notes(run)) >= 1)
    lane = "celery.limited." + fleet.task("slow").name
    assert fleet.depth("celery").ready == 0
    eventually(lambda: fleet.depth(lane).ready + len(fleet.notes(run)) == 30)


def test_a_rate_of_nothing_pauses(fleet: Fleet) -> None:
    run = fleet.unique("paused")
    for _ in range(3):
        fleet.task("paused").delay(run)
    assert fleet.task("other").delay(1).get(timeout=20) == 1
    lane = "celery.limited." + fleet.task("paused").name
    eventually(lambda: fleet.depth(lane).ready == 3)
    assert fleet.notes(run) == []


def test_a_rate_is_changed_while_messages_wait(fleet: Fleet) -> None:
    run, task = fleet.unique("changed"), fleet.task("changeable")
    for number in range(60):
        task.delay(run, number)
    lane = "celery.limited." + task.name
    eventually(lambda: fleet.depth(lane).ready == 60)
    assert fleet.notes(run) == []

    begun_s = time.monotonic()
    # Slow enough that some are left, however long the next command is on its way.
    set_rate(fleet, task.name, "10/s")
    eventually(lambda: len(fleet.notes(run)) >= 12, deadline_s=10)
    none_before_its_token(moments(fleet, run), begun_s, 10)
    never_too_many(moments(fleet, run), children_of(fleet), 10)

    set_rate(fleet, task.name, 0)
    nothing_in_hand(fleet)
    ran = len(fleet.notes(run))
    time.sleep(0.5)
    assert len(fleet.notes(run)) == ran < 50

    set_rate(fleet, task.name, None)
    begun_s = time.monotonic()
    eventually(lambda: len(fleet.notes(run)) == 60, deadline_s=10)
    assert time.monotonic() - begun_s < 2.5
    assert sorted(numbers(fleet, run)) == list(range(60))
    task.delay(run, 60)
    eventually(lambda: len(fleet.notes(run)) == 61, deadline_s=5)


RELOADED = """
app = App("reloaded", **SETTINGS)


@app.task(rate_limit=0, ignore_result=True)
def reloaded(run, number):
    note(run, f"{time.monotonic()} {number}")
"""


def test_a_reload_brings_the_rates_of_the_new_code(tmp_path: Path) -> None:
    with fleet_of("filesystem", "reloaded_project", RELOADED, tmp_path) as fleet:
        run, task = fleet.unique("reloaded"), fleet.task("reloaded")
        for number in range(12):
            task.delay(run, number)
        lane = "celery.limited." + task.name
        eventually(lambda: fleet.depth(lane).ready == 12, deadline_s=20)
        source = tmp_path / "reloaded_project.py"
        source.write_text(source.read_text().replace("rate_limit=0", 'rate_limit="2/s"'))
        assert isinstance(fleet.worker, Worker)
        os.kill(fleet.worker.pid, signal.SIGHUP)
        eventually(lambda: len(fleet.notes(run)) == 12, deadline_s=20)
        # Those that are replaced go by the new rate, too, as long as they live.
        never_too_many(moments(fleet, run), 4, 2)


def test_what_waits_runs_when_the_limit_is_gone_from_the_code(tmp_path: Path) -> None:
    with fleet_of("filesystem", "unlimited_project", RELOADED, tmp_path) as fleet:
        run, task = fleet.unique("unlimited"), fleet.task("reloaded")
        for number in range(10):
            task.delay(run, number)
        eventually(lambda: fleet.depth("celery.limited." + task.name).ready == 10, deadline_s=20)
        fleet.worker.stop()
        source = tmp_path / "unlimited_project.py"
        source.write_text(source.read_text().replace("rate_limit=0, ", ""))
        fleet.start_worker()
        eventually(lambda: len(fleet.notes(run)) == 10, deadline_s=20)
        assert sorted(numbers(fleet, run)) == list(range(10))
        fleet.wait_for_log("has no limit any more: what waited is run")
