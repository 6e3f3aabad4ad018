"""Redis killed, restarted and cut off while workers drain it (I11, I25)."""

from __future__ import annotations

import random
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.ledger import check
from support.redis_server import RedisServer, running_redis
from support.stress_worker import Site
from support.tcp_proxy import Mode, TcpProxy, tcp_proxy
from support.waiting import eventually

TASKS = 1500
OUTAGES = 6
CUTS = 60


@pytest.fixture
def durable() -> Iterator[RedisServer]:
    """A server that has written to disk whatever it has answered."""
    with running_redis({"appendonly": "yes", "appendfsync": "always"}) as server:
        yield server


@pytest.fixture
def proxy(redis_server: RedisServer) -> Iterator[TcpProxy]:
    with tcp_proxy(redis_server.port) as proxy:
        yield proxy


def assert_clean(site: Site) -> None:
    """Everything ran, and once: a connection that breaks is no reason to run a task again."""
    found = check(site.accepted, site.ledger.executions(), site.kills)
    print(found)
    assert found.clean, found
    assert found.duplicates == 0, found
    assert site.dead() == []


def test_a_server_that_is_killed_under_load_loses_nothing(
    durable: RedisServer, tmp_path: Path, dice: random.Random, request: pytest.FixtureRequest
) -> None:
    site = Site(tmp_path, durable.url)
    request.addfinalizer(site.close)
    for index in range(TASKS):
        site.send("timed" if index % 3 else "work", dice.uniform(0.0, 0.01))
    worker = site.worker(concurrency=2).start()
    pauses_s = []
    for _ in range(OUTAGES):
        time.sleep(dice.uniform(0.2, 0.6))  # the moment of the kill is what varies
        durable.kill()
        time.sleep(dice.uniform(0.0, 0.5))
        durable.start()
        back_s, ends = time.monotonic(), len(site.ledger.read().finished)
        if ends < TASKS - 200:
            eventually(lambda before=ends: len(site.ledger.read().finished) > before, deadline_s=5.0)
            pauses_s.append(time.monotonic() - back_s)
    print(f"consumed again after {max(pauses_s) * 1000:.0f} ms at most, {len(pauses_s)} outages")
    site.finished(60.0)
    assert all(site.state(task_id) == "SUCCESS" for task_id in site.accepted[1:60:3])
    assert_clean(site)
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0


@pytest.mark.parametrize("mode", [Mode.RESET, Mode.CUT_AFTER_REQUEST, Mode.CUT_IN_REPLY])
def test_connections_that_are_cut_at_any_moment_lose_nothing(
    proxy: TcpProxy,
    redis_server: RedisServer,
    tmp_path: Path,
    dice: random.Random,
    mode: Mode,
    request: pytest.FixtureRequest,
) -> None:
    prefix = uuid.uuid4().hex
    site = Site(tmp_path, f"{redis_server.url}?global_keyprefix={prefix}:")
    request.addfinalizer(site.close)
    for index in range(TASKS):
        site.send("timed" if index % 3 else "work", dice.uniform(0.0, 0.005))
    cut_off = f"redis://127.0.0.1:{proxy.port}/0?global_keyprefix={prefix}:"
    worker = site.worker(concurrency=2, environ={"STRESS_BROKER": cut_off}).start()
    cuts = 0
    while cuts < CUTS and len(site.ledger.read().finished) < TASKS - 100:
        time.sleep(dice.uniform(0.0, 0.06))  # the moment of the cut is what varies
        proxy.set(mode, times=1)
        cuts += 1
    proxy.set(Mode.PASS)
    site.finished(60.0)
    print(f"{cuts} cuts of mode {mode.value}")
    assert cuts >= 10
    assert_clean(site)
    assert worker.stats()["deaths"] == {}
    assert worker.stop() == 0
