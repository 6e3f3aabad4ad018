"""One child's end is its own affair; whatever a task does, the supervisor stands (I7)."""

from __future__ import annotations

import threading
import time

import pytest

from prefork.engine.exceptions import RemoteTaskError, WorkerLostError
from support.calibration import allowance_s
from support.ledger import boot_ns, check
from support.stress_worker import Site, StressWorker
from support.waiting import eventually

DEATHS = 36
DEATH_EVERY_S = 0.1
SEND_EVERY_S = 0.009


def test_a_child_that_dies_every_100_ms_delays_and_repeats_nobody_elses_tasks(
    site: Site, request: pytest.FixtureRequest
) -> None:
    worker = site.worker(concurrency=4, task_max_crashes=1000, loglevel="WARNING").start()
    sent_ns: dict[str, int] = {}
    over = threading.Event()
    request.addfinalizer(over.set)  # else the sender of a test that failed keeps the whole run from its end

    def send() -> None:
        while not over.wait(SEND_EVERY_S):
            now_ns = boot_ns()
            sent_ns[site.send("work", 0.025)] = now_ns

    sender = threading.Thread(target=send)
    sender.start()
    slot = 0
    victims: set[int] = set()
    # Every second round is for finding the next victim; how long that takes is the machine's affair.
    while len(site.kills) < DEATHS:
        time.sleep(DEATH_EVERY_S)  # the rhythm of the deaths
        pid = next((c["pid"] for c in worker.stats()["children"] if c["slot"] == slot), None)
        if not pid or pid in victims:
            # It is being replaced, perhaps in another slot: that one is the victim from now on.
            fresh = [c for c in worker.stats()["children"] if c["pid"] not in victims]
            slot = max(fresh, key=lambda c: c["generation"])["slot"]
            continue
        if eventually(lambda victim=pid: victim in site.ledger.read().running(), deadline_s=5.0):
            victims.add(pid)
            site.kill(pid)
    over.set()
    sender.join()
    site.finished(30.0)
    runs = site.ledger.executions()
    found = check(site.accepted, runs, site.kills)
    of_others = [run for run in runs if run.pid not in victims]
    first = {run.task_id: run for run in reversed(runs)}
    late_s = max((run.start_ns - sent_ns[run.task_id]) / 1e9 for run in first.values())
    print(f"{found}, kills {len(site.kills)}, longest delay {late_s:.3f} s")
    assert found.clean, found
    assert len(site.kills) == DEATHS
    # Others get on with their work: this is no crash loop, and nobody is replaced late.
    assert worker.stats()["crash_loop"]["step"] == 0
    assert found.hits >= 0.9 * len(site.kills)
    assert found.duplicates <= len(site.kills)
    # What ran in another child ran once there, and nowhere after that.
    ended = [run.task_id for run in of_others]
    assert len(ended) == len(set(ended))
    assert all(run.end_ns is not None for run in of_others)
    assert late_s < allowance_s(1.0, 1.5)
    assert worker.stats()["pid"] == worker.pid
    assert worker.stop() == 0


RAISED = {
    "sys.exit": "SystemExit",
    "keyboard interrupt": "KeyboardInterrupt",
    "generator exit": "GeneratorExit",
    "base exception": "BaseException",
}
ORDINARY = {"memory error": MemoryError, "recursion": RecursionError}
DEADLY = {
    "os._exit": "exit code 5",
    "segfault": "signal 11 (SIGSEGV)",
    "abort": "signal 6 (SIGABRT)",
}


def undisturbed(site: Site, worker: StressWorker, pid: int) -> None:
    """The supervisor is the same, all children are there within a second, and they work."""
    eventually(lambda: len(worker.children()) == worker.concurrency, deadline_s=allowance_s(1.0, 1.5))
    assert worker.stats()["pid"] == pid
    assert site.result(site.send("timed", 0.0), 5.0) == "done"


def test_whatever_a_task_raises_is_its_own_failure(site: Site) -> None:
    worker = site.worker(concurrency=2).start()
    children = worker.children()
    for kind, name in RAISED.items():
        error = site.result(site.send("misbehave", kind))
        assert isinstance(error, RemoteTaskError), (kind, error)
        assert name in error.type_name
        undisturbed(site, worker, worker.pid)
    for kind, cls in ORDINARY.items():
        assert isinstance(site.result(site.send("misbehave", kind)), cls), kind
        undisturbed(site, worker, worker.pid)
    text = site.result(site.send("failing", "\ud800\x00\x1b[31m\n\u2028"))
    assert isinstance(text, ValueError)
    # A process that has run out of memory is replaced in good order; the others ran everything else.
    assert worker.stats()["causes"] == {}
    assert worker.stats()["deaths"] in ({}, {"exit": 1})
    assert set(worker.children()) & set(children)
    assert "\x1b" not in worker.log
    assert worker.stop() == 0


@pytest.mark.parametrize("kind", sorted(DEADLY))
def test_a_task_that_ends_its_process_is_dead_lettered_with_the_cause(site: Site, kind: str) -> None:
    worker = site.worker(concurrency=2).start()
    task_id = site.send("misbehave", kind)
    beside = [site.send("timed", 0.01) for _ in range(20)]
    error = site.result(task_id)
    assert isinstance(error, WorkerLostError)
    assert DEADLY[kind] in str(error)
    [letter] = site.dead()
    assert [DEADLY[kind] in cause for cause in letter.causes] == [True] * 3
    assert worker.stats()["causes"] == {DEADLY[kind]: 3}
    assert f"died: {DEADLY[kind]}" in worker.log
    assert [site.result(task) for task in beside] == ["done"] * 20
    undisturbed(site, worker, worker.pid)
    assert len([run for run in site.ledger.executions() if run.task_id in beside]) == 20
    assert worker.stop() == 0


@pytest.mark.parametrize("kind", ["close everything", "garbage", "surroundings"])
def test_a_task_that_spoils_its_process_harms_nobody_else(site: Site, kind: str) -> None:
    worker = site.worker(concurrency=2).start()
    before = worker.stats()
    long = site.send("timed", 1.0)
    beside = site.started(long)
    task_id = site.send("misbehave", kind)
    answer = site.result(task_id)
    assert answer in ("closed", "written", "changed") or isinstance(answer, WorkerLostError), answer
    print(f"{kind}: {answer}; deaths {worker.stats()['causes']}")
    assert site.result(long) == "done"
    assert [run.pid for run in site.ledger.executions() if run.task_id == long] == [beside.pid]
    undisturbed(site, worker, before["pid"])
    # It can be ended by its limit, told to leave, and replaced like any other.
    limited = site.send("misbehave", "ignore", time_limit=0.3)
    assert type(site.result(limited)).__name__ == "TimeLimitExceeded"
    undisturbed(site, worker, before["pid"])
    assert worker.stats()["agent"]["pid"] == before["agent"]["pid"]
    assert worker.stop() == 0
    worker.gone()
