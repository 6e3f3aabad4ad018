"""Results as messages, with real workers: each other's clients wait for each other's workers."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import celery
import celery.exceptions
import pytest

from prefork.engine import App
from prefork.engine.canvas import Signature, chain, chunks, group, xstarmap
from prefork.engine.exceptions import TaskRevokedError, WorkerLostError
from support.celery_worker import FleetWorker
from support.host import Host
from support.rabbitmq_server import shared
from support.waiting import eventually

SHOP = """
import os, signal, time
from prefork.engine import App

app = App("shop", broker="{broker}", backend="rpc://")
app.conf.task_default_queue = "{queue}"
app.conf.broker_native_delayed_delivery_queue_type = "classic"

@app.task
def add(x, y):
    return x + y

@app.task
def told(task_id):
    return task_id

@app.task(bind=True)
def becomes_a_chain(self):
    raise self.replace(add.s(1, 1) | add.s(5))

@app.task
def fails():
    raise ValueError("bad", 3)

@app.task(bind=True)
def reports(self, seen):
    self.update_state(state="PROGRESS", meta={{"done": 3}})
    deadline = time.monotonic() + 20
    while not os.path.exists(seen) and time.monotonic() < deadline:
        time.sleep(0.01)
    return "reported"

@app.task(bind=True, max_retries=3)
def third_time(self):
    if self.request.retries < 2:
        raise self.retry(countdown=0)
    return self.request.retries

@app.task
def calls(x):
    return add.delay(x, 1).get(timeout=20, disable_sync_subtasks=False)

@app.task(reject_on_worker_lost=False)
def dies():
    os.kill(os.getpid(), signal.SIGKILL)
"""

QUEUE = f"shop.{uuid.uuid4().hex[:12]}"


@pytest.fixture(scope="module")
def broker() -> str:
    return shared().url


@pytest.fixture(scope="module")
def worker(tmp_path_factory: pytest.TempPathFactory, broker: str) -> Iterator[Host]:
    host = Host(tmp_path_factory.mktemp("rpc"))
    host.write("shop.py", SHOP.format(broker=broker, queue=QUEUE))
    host.start("-A", "shop", "worker", "-c", "2")
    yield host
    host.close()


@pytest.fixture
def client(worker: Host, broker: str) -> Iterator[App]:
    app = App("client", broker=broker, backend="rpc://", set_as_current=False)
    app.conf.task_default_queue = QUEUE
    app.conf.broker_native_delayed_delivery_queue_type = "classic"
    yield app
    app.close()


def test_results_come_to_who_called(client: App) -> None:
    results = [client.send_task("shop.add", (number, 1)) for number in range(50)]
    assert [result.get(timeout=30) for result in results] == list(range(1, 51))


def test_failures_and_retries_come_as_well(client: App) -> None:
    with pytest.raises(ValueError, match="bad") as caught:
        client.send_task("shop.fails").get(timeout=20)
    assert caught.value.args == ("bad", 3)
    assert client.send_task("shop.third_time").get(timeout=20) == 2


def test_progress_is_seen(client: App, tmp_path: Path) -> None:
    result = client.send_task("shop.reports", (str(tmp_path / "seen"),))
    eventually(lambda: result.state == "PROGRESS", deadline_s=20.0)
    (tmp_path / "seen").touch()
    assert result.get(timeout=20) == "reported"
    assert result.state == "SUCCESS"


def test_a_task_waits_for_another(client: App) -> None:
    assert client.send_task("shop.calls", (41,)).get(timeout=20) == 42


def test_the_loss_of_a_process_is_told(client: App) -> None:
    with pytest.raises(WorkerLostError):
        client.send_task("shop.dies").get(timeout=20)


def test_a_task_that_waits_is_revoked_and_its_caller_hears_of_it(client: App) -> None:
    result = client.send_task("shop.add", (1, 2), countdown=4.0)
    result.revoke()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)


def adding(client: App, *args: int) -> Signature:
    return client.signature("shop.add", args=args)


def test_the_steps_of_a_chain_answer_its_caller(client: App) -> None:
    result = chain(adding(client, 1, 1), adding(client, 5), adding(client, 7), app=client).apply_async()
    assert result.get(timeout=20) == 14
    assert (result.parent.get(timeout=20), result.parent.parent.get(timeout=20)) == (7, 2)


def test_chains_within_a_group_or_a_chain_answer_their_caller(client: App) -> None:
    steps = [chain(adding(client, number, 1), adding(client, 5), app=client) for number in range(3)]
    assert group(steps, app=client).apply_async().get(timeout=20) == [6, 7, 8]
    inner = chain(adding(client, 5), adding(client, 7), app=client, retry=True)
    assert chain(adding(client, 1, 1), inner, app=client).apply_async().get(timeout=20) == 14


def test_chains_that_go_in_bulk_answer_their_caller(client: App) -> None:
    steps = [chain(adding(client, number, 1), adding(client, 5), app=client) for number in range(3)]
    assert client.send_tasks(steps).get(timeout=20) == [6, 7, 8]


def test_calls_that_go_in_one_message_answer_their_caller(client: App) -> None:
    add = adding(client)
    assert xstarmap(add, [(1, 1), (2, 2)], app=client).apply_async().get(timeout=20) == [2, 4]
    assert chunks(add, [(1, 1), (2, 2), (3, 3)], 2, app=client).apply_async().get(timeout=20) == [[2, 4], [6]]


def test_callbacks_that_were_frozen_answer_their_caller(client: App) -> None:
    callback, errback = adding(client, 5), client.signature("shop.told")
    called, told = callback.freeze(), errback.freeze()
    client.send_task("shop.add", (1, 1), link=callback)
    failed = client.send_task("shop.fails", link_error=errback)
    assert called.get(timeout=20) == 7
    assert told.get(timeout=20) == failed.id


def test_a_chain_that_takes_the_place_of_a_task_answers_its_caller(client: App) -> None:
    assert client.send_task("shop.becomes_a_chain").get(timeout=20) == 7


def test_a_worker_of_celery_answers_the_caller_of_a_chain(client: App, broker: str, tmp_path: Path) -> None:
    queue = f"shop.{uuid.uuid4().hex[:12]}"
    settings = {"broker_url": broker, "result_backend": "rpc://", "task_default_queue": queue}
    worker = FleetWorker(tmp_path, "celery", "peer", settings, "-P", "solo").launch()
    try:
        step = client.signature("fleet.add", args=(5,), options={"queue": queue})
        result = chain(step.clone((1,)), step, step, app=client).apply_async()
        assert result.get(timeout=40) == 16
    finally:
        worker.close()


def test_an_eager_chain_needs_no_broker() -> None:
    app = App("client", broker="amqp://127.0.0.1:1//", backend="rpc://", set_as_current=False)
    app.conf.task_always_eager = True
    add = app.task(name="add")(lambda x, y: x + y)
    assert chain(add.s(1, 1), add.s(5)).apply_async().get(timeout=20) == 7


def test_a_client_of_celery_waits_for_our_worker(worker: Host, broker: str) -> None:
    peer = celery.Celery("peer", set_as_current=False, broker=broker, backend="rpc://")
    assert peer.send_task("shop.add", (40, 2), queue=QUEUE).get(timeout=20) == 42
    with pytest.raises(ValueError, match="bad"):
        peer.send_task("shop.fails", queue=QUEUE).get(timeout=20)
    peer.backend.result_consumer.stop()
    peer.close()
