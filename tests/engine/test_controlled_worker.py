"""The worker behind remote control: while its processes are stopped or dead, over restarts, switched off."""

from __future__ import annotations

import json
import os
import pickle
import signal
import stat
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefork.engine.embed import Worker
from prefork.transports.errors import BrokerUnavailable
from support.redis_server import running_redis
from support.semantics import Fleet, fleet_of
from support.waiting import eventually

SOURCE = """
app = App("shop", **SETTINGS)


@app.task
def add(x, y):
    return x + y
"""

WAIT_S = 20.0


@pytest.fixture
def site(tmp_path: Path) -> Any:
    with fleet_of("filesystem", f"controlled_{os.getpid()}", SOURCE, tmp_path, start=False) as made:
        yield made


@pytest.fixture
def stopping(site: Fleet) -> Any:
    """Starts the worker with settings of the test."""

    def start(**settings: Any) -> Worker:
        site.start_worker(**settings)
        assert isinstance(site.worker, Worker)
        return site.worker

    return start


def pings(site: Fleet, timeout_s: float = WAIT_S) -> bool:
    return bool(site.app.control.ping(timeout=timeout_s, limit=1))


def revoked(site: Fleet) -> list[str]:
    replies = site.app.control.broadcast("revoked", reply=True, timeout=WAIT_S, limit=1)
    (ids,) = replies[0].values()
    return list(ids)


def test_it_answers_while_every_child_is_stopped(site: Fleet, stopping: Any) -> None:
    worker = stopping()

    def pids() -> list[int]:
        """All of them, once the last one has been forked."""
        found = [child["pid"] for child in worker.stats()["children"]]
        return found if len(found) == 2 and all(found) else []

    children = [psutil.Process(pid) for pid in eventually(pids, deadline_s=WAIT_S)]
    for child in children:
        child.suspend()
    assert pings(site, 5.0)
    for child in children:
        child.resume()
    worker.stop()


def test_an_agent_that_is_killed_is_followed_by_one_that_answers(site: Fleet, stopping: Any) -> None:
    worker = stopping()
    site.app.control.revoke("kept")
    eventually(lambda: "kept" in revoked(site), deadline_s=WAIT_S)
    os.kill(worker.stats()["agent"]["pid"], signal.SIGKILL)
    eventually(lambda: pings(site, 0.5), deadline_s=WAIT_S)
    eventually(lambda: "kept" in revoked(site), deadline_s=WAIT_S)
    assert site.task("add").delay(1, 2).get(timeout=WAIT_S) == 3
    worker.stop()


def test_a_broker_that_went_and_came_back_is_listened_to_again(tmp_path: Path) -> None:
    with fleet_of("redis", f"outage_{os.getpid()}", SOURCE, tmp_path, start=False) as site:
        with running_redis() as server:
            site.app.conf.broker_url = site.app.conf.result_backend = server.url
            site.start_worker(broker_url=server.url, result_backend=server.url)
            assert pings(site)
            server.restart()
            eventually(lambda: _pings_again(site), deadline_s=WAIT_S)
            assert site.task("add").delay(1, 2).get(timeout=WAIT_S) == 3
            assert "heard again" in site.log
            site.worker.stop()


def _pings_again(site: Fleet) -> bool:
    try:
        return pings(site, 0.5)
    except BrokerUnavailable:
        return False


def test_switched_off_it_does_not_listen(site: Fleet, stopping: Any) -> None:
    worker = stopping(worker_enable_remote_control=False)
    assert not pings(site, 0.5)
    assert site.task("add").delay(1, 2).get(timeout=WAIT_S) == 3
    assert "worker_enable_remote_control" in site.log
    worker.stop()


def test_a_shutdown_lets_the_worker_leave_with_success(site: Fleet, stopping: Any) -> None:
    worker = stopping()
    site.app.control.shutdown()
    assert worker.wait(WAIT_S) == 0


def test_the_state_file_brings_what_is_revoked_to_another_broker(
    site: Fleet, stopping: Any, tmp_path: Path
) -> None:
    worker = stopping(statedb=str(tmp_path / "%n.state"), hostname="w@h")
    site.app.control.revoke(["one", "two"])
    path = tmp_path / "w.state"
    eventually(lambda: path.exists() and json.loads(path.read_text())["revoked"] == ["one", "two"])
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    worker.stop()
    clock = json.loads(path.read_text())["clock"]
    assert clock > 0
    elsewhere = f"filesystem://{tmp_path / 'elsewhere'}"
    worker = stopping(statedb=str(path), hostname="w@h", broker_url=elsewhere)
    site.app.conf.broker_url = elsewhere
    assert revoked(site) == ["one", "two"]
    replies = site.app.control.inspect(timeout=WAIT_S, limit=1).clock()
    assert replies["w@h"]["clock"] > clock
    worker.stop()


def test_a_state_file_of_somebody_else_is_left_alone_and_that_is_said(
    site: Fleet, stopping: Any, tmp_path: Path
) -> None:
    path = tmp_path / "celery.state"
    content = pickle.dumps({"zrevoked": b"x"})
    path.write_bytes(content)
    worker = stopping(worker_state_db=str(path))
    assert site.task("add").delay(1, 2).get(timeout=WAIT_S) == 3
    worker.stop()
    assert path.read_bytes() == content
    assert "it is left as it is" in site.log
