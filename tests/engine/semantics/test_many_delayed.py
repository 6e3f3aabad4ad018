"""Delayed tasks wait in the broker: a worker does not grow with them, and its death loses none."""

from __future__ import annotations

import time
from datetime import datetime, timezone

import psutil
import pytest

from support.semantics import Fleet
from support.waiting import eventually

SOURCE = """
app = App("many", **SETTINGS)

@app.task(ignore_result=True)
def when(key, number):
    note(key, f"{number} {time.time()}")

@app.task(ignore_result=True)
def never(number):
    note("never", f"{number}")
"""
MIB = 1 << 20
GROWTH_BYTES_MAX = 12 * MIB
SOON = 2000
LATE_S = 0.5


def worker_bytes(fleet: Fleet) -> int:
    """Memory that only the worker's processes have."""
    supervisor = psutil.Process(fleet.worker.pid)
    processes = [supervisor, *supervisor.children(recursive=True)]
    return sum(process.memory_full_info().uss for process in processes)


def send_soon(fleet: Fleet, key: str, count: int, due_wall_s: float) -> None:
    """Tasks that are due one after the other from a moment on, within two seconds."""
    when = fleet.task("when")
    with fleet.app.bulk():
        for number in range(count):
            due = datetime.fromtimestamp(due_wall_s + 2.0 * number / count, timezone.utc)
            when.apply_async((key, number), eta=due)


def pend(fleet: Fleet, numbers: range) -> None:
    """Tasks that are due long after the test."""
    never = fleet.task("never")
    for start in range(numbers.start, numbers.stop, 10_000):
        with fleet.app.bulk():
            for number in range(start, min(start + 10_000, numbers.stop)):
                never.apply_async((number,), countdown=36_000 + number % 7200)


def all_run(fleet: Fleet, key: str, count: int, due_wall_s: float, within_s: float = 60.0) -> None:
    """Wait until all of `send_soon` ran; each once, none early."""
    eventually(lambda: len(fleet.notes(key)) >= count, deadline_s=within_s, every_s=0.1)
    rows = [line.split() for line in fleet.notes(key)]
    assert sorted(int(number) for number, _ in rows) == list(range(count))
    early = [number for number, at in rows if float(at) < due_wall_s + 2.0 * int(number) / count - 0.001]
    assert early == []


@pytest.mark.needs("several_processes", "inspects_schedule")
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(
    "count",
    [
        pytest.param(20_000, marks=pytest.mark.slow),
        pytest.param(1_000_000, marks=pytest.mark.soak),
    ],
)
def test_a_worker_does_not_grow_with_what_is_delayed_and_its_death_loses_none(
    fleet: Fleet, count: int
) -> None:
    def delayed() -> int:
        return fleet.depth().delayed

    # On Redis they come through the queue, as Celery's do, and a worker puts each into the schedule.
    moved_s = 60.0 + count / 500
    warm = fleet.unique("warm")
    send_soon(fleet, warm, SOON, time.time())
    all_run(fleet, warm, SOON, 0.0)
    before = delayed()
    grown = worker_bytes(fleet)
    pend(fleet, range(count // 2))
    soon, due_wall_s = fleet.unique("soon"), time.time() + 6.0
    send_soon(fleet, soon, SOON, due_wall_s)
    fleet.kill_worker()
    fleet.start_worker()
    all_run(fleet, soon, SOON, due_wall_s, moved_s)
    grown = min(grown, worker_bytes(fleet))
    pend(fleet, range(count // 2, count))
    again, due_wall_s = fleet.unique("again"), time.time() + 1.0
    send_soon(fleet, again, SOON, due_wall_s)
    all_run(fleet, again, SOON, due_wall_s, moved_s)
    after = worker_bytes(fleet)
    print(f"{fleet.name}: {count} pending, {grown / MIB:.1f} MiB before, {after / MIB:.1f} MiB after")
    assert after - grown < GROWTH_BYTES_MAX
    eventually(lambda: delayed() == before + count, deadline_s=moved_s, every_s=0.1)
    assert fleet.notes("never") == []


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.needs("several_processes", "inspects_schedule")
def test_what_is_due_is_not_held_up_by_what_is_not(fleet: Fleet) -> None:
    before = fleet.depth().delayed
    pend(fleet, range(20_000))
    eventually(lambda: fleet.depth().delayed == before + 20_000, deadline_s=60, every_s=0.1)
    key, due_wall_s = fleet.unique("few"), time.time() + 0.5
    send_soon(fleet, key, 100, due_wall_s)
    all_run(fleet, key, 100, due_wall_s)
    rows = [line.split() for line in fleet.notes(key)]
    late = [float(at) - due_wall_s - 2.0 * int(number) / 100 for number, at in rows]
    assert sorted(late)[90] < LATE_S, max(late)
