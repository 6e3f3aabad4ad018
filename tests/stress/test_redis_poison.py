"""A message that takes its whole worker down among many good ones: it alone dies for it (fault test 6)."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from support.ledger import Kill, boot_ns, check
from support.redis_stress import RedisSite, redis_site
from support.stress_worker import StressWorker
from support.waiting import eventually

MAX_CRASHES = 3
LEASE = {"worker_lease": 2.0, "worker_lease_renew_interval": 0.5}
GOOD = 500


def dies_of_it(site: RedisSite, worker: StressWorker, task_id: str, deaths: int) -> bool:
    """Play the container's memory limit: when the task starts, every process of the worker is killed.

    Returns False once everything else is done and the task does not start any more.
    """

    def begun_or_over() -> bool:
        return len(site.starts(task_id)) > deaths or bool(site.dead())

    eventually(begun_or_over, deadline_s=60.0, every_s=0.002)
    if len(site.starts(task_id)) <= deaths:
        return False
    now_ns = boot_ns()
    victims = worker.processes()
    site.kills += [Kill(pid, now_ns) for pid in victims]
    worker.close()
    return True


@pytest.mark.timeout(150)
def test_a_message_that_kills_whole_workers_is_dead_lettered_and_no_good_one_is(
    tmp_path: Path, dice: random.Random
) -> None:
    with redis_site(tmp_path) as site:
        ids = [site.send("work", dice.uniform(0.001, 0.005)) for _ in range(GOOD // 2)]
        poison = site.send("misbehave", "sleep", 60.0)
        ids += [site.send("work", dice.uniform(0.001, 0.005)) for _ in range(GOOD - GOOD // 2)]
        deaths = 0
        while True:
            worker = site.worker(concurrency=2, task_max_crashes=MAX_CRASHES, loglevel="WARNING", **LEASE)
            worker.launch()
            if not dies_of_it(site, worker, poison, deaths):
                break
            deaths += 1
        site.finished(30.0, ids)
        [letter] = site.dead()
        runs = site.ledger.executions()
        found = check(ids, [run for run in runs if run.task_id != poison], site.kills, per_kill=None)
        print(f"{found}; worker deaths {deaths}, causes {letter.causes}")
        assert deaths == MAX_CRASHES + 1
        assert poison.encode() in letter.document
        assert (letter.reason, letter.crashes) == ("crashes", MAX_CRASHES)
        assert found.clean, found
        assert worker.stop() == 0
