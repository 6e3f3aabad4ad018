"""The supervisor with fake processes: start, replacement, stop."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.supervised import Supervised, eventually


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Supervised]:
    with Supervised(tmp_path, concurrency=2) as supervised:
        yield supervised


def test_it_starts_children_and_runs_what_there_is(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "sleep"})
    worker.event("end", job=job)
    stats = worker.ask("stats")
    assert len(stats["children"]) == 2
    assert len({child["pid"] for child in stats["children"]}) == 2
    worker.signal(signal.SIGTERM)
    assert worker.wait() == 0
    worker.gone()


def test_a_killed_child_is_replaced_within_a_second_and_its_job_comes_back(worker: Supervised) -> None:
    worker.start()
    job = worker.job({"do": "sleep", "s": 60})
    start = worker.event("start", job=job)
    children = len(worker.events("child"))
    os.kill(start["pid"], signal.SIGKILL)
    dead = worker.event("dead")
    assert (dead["cause"], dead["verdict"], dead["charge"]) == ("signal 9", "crash", True)
    eventually(lambda: len(worker.events("child")) > children, within_s=1.0)
    eventually(lambda: worker.state(job) == "gave-back")
    assert f"child {start['slot']} died: signal 9; it ran sleep[{job}-0]" in worker.log
