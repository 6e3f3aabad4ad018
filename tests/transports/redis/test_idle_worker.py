"""A worker with nothing to do costs its server next to nothing, whatever others do there."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from prefork.transports.base import Outgoing
from prefork.transports.redis import open_transport
from prefork.transports.redis.link import Link
from prefork.transports.redis.settings import read_settings
from support.calibration import Waits
from support.redis_server import RedisServer
from support.waiting import eventually

pytestmark = pytest.mark.slow

APP = """
from prefork.engine import App
app = App("idle", broker={url!r})
"""
CHILDREN = 2
MEASURED_S = 10.0
# What clients send; none of them is called by the scripts of a worker that has nothing to do.
SENT = ("evalsha", "exists", "smembers", "zrange", "llen", "ping", "hgetall", "get")


@pytest.fixture
def worker(tmp_path: Path, own_redis: RedisServer) -> Iterator[subprocess.Popen[bytes]]:
    (tmp_path / "idle_app.py").write_text(APP.format(url=own_redis.url))
    command = ["-m", "prefork.engine", "-A", "idle_app", "worker", "-c", str(CHILDREN), "-Q", "celery,a,b"]
    with (tmp_path / "log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *command], cwd=tmp_path, stdout=log, stderr=log, start_new_session=True
        )
    yield process
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(20)


def calls(server: RedisServer) -> int:
    stats = server.cli("INFO", "commandstats")
    counts = {name: int(count) for name, count in re.findall(r"cmdstat_([a-z]+):calls=(\d+)", stats)}
    return sum(counts.get(name, 0) for name in SENT)


def cpu_s(leader: int) -> float:
    """Of every process of a worker."""
    ticks = 0
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
            except OSError:
                continue  # it ended meanwhile
            if int(fields[3]) == leader:
                ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


def test_less_than_one_command_a_second_and_child_beside_a_fleet_that_stores_results(
    worker: subprocess.Popen[bytes], own_redis: RedisServer
) -> None:
    transport = open_transport(own_redis.url, {})
    eventually(lambda: len(transport.owners(_worker_of(own_redis))) >= CHILDREN, deadline_s=30)
    eventually(lambda: own_redis.cli("INFO", "clients").count("tracking_clients:1"), deadline_s=30)
    fleet = Link(read_settings(own_redis.url))
    settle_until = time.monotonic() + 2.0
    while time.monotonic() < settle_until:
        time.sleep(0.05)
    before, cpu_before_s, began = calls(own_redis), cpu_s(worker.pid), time.monotonic()
    written = 0
    while time.monotonic() - began < MEASURED_S:
        fleet.many([("SET", f"celery-task-meta-{written + n}", "{}") for n in range(500)])
        written += 500
        time.sleep(max(0.0, began + written / 10_000 - time.monotonic()))
    elapsed_s = time.monotonic() - began
    sent = calls(own_redis) - before
    assert sent / elapsed_s / CHILDREN < 1.0, f"{sent} commands in {elapsed_s:.1f} s"
    assert written > 2_000 * MEASURED_S
    # No more than the agent's and the supervisor's own turns: nobody was told of those keys.
    assert cpu_s(worker.pid) - cpu_before_s < 0.05 * elapsed_s
    began, waits = time.monotonic(), Waits()
    transport.send([Outgoing("a", b"no envelope")])
    eventually(lambda: list(transport.dead_letters()))
    assert time.monotonic() - began < 2.0, waits.so_far_s
    transport.close()
    fleet.close()


def _worker_of(server: RedisServer) -> str:
    return server.cli("ZRANGE", "prefork:workers", "0", "0")
