"""Children killed under load: nothing is lost, and every repetition has its kill (I1, I3, I11)."""

from __future__ import annotations

import random
import time

from prefork.engine.exceptions import WorkerLostError
from prefork.transports.base import Depth
from support.ledger import check
from support.storms import storm
from support.stress_worker import Site
from support.waiting import eventually

MESSAGES = 3000
KILLS = 220
KILLS_THAT_HIT = 200
CHILDREN = 4
EVERY_S = (0.007, 0.035)
LEFT = 100


def test_child_kill_storm_loses_nothing_and_explains_every_repetition(
    site: Site, dice: random.Random
) -> None:
    for _ in range(MESSAGES):
        site.send("work", dice.uniform(0.005, 0.020))
    worker = site.worker(concurrency=CHILDREN, task_max_crashes=1000, loglevel="WARNING").start()
    begun_s = time.monotonic()
    storm(site, dice, KILLS, left=LEFT, every_s=EVERY_S)
    site.finished(60.0)
    runs = site.ledger.executions()
    found = check(site.accepted, runs, site.kills)
    print(f"{found}, kills {len(site.kills)}, {time.monotonic() - begun_s:.1f} s")
    assert found.clean, found
    assert found.hits >= KILLS_THAT_HIT
    assert found.hits >= 0.9 * len(site.kills)
    assert found.duplicates <= len(site.kills)
    assert worker.stats()["pid"] == worker.pid
    # The last ones may have had nothing in hand that was waited for.
    eventually(lambda: worker.stats()["causes"] == {"signal 9": len(site.kills)})
    assert site.dead() == []
    assert worker.stop() == 0
    worker.gone()


def test_early_acknowledged_tasks_never_start_twice(site: Site, dice: random.Random) -> None:
    for _ in range(1000):
        site.send("early", dice.uniform(0.005, 0.020))
    worker = site.worker(concurrency=CHILDREN, loglevel="WARNING").start()
    storm(site, dice, 60, left=LEFT, every_s=EVERY_S, task="early")
    eventually(
        lambda: (
            site.depth() == Depth(0, 0, 0) and {c["state"] for c in worker.stats()["children"]} == {"idle"}
        ),
        deadline_s=30.0,
        every_s=0.05,
    )
    runs = site.ledger.executions()
    found = check(site.accepted, runs, site.kills)
    print(f"{found}, kills {len(site.kills)}")
    assert found.duplicates == 0
    assert (found.phantom, found.vanished) == ([], [])
    assert found.hits >= 54
    assert len(found.lost) <= len(site.kills) * CHILDREN
    # What was cut off is said to have failed, with the cause.
    for task_id in found.lost:
        assert "signal 9" in str(site.result(task_id)), task_id


def test_poison_is_dead_lettered_after_its_crashes_and_harms_nobody(site: Site, dice: random.Random) -> None:
    max_crashes, poisons = 3, set()
    kinds = ["poison"] * 20 + ["work"] * 500
    dice.shuffle(kinds)
    for kind in kinds:
        task_id = site.send(kind) if kind == "poison" else site.send(kind, dice.uniform(0.001, 0.01))
        if kind == "poison":
            poisons.add(task_id)
    good = [task_id for task_id in site.accepted if task_id not in poisons]
    workers = [site.worker(concurrency=2, task_max_crashes=max_crashes).launch() for _ in range(2)]
    site.finished(60.0, good)
    letters = eventually(lambda: found if len(found := site.dead()) == 20 else None, deadline_s=20.0)
    runs = site.ledger.executions()
    starts = [run for run in runs if run.task_id in poisons]
    print(f"poison starts {len(starts)}, good starts {len(runs) - len(starts)}, dead {len(letters)}")
    assert len(starts) <= len(poisons) * max_crashes
    assert len(runs) - len(starts) == len(good)
    assert {letter.reason for letter in letters} == {"crashes"}
    assert {letter.crashes for letter in letters} == {max_crashes}
    assert all("signal 9" in cause for letter in letters for cause in letter.causes)
    for task_id in poisons:
        result = site.result(task_id)
        assert isinstance(result, WorkerLostError)
        assert "signal 9" in str(result)
    for worker in workers:
        assert worker.stop() == 0
