"""Single workers and all workers are addressed by clients of either make, on Redis and on RabbitMQ."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.celery_worker import FleetWorker
from support.fleet_app import MAKES, make_app
from support.rabbitmq_server import shared
from support.redis_server import running_redis

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WAIT_S = 20.0
QUEUES = [("all", "all", "broadcast", ""), ("usual", "usual", "direct", "usual")]


class Peers:
    """A worker and a client of each make."""

    def __init__(self, root: Path, url: str, results: str) -> None:
        # On Redis Celery's worker subscribes to broadcasts late, at times not at all (seen with kombu 5.7).
        self.hearing = MAKES if url.startswith("amqp") else ("prefork",)
        config = {
            "broker_url": url,
            "result_backend": results,
            "task_serializer": "json",
            "result_serializer": "json",
            "accept_content": ["json"],
            "task_default_queue": "usual",
            "task_queues": QUEUES,
            "worker_direct": True,
        }
        self.workers = {make: FleetWorker(root, make, make, config, "-c", "1").launch() for make in MAKES}
        self.apps: dict[str, Any] = {make: make_app(make, config) for make in MAKES}

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        for app in self.apps.values():
            app.close()


def seen(worker: FleetWorker, task_id: str, deadline_s: float = WAIT_S) -> bool:
    """Whether a worker runs a task in time."""
    end_mono_s = time.monotonic() + deadline_s
    while time.monotonic() < end_mono_s:
        if f"{task_id}] succeeded" in worker.log:
            return True
        time.sleep(0.01)
    return False


@pytest.fixture(scope="module", params=["redis", "amqp"])
def peers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with running_redis() as server:
        url = server.url if request.param == "redis" else shared().vhost_url()
        made = Peers(tmp_path_factory.mktemp("peers"), url, server.url)
        try:
            for worker in made.workers.values():
                worker.await_ready()
            yield made
        finally:
            made.close()


@pytest.mark.parametrize("client", MAKES)
def test_every_worker_of_both_makes_gets_a_copy(peers: Peers, client: str) -> None:
    for number in range(3):
        result = peers.apps[client].tasks["fleet.echo"].apply_async((number,), queue="all")
        assert [make for make in peers.hearing if seen(peers.workers[make], result.id)] == list(peers.hearing)


@pytest.mark.parametrize("client", MAKES)
@pytest.mark.parametrize("worker", MAKES)
def test_one_worker_is_addressed_by_its_name(peers: Peers, client: str, worker: str) -> None:
    task = peers.apps[client].tasks["fleet.echo"]
    results = [task.apply_async((n,), queue=f"{worker}@fleet.dq2") for n in range(5)]
    assert [result.get(timeout=WAIT_S) for result in results] == list(range(5))
    assert all(seen(peers.workers[worker], result.id) for result in results)


@pytest.mark.parametrize("client", MAKES)
def test_workers_describe_their_own_queue_alike(peers: Peers, client: str) -> None:
    said = peers.apps[client].control.inspect(timeout=2.0).active_queues()
    facts = []
    for make in MAKES:
        queues = {queue["name"]: queue for queue in said[f"{make}@fleet"]}
        direct = queues[f"{make}@fleet.dq2"]
        facts.append((direct["exchange"]["name"], direct["exchange"]["type"], direct["durable"]))
        assert direct["routing_key"] == f"{make}@fleet"
    assert facts == [("C.dq2", "direct", True)] * 2
