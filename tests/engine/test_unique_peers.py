"""A unique task that a worker of Celery's runs: it does not know the lock, and nobody waits for it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from prefork.engine.app import App
from support.redis_server import running_redis

CELERY = """
from celery import Celery
app = Celery("peers", broker={url!r}, backend={url!r})

@app.task(name="peers.add")
def add(x, y=0):
    return x + y
"""


@pytest.mark.timeout(90)
def test_celery_runs_a_unique_task_and_the_next_one_is_sent(tmp_path: Path) -> None:
    with running_redis() as server:
        (tmp_path / "peers_of_celery.py").write_text(CELERY.format(url=server.url))
        app = App("peers", broker=server.url, result_backend=server.url, set_as_current=False)
        add = app.task(name="peers.add", unique=True)(lambda x, y=0: x)
        first = add.delay(1, 2)
        assert add.delay(1, y=2).id == first.id
        command = [
            sys.executable,
            "-m",
            "celery",
            "-A",
            "peers_of_celery",
            "worker",
            "-P",
            "solo",
            "-l",
            "error",
        ]
        worker = subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            assert first.get(timeout=60) == 3
            assert app.client.unique.holder("peers.add", (1, 2)) == first.id
            second = add.delay(1, 2)
            assert second.id != first.id
            assert second.get(timeout=20) == 3
        finally:
            worker.terminate()
            worker.wait(20)
            app.close()
