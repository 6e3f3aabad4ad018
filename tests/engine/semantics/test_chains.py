"""Chains through real workers: who waits for the last step is told when one before it does not succeed."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.engine import ancestry
from prefork.engine.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from support.semantics import OUTSIDE_S, Fleet
from support.waiting import eventually

WORKER = {"task_max_crashes": 1}
SOURCE = """
app = App("chains", **SETTINGS)

@app.task
def first(value=None):
    return value

@app.task
def bad(value=None):
    raise LookupError(value)

@app.task(time_limit=0.5)
def too_long(value=None):
    time.sleep(30)

@app.task
def dies(value=None):
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(reject_on_worker_lost=False)
def dies_at_once(value=None):
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(acks_late=False)
def dies_early(value=None):
    os.kill(os.getpid(), signal.SIGKILL)

@app.task(ignore_result=True)
def quiet(value=None):
    return value
"""


def states(result: Any) -> list[str]:
    """Of a chain's results, the first step's first."""
    found: list[str] = []
    while result is not None:
        found.append(result.state)
        result = result.parent
    return found[::-1]


def test_a_failure_is_the_result_of_each_later_step(fleet: Fleet) -> None:
    first = fleet.task("first")
    result = (first.s("why") | fleet.task("bad").s() | first.s() | first.s()).delay()
    with pytest.raises(LookupError, match="why"):
        result.get(timeout=OUTSIDE_S)
    # Where results are stored one after the other, the first one may be told of before the last one is there.
    eventually(lambda: states(result) == ["SUCCESS", "FAILURE", "FAILURE", "FAILURE"], deadline_s=OUTSIDE_S)
    alone = fleet.app.AsyncResult(result.id)
    with pytest.raises(LookupError, match="why"):
        alone.get(timeout=OUTSIDE_S)


def test_a_later_step_that_ignores_its_result_has_none(fleet: Fleet) -> None:
    first = fleet.task("first")
    result = (fleet.task("bad").s("why") | fleet.task("quiet").s() | first.s()).delay()
    with pytest.raises(LookupError):
        result.get(timeout=OUTSIDE_S)
    eventually(lambda: states(result)[::2] == ["FAILURE", "FAILURE"], deadline_s=OUTSIDE_S)
    assert states(result) == ["FAILURE", "PENDING", "FAILURE"]


def test_a_chain_whose_task_was_revoked_ends(fleet: Fleet) -> None:
    first = fleet.task("first")
    result = (first.si(1).set(countdown=2.5) | first.s() | first.s()).delay()
    result.parent.parent.revoke()
    alone = fleet.app.AsyncResult(result.id)
    with pytest.raises(TaskRevokedError):
        alone.get(timeout=OUTSIDE_S)


def test_a_chain_whose_task_expired_ends(fleet: Fleet) -> None:
    first = fleet.task("first")
    result = (first.si(1).set(countdown=0.5, expires=0.1) | first.s()).delay()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=OUTSIDE_S)
    eventually(lambda: states(result) == ["REVOKED", "REVOKED"], deadline_s=OUTSIDE_S)


@pytest.mark.needs("several_processes")
@pytest.mark.parametrize(
    ("name", "kind"), [("too_long", TimeLimitExceeded), ("dies_at_once", WorkerLostError)]
)
def test_a_chain_whose_task_was_ended_from_outside_ends(
    fleet: Fleet, name: str, kind: type[Exception]
) -> None:
    first = fleet.task("first")
    result = (fleet.task(name).s() | first.s() | first.s()).delay()
    alone = fleet.app.AsyncResult(result.id)
    with pytest.raises(kind):
        alone.get(timeout=OUTSIDE_S)
    eventually(lambda: states(result) == ["FAILURE"] * 3, deadline_s=OUTSIDE_S)


@pytest.mark.needs("several_processes")
def test_a_chain_whose_message_became_a_dead_letter_ends(fleet: Fleet) -> None:
    first = fleet.task("first")
    result = (fleet.task("dies").s() | first.s() | first.s()).delay()
    alone = fleet.app.AsyncResult(result.id)
    with pytest.raises(WorkerLostError):
        alone.get(timeout=OUTSIDE_S)


@pytest.mark.needs("several_processes")
def test_a_chain_of_which_nobody_knows_any_more_ends_for_who_has_the_results_of_its_steps(
    fleet: Fleet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ancestry, "LOOK_EVERY_S", 0.1)
    first = fleet.task("first")
    result = (fleet.task("dies_early").s() | first.s() | first.s()).delay()
    with pytest.raises(WorkerLostError):
        result.get(timeout=OUTSIDE_S)
    assert states(result) == ["FAILURE", "PENDING", "PENDING"]
