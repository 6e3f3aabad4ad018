"""The supervisor killed under load and at every moment of its start (I1, I6)."""

from __future__ import annotations

import random
import time

from support.ledger import Kill, boot_ns, check
from support.stress_worker import Site, StressWorker
from support.waiting import eventually

KILLS = 20
MESSAGES = 1200
LEASE = {"worker_lease": 2.0, "worker_lease_renew_interval": 0.5}
STARTS = 64


def kill_worker(site: Site, worker: StressWorker, children: list[int]) -> None:
    """kill -9 of the supervisor; its children's deaths are noted as kills."""
    now_ns = boot_ns()
    assert worker.process is not None
    worker.process.kill()
    worker.process.wait()
    site.kills += [Kill(pid, now_ns) for pid in children]


def test_supervisor_kill_storm_loses_nothing_and_leaves_nobody(site: Site, dice: random.Random) -> None:
    for _ in range(MESSAGES):
        site.send("work", dice.uniform(0.005, 0.030))
    for _ in range(40):
        site.send("misbehave", "grandchild", 0.2)
    hits = 0
    for _ in range(KILLS):
        worker = site.worker(concurrency=3, task_max_crashes=1000, **LEASE).start()
        children = worker.children()
        assert eventually(lambda own=children: set(site.ledger.read().running()) & set(own), deadline_s=10.0)
        time.sleep(dice.uniform(0.0, 0.15))  # the moment of the kill is what varies
        hits += bool(set(site.ledger.read().running()) & set(children))
        kill_worker(site, worker, children)
        worker.gone(1.0)
    last = site.worker(concurrency=4, task_max_crashes=1000, **LEASE).start()
    site.finished(90.0)
    found = check(site.accepted, site.ledger.executions(), site.kills, per_kill=None)
    print(f"{found}, kills {KILLS}, kills with running tasks {hits}")
    assert found.clean, found
    assert hits >= 0.9 * KILLS
    assert site.dead() == []
    assert last.stop() == 0


def test_the_supervisor_killed_at_any_moment_of_its_start_leaves_nobody(
    site: Site, dice: random.Random
) -> None:
    for _ in range(STARTS):
        site.send("misbehave", "grandchild", 30.0)
    alive, moments = 0, []
    worker = site.worker(concurrency=2)
    for number in range(STARTS):
        offset_s = (number + dice.random()) * 0.3 / STARTS
        worker.launch()
        time.sleep(offset_s)  # the moment of the kill is what varies
        alive += len(worker.processes()) > 1
        assert worker.process is not None
        worker.process.kill()
        worker.process.wait()
        worker.gone(1.0)
        moments.append(offset_s)
    span = f"{min(moments) * 1000:.0f} to {max(moments) * 1000:.0f} ms"
    print(f"{STARTS} kills after {span}, {alive} with others alive")
    assert alive >= STARTS // 10
