"""The hard limit against everything a task can do, and never against the wrong execution (I4, I9)."""

from __future__ import annotations

import random

import pytest

from prefork.engine.exceptions import TimeLimitExceeded
from support.calibration import allowance_s
from support.ledger import boot_ns
from support.stress_worker import Site, group_members
from support.waiting import eventually

pytestmark = pytest.mark.one_broker

LIMIT_S = 0.5
KINDS = ("sleep", "ignore", "mask", "stuck", "stuck with gil", "stop self", "grandchild", "daemon")


def test_the_hard_limit_holds_whatever_the_task_does(site: Site) -> None:
    worker = site.worker(concurrency=2).start()
    for kind in KINDS:
        neighbour = site.send("timed", 2 * LIMIT_S)
        beside = site.started(neighbour)
        bound_s = LIMIT_S + allowance_s(0.5, 1.5)
        task_id = site.send("misbehave", kind, time_limit=LIMIT_S)
        run = site.started(task_id)
        eventually(lambda pid=run.pid: not group_members(pid), deadline_s=bound_s + 1.0)
        took_s = (boot_ns() - run.start_ns) / 1e9
        print(f"{kind}: gone after {took_s:.3f} s")
        assert LIMIT_S <= took_s < bound_s, kind
        error = site.result(task_id)
        assert isinstance(error, TimeLimitExceeded), (kind, error)
        assert site.state(task_id) == "FAILURE"
        assert site.result(neighbour) == "done"
        [execution] = [run for run in site.ledger.executions() if run.task_id == neighbour]
        assert execution.pid == beside.pid
        assert len([run for run in site.ledger.executions() if run.task_id == task_id]) == 1
    # Of all sub-processes none is left; only supervisor, template, agent and two children are.
    eventually(lambda: len(worker.processes()) == 5, deadline_s=5.0)
    assert worker.stats()["causes"] == {f"hard time limit {LIMIT_S:g} s": len(KINDS)}
    assert worker.stop() == 0


def precision(site: Site, dice: random.Random, tasks: int, limit_s: float) -> None:
    """Tasks that end within 5 ms of their limit, each followed by one without a limit."""
    pairs = []
    for _ in range(tasks):
        close = site.send("timed", limit_s + dice.uniform(-0.005, 0.005), time_limit=limit_s)
        pairs.append((close, site.send("timed", 0.001)))
    worker = site.worker(concurrency=4, loglevel="WARNING").start()
    close_ids = [close for close, _ in pairs]
    innocent = [other for _, other in pairs]
    # What was killed has no end in the ledger, so the results are what is waited for.
    errors = {task_id: site.result(task_id, 120.0) for task_id in close_ids}
    site.finished(20.0, innocent)
    runs = site.ledger.executions()
    limited = {task_id for task_id, answer in errors.items() if isinstance(answer, TimeLimitExceeded)}
    succeeded = {task_id for task_id, answer in errors.items() if answer == "done"}
    finished = {run.task_id for run in runs if run.end_ns is not None}
    print(f"{tasks} tasks: {len(succeeded)} succeeded, {len(limited)} over their limit, {len(runs)} starts")
    assert limited | succeeded == set(close_ids)
    assert limited and succeeded
    # One start each: nobody was cut off in another's place, and nobody was run again. Whom the machine let
    # stand still just before its start was noted was over its limit by then.
    assert len(runs) == len({run.task_id for run in runs})
    assert {*close_ids, *innocent} - {run.task_id for run in runs} <= limited
    # What succeeded has ended by itself, and of the innocent each.
    assert succeeded <= finished
    assert set(innocent) <= finished
    assert all(site.result(task_id) == "done" for task_id in innocent)
    totals = worker.stats()["causes"]
    assert totals == {f"hard time limit {limit_s:g} s": len(limited)}
    assert worker.stop() == 0


def test_a_limit_that_comes_as_the_task_ends_hits_that_task_or_nobody(
    site: Site, dice: random.Random
) -> None:
    precision(site, dice, 2000, 0.03)


def test_a_child_is_replaced_within_a_second_of_its_limit(site: Site) -> None:
    worker = site.worker(concurrency=1).start()
    run = site.started(site.send("misbehave", "stuck with gil", time_limit=LIMIT_S))
    following = site.send("timed", 0.0)
    assert site.result(following) == "done"
    again = site.started(following)
    assert (again.start_ns - run.start_ns) / 1e9 < LIMIT_S + allowance_s(1.0, 1.5)
    assert len(worker.children()) == 1
