"""Connections cut just after the reply of a reserve or a settle: nothing is lost (fault test 5, I1)."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from support.ledger import check
from support.redis_stress import CuttingProxy, redis_site
from support.waiting import eventually

MESSAGES = 3000
CUTS_WITH_MESSAGES = 100


def cut_under_load(root: Path, dice: random.Random, messages: int, wanted: int) -> None:
    """Work a backlog off while connections are cut."""
    with redis_site(root, cutting=dice) as site:
        proxy = site.proxy
        assert isinstance(proxy, CuttingProxy)
        for number in range(messages):
            site.send("timed" if number % 3 == 0 else "work", dice.uniform(0.001, 0.010))
        worker = site.worker(concurrency=3, task_max_crashes=1000, loglevel="WARNING").start()
        before = worker.stats()
        proxy.batches, proxy.others = 4, 8
        begun_s = time.monotonic()
        eventually(
            lambda: proxy.cut_batches >= wanted or len(site.ledger.read().finished) > 0.9 * messages,
            deadline_s=60.0 + messages / 50,
            every_s=0.02,
        )
        proxy.batches = proxy.others = 0
        site.finished(60.0)
        found = check(site.accepted, site.ledger.executions())
        print(
            f"{found}; cut after a reply with messages {proxy.cut_batches}, after others {proxy.cut_others}, "
            f"{time.monotonic() - begun_s:.1f} s"
        )
        assert (found.lost, found.phantom, found.overlaps, found.vanished) == ([], [], [], [])
        # A cut comes after the server has acted: what was reserved returns, what was settled stays so.
        assert found.duplicates == 0
        assert proxy.cut_batches >= wanted
        assert proxy.cut_others >= wanted
        results = [task_id for number, task_id in enumerate(site.accepted) if number % 3 == 0]
        assert all(site.result(task_id) == "done" for task_id in results)
        after = worker.stats()
        assert (after["pid"], after["deaths"]) == (before["pid"], {})
        assert site.dead() == []
        assert worker.stop() == 0


@pytest.mark.timeout(200)
def test_cuts_after_the_reply_lose_and_repeat_nothing(tmp_path: Path, dice: random.Random) -> None:
    cut_under_load(tmp_path, dice, MESSAGES, CUTS_WITH_MESSAGES)


@pytest.mark.timeout(120)
def test_cuts_before_and_after_never_start_an_early_acknowledged_task_twice(
    tmp_path: Path, dice: random.Random
) -> None:
    with redis_site(tmp_path, cutting=dice) as site:
        proxy = site.proxy
        assert isinstance(proxy, CuttingProxy)
        for _ in range(600):
            site.send("early", dice.uniform(0.001, 0.005))
        worker = site.worker(concurrency=3, loglevel="WARNING").start()
        proxy.batches, proxy.others, proxy.requests = 8, 8, 16
        eventually(lambda: site.depth().ready == 0, deadline_s=60.0, every_s=0.02)
        proxy.batches = proxy.others = proxy.requests = 0
        eventually(
            lambda: (
                site.depth().in_work == 0 and {c["state"] for c in worker.stats()["children"]} == {"idle"}
            ),
            deadline_s=20.0,
            every_s=0.05,
        )
        found = check(site.accepted, site.ledger.executions())
        cuts = proxy.cut_others + proxy.cut_requests
        print(f"{found}; cut {proxy.cut_batches} with messages, {proxy.cut_requests} requests, {cuts} in all")
        assert found.duplicates == 0
        assert (found.phantom, found.vanished) == ([], [])
        assert {site.state(task_id) for task_id in found.lost} <= {"FAILURE"}
        # Whoever cannot know whether his acknowledgement arrived must not start.
        assert len(found.lost) <= cuts
        assert cuts >= 50
        assert worker.stop() == 0


@pytest.mark.timeout(120)
def test_requests_and_replies_that_are_lost_lose_and_repeat_nothing(
    tmp_path: Path, dice: random.Random
) -> None:
    with redis_site(tmp_path, cutting=dice) as site:
        proxy = site.proxy
        assert isinstance(proxy, CuttingProxy)
        for number in range(1500):
            site.send("timed" if number % 3 == 0 else "work", dice.uniform(0.001, 0.010))
        worker = site.worker(concurrency=3, task_max_crashes=1000, loglevel="WARNING").start()
        proxy.batches, proxy.others, proxy.requests = 6, 12, 12
        eventually(
            lambda: proxy.cut_requests >= 100 or len(site.ledger.read().finished) > 1400,
            deadline_s=60.0,
            every_s=0.02,
        )
        proxy.batches = proxy.others = proxy.requests = 0
        site.finished(60.0)
        found = check(site.accepted, site.ledger.executions())
        print(f"{found}; cut {proxy.cut_batches} with messages, {proxy.cut_requests} requests")
        assert found.clean, found
        assert found.duplicates == 0
        assert proxy.cut_requests >= 50
        assert worker.stop() == 0


@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_cuts_after_the_reply_at_full_size(tmp_path: Path, dice: random.Random) -> None:
    cut_under_load(tmp_path, dice, 15_000, 600)
