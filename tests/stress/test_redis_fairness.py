"""Work goes to whoever is free: beside a stuck child, over two workers, and to one that joins."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from support.calibration import allowance_s
from support.ledger import Execution, boot_ns
from support.redis_stress import redis_site
from support.waiting import eventually

pytestmark = pytest.mark.serial

LONG_S = 20.0


def span_s(runs: Sequence[Execution]) -> float:
    """From the first start to the last end."""
    return (max(run.end_ns or 0 for run in runs) - min(run.start_ns for run in runs)) / 1e9


def test_a_task_that_holds_the_gil_for_long_delays_no_short_one(tmp_path: Path) -> None:
    with redis_site(tmp_path) as site:
        worker = site.worker(concurrency=2, loglevel="WARNING").start()
        # The children know that this kind is short, and read ahead accordingly.
        site.finished(20.0, [site.send("mixed") for _ in range(300)])
        eventually(lambda: len(worker.children()) == 2)
        begun_ns = boot_ns()
        with site.app.bulk():
            short = [site.send("work", 0.01) for _ in range(70)]
            short += [site.send("mixed") for _ in range(30)]
            stuck = site.send("mixed", "stuck with gil", time_limit=LONG_S)
            short += [site.send("mixed") for _ in range(30)]
            short += [site.send("work", 0.01) for _ in range(70)]
        site_done = eventually(
            lambda: set(short) <= site.ledger.read().finished and boot_ns(), deadline_s=LONG_S / 2
        )
        took_s = (site_done - begun_ns) / 1e9
        [run] = site.starts(stuck)
        print(f"{len(short)} short tasks in {took_s:.2f} s beside one that is stuck for {LONG_S} s")
        assert run.end_ns is None
        assert took_s < 3.0
        assert len(site.ledger.executions()) == len(site.accepted)


def test_two_workers_share_a_queue_evenly(tmp_path: Path) -> None:
    with redis_site(tmp_path) as site:
        workers = [site.worker(concurrency=2, loglevel="WARNING").start() for _ in range(2)]
        site.finished(20.0, [site.send("timed", 0.1) for _ in range(8)])
        with site.app.bulk():
            ids = [site.send("timed", 0.1) for _ in range(100)]
        site.finished(20.0, ids)
        runs = [run for run in site.ledger.executions() if run.task_id in set(ids)]
        ideal_s = 100 * 0.1 / 4
        took_s = span_s(runs)
        print(f"100 tasks of 100 ms on 4 children: {took_s:.3f} s, ideal {ideal_s} s")
        assert took_s < ideal_s * (1.15 + allowance_s(0.0, 0.15))
        assert [worker.stop() for worker in workers] == [0, 0]


def test_a_worker_that_joins_under_load_gets_work_at_once(tmp_path: Path) -> None:
    with redis_site(tmp_path) as site:
        site.worker(concurrency=2, loglevel="WARNING").start()
        with site.app.bulk():
            ids = [site.send("timed", 0.05) for _ in range(400)]
        eventually(lambda: site.ledger.read().finished & set(ids))
        joins = site.worker(concurrency=2)
        joins.launch()

        def is_ready() -> int | None:
            stats = joins.try_stats()
            ready = stats is not None and any(child["phase"] == "ready" for child in stats["children"])
            return boot_ns() if ready else None

        ready_ns = eventually(is_ready, every_s=0.002)
        before = len(site.ledger.read().finished)
        own = set(joins.processes())
        first = eventually(lambda: [run for run in site.ledger.executions() if run.pid in own], every_s=0.002)
        after_s = (first[0].start_ns - ready_ns) / 1e9
        print(f"first task {after_s * 1000:.0f} ms after the first child was ready, {before} done before")
        assert before < len(ids) - 50
        assert after_s < allowance_s(0.1, 0.2)
        begun_s = time.monotonic()
        site.finished(30.0, ids)
        assert time.monotonic() - begun_s < 20.0
