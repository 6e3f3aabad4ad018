"""Limits across workers: global_rate_limit and max_concurrency."""

from __future__ import annotations

import os
import signal

import pytest

from support.calibration import Waits
from support.semantics import Fleet
from support.tokens import GATE, Gate, none_before_its_token
from support.waiting import eventually

pytestmark = pytest.mark.needs("coordinates")
SOURCE = (
    """
app = App("shared", **SETTINGS)


@app.task(global_rate_limit="40/s", ignore_result=True)
def shared(run, number):
    note(run, f"{time.monotonic()} {number}")


@app.task(max_concurrency=2, ignore_result=True)
def narrow(run, number, sleep_s=0.1):
    begun = time.monotonic()
    time.sleep(sleep_s)
    note(run, f"{begun} {time.monotonic()} {number}")


@app.task(max_concurrency=1)
def only_one(run):
    note(run, str(os.getpid()))
    if len((ROOT / run).read_text().splitlines()) < 2:
        time.sleep(60)
    return "done"


@app.task
def other(x):
    return x
"""
    + GATE
)


def most_at_once(spans: list[tuple[float, float]]) -> int:
    """How many of these ran at the same time, at most."""
    events = sorted([(begun, 1) for begun, _ in spans] + [(ended, -1) for _, ended in spans])
    running = most = 0
    for _, step in events:
        running += step
        most = max(most, running)
    return most


@pytest.mark.serial
def test_workers_share_a_rate(fleet: Fleet) -> None:
    run = fleet.unique("shared")
    with fleet.another_worker():
        waits, gate = Waits(), Gate(fleet, 4 if fleet.several_processes else 2)
        with gate.shut():
            for number in range(80):
                fleet.task("shared").delay(run, number)
        eventually(lambda: len(fleet.notes(run)) == 80, deadline_s=20)
        waited_s = waits.so_far_s
    ran = sorted(float(line.split()[0]) for line in fleet.notes(run))
    none_before_its_token(ran, gate.opened_s, 40, catch_up_s=0.1)
    elapsed_s = ran[-1] - ran[0]
    assert elapsed_s <= 79 / 40 * 1.15, (elapsed_s, waited_s)
    assert sorted(int(line.split()[1]) for line in fleet.notes(run)) == list(range(80))


def test_no_more_run_at_once_than_there_are_slots(fleet: Fleet) -> None:
    run = fleet.unique("narrow")
    with fleet.another_worker():
        for number in range(24):
            fleet.task("narrow").delay(run, number)
        assert fleet.task("other").delay(7).get(timeout=20) == 7
        eventually(lambda: len(fleet.notes(run)) == 24, deadline_s=20)
    lines = [line.split() for line in fleet.notes(run)]
    spans = [(float(begun), float(ended)) for begun, ended, _ in lines]
    assert most_at_once(spans) <= 2
    assert sorted(int(number) for _, _, number in lines) == list(range(24))


@pytest.mark.needs("several_processes")
def test_the_slots_of_a_child_that_was_killed_are_free_again(fleet: Fleet) -> None:
    run = fleet.unique("killed")
    result = fleet.task("only_one").delay(run)
    (pid,) = eventually(lambda: fleet.notes(run), deadline_s=20)
    os.kill(int(pid), signal.SIGKILL)
    assert result.get(timeout=20) == "done"
