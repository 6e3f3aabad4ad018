"""A pool of processes on a broker of kombu's and a database, beside Celery's own clients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import celery
import pytest

from prefork.engine import App
from prefork.engine.exceptions import WorkerLostError
from support.host import Host
from support.waiting import eventually

SHOP = """
import os, pathlib, signal
from prefork.engine import App

app = App("shop", broker="kombu+filesystem://{root}/broker", backend="db+sqlite:///{root}/results.db")

@app.task
def add(x, y):
    return x + y

@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0.1)
    return self.request.retries

@app.task
def dies_once(marker):
    if not pathlib.Path(marker).exists():
        pathlib.Path(marker).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return "survived"

@app.task
def dies():
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("bridged"))
    host.write("shop.py", SHOP.format(root=host.root))
    host.start("-A", "shop", "worker", "-c", "2")
    yield host
    host.close()


@pytest.fixture
def client(host: Host) -> Iterator[App]:
    broker, backend = f"kombu+filesystem://{host.root}/broker", f"db+sqlite:///{host.root}/results.db"
    app = App("client", broker=broker, backend=backend, set_as_current=False)
    yield app
    app.close()


def test_tasks_run_and_their_results_are_in_the_database(host: Host, client: App) -> None:
    results = [client.send_task("shop.add", (number, 1)) for number in range(20)]
    assert [result.get(timeout=20) for result in results] == list(range(1, 21))


def test_a_retry_waits_and_comes_back(client: App) -> None:
    assert client.send_task("shop.third_time").get(timeout=20) == 2


def test_a_task_whose_process_is_killed_runs_again(host: Host, client: App) -> None:
    marker = str(host.root / "died")
    assert client.send_task("shop.dies_once", (marker,)).get(timeout=20) == "survived"


def test_a_task_that_kills_every_process_is_given_up(host: Host, client: App) -> None:
    with pytest.raises(WorkerLostError, match="3 crashes"):
        client.send_task("shop.dies").get(timeout=20)
    eventually(lambda: list((host.root / "broker").glob("*.prefork-dead-letters.msg")))


def test_a_client_of_celery_sends_and_reads(host: Host) -> None:
    folder = f"{host.root}/broker"
    peer = celery.Celery("peer", set_as_current=False, backend=f"db+sqlite:///{host.root}/results.db")
    options: dict[str, Any] = {"data_folder_in": folder, "data_folder_out": folder}
    peer.conf.update(
        broker_url="filesystem://",
        broker_transport_options={**options, "control_folder": f"{folder}/control"},
    )
    result = peer.send_task("shop.add", (40, 2), countdown=0.3)
    assert result.get(timeout=20, interval=0.05) == 42
    peer.close()


def test_a_pool_is_refused_where_messages_stay_in_one_process(host: Host) -> None:
    done = host.run("-A", "shop", "-b", "kombu+memory://", "worker", "-c", "1")
    assert done.returncode == 3
    assert "-P solo" in done.stdout + done.stderr
