"""Celery and prefork on one Redis: every client with every worker and every reader of results."""

from __future__ import annotations

import itertools
import time
import uuid
from collections.abc import Iterator
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from support.celery_worker import FleetWorker
from support.fleet_app import MAKES, FleetError, make_app
from support.ledger import END, Ledger
from support.redis_server import RedisServer, running_redis
from support.waiting import eventually

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]

SERIALIZERS = ("json", "msgpack", "pickle")
CELLS = list(itertools.product(MAKES, MAKES, MAKES, SERIALIZERS))
WAYS = list(itertools.product(MAKES, MAKES))
VALUE = {"text": "é🚀\u2028", "numbers": [1, -2.5, 2**53, None, True], "deep": {"a": {"b": []}}}
OUTSIDE_S = 30.0


class Fleet:
    """Workers of both makes, one for each serializer and one with another layout; clients of both."""

    def __init__(self, root: Path, server: RedisServer) -> None:
        self.root = root
        self.server = server
        self.ledger = Ledger(root / "ledger")
        self.workers = [self._worker(make, how) for make in MAKES for how in (*SERIALIZERS, "layout")]
        self.apps = {
            (make, how): make_app(make, self.config(None, how))
            for make in MAKES
            for how in (*SERIALIZERS, "layout")
        }
        self.apps |= {
            (make, "protocol 1"): make_app(make, {**self.config(None, "json"), "task_protocol": 1})
            for make in MAKES
        }

    def config(self, make: str | None, how: str) -> dict[str, Any]:
        """Settings of a worker, or of a client of it (None)."""
        serializer = "json" if how == "layout" else how
        settings: dict[str, Any] = {
            "broker_url": self.server.url_of(1 if how == "layout" else 0),
            "result_backend": self.server.url_of(2),
            "task_serializer": serializer,
            "result_serializer": serializer,
            "accept_content": list(SERIALIZERS),
            "task_acks_late": True,
            "worker_prefetch_multiplier": 1,
            "task_queues": self._queues(make, how),
        }
        if how == "layout":
            settings["broker_transport_options"] = {
                "global_keyprefix": "tenant:",
                "priority_steps": list(range(10)),
                "sep": "::",
            }
        return settings

    def _queues(self, make: str | None, how: str) -> list[tuple[str, str, str, str]]:
        found = []
        for one in MAKES if make is None else (make,):
            found.append((f"{one}.{how}", f"{one}.{how}", "direct", f"{one}.{how}"))
            if how == "json":
                found.append((f"{one}.own", "own.direct", "direct", f"key.of.{one}"))
                found.append((f"{one}.topic", "own.topic", "topic", f"*.{one}.#"))
                found.append((f"{one}.fan", "own.fanout", "fanout", ""))
        return found

    def _worker(self, make: str, how: str) -> FleetWorker:
        # The processes of Celery's own pool are tested by one of its workers; the others start faster.
        line = ["-c", "1"] if make == "prefork" or how == "json" else ["-P", "solo"]
        config = self.config(make, how)
        name = f"{make}-{how}"
        return FleetWorker(self.root, make, name, config, *line, FLEET_LEDGER=str(self.ledger.path)).launch()

    def app(self, make: str, how: str = "json") -> Any:
        return self.apps[make, how]

    def send(self, client: str, worker: str, task: str, *args: Any, how: str = "json", **options: Any) -> Any:
        """Send to the worker of a make; returns the result object of the client."""
        options.setdefault("queue", f"{worker}.{how}")
        return self.app(client, how).tasks[f"fleet.{task}"].apply_async(args, **options)

    def close(self) -> None:
        for worker in self.workers:
            worker.close()
        for app in self.apps.values():
            app.close()


