"""A worker that stands still longer than its lease, and wakes up after others took over (I10, I12)."""

from __future__ import annotations

import os
import signal
from collections import Counter

from support.ledger import Kill, boot_ns, check
from support.stress_worker import Site
from support.waiting import eventually

LEASE = {"worker_lease": 2.0, "worker_lease_renew_interval": 0.5}
TASKS = 30


def test_a_worker_that_wakes_up_writes_nothing_for_what_was_taken_from_it(site: Site) -> None:
    linked = site.app.signature("work", args=(0.0,))
    for _ in range(TASKS):
        site.send("timed", 0.2, link=[linked.clone()])
    sleeper = site.worker(**LEASE).start()
    children = sleeper.children()
    eventually(lambda: len(set(site.ledger.read().running()) & set(children)) == 2)
    asleep = sleeper.processes()
    for pid in asleep:
        os.kill(pid, signal.SIGSTOP)
    site.kills += [Kill(pid, boot_ns()) for pid in children]
    interrupted = {record.task_id for record in site.ledger.read().running().values()}
    assert interrupted

    successor = site.worker(**LEASE).start()
    site.finished(30.0)
    documents = site.app.client.results.get(site.accepted)
    for pid in asleep:
        os.kill(pid, signal.SIGCONT)
    # What it was running ends now. Then it finds out, and serves on with other children.
    eventually(lambda: not set(site.ledger.read().running()) & set(children), deadline_s=10.0)
    assert successor.stop() == 0
    after = site.send("timed", 0.0)
    assert site.result(after) == "done"
    site.finished(10.0)

    assert site.app.client.results.get(site.accepted[:-1]) == documents
    runs = Counter(run.task_id for run in site.ledger.executions())
    callbacks = [count for task_id, count in runs.items() if task_id not in site.accepted]
    assert callbacks == [1] * TASKS, "a callback was sent for what had been taken back"
    mine = [run for run in site.ledger.executions() if run.task_id in site.accepted]
    found = check(site.accepted, mine, site.kills, per_kill=None)
    print(f"{found}, interrupted {len(interrupted)}")
    assert not (found.lost or found.phantom or found.unexplained or found.vanished), found
    # Nobody can tell a worker that stands still from a dead one: what it ran runs again, nothing else.
    assert set(found.overlaps) <= interrupted
    assert {task_id for task_id, count in runs.items() if count > 1} <= interrupted
    assert sleeper.stop() == 0
