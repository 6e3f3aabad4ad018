"""What cannot boot ends the worker with its traceback, and readiness is true (I27)."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest

from support.stress_worker import Site, StressWorker
from support.waiting import eventually

pytestmark = pytest.mark.one_broker

BOOT_FAILED = 3


def healthy(worker: StressWorker) -> bool:
    """What ``prefork health`` says, as its exit code."""
    done = subprocess.run(
        [sys.executable, "-m", "prefork.engine", "health"],
        env=worker.environ,
        cwd=worker.directory,
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode in (0, 1), done.stderr
    return done.returncode == 0


def test_an_application_that_cannot_be_imported_ends_with_code_3_and_the_traceback(site: Site) -> None:
    task_id = site.send("work", 0.0)
    worker = site.worker(environ={"STRESS_IMPORT_FAILS": "1"})
    worker.launch_by_command()
    assert worker.wait(15.0) == BOOT_FAILED
    assert "Traceback" in worker.log
    assert "ImportError: the application of this test cannot be imported" in worker.log
    worker.gone()
    assert list(site.waiting()) == [task_id]


def test_an_init_hook_that_fails_ends_with_code_3_after_a_bounded_number_of_forks(site: Site) -> None:
    task_id = site.send("work", 0.0)
    worker = site.worker(environ={"STRESS_INIT_FAILS": "1"}, worker_max_boot_failures=6)
    worker.launch()
    assert worker.wait(30.0) == BOOT_FAILED
    assert "RuntimeError: the hook of this test fails" in worker.log
    forks = (site.root / "inits").stat().st_size
    print(f"{forks} forks")
    assert forks <= 6 + worker.concurrency
    assert "is ready" not in worker.log
    worker.gone()
    assert list(site.waiting()) == [task_id]


def test_a_slow_hook_delays_readiness_and_kills_nobody(site: Site) -> None:
    task_id = site.send("work", 0.0)
    worker = site.worker(environ={"STRESS_INIT_S": "2.0"})
    worker.launch()
    assert eventually(worker.try_stats) is not None
    assert not healthy(worker)
    assert not site.ledger.read().records
    worker.await_complete()
    site.finished(5.0, [task_id])
    assert healthy(worker)
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0
    assert not healthy(worker)


def test_readiness_ends_with_the_children_and_comes_back(site: Site) -> None:
    worker = site.worker().start()
    assert healthy(worker)
    pids = worker.children()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    begun_s = time.monotonic()
    eventually(lambda: not worker.ask("health")["ready"], deadline_s=15.0, every_s=0.1)
    print(f"not ready {time.monotonic() - begun_s:.1f} s after the children were stopped")
    assert not healthy(worker)
    for pid in pids:
        os.kill(pid, signal.SIGCONT)
    eventually(lambda: worker.ask("health")["ready"], deadline_s=10.0, every_s=0.1)
    assert site.result(site.send("timed", 0.0)) == "done"
    assert worker.stop() == 0


def test_readiness_ends_with_the_lease_and_comes_back_with_another_agent(site: Site) -> None:
    worker = site.worker(worker_lease=2.0, worker_lease_renew_interval=0.5).start()
    # Children may be ready before the agent, and one that is stopped while it boots has its boot's time.
    eventually(lambda: worker.ask("health")["ready"])
    agent = worker.stats()["agent"]["pid"]
    os.kill(agent, signal.SIGSTOP)
    health = eventually(lambda: said if not (said := worker.ask("health"))["ready"] else None, deadline_s=5.0)
    # Which of the two is seen first depends on how fast the agent is replaced; both are true.
    assert all("lease" in reason or "agent" in reason for reason in health["reasons"]), health
    eventually(lambda: worker.ask("health")["ready"], deadline_s=5.0)
    assert worker.stats()["agent"]["pid"] != agent
    assert worker.log.count("has stood still") == 1
    assert site.result(site.send("timed", 0.0)) == "done"
    assert worker.stop() == 0
