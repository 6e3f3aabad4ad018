"""One execution is ended on request, on real processes: that one, all of it, and no other."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Callable

import pytest

from prefork.engine.supervisor import killing
from support.calibration import Waits
from support.supervised import Supervised, eventually

Supervise = Callable[..., Supervised]


def terminate(worker: Supervised, job: str, signal: int, number: int = 0) -> None:
    worker.set("terminate", json.dumps({"id": f"{job}-{number}", "signal": signal}))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGQUIT])
def test_a_running_task_and_its_sub_processes_end_and_a_new_child_serves(
    worker: Supervised, number: signal.Signals
) -> None:
    worker.start()
    job = worker.job({"do": "grandchild", "s": 60})
    start = worker.event("start", job=job)
    eventually(lambda: len(worker.programs("sleep")) == 2)
    waits = Waits()
    terminate(worker, job, number)
    dead = worker.event("dead")
    asked = worker.event("terminate")
    assert (dead["verdict"], dead["cause"]) == ("terminated", f"terminated on request ({number.name})")
    assert (dead["execution"], dead["signum"], dead["charge"]) == (asked["execution"], number, False)
    assert dead["at"] - asked["at"] < 0.5, waits.together_s
    eventually(lambda: not worker.programs("sleep"))
    end = worker.event("end", job=worker.job({"do": "sleep"}))
    assert end["pid"] != start["pid"]
    assert "next replacement in" not in worker.log


def test_many_tasks_may_be_ended_in_a_row_and_each_child_is_replaced_at_once(worker: Supervised) -> None:
    worker.start()
    begun_s = time.monotonic()
    for _ in range(8):
        job = worker.job({"do": "sleep", "s": 60})
        worker.event("start", job=job)
        terminate(worker, job, signal.SIGKILL)
        eventually(lambda name=job: worker.state(name) == "gave-back")
    assert time.monotonic() - begun_s < 8.0
    assert "next replacement in" not in worker.log


def test_a_task_that_catches_the_signal_and_leaves_was_ended_on_request(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "catch", "s": 60, "code": 3})
    worker.event("catching")
    terminate(worker, job, signal.SIGTERM)
    assert worker.event("dead")["verdict"] == "terminated"
    assert len(worker.events("caught")) == 1


def test_a_task_that_does_not_heed_the_signal_is_killed_after_a_grace(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "catch", "s": 60})
    worker.event("catching")
    terminate(worker, job, signal.SIGTERM)
    asked, caught = worker.event("terminate"), worker.event("caught")
    dead = worker.event("dead", within_s=killing.TERMINATION_GRACE_S + 2)
    assert dead["verdict"] == "terminated"
    # It may have been late to write that it had caught it.
    assert dead["at"] - asked["at"] >= killing.TERMINATION_GRACE_S
    assert dead["at"] - caught["at"] < killing.TERMINATION_GRACE_S + 1
    assert len(worker.events("caught")) == 1


def test_a_harder_signal_does_not_wait_for_the_grace(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "catch", "s": 60})
    worker.event("catching")
    terminate(worker, job, signal.SIGTERM)
    worker.event("caught")
    terminate(worker, job, signal.SIGKILL)
    assert worker.event("dead", within_s=2.0)["signum"] == signal.SIGKILL


def test_who_caught_the_signal_and_went_on_leaves_its_successor_alone(supervise: Supervise) -> None:
    worker = supervise(concurrency=1).start()
    first, second = worker.job({"do": "catch", "path": "go"}), worker.job({"do": "sleep", "s": 0.5})
    worker.event("catching")
    terminate(worker, first, signal.SIGTERM)
    worker.event("caught")
    worker.set("go")
    worker.event("end", job=first)
    assert worker.event("end", job=second)["outcome"] == "done"
    assert worker.events("dead") == []


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGINT])
def test_a_soft_signal_is_raised_in_that_execution_until_it_ends(
    supervise: Supervise, number: signal.Signals
) -> None:
    worker = supervise(concurrency=1).start()
    first = worker.job({"do": "swallow", "s": 5.0, "times": 2})
    second = worker.job({"do": "sleep", "s": 0.5})
    start = worker.event("start", job=first)
    terminate(worker, first, number)
    end = worker.event("end", job=first)
    assert 1.0 <= end["at"] - start["at"] < 3.0
    assert worker.event("end", job=second)["outcome"] == "done"
    assert worker.events("dead") == []


def test_an_execution_that_has_ended_is_not_looked_for(supervise: Supervise) -> None:
    worker = supervise(concurrency=1).start()
    # In batches of their own: the rest of one would be recalled from a child that stands still in the first.
    ended, after = worker.job({"do": "sleep"}), worker.job({"do": "sleep", "s": 0.3})
    worker.event("start", job=after)
    terminate(worker, ended, signal.SIGKILL)
    assert worker.event("end", job=after)["outcome"] == "done"
    assert worker.events("dead") == []


def _race(worker: Supervised, races: int, seed: int) -> tuple[int, int]:
    """Requests that come just as a task ends and the next begins; how many hit, and how many came late."""
    rng = random.Random(seed)
    hits = late = 0
    for race in range(races):
        if race % 50 == 49:
            (worker.directory / "events").unlink()  # it is read as a whole, again and again
        job = worker.job({"do": "sleep", "s": rng.uniform(0.0, 0.012)}, {"do": "sleep", "s": 0.004})
        if rng.random() < 0.5:
            worker.event("start", job=job)
        terminate(worker, job, rng.choice([signal.SIGTERM, signal.SIGKILL]))
        eventually(lambda name=job: worker.state(name) in ("done", "gave-back"), within_s=20.0)
        if worker.state(job) == "done":
            late += 1
            continue
        hits += 1
        # Whoever died, died in the execution that was meant: its successor never began.
        assert worker.events("start", job=job, number=1) == [], "the wrong execution was ended"
        assert worker.events("end", job=job, number=0) == [], "it had ended, and its process was killed"
    return hits, late


def test_a_request_that_comes_as_the_task_ends_never_hits_the_next_one(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, agent_tick_s=0.001).start()
    hits, late = _race(worker, 40, seed=1)
    assert hits and late


@pytest.mark.slow
def test_a_thousand_requests_that_come_as_the_task_ends(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, agent_tick_s=0.001).start()
    hits, late = _race(worker, 1_000, seed=2)
    assert min(hits, late) > 100


@pytest.mark.soak
@pytest.mark.timeout(3600)
def test_ten_thousand_requests_that_come_as_the_task_ends(supervise: Supervise) -> None:
    worker = supervise(concurrency=1, agent_tick_s=0.001).start()
    hits, late = _race(worker, 10_000, seed=3)
    assert min(hits, late) > 1_000
