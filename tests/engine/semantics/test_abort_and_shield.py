"""Asking a task to stop, and what a task shields from being interrupted."""

from __future__ import annotations

import celery
import pytest
from celery.contrib.abortable import AbortableAsyncResult as CelerysResult

from prefork.engine.exceptions import SoftTimeLimitExceeded, TaskRevokedError
from support.semantics import Fleet
from support.waiting import eventually

WITHIN_S = 20.0

SOURCE = """
from prefork.engine import shield
from prefork.engine.abortable import AbortableTask

app = App("asked", **SETTINGS)


@app.task(bind=True, base=AbortableTask)
def export(self, name):
    note("started", name)
    for row in range(1_000):
        if self.is_aborted():
            return "stopped"
        self.update_state(state="PROGRESS", meta={"row": row})
        time.sleep(0.02)
    return "done"


@app.task(soft_time_limit=0.2)
def book(name):
    with shield():
        note("begun", name)
        time.sleep(0.6)
        note("booked", name)
    note("after", name)


@app.task
def serve(name):
    with shield():
        note("begun", name)
        time.sleep(0.6)
        note("booked", name)
    note("after", name)
"""


def begun(fleet: Fleet, log: str, name: str) -> None:
    eventually(lambda: name in fleet.notes(log), deadline_s=WITHIN_S, every_s=0.01)


def test_a_task_that_is_asked_to_stop_stops(fleet: Fleet) -> None:
    name = fleet.unique()
    result = fleet.task("export").delay(name)
    begun(fleet, "started", name)
    result.abort()
    assert result.get(timeout=WITHIN_S) == "stopped"
    assert not result.is_aborted()


def test_celerys_client_asks_as_well(fleet: Fleet) -> None:
    results = fleet.app.conf.result_backend
    if not results.startswith("redis"):
        assert fleet.name in ("memory", "filesystem"), "Celery knows neither of these stores"
        return
    peer = celery.Celery("peer", set_as_current=False, broker="memory://", backend=results)
    # Celery's client leaves its mark in the place of the state: before the task tells one of its own.
    sent = fleet.task("export").apply_async((fleet.unique(),), countdown=3.0)
    CelerysResult(sent.id, app=peer).abort()
    assert sent.is_aborted()
    assert sent.get(timeout=WITHIN_S) == "stopped"


@pytest.mark.needs("several_processes")
def test_a_soft_limit_waits_for_the_end_of_a_shield(fleet: Fleet) -> None:
    name = fleet.unique()
    with pytest.raises(SoftTimeLimitExceeded):
        fleet.task("book").delay(name).get(timeout=WITHIN_S)
    assert [name in fleet.notes(log) for log in ("booked", "after")] == [True, False]


@pytest.mark.needs("several_processes", "coordinates")
def test_a_soft_request_waits_for_it_and_a_hard_one_does_not(fleet: Fleet) -> None:
    names = [fleet.unique(), fleet.unique()]
    results = [fleet.task("serve").delay(name) for name in names]
    for name, result, signal in zip(names, results, ("SIGUSR1", "SIGTERM"), strict=True):
        begun(fleet, "begun", name)
        result.revoke(terminate=True, signal=signal)
    for result in results:
        with pytest.raises(TaskRevokedError):
            result.get(timeout=WITHIN_S)
    begun(fleet, "booked", names[0])
    assert names[1] not in fleet.notes("booked")
    assert not set(names) & set(fleet.notes("after"))
