"""Leases against long tasks, and a worker that slept through its own (fault test 13, I10, I12)."""

from __future__ import annotations

import os
import random
import signal
from pathlib import Path

import pytest

from support.ledger import check
from support.redis_stress import RedisSite, redis_site
from support.stress_worker import StressWorker
from support.waiting import eventually

LEASE_S = 2.0
LEASE = {"worker_lease": LEASE_S, "worker_lease_renew_interval": 0.5}


def long_tasks(root: Path, dice: random.Random, messages: int, longest_s: float) -> None:
    """Tasks of up to three times the lease on two workers, and no fault: none may run twice."""
    with redis_site(root) as site:
        for _ in range(messages):
            site.send("work", dice.uniform(0.0, longest_s))
        workers = [site.worker(concurrency=8, loglevel="WARNING", **LEASE).start() for _ in range(2)]
        site.finished(60.0 + messages * longest_s / 16)
        runs = site.ledger.executions()
        found = check(site.accepted, runs)
        longer = sum(run.end_ns is not None and run.end_ns - run.start_ns > LEASE_S * 1e9 for run in runs)
        print(f"{found}; {longer} tasks longer than the lease of {LEASE_S} s")
        assert found.clean, found
        assert found.duplicates == 0
        assert longer >= messages // 3
        assert [worker.stop() for worker in workers] == [0, 0]


@pytest.mark.timeout(120)
def test_tasks_longer_than_the_lease_run_once(tmp_path: Path, dice: random.Random) -> None:
    long_tasks(tmp_path, dice, 32, 5.0)


@pytest.mark.soak
@pytest.mark.timeout(600)
def test_tasks_longer_than_the_lease_run_once_at_full_size(tmp_path: Path, dice: random.Random) -> None:
    long_tasks(tmp_path, dice, 500, 6.0)


def freeze(worker: StressWorker) -> list[int]:
    """Stop every process of a worker, the supervisor first, as when its host is suspended."""
    frozen = [worker.pid, *(pid for pid in worker.processes() if pid != worker.pid)]
    for pid in frozen:
        os.kill(pid, signal.SIGSTOP)
    return frozen


def taken_over(site: RedisSite, task_id: str) -> None:
    """Wait until somebody else runs it."""
    eventually(lambda: len(site.starts(task_id)) == 2, deadline_s=LEASE_S + 10.0)


def test_a_worker_that_slept_through_its_lease_settles_nothing(tmp_path: Path) -> None:
    with redis_site(tmp_path) as site:
        follow_up = site.app.signature("work", args=(0.0,), immutable=True)
        first = site.worker(concurrency=2, result_extended=True, **LEASE).start()
        ids = [site.send("timed", 4.0, link=follow_up) for _ in range(2)]
        for task_id in ids:
            site.started(task_id)
        frozen = freeze(first)
        other = site.worker(concurrency=2, result_extended=True, **LEASE).start()
        for task_id in ids:
            taken_over(site, task_id)
        for pid in reversed(frozen):
            os.kill(pid, signal.SIGCONT)

        def stale() -> bool:
            firsts = [site.starts(task_id)[0] for task_id in ids]
            return all(run.end_ns is not None or not os.path.exists(f"/proc/{run.pid}") for run in firsts)

        eventually(stale, deadline_s=10.0)
        site.finished(30.0, ids)
        eventually(lambda: all(site.starts(task_id)[1].end_ns for task_id in ids), deadline_s=20.0)
        site.finished(20.0, ids)
        woke = [task_id for task_id in ids if site.starts(task_id)[0].end_ns is not None]
        for task_id in ids:
            assert site.result(task_id) == "done"
            assert site.app.AsyncResult(task_id).worker == "w1@stress"
        assert all(len(site.starts(task_id)) == 2 for task_id in ids)
        follow_ups = [run for run in site.ledger.executions() if run.task_id not in ids]
        print(f"{len(woke)} of 2 executions went on after the freeze, {len(follow_ups)} follow-ups of 2")
        assert len(follow_ups) == len(ids)
        assert site.dead() == []
        # It is a worker like any other again.
        other.close()
        assert site.result(site.send("timed", 0.0)) == "done"
        assert first.stop() == 0
