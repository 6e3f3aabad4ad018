"""Celery's clients control prefork's workers, and prefork's clients Celery's, on Redis and on RabbitMQ."""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.celery_worker import FleetWorker
from support.fleet_app import MAKES, make_app
from support.rabbitmq_server import shared
from support.redis_server import running_redis
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(120)]

WAIT_S = 20.0
PAIRS = list(itertools.product(MAKES, MAKES))


class Peers:
    """A worker and a client of each make."""

    def __init__(self, root: Path, broker: str, url: str, results: str) -> None:
        self.broker = broker
        config = {
            "broker_url": url,
            "result_backend": results,
            "task_serializer": "json",
            "result_serializer": "json",
            "accept_content": ["json"],
            "task_acks_late": True,
        }
        self.workers = {
            make: FleetWorker(
                root, make, make, {**config, "task_queues": [(make, make, "direct", make)]}, "-c", "1"
            ).launch()
            for make in MAKES
        }
        queues = [(make, make, "direct", make) for make in MAKES]
        self.apps = {make: make_app(make, {**config, "task_queues": queues}) for make in MAKES}

    def node(self, make: str) -> str:
        """The name of the worker of a make."""
        return f"{make}@fleet"

    def ask(self, client: str, worker: str, command: str, **arguments: Any) -> Any:
        """What the worker of a make answers to the client of a make."""
        node = self.node(worker)
        replies = self.apps[client].control.broadcast(
            command, arguments=arguments, destination=[node], reply=True, timeout=WAIT_S
        )
        assert [set(reply) for reply in replies] == [{node}]
        return replies[0][node]

    def close(self) -> None:
        for worker in self.workers.values():
            worker.close()
        for app in self.apps.values():
            app.close()


@pytest.fixture(scope="module", params=["redis", "amqp"])
def peers(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Peers]:
    with running_redis() as server:
        url = server.url if request.param == "redis" else shared().vhost_url()
        made = Peers(tmp_path_factory.mktemp("peers"), request.param, url, server.url)
        try:
            for worker in made.workers.values():
                worker.await_ready()
            yield made
        finally:
            made.close()


def ways(test: Any) -> Any:
    """Runs a test for each client with each worker."""
    return pytest.mark.parametrize(("client", "worker"), PAIRS)(test)


@pytest.mark.parametrize("client", MAKES)
def test_a_ping_is_answered_by_workers_of_both_makes(peers: Peers, client: str) -> None:
    control = peers.apps[client].control
    expected = {peers.node(make): {"ok": "pong"} for make in MAKES}
    eventually(lambda: control.inspect(timeout=1.0).ping() == expected, deadline_s=WAIT_S)
    replies = control.ping(timeout=WAIT_S, limit=2)
    assert {node for reply in replies for node in reply} == set(expected)


@ways
def test_commands_are_answered_in_the_same_words(peers: Peers, client: str, worker: str) -> None:
    task = "fleet.echo"
    assert peers.ask(client, worker, "ping") == {"ok": "pong"}
    assert peers.ask(client, worker, "no_such_thing") == {"error": "KeyError('no_such_thing')"}
    assert peers.ask(client, worker, "rate_limit", task_name=task, rate_limit="100/s") == {
        "ok": "new rate limit set successfully"
    }
    assert peers.ask(client, worker, "rate_limit", task_name="no.such", rate_limit="1/s") == {
        "error": "unknown task"
    }
    assert (
        "Invalid rate limit string"
        in peers.ask(client, worker, "rate_limit", task_name=task, rate_limit="often")["error"]
    )
    assert peers.ask(client, worker, "rate_limit", task_name=task, rate_limit=None) == {
        "ok": "rate limit disabled successfully"
    }
    assert peers.ask(client, worker, "time_limit", task_name=task, soft=50, hard=60) == {
        "ok": "time limits set successfully"
    }
    assert peers.ask(client, worker, "time_limit", task_name="no.such", soft=1) == {"error": "unknown task"}
    assert peers.ask(client, worker, "revoke", task_id="nobody", terminate=True) == {
        "ok": "terminate: tasks unknown"
    }


