"""Workers on brokers of kombu's and a database, beside Celery's own clients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import pytest

from prefork.engine import App
from prefork.engine.exceptions import WorkerLostError
from support.host import Host
from support.rabbitmq_server import shared
from support.thread_worker import ThreadWorker
from support.waiting import eventually

SHOP = """
import os, pathlib, signal
from prefork.engine import App

app = App("shop", broker="{broker}", backend="db+sqlite:///{root}/results.db")

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


@dataclasses.dataclass(frozen=True)
class Broker:
    """One of kombu's transports.

    :param url: for a directory.
    :param peer: what Celery is told to reach the same, for that directory and URL.
    :param counts: crashes are counted; not where the broker keeps what is not acknowledged.
    """

    url: Callable[[Path], str]
    peer: Callable[[Path, str], dict[str, Any]] = lambda root, url: {
        "broker_url": url.removeprefix("kombu+"),
        "task_create_missing_queue_type": "classic",
    }
    counts: bool = True


def _folders(root: Path, url: str) -> dict[str, Any]:
    folder = f"{root}/broker"
    options = {"data_folder_in": folder, "data_folder_out": folder, "control_folder": f"{folder}/control"}
    return {"broker_url": "filesystem://", "broker_transport_options": options}


BROKERS = {
    "filesystem": Broker(lambda root: f"kombu+filesystem://{root}/broker", _folders),
    "sqla": Broker(lambda root: f"sqla+sqlite:///{root}/queue.db"),
    "pyamqp": Broker(lambda root: f"kombu+py{shared().vhost_url()}", counts=False),
}


@dataclasses.dataclass(frozen=True)
class Shop:
    """A worker of a pool, and where it and others find each other."""

    host: Host
    kind: Broker
    url: str
    backend: str

    def client(self, **settings: Any) -> App:
        return App("client", broker=self.url, backend=self.backend, set_as_current=False, **settings)


@pytest.fixture(scope="module", params=list(BROKERS))
def shop(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shop]:
    host = Host(tmp_path_factory.mktemp("bridged"))
    request.addfinalizer(host.close)
    kind = BROKERS[request.param]
    found = Shop(host, kind, kind.url(host.root), f"db+sqlite:///{host.root}/results.db")
    host.write("shop.py", SHOP.format(root=host.root, broker=found.url))
    host.start("-A", "shop", "worker", "-c", "2", "-l", "INFO")
    host.wait_for_log("is ready")  # the first test waits for its tasks, not for that
    yield found


@pytest.fixture
def client(shop: Shop) -> Iterator[App]:
    app = shop.client()
    yield app
    app.close()


def test_tasks_run_and_their_results_are_in_the_database(client: App) -> None:
    results = [client.send_task("shop.add", (number, 1)) for number in range(20)]
    assert [result.get(timeout=20) for result in results] == list(range(1, 21))


def test_a_message_waits_for_its_time(client: App) -> None:
    assert client.send_task("shop.add", (40, 2), countdown=0.3).get(timeout=20) == 42


def test_a_retry_waits_and_comes_back(client: App) -> None:
    assert client.send_task("shop.third_time").get(timeout=20) == 2


def test_a_task_whose_process_is_killed_runs_again(shop: Shop, client: App) -> None:
    marker = str(shop.host.root / "died")
    assert client.send_task("shop.dies_once", (marker,)).get(timeout=20) == "survived"


@pytest.mark.parametrize("shop", [name for name, kind in BROKERS.items() if kind.counts], indirect=True)
def test_a_task_that_kills_every_process_is_given_up(client: App) -> None:
    with pytest.raises(WorkerLostError, match="3 crashes"):
        client.send_task("shop.dies").get(timeout=20)
    eventually(lambda: client.client.transport.ready(["prefork-dead-letters"]) == 1)


def test_a_client_of_celery_sends_and_reads(shop: Shop) -> None:
    peer = celery.Celery("peer", set_as_current=False, backend=shop.backend)
    peer.conf.update(shop.kind.peer(shop.host.root, shop.url))
    result = peer.send_task("shop.add", (40, 2), countdown=0.3)
    assert result.get(timeout=20, interval=0.05) == 42
    peer.close()


def test_what_is_meant_for_rabbitmq_alone_is_not_told_to_others(shop: Shop) -> None:
    app = shop.client(
        task_create_missing_queue_type="classic",
        task_create_missing_queue_exchange_type="direct",
        task_queue_max_priority=9,
        task_default_queue_type="classic",
        broker_login_method="PLAIN",
        broker_native_delayed_delivery_queue_type="classic",
        broker_pool_limit=None,
    )
    assert app.send_task("shop.add", (1, 2)).get(timeout=20) == 3
    app.close()


def test_a_worker_in_a_thread_serves_messages_of_its_process(tmp_path: Path) -> None:
    app = App(
        "here", broker="kombu+memory://", backend=f"db+sqlite:///{tmp_path}/results.db", set_as_current=False
    )
    add = app.task(name="add")(lambda x, y: x + y)
    worker = ThreadWorker(app, log=tmp_path / "log").start()
    try:
        assert add.delay(40, 2).get(timeout=20) == 42
        assert add.apply_async((40, 3), countdown=0.3).get(timeout=20) == 43
    finally:
        worker.stop()
        app.close()


def test_a_pool_is_refused_where_messages_stay_in_one_process(tmp_path: Path) -> None:
    host = Host(tmp_path)
    done = host.run("-A", "shop", "-b", "kombu+memory://", "worker", "-c", "1")
    assert done.returncode == 78
    assert "-P solo" in done.stdout + done.stderr
