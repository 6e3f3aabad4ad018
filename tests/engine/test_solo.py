"""A worker of one process: it sleeps when idle, leaves when told, gives back what it interrupts."""

from __future__ import annotations

import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import TaskRevokedError
from prefork.engine.housekeeping import Housekeeping
from prefork.engine.responder.worker import WorkerControl
from prefork.engine.result_document import decode
from prefork.engine.testing import start_worker, temporary_app
from support.apps import memory_app
from support.host import Host
from support.waiting import eventually

SOLO = ("-A", "shop", "worker", "-P", "solo", "-l", "INFO")
PROJECT = """
import pathlib, time
from prefork.engine import App, shield

HERE = pathlib.Path({root!r})
app = App("shop", broker="filesystem://{root}/broker", backend="filesystem://{root}/broker")

@app.task
def guarded(name):
    with shield():
        (HERE / f"{{name}}-began").write_text("")
        time.sleep(1.0)
        (HERE / f"{{name}}-booked").write_text("")
    time.sleep(60)

@app.task
def wait_for(name):
    (HERE / f"{{name}}-began").write_text("")
    while not (HERE / name).exists():
        time.sleep(0.01)
    return name
"""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Host]:
    made = Host(tmp_path)
    made.write("shop.py", PROJECT.format(root=str(tmp_path)))
    yield made
    made.close()


@pytest.fixture
def client(host: Host) -> Iterator[App]:
    url = f"filesystem://{host.root}/broker"
    with memory_app("shop", broker=url, backend=url) as app:
        yield app


def begun(host: Host, client: App, name: str) -> str:
    """Send a task that waits, and wait until it has begun."""
    result = client.send_task("shop.wait_for", (name,))
    eventually(lambda: (host.root / f"{name}-began").exists(), deadline_s=20)
    return result.id


def test_an_idle_one_sleeps(host: Host, client: App) -> None:
    worker = host.start(*SOLO)
    (host.root / "go").write_text("")
    begun(host, client, "go")
    process = psutil.Process(worker.pid)
    before = process.cpu_times()
    wall_s = time.monotonic() + 1.0
    eventually(lambda: time.monotonic() > wall_s, every_s=0.05)
    after = process.cpu_times()
    assert after.user + after.system - before.user - before.system < 0.4, "it spins"


def test_one_that_is_told_to_leave_finishes_its_task_first(host: Host, client: App) -> None:
    worker = host.start(*SOLO)
    task_id = begun(host, client, "one")
    client.send_task("shop.wait_for", ("two",))
    worker.send_signal(signal.SIGTERM)
    (host.root / "one").write_text("")
    assert worker.wait(10) == 0, host.log()
    document = client.client.results.get([task_id])[0]
    assert document is not None
    assert decode(document, client.client.table.by_name("json")).status == "SUCCESS"
    depth = client.client.transport.depth("celery")
    assert (depth.ready, depth.in_work) == (1, 0)


def test_a_second_signal_waits_for_the_end_of_a_shield(host: Host, client: App) -> None:
    worker = host.start(*SOLO)
    client.send_task("shop.guarded", ("g",))
    eventually(lambda: (host.root / "g-began").exists(), deadline_s=20)
    worker.send_signal(signal.SIGINT)
    host.wait_for_log("once more to give it back")
    worker.send_signal(signal.SIGINT)
    assert worker.wait(10) == 0, host.log()
    assert (host.root / "g-booked").exists()
    assert client.client.transport.depth("celery").ready == 1


def test_a_second_signal_gives_the_running_task_back(host: Host, client: App) -> None:
    worker = host.start(*SOLO)
    task_id = begun(host, client, "never")
    worker.send_signal(signal.SIGINT)
    host.wait_for_log("once more to give it back")
    worker.send_signal(signal.SIGINT)
    assert worker.wait(10) == 0, host.log()
    assert client.client.results.get([task_id]) == [None]
    depth = client.client.transport.depth("celery")
    assert (depth.ready, depth.in_work) == (1, 0)


@pytest.mark.parametrize("moment", [Housekeeping.renew, WorkerControl.start])
@pytest.mark.parametrize("broker", ["memory", "filesystem"])
def test_what_is_revoked_while_it_starts_does_not_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, broker: str, moment: Callable[[Any], None]
) -> None:
    """Before it has a lease nobody knows it, and REVOKED is stored; before it listens nobody can tell it."""
    url = f"filesystem://{tmp_path}/broker" if broker == "filesystem" else None
    ran: list[str] = []
    with temporary_app(broker=url) as app:

        @app.task
        def work(name: str) -> None:
            ran.append(name)

        meant = work.delay("meant")
        revoked: list[str] = []

        def begin(keeper: Any) -> None:
            if not revoked:
                revoked.append(meant.id)
                app.control.revoke(meant.id)
            moment(keeper)

        owner = Housekeeping if moment is Housekeeping.renew else WorkerControl
        monkeypatch.setattr(owner, moment.__name__, begin)
        with start_worker(app):
            work.delay("after").get(timeout=20)
            with pytest.raises(TaskRevokedError):
                meant.get(timeout=20)
    assert revoked
    assert ran == ["after"]
