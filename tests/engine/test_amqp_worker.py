"""A worker of RabbitMQ started and asked by commands: queues of every kind, delays, dead letters."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import amqp
import pytest

from prefork.transports.url import parse
from support.celery_worker import FleetWorker
from support.fleet_app import make_app
from support.rabbitmq_server import shared
from support.redis_server import running_redis
from support.stress_worker import search_path
from support.waiting import eventually

pytestmark = pytest.mark.slow

QUEUES = [
    ("celery", "celery", "direct", "celery"),
    ("news.all", "news", "topic", "news.#"),
    ("news.eu", "news", "topic", "news.eu.*"),
    ("all.one", "all", "fanout", ""),
    ("all.two", "all", "fanout", ""),
    ("apart", "apart.x", "direct", "apart.key"),
]


class Site:
    """A virtual host, an application of one queue type, and what its tasks wrote."""

    def __init__(self, root: Path, queue_type: str, results: str) -> None:
        self.root = root
        self.url = shared().vhost_url()
        self.told = root / "told"
        self.told.touch()
        self.settings: dict[str, Any] = {
            "result_backend": results,
            "task_queues": QUEUES,
            "task_default_queue_type": queue_type,
            "task_unknown_grace": 0.0,
            "broker_native_delayed_delivery_queue_type": "classic",
        }
        self.app = make_app("prefork", {**self.settings, "broker_url": self.url})
        self.worker = FleetWorker(root, "prefork", "w", self.settings, "-c", "2", "-b", self.url)

    def tell(self, word: str, **options: Any) -> None:
        """Have a task note a word."""
        task = self.app.tasks["fleet.told"]
        task.apply_async((str(self.told), word), ignore_result=True, **options)

    def words(self) -> list[str]:
        """What was noted, in order."""
        return [line.strip("(),'") for line in self.told.read_text().split("\n") if line]

    def command(self, *line: str) -> str:
        """Run ``prefork``; returns what it printed."""
        done = subprocess.run(
            [sys.executable, "-m", "prefork.engine", "-A", "support.fleet_app:app", "-b", self.url, *line],
            env={
                **os.environ,
                "PYTHONPATH": search_path(),
                "FLEET_CONFIG": json.dumps(self.settings),
                "FLEET_MAKE": "prefork",
            },
            cwd=self.root,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def put(self, queue: str, body: str, **properties: Any) -> None:
        """Publish something with plain py-amqp."""
        found = parse(self.url)
        with amqp.Connection(f"127.0.0.1:{found.port}", virtual_host=found.path[1:]) as connection:
            channel = connection.channel()
            channel.basic_publish(amqp.Message(body, **properties), routing_key=queue)

    def close(self) -> None:
        self.worker.close()
        self.app.close()


@pytest.fixture(scope="module", params=["classic, results in files", "quorum, results on Redis"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    root = tmp_path_factory.mktemp("amqp")
    queue_type = request.param.partition(",")[0]
    with running_redis() as redis:
        results = redis.url if "Redis" in request.param else f"filesystem://{root}/results"
        made = Site(root, queue_type, results)
        made.worker.launch().await_ready()
        yield made
        made.close()


@pytest.fixture
def empty(tmp_path: Path) -> Iterator[Site]:
    """A site whose worker has not been started."""
    made = Site(tmp_path, "classic", f"filesystem://{tmp_path}/results")
    yield made
    made.close()


def test_results_come_back(site: Site) -> None:
    results = [site.app.tasks["fleet.echo"].delay({"n": n}) for n in range(20)]
    assert [result.get(timeout=20) for result in results] == [{"n": n} for n in range(20)]


def test_a_topic_reaches_every_queue_whose_pattern_fits(site: Site) -> None:
    site.tell("everywhere", exchange="news", routing_key="news.eu.today")
    site.tell("elsewhere", exchange="news", routing_key="news.us.today")
    eventually(lambda: site.words().count("everywhere") == 2 and "elsewhere" in site.words())
    assert site.words().count("elsewhere") == 1


def test_a_fanout_reaches_every_queue(site: Site) -> None:
    site.tell("to all", exchange="all", routing_key="")
    eventually(lambda: site.words().count("to all") == 2)


def test_what_is_delayed_or_tried_again_waits_and_is_never_early(site: Site) -> None:
    due_wall_s = time.time() + 0.7
    delayed = site.app.tasks["fleet.when"].apply_async(countdown=0.7)
    begun_wall_s = time.time()
    again = site.app.tasks["fleet.again"].delay(2, 0.3)
    assert 0 <= delayed.get(timeout=20) - due_wall_s < 2.0
    retries, ended_wall_s = again.get(timeout=20)
    assert retries == 2
    assert ended_wall_s - begun_wall_s >= 0.6


@pytest.mark.parametrize(
    ("exchange", "key", "times"),
    [("apart.x", "apart.key", 1), ("news", "news.eu.now", 2), ("news", "news.us", 1), ("all", "", 2)],
)
@pytest.mark.parametrize("knows", [True, False], ids=["known", "unknown"])
def test_what_is_delayed_reaches_each_queue_of_its_exchange_once(
    site: Site, exchange: str, key: str, times: int, knows: bool
) -> None:
    settings = {**site.settings, "broker_url": site.url, "task_queues": QUEUES if knows else QUEUES[:1]}
    client = make_app("prefork", settings)
    word = f"delayed to {exchange} {key} {knows}"
    to = {"exchange": exchange, "routing_key": key}
    try:
        due_wall_s = time.time() + 1.2
        client.tasks["fleet.told"].apply_async(
            (str(site.told), word), countdown=1.2, ignore_result=True, **to
        )
        last = client.tasks["fleet.told"].apply_async((str(site.told), f"{word}, last"), countdown=2.4, **to)
        eventually(lambda: site.words().count(word) == times, deadline_s=20.0)
        assert time.time() >= due_wall_s
        last.get(timeout=20)
        assert site.words().count(word) == times
    finally:
        client.close()


def test_countdowns_and_retries_arrive_after_the_queue_was_deleted(site: Site) -> None:
    assert site.app.tasks["fleet.when"].apply_async(countdown=0.1).get(timeout=20)
    found = parse(site.url)
    with amqp.Connection(f"127.0.0.1:{found.port}", virtual_host=found.path[1:]) as connection:
        connection.channel().queue_delete("celery")
    # What is sent before the worker has noticed arrives as well.
    delayed = [site.app.tasks["fleet.when"].apply_async(countdown=countdown) for countdown in (0.1, 0.6)]
    again = site.app.tasks["fleet.again"].delay(2, 0.3)
    assert all(one.get(timeout=30) for one in delayed)
    assert again.get(timeout=20)[0] == 2


def test_what_became_due_without_a_queue_is_there_soon_after_a_worker_starts(empty: Site) -> None:
    found = parse(empty.url)
    empty.worker.launch().await_ready()
    assert empty.worker.stop() == 0
    with amqp.Connection(f"127.0.0.1:{found.port}", virtual_host=found.path[1:]) as connection:
        channel = connection.channel()
        for number in range(5):
            empty.tell(str(number), countdown=2.0)
        channel.queue_delete("celery")  # long before they are due, whoever stands still for a moment
        eventually(lambda: channel.queue_declare("prefork.strays", passive=True).message_count == 5)
    # Its agent looks before its children have declared the queue: it does not take it for missing.
    empty.worker.launch().await_ready()
    eventually(lambda: len(empty.words()) == 5, deadline_s=15.0)
    assert "nothing is bound for" not in empty.worker.log


def cut_all(url: str) -> None:
    """Close every connection to a virtual host, as an operator may, or a restart."""
    shared().control("close_all_connections", "--vhost", parse(url).path[1:], "cut by a test")


REVOKING: list[tuple[str, dict[str, Any]]] = [
    ("revoke", {"task_id": "a"}),
    ("revoke", {"task_id": "a", "reply": True, "timeout": 0.05}),
    ("revoke", {"task_id": "a", "destination": ["w@here"]}),
    ("terminate", {"task_id": "a"}),
    ("revoke_by_stamped_headers", {"headers": {"tenant": "a"}}),
    ("ping", {"timeout": 0.05}),
]


@pytest.mark.parametrize(("command", "arguments"), REVOKING)
def test_the_first_command_after_every_connection_was_closed_is_carried_out(
    empty: Site, command: str, arguments: dict[str, Any]
) -> None:
    empty.app.tasks["fleet.echo"].delay(1)
    empty.app.control.revoke("before")
    cut_all(empty.url)
    getattr(empty.app.control, command)(**arguments)
    transport: Any = empty.app.client.transport
    only_some = command == "ping" or "destination" in arguments
    assert len(transport.revoked()) == (1 if only_some else 2)


def test_dead_letters_are_listed_shown_and_dropped_by_commands(site: Site) -> None:
    assert site.app.tasks["fleet.echo"].delay(1).get(timeout=20) == 1  # so the queue is there
    site.put("celery", "{", content_type="application/json", content_encoding="utf-8")
    lost = site.app.send_task("no.such.task", ignore_result=True)

    def listed() -> Any:
        found = json.loads(site.command("dead", "list", "--json"))
        return found if len(found) == 2 else None

    letters = eventually(listed, deadline_s=20.0, every_s=0.1)
    assert {letter["reason"] for letter in letters} == {"undecodable-body", "unknown-task"}
    shown = site.command("dead", "show", *(letter["key"] for letter in letters))
    assert lost.id in shown
    site.command("dead", "drop", *(letter["key"] for letter in letters))
    assert json.loads(site.command("dead", "list", "--json")) == []


def test_the_highest_priority_runs_first(empty: Site) -> None:
    # Two queues of one name differ in their arguments: so this one is of no other test.
    empty.settings |= {"task_queue_max_priority": 9, "task_queues": QUEUES[:1]}
    empty.app.close()
    empty.app = make_app("prefork", {**empty.settings, "broker_url": empty.url})
    for priority in (3, 9, 1, 5, 7):
        empty.tell(str(priority), priority=priority)
    empty.worker = FleetWorker(empty.root, "prefork", "ranked", empty.settings, "-c", "1", "-b", empty.url)
    empty.worker.launch()
    eventually(lambda: len(empty.words()) == 5, deadline_s=20.0)
    assert empty.words() == ["9", "7", "5", "3", "1"]


def test_what_waits_is_counted_and_purged_by_commands(empty: Site) -> None:
    for number in range(7):
        empty.tell(str(number))
    counted = json.loads(empty.command("queues", "--json", "-Q", "celery"))
    assert "7" in json.dumps(counted)
    assert "7" in empty.command("purge", "-f", "-Q", "celery")
    assert '"ready": 0' in json.dumps(json.loads(empty.command("queues", "--json", "-Q", "celery")))
