"""Applications with threads of their own, and programs that embed a worker (I15, I6)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from support.ledger import check
from support.stress_worker import MARKER, Site, marked, search_path
from support.waiting import eventually

pytestmark = pytest.mark.one_broker

CHILDREN = 500

PROGRAM = """
import json, sys, threading, time
from prefork.engine.embed import Worker
from support.stress_app import app
made = []
def start():
    made.append(Worker(app, concurrency=2).start())
thread = threading.Thread(target=start)
thread.start()
thread.join()
print(json.dumps(made[0].pid), flush=True)
time.sleep(120)
"""


def run_noisy(site: Site, children: int) -> None:
    """One task per child, below an application whose thread holds the lock of logging."""
    for _ in range(children):
        site.send("work", 0.0)
    worker = site.worker(concurrency=2, environ={"STRESS_NOISE": "1"}, worker_max_tasks_per_child=1)
    begun_s = time.monotonic()
    worker.start()
    site.finished(20.0 + children)
    runs = site.ledger.executions()
    found = check(site.accepted, runs)
    print(f"{found}; {len({run.pid for run in runs})} children in {time.monotonic() - begun_s:.1f} s")
    assert found.clean, found
    assert found.duplicates == 0
    assert len({run.pid for run in runs}) == children
    stats = worker.stats()
    assert stats["fresh"] is True
    assert stats["causes"].keys() <= {"left as told"}
    assert worker.stop() == 0
    worker.gone()


def test_an_application_with_a_thread_that_holds_a_lock_runs_500_children(site: Site) -> None:
    run_noisy(site, CHILDREN)


def test_500_children_without_such_a_thread(site: Site) -> None:
    for _ in range(CHILDREN):
        site.send("work", 0.0)
    worker = site.worker(concurrency=2, worker_max_tasks_per_child=1, loglevel="WARNING").start()
    begun_s = time.monotonic()
    site.finished(60.0)
    runs = site.ledger.executions()
    print(f"{CHILDREN} children in {time.monotonic() - begun_s:.1f} s")
    assert len({run.pid for run in runs}) == len(runs) == CHILDREN
    assert worker.stats()["fresh"] is False
    assert worker.stop() == 0


def test_a_worker_outlives_the_thread_that_started_it_and_goes_with_its_program(
    site: Site, tmp_path: Path
) -> None:
    script = tmp_path / "program.py"
    script.write_text(PROGRAM)
    marker = os.urandom(8).hex()
    host = subprocess.Popen(
        [sys.executable, str(script)],
        env={
            **os.environ,
            "PYTHONPATH": search_path(),
            "STRESS_DIR": str(site.root),
            "STRESS_BROKER": site.url,
            "XDG_RUNTIME_DIR": str(tmp_path),
            "SPT_NOENV": "1",
            MARKER: marker,
        },
        stdout=subprocess.PIPE,
        cwd=tmp_path,
    )
    assert host.stdout is not None
    with host.stdout:
        supervisor = json.loads(host.stdout.readline())
        # The thread is over; the worker serves on.
        begun_s = time.monotonic()
        while time.monotonic() - begun_s < 2.0:
            assert site.result(site.send("timed", 0.01)) == "done"
        assert os.path.exists(f"/proc/{supervisor}")
        for kind in ("grandchild", "daemon"):
            site.started(site.send("misbehave", kind))
        eventually(lambda: len(marked(f"{MARKER}={marker}")) == 8)
        host.kill()
        host.wait()
    begun_s = time.monotonic()
    eventually(lambda: not marked(f"{MARKER}={marker}"), deadline_s=1.0)
    print(f"all gone {time.monotonic() - begun_s:.2f} s after the program")
