"""Children that run many coroutines are killed again and again: nothing is lost."""

from __future__ import annotations

import os
import random
import signal
import time

import psutil
import pytest

from support.semantics import Fleet
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180), pytest.mark.needs("several_processes")]

# A kill from outside is charged to whichever ran last: here it is nobody's fault.
WORKER = {"worker_async_concurrency": 30, "task_max_crashes": 100}
SOURCE = """
import asyncio

app = App("storm", **SETTINGS)


@app.task
async def work(number, delay_s):
    await asyncio.sleep(delay_s)
    note("done", str(number))
    return number


@app.task(bind=True, max_retries=None)
async def again(self, number, delay_s):
    await asyncio.sleep(delay_s)
    if self.request.retries < 1:
        raise self.retry(countdown=0)
    note("done", str(number))
    return number
"""

TASKS = 400
KILLS = 12


def children_of(fleet: Fleet) -> list[int]:
    """Processes that run tasks now."""
    pids = []
    for child in psutil.Process(fleet.worker.pid).children():  # type: ignore[union-attr]
        try:
            title = " ".join(child.cmdline())
        except psutil.Error:
            continue
        if ": child" in title:
            pids.append(child.pid)
    return pids


def test_every_task_of_killed_children_is_run_by_others(fleet: Fleet) -> None:
    chance = random.Random(5)
    tasks = (fleet.task("work"), fleet.task("again"))
    results = [tasks[n % 2].delay(n, chance.random() * 0.3) for n in range(TASKS)]
    killed = 0
    end_s = time.monotonic() + 60.0
    while killed < KILLS and time.monotonic() < end_s:
        time.sleep(chance.random() * 0.3)
        victims = children_of(fleet)
        if victims:
            os.kill(chance.choice(victims), signal.SIGKILL)
            killed += 1
    assert killed >= KILLS // 2
    assert [result.get(timeout=90.0) for result in results] == list(range(TASKS))
    assert {int(line) for line in fleet.notes("done")} == set(range(TASKS))
    assert fleet.dead() == []
    if fleet.capabilities.counts_in_work:
        eventually(lambda: fleet.depth().in_work == 0, deadline_s=10.0)
    eventually(lambda: fleet.depth().ready == 0, deadline_s=10.0)
