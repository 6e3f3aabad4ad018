"""A fleet goes back: every prefork worker is killed, and a Celery worker finishes what they left."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from prefork.transports.redis import open_transport
from support.redis_server import RedisServer
from support.waiting import eventually

pytestmark = pytest.mark.slow

TASKS = """
import os, time

def record(number):
    fd = os.open({ledger!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(fd, b"%d\\n" % number)
    os.close(fd)

def linger(number):
    with open({ledger!r} + ".started", "a") as started:
        started.write(f"{{number}}\\n")
    if not os.path.exists({ledger!r} + ".released"):
        time.sleep(600)
    record(number)
"""
PREFORK = """
from prefork.engine import App
import fleet_tasks
app = App("fleet", broker={url!r})
app.task(name="fleet.record", ignore_result=True)(fleet_tasks.record)
app.task(name="fleet.linger", ignore_result=True)(fleet_tasks.linger)
app.task(name="fleet.limited", ignore_result=True, rate_limit=0)(fleet_tasks.record)
"""
CELERY = """
from celery import Celery
import fleet_tasks
app = Celery("fleet", broker={url!r})
app.conf.update(task_ignore_result=True, worker_hijack_root_logger=False)
app.task(name="fleet.record")(fleet_tasks.record)
app.task(name="fleet.linger")(fleet_tasks.linger)
app.task(name="fleet.limited")(fleet_tasks.record)
"""
# A worker that holds 100 messages, has put off 100 others, and ends without a word.
HOLDER = """
import sys, time
from prefork.transports.base import Outcome, Verdict
from prefork.transports.redis import open_transport
transport = open_transport({url!r}, {{}})
transport.heartbeat("holder", 600.0)
consumer = transport.consumer(["celery"], "holder.1", "holder")
taken = []
while len(taken) < 200:
    taken += consumer.reserve(200 - len(taken), 1.0)
consumer.settle([Outcome(one.tag, Verdict.DEFER, due_wall_s=time.time() + 86400) for one in taken[:100]])
print("holds", flush=True)
time.sleep(600)
"""


class Fleet:
    """Programs of both makes in one directory."""

    def __init__(self, root: Path, server: RedisServer) -> None:
        self.root = root
        self.server = server
        self.ledger = root / "ledger"
        for name, text in (
            ("fleet_tasks", TASKS),
            ("fleet_prefork", PREFORK),
            ("fleet_celery", CELERY),
            ("fleet_holder", HOLDER),
        ):
            (root / f"{name}.py").write_text(text.format(ledger=str(self.ledger), url=server.url))

    @contextmanager
    def program(self, *command: str) -> Iterator[subprocess.Popen[bytes]]:
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, *command], cwd=self.root, stdout=log, stderr=log, start_new_session=True
            )
        try:
            yield process
        finally:
            for number in (signal.SIGTERM, signal.SIGKILL):
                if process.poll() is None:
                    os.killpg(process.pid, number)
                    try:
                        process.wait(15)
                    except subprocess.TimeoutExpired:
                        continue

    def send(self, *lines: str) -> None:
        code = "\n".join(["from fleet_prefork import app", *lines])
        subprocess.run([sys.executable, "-c", code], cwd=self.root, check=True, timeout=60)

    def lines(self, suffix: str = "") -> list[int]:
        path = Path(f"{self.ledger}{suffix}")
        return [int(line) for line in path.read_text().split()] if path.exists() else []


@pytest.mark.timeout(180)
def test_a_celery_worker_finishes_what_killed_prefork_workers_left(
    tmp_path: Path, own_redis: RedisServer
) -> None:
    fleet = Fleet(tmp_path, own_redis)
    transport = open_transport(own_redis.url, {})
    record, linger = "app.tasks['fleet.record']", "app.tasks['fleet.linger']"
    limited = "app.tasks['fleet.limited']"

    # 200 in the hands of a worker that put 100 of them off.
    fleet.send(f"for n in range(200): {record}.delay(n)")
    with fleet.program("fleet_holder.py") as holder:
        eventually(lambda: "holds" in (tmp_path / "log").read_text(), deadline_s=30)
        holder.kill()
    # 1,000 delayed, 100 that wait for a limit, and 2 at work, in the hands of a real worker.
    due_wall_s = time.time() + 45
    fleet.send(
        f"for n in range(200, 1200): {record}.apply_async((n,), countdown=45)",
        f"for n in range(1202, 1302): {limited}.delay(n)",
        f"for n in (1200, 1201): {linger}.delay(n)",
    )
    worker = ["-m", "prefork.engine", "-A", "fleet_prefork", "worker", "-c", "2"]
    with fleet.program(*worker) as prefork:
        eventually(lambda: transport.depth("celery").delayed == 1100, deadline_s=30)
        eventually(lambda: len(fleet.lines(".started")) == 2, deadline_s=30)
        eventually(lambda: transport.depth("celery.limited.fleet.limited").ready == 100, deadline_s=30)
        os.kill(prefork.pid, signal.SIGKILL)
        eventually(lambda: not _children_of(tmp_path), deadline_s=20)
    assert fleet.lines() == []
    transport.heartbeat("holder", 0.1)  # whoever is dead for long; nobody could take over what it held before
    Path(f"{fleet.ledger}.released").touch()

    released = subprocess.run(
        [sys.executable, "-m", "prefork.engine", "-b", own_redis.url, "release"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert released.returncode == 0, released.stdout + released.stderr
    assert "1100 delayed" in released.stdout
    assert "100 limited" in released.stdout
    assert "prefork:due" not in own_redis.cli("KEYS", "*")

    with fleet.program("-m", "celery", "-A", "fleet_celery", "worker", "-c", "2", "--without-gossip"):
        eventually(lambda: len(set(fleet.lines())) == 1302, deadline_s=100, every_s=0.2)
        assert time.time() >= due_wall_s - 1
    assert Counter(fleet.lines()) == dict.fromkeys(range(1302), 1), json.dumps(fleet.lines()[:20])
    transport.close()


def _children_of(root: Path) -> list[int]:
    """Processes that work in a directory."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if os.readlink(entry / "cwd") == str(root):
                    found.append(int(entry.name))
            except OSError:
                continue  # it ended, or is somebody else's
    return found