@pytest.fixture(scope="module")
def fleet(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with running_redis() as server:
        made = Fleet(tmp_path_factory.mktemp("fleet"), server)
        try:
            for worker in made.workers:
                worker.await_ready()
            yield made
        finally:
            made.close()


def ways(test: Any) -> Any:
    """Runs a test for each client with each worker."""
    return pytest.mark.parametrize(("client", "worker"), WAYS)(test)


@pytest.mark.parametrize(("client", "worker", "reader", "serializer"), CELLS)
def test_every_reader_reads_what_every_worker_did_for_every_client(
    fleet: Fleet, client: str, worker: str, reader: str, serializer: str
) -> None:
    sent = fleet.send(client, worker, "echo", VALUE, how=serializer)
    failing = fleet.send(client, worker, "fail", "no", how=serializer)
    app = fleet.app(reader, serializer)
    assert app.AsyncResult(sent.id).get(timeout=OUTSIDE_S) == VALUE
    failed = app.AsyncResult(failing.id)
    with pytest.raises(FleetError) as raised:
        failed.get(timeout=OUTSIDE_S)
    assert raised.value.args == ("no", 3)
    assert failed.state == "FAILURE"
    assert "FleetError" in failed.traceback


@pytest.mark.parametrize("serializer", ["msgpack", "pickle"])
@ways
def test_bytes_travel_where_the_serializer_has_them(
    fleet: Fleet, client: str, worker: str, serializer: str
) -> None:
    value = [b"\x00\xff", "text"]
    assert fleet.send(client, worker, "echo", value, how=serializer).get(timeout=OUTSIDE_S) == value


@ways
def test_dates_and_ids_travel_in_json(fleet: Fleet, client: str, worker: str) -> None:
    value = {"at": datetime(2026, 1, 2, 3, 4, 5, tzinfo=timezone.utc), "id": uuid.UUID(int=7)}
    assert fleet.send(client, worker, "echo", value).get(timeout=OUTSIDE_S) == value


@pytest.mark.parametrize("compression", ["gzip", "bzip2"])
@ways
def test_compressed_messages_are_read(fleet: Fleet, client: str, worker: str, compression: str) -> None:
    sent = fleet.send(client, worker, "echo", "x" * 20_000, compression=compression)
    assert sent.get(timeout=OUTSIDE_S) == "x" * 20_000


@ways
def test_messages_of_protocol_1_are_run(fleet: Fleet, client: str, worker: str) -> None:
    sent = (
        fleet.app(client, "protocol 1")
        .tasks["fleet.request"]
        .apply_async((), queue=f"{worker}.json", expires=60, time_limit=50, soft_time_limit=40)
    )
    seen = sent.get(timeout=OUTSIDE_S)
    assert seen["id"] == sent.id
    assert seen["expires"] is True
    assert seen["timelimit"] == [50, 40]


@ways
def test_headers_of_a_message_arrive(fleet: Fleet, client: str, worker: str) -> None:
    sent = fleet.send(
        *(client, worker, "request"),
        expires=60,
        priority=6,
        time_limit=50,
        soft_time_limit=40,
        headers={"custom": "mine"},
    )
    seen = sent.get(timeout=OUTSIDE_S)
    assert seen == {
        "args": [],
        "correlation_id": sent.id,
        "custom": "mine",
        "eta": False,
        "exchange": seen["exchange"],
        "expires": True,
        "id": sent.id,
        "priority": 6,
        "retries": 0,
        "root_id": sent.id,
        "routing_key": f"{worker}.json",
        "timelimit": [50, 40],
    }


@ways
def test_delayed_messages_run_when_they_are_due_and_not_before(
    fleet: Fleet, client: str, worker: str
) -> None:
    begun_wall_s = time.time()
    eta = datetime.fromtimestamp(begun_wall_s + 1.5, timezone.utc)
    counted = fleet.send(client, worker, "when", countdown=1.0)
    dated = fleet.send(client, worker, "when", eta=eta)
    assert 1.0 <= counted.get(timeout=OUTSIDE_S) - begun_wall_s < 6.0
    assert 1.5 <= dated.get(timeout=OUTSIDE_S) - begun_wall_s < 6.0


@ways
def test_expired_messages_are_revoked_and_not_run(fleet: Fleet, client: str, worker: str) -> None:
    past = datetime.now(timezone.utc) - timedelta(seconds=5)
    sent = fleet.send(client, worker, "work", expires=past, ignore_result=False)
    reader = fleet.app(client).AsyncResult(sent.id)
    assert eventually(lambda: reader.state == "REVOKED", deadline_s=OUTSIDE_S)
    assert sent.id not in fleet.ledger.read().finished


@ways
def test_time_limits_of_a_message_hold(fleet: Fleet, client: str, worker: str) -> None:
    sent = fleet.send(client, worker, "work", 30.0, time_limit=1.0, ignore_result=False)
    reader = fleet.app(client).AsyncResult(sent.id)
    assert eventually(lambda: reader.state == "FAILURE", deadline_s=OUTSIDE_S)
    assert "TimeLimitExceeded" in type(reader.result).__name__


@ways
def test_links_are_followed(fleet: Fleet, client: str, worker: str, tmp_path: Path) -> None:
    add, told = (fleet.app(client).tasks[f"fleet.{name}"] for name in ("add", "told"))
    added, told_id = str(uuid.uuid4()), str(uuid.uuid4())
    queue = f"{worker}.json"
    good = fleet.send(client, worker, "add", 1, 2, link=add.s(10).set(task_id=added, queue=queue))
    callback = told.si(str(tmp_path / "told"), "failed").set(task_id=told_id, queue=queue)
    bad = fleet.send(client, worker, "fail", "no", link_error=callback)
    assert good.get(timeout=OUTSIDE_S) == 3
    assert fleet.app(client).AsyncResult(added).get(timeout=OUTSIDE_S) == 13
    with pytest.raises(FleetError):
        bad.get(timeout=OUTSIDE_S)
    assert eventually(lambda: (tmp_path / "told").exists(), deadline_s=OUTSIDE_S)
    assert eventually((tmp_path / "told").read_text) == "('failed',)\n"


@pytest.mark.parametrize("worker", MAKES)
def test_a_chain_of_a_celery_client_is_followed_through_workers_of_both_makes(
    fleet: Fleet, worker: str
) -> None:
    [other] = set(MAKES) - {worker}
    add = fleet.app("celery").tasks["fleet.add"]
    steps = [add.s(1, 2).set(queue=f"{worker}.json"), add.s(10).set(queue=f"{other}.json")]
    last = (steps[0] | steps[1] | add.s(100).set(queue=f"{worker}.json")).apply_async()
    assert last.get(timeout=OUTSIDE_S) == 113
    assert last.parent.get(timeout=OUTSIDE_S) == 13
    assert last.parent.parent.get(timeout=OUTSIDE_S) == 3


@ways
def test_a_chain_ends_where_it_fails_and_who_waits_for_its_last_step_is_told(
    fleet: Fleet, client: str, worker: str
) -> None:
    app = fleet.app(client)
    fail, add = (app.tasks[f"fleet.{name}"].s for name in ("fail", "add"))
    steps = [step.set(queue=f"{worker}.json") for step in (fail("no"), add(10), add(100))]
    last = (steps[0] | steps[1] | steps[2]).apply_async()
    alone = app.AsyncResult(last.id)
    with pytest.raises(FleetError, match="no"):
        alone.get(timeout=OUTSIDE_S)
    for step in (last, last.parent, last.parent.parent):
        assert eventually(lambda step=step: step.state == "FAILURE", deadline_s=OUTSIDE_S)


@ways
def test_retries_go_on_where_they_are_taken_up(fleet: Fleet, client: str, worker: str) -> None:
    begun_wall_s = time.time()
    retries, ended_wall_s = fleet.send(client, worker, "again", 2, 0.5).get(timeout=OUTSIDE_S)
    assert retries == 2
    assert ended_wall_s - begun_wall_s >= 1.0
    with pytest.raises(FleetError, match="at last"):
        fleet.send(client, worker, "give_up").get(timeout=OUTSIDE_S)


@pytest.mark.parametrize("worker", MAKES)
def test_a_retry_is_seen_by_the_other_make_while_it_waits(fleet: Fleet, worker: str) -> None:
    [other] = set(MAKES) - {worker}
    sent = fleet.send(worker, worker, "again", 1, 2.0)
    reader = fleet.app(other).AsyncResult(sent.id)
    assert eventually(lambda: reader.state == "RETRY", deadline_s=OUTSIDE_S)
    assert reader.get(timeout=OUTSIDE_S)[0] == 1


@ways
def test_ignored_results_leave_nothing(fleet: Fleet, client: str, worker: str) -> None:
    sent = fleet.send(client, worker, "work")
    assert eventually(lambda: sent.id in fleet.ledger.read().finished, deadline_s=OUTSIDE_S)
    assert fleet.send(client, worker, "echo", 1).get(timeout=OUTSIDE_S) == 1
    assert fleet.server.cli("-n", "2", "EXISTS", f"celery-task-meta-{sent.id}") == "0"


@ways
def test_exchanges_lead_to_their_queues(fleet: Fleet, client: str, worker: str) -> None:
    direct, topic = f"key.of.{worker}", f"one.{worker}.two.three"
    for exchange, key, how in (
        ("own.direct", direct, {"queue": None, "exchange": "own.direct", "routing_key": direct}),
        # To a direct queue both send by its name, through the default exchange.
        ("", f"{worker}.own", {"queue": f"{worker}.own"}),
        # A client of Celery knows that an exchange is a topic once it has declared a queue of it.
        ("own.topic", topic, {"queue": f"{worker}.topic", "routing_key": topic}),
    ):
        seen = fleet.send(client, worker, "request", **how).get(timeout=OUTSIDE_S)
        assert (seen["exchange"], seen["routing_key"]) == (exchange, key)


@pytest.mark.parametrize("client", MAKES)
def test_a_broadcast_reaches_the_workers_of_both_makes(fleet: Fleet, client: str) -> None:
    sent = fleet.app(client).tasks["fleet.work"].apply_async((), queue=f"{client}.fan")

    def ends() -> list[int]:
        records = fleet.ledger.read().records
        return [record.pid for record in records if record.task_id == sent.id and record.kind == END]

    assert eventually(lambda: len(ends()) == 2, deadline_s=OUTSIDE_S)
    assert len(set(ends())) == 2


@ways
def test_another_layout_of_keys_and_priorities_is_shared(
    fleet: Fleet, client: str, worker: str, tmp_path: Path
) -> None:
    def send(task: str, *args: Any, **options: Any) -> Any:
        return fleet.send(client, worker, task, *args, how="layout", **options)

    blocker = send("hold", str(tmp_path / "all are sent"), priority=0)
    eventually(
        lambda: any(r.task_id == blocker.id for r in fleet.ledger.read().records), deadline_s=OUTSIDE_S
    )
    later = [send("work", 0.0, priority=priority) for priority in (9, 4, 5, 1)]
    (tmp_path / "all are sent").touch()
    assert eventually(
        lambda: {sent.id for sent in later} <= fleet.ledger.read().finished, deadline_s=OUTSIDE_S
    )
    order = [r.task_id for r in fleet.ledger.records if r.kind == END]
    by_number = [later[index].id for index in (3, 1, 2, 0)]
    assert sorted(by_number, key=order.index) == by_number
    keys = set(fleet.server.cli("-n", "1", "KEYS", "*").split("\n"))
    assert all(key.startswith("tenant:") for key in keys if key), keys


@pytest.mark.parametrize("revoker", MAKES)
def test_what_one_make_marks_as_revoked_the_other_reads(fleet: Fleet, revoker: str) -> None:
    task_id = str(uuid.uuid4())
    # Where all workers store JSON: Celery's write what is revoked as well, each in its own serialization.
    app = fleet.app(revoker, "layout")
    if revoker == "prefork":
        app.AsyncResult(task_id).revoke()
    else:
        app.backend.mark_as_revoked(task_id, "revoked", store_result=True)
    for make in MAKES:
        assert fleet.app(make, "layout").AsyncResult(task_id).state == "REVOKED"