@ways
def test_a_revoked_task_does_not_run(peers: Peers, client: str, worker: str) -> None:
    app = peers.apps[client]
    result = app.tasks["fleet.echo"].apply_async((1,), queue=worker, countdown=4.0)
    app.control.revoke(result.id)  # heard long before it is due, whoever stands still for a moment
    eventually(lambda: result.id in peers.ask(client, worker, "revoked"), deadline_s=WAIT_S)
    eventually(lambda: result.state == "REVOKED", deadline_s=WAIT_S)


@ways
def test_a_running_task_is_terminated(peers: Peers, client: str, worker: str) -> None:
    app = peers.apps[client]
    result = app.tasks["fleet.work"].apply_async((60.0,), queue=worker, ignore_result=False)
    inspect = app.control.inspect([peers.node(worker)], timeout=WAIT_S)
    eventually(
        lambda: [one["id"] for one in inspect.active()[peers.node(worker)]] == [result.id], deadline_s=WAIT_S
    )
    begun_s = time.monotonic()
    app.control.terminate(result.id)
    eventually(lambda: result.state == "REVOKED", deadline_s=WAIT_S)
    assert time.monotonic() - begun_s < WAIT_S
    assert app.tasks["fleet.echo"].apply_async(("on",), queue=worker).get(timeout=WAIT_S) == "on"


@ways
def test_every_inspect_command_that_both_know_has_the_same_shape(
    peers: Peers, client: str, worker: str
) -> None:
    node = peers.node(worker)
    inspect = peers.apps[client].control.inspect([node], timeout=WAIT_S)
    assert "fleet.echo" in " ".join(inspect.registered()[node])
    assert [queue["name"] for queue in inspect.active_queues()[node]] == [worker]
    assert inspect.conf()[node]["task_acks_late"] is True
    # Celery keeps what was revoked among what is scheduled until it is due.
    eventually(lambda: inspect.scheduled() == {node: []}, deadline_s=WAIT_S)
    # A result is there before its task is settled.
    eventually(lambda: inspect.reserved() == {node: []}, deadline_s=WAIT_S)
    eventually(lambda: inspect.active(safe=True) == {node: []}, deadline_s=WAIT_S)
    assert isinstance(inspect.revoked()[node], list)
    assert inspect.query_task("nobody") == {node: {}}
    assert isinstance(inspect.clock()[node]["clock"], int)
    stats = inspect.stats()[node]
    assert stats["broker"]["transport"] == peers.broker
    assert stats["pool"]["max-concurrency"] == 1
    assert int(stats["clock"]) > 0
    assert {"total", "pid", "uptime", "rusage", "prefetch_count"} <= set(stats)
    assert inspect.report()[node]["ok"]
    hello = inspect.hello("new@host", [f"of-another-{client}"])[node]
    assert hello["clock"] > 0
    assert f"of-another-{client}" in inspect.revoked()[node]


def test_queues_are_described_alike(peers: Peers) -> None:
    shapes = []
    for worker in MAKES:
        node = peers.node(worker)
        (queue,) = peers.apps["celery"].control.inspect([node], timeout=WAIT_S).active_queues()[node]
        shapes.append((set(queue), set(queue["exchange"]), queue["exchange"]["type"], queue["durable"]))
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("worker", MAKES)
def test_the_pool_grows_and_shrinks(peers: Peers, worker: str) -> None:
    client = "prefork" if worker == "celery" else "celery"
    assert peers.ask(client, worker, "pool_grow", n=1) == {"ok": "pool will grow"}

    def size() -> int:
        return len(peers.ask(client, worker, "stats")["pool"]["processes"])

    eventually(lambda: size() == 2, deadline_s=WAIT_S)
    assert peers.ask(client, worker, "pool_shrink", n=1) == {"ok": "pool will shrink"}
    eventually(lambda: size() == 1, deadline_s=WAIT_S)


def test_celerys_own_command_line_sees_both(peers: Peers) -> None:
    worker = peers.workers["celery"]
    command = [sys.executable, "-m", "celery", "-A", "support.fleet_app:app", "status", "-t", "2"]
    done = subprocess.run(
        command,
        env=worker.environ,
        cwd=worker.directory,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert "prefork@fleet: OK" in done.stdout
    assert "2 nodes online" in done.stdout


def test_a_worker_leaves_when_celerys_client_says_so(peers: Peers) -> None:
    peers.apps["celery"].control.shutdown(destination=[peers.node("prefork")])
    process = peers.workers["prefork"].process
    assert process is not None
    assert process.wait(30) == 0
