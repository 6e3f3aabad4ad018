"""Results in Redis: what Celery writes is read here, and the other way round, waiting included."""

from __future__ import annotations

import datetime
import decimal
import json
import pickle
from collections.abc import Iterator
from typing import Any

import celery
import celery.exceptions
import pytest
from celery.backends.redis import RedisBackend

from prefork.engine import result_document
from prefork.engine.app import App
from prefork.engine.exceptions import RemoteTaskError, Retry, TaskRevokedError
from prefork.engine.result import GroupResult
from prefork.transports.base import StoredResult
from support.one_child import OneChild
from support.redis_server import RedisServer, running_redis
from support.waiting import Background, eventually

SERIALIZERS = ["json", "msgpack", "pickle"]


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


class Pair:
    """An app of ours and one of Celery's, on one result store."""

    def __init__(self, server: RedisServer, serializer: str, **settings: Any) -> None:
        server.cli("FLUSHALL")
        self.server = server
        config = {
            "result_backend": server.url,
            "result_serializer": serializer,
            "accept_content": ["json", "msgpack", "pickle"],
            **settings,
        }
        self.ours = App("pair", set_as_current=False, broker="memory://pair", **config)
        self.theirs = celery.Celery("pair", set_as_current=False, broker="memory://", changes=config)
        self.theirs.conf.update(config)
        self.backend: RedisBackend = self.theirs.backend

    def write(self, task_id: str, value: Any, state: str = "SUCCESS", **fields: Any) -> None:
        """Store as a worker of ours does."""
        store = self.ours.client.results
        assert store is not None
        serializer = self.ours.client.result_table.by_name(self.ours.conf.result_serializer)
        document = result_document.encode(
            state, value, task_id=task_id, serializer=serializer, date_done_wall_s=1e9, **fields
        )
        store.store([StoredResult(task_id, document, 100.0, state in ("SUCCESS", "FAILURE", "REVOKED"))])

    def subscribed(self, task_id: str) -> bool:
        return f"celery-task-meta-{task_id}" in self.server.cli("PUBSUB", "CHANNELS")

    def close(self) -> None:
        self.ours.close()
        self.theirs.close()


@pytest.fixture(params=SERIALIZERS)
def pair(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(server, request.param)
    yield made
    made.close()


@pytest.fixture
def json_pair(server: RedisServer) -> Iterator[Pair]:
    made = Pair(server, "json")
    yield made
    made.close()


VALUES: list[Any] = [None, True, 7, 1.5, "é🚀", [1, [2]], {"a": {"b": None}}]


def test_celery_reads_our_values(pair: Pair) -> None:
    for number, value in enumerate(VALUES):
        pair.write(f"v{number}", value)
        assert pair.theirs.AsyncResult(f"v{number}").get(timeout=5) == value


def test_we_read_the_values_of_celery(pair: Pair) -> None:
    for number, value in enumerate(VALUES):
        pair.backend.store_result(f"v{number}", value, "SUCCESS")
        result = pair.ours.AsyncResult(f"v{number}")
        assert result.get(timeout=5) == value
        assert isinstance(result.date_done, datetime.datetime)


def test_rich_json_values_are_the_same_on_both_sides(json_pair: Pair) -> None:
    value = {
        "when": datetime.datetime(2026, 1, 2, tzinfo=datetime.timezone.utc),
        "sum": decimal.Decimal("1.50"),
    }
    json_pair.write("a", value)
    json_pair.backend.store_result("b", value, "SUCCESS")
    assert json_pair.theirs.AsyncResult("a").get(timeout=5) == value
    assert json_pair.ours.AsyncResult("b").get(timeout=5) == value


def test_celery_raises_our_failures(pair: Pair) -> None:
    pair.write("f", ValueError("bad", 3), "FAILURE", traceback="Traceback: line")
    result = pair.theirs.AsyncResult("f")
    with pytest.raises(ValueError) as raised:
        result.get(timeout=5)
    assert raised.value.args == ("bad", 3)
    assert (result.state, result.traceback) == ("FAILURE", "Traceback: line")


def test_we_raise_the_failures_of_celery(pair: Pair) -> None:
    pair.backend.store_result("f", ValueError("bad", 3), "FAILURE", traceback="Traceback: line")
    result = pair.ours.AsyncResult("f")
    with pytest.raises(ValueError) as raised:
        result.get(timeout=5)
    assert raised.value.args == ("bad", 3)
    assert (result.state, result.traceback) == ("FAILURE", "Traceback: line")


def test_an_exception_of_an_unknown_module_is_an_exception_on_both_sides(json_pair: Pair) -> None:
    class Own(Exception):
        pass

    Own.__module__ = "nowhere.to.be.found"
    json_pair.write("a", Own("x"), "FAILURE")
    json_pair.backend.store_result("b", Own("x"), "FAILURE")
    with pytest.raises(Exception, match="x"):
        json_pair.theirs.AsyncResult("a").get(timeout=5)
    with pytest.raises(RemoteTaskError, match="x"):
        json_pair.ours.AsyncResult("b").get(timeout=5)


def test_states_on_the_way_are_read_by_both(json_pair: Pair) -> None:
    for state, value in (
        ("STARTED", {"pid": 1, "hostname": "w@h"}),
        ("PROGRESS", {"done": 0.5}),
        ("RETRY", Retry("again", exc=ValueError("x"))),
    ):
        json_pair.write("ours", value, state)
        json_pair.backend.store_result("theirs", value, state)
        read_there, read_here = json_pair.theirs.AsyncResult("ours"), json_pair.ours.AsyncResult("theirs")
        assert read_there.state == read_here.state == state
        if isinstance(value, dict):
            assert read_there.info == read_here.info == value
        assert not read_here.ready() and not read_there.ready()


def test_revoked_is_revoked_on_both_sides(pair: Pair) -> None:
    pair.ours.AsyncResult("ours").revoke()
    pair.backend.store_result("theirs", celery.exceptions.TaskRevokedError("expired"), "REVOKED")
    with pytest.raises(celery.exceptions.TaskRevokedError, match="revoked"):
        pair.theirs.AsyncResult("ours").get(timeout=5)
    with pytest.raises(Exception, match="expired") as raised:
        pair.ours.AsyncResult("theirs").get(timeout=5)
    assert isinstance(raised.value, (TaskRevokedError, celery.exceptions.TaskRevokedError))


def test_extended_fields_are_read_by_both(json_pair: Pair) -> None:
    extended = {"name": "t", "args": [1], "kwargs": {"k": 2}, "worker": "w@h", "retries": 2, "queue": "q"}
    json_pair.write("x", 1, extended=extended, group_id="g", parent_id="p", children=[[["c", None], None]])
    there = json_pair.theirs.AsyncResult("x")
    assert there.name == "t" and there.args == [1] and there.kwargs == {"k": 2}
    assert (there.worker, there.retries, there.queue) == ("w@h", 2, "q")
    assert [child.id for child in there.children] == ["c"]
    meta = json_pair.backend.get_task_meta("x")
    assert (meta["group_id"], meta["parent_id"], meta["task_id"]) == ("g", "p", "x")


def test_celery_is_woken_by_our_result(pair: Pair) -> None:
    result = pair.theirs.AsyncResult("w")
    waiting = Background(lambda: result.get(timeout=10))
    eventually(lambda: pair.subscribed("w"))
    pair.write("w", {"pid": 1}, "STARTED")
    pair.write("w", [1, 2])
    assert waiting.result() == [1, 2]


def test_we_are_woken_by_a_result_of_celery(pair: Pair) -> None:
    waiting = Background(lambda: pair.ours.AsyncResult("w").get(timeout=10))
    eventually(lambda: pair.subscribed("w"))
    pair.backend.store_result("w", {"pid": 1}, "STARTED")
    assert waiting.running
    pair.backend.store_result("w", [1, 2], "SUCCESS")
    assert waiting.result() == [1, 2]


@pytest.mark.parametrize("first", ["ours", "theirs"])
def test_a_success_of_either_stands(pair: Pair, first: str) -> None:
    if first == "ours":
        pair.write("s", 1)
        pair.backend.store_result("s", ValueError("late"), "FAILURE")
    else:
        pair.backend.store_result("s", 1, "SUCCESS")
        pair.write("s", ValueError("late"), "FAILURE")
    assert pair.ours.AsyncResult("s").get(timeout=5) == pair.theirs.AsyncResult("s").get(timeout=5) == 1


def test_groups_travel_both_ways(json_pair: Pair) -> None:
    ours, theirs = json_pair.ours, json_pair.theirs
    for number in range(3):
        json_pair.write(str(number), number)
    GroupResult("g1", [ours.AsyncResult(str(n)) for n in range(3)], app=ours).save()
    theirs.GroupResult("g2", [theirs.AsyncResult(str(n)) for n in range(3)]).save()
    assert theirs.GroupResult.restore("g1", backend=json_pair.backend).get(timeout=5) == [0, 1, 2]
    restored = GroupResult.restore("g2", app=ours)
    assert restored is not None and restored.get(timeout=5) == [0, 1, 2]


def test_the_documents_have_the_same_fields_and_lifetime(json_pair: Pair) -> None:
    json_pair.write("ours", 1)
    json_pair.backend.store_result("theirs", 1, "SUCCESS")
    get = json_pair.backend.client.get
    ours, theirs = json.loads(get("celery-task-meta-ours")), json.loads(get("celery-task-meta-theirs"))
    assert set(ours) == set(theirs)
    assert 0 < json_pair.backend.client.ttl("celery-task-meta-ours") <= 100


def test_a_key_prefix_means_the_same_to_both(server: RedisServer) -> None:
    pair = Pair(server, "json", result_backend_transport_options={"global_keyprefix": "tenant"})
    try:
        pair.write("a", 1)
        pair.backend.store_result("b", 2, "SUCCESS")
        assert pair.theirs.AsyncResult("a").get(timeout=5) == 1
        assert pair.ours.AsyncResult("b").get(timeout=5) == 2
    finally:
        pair.close()


def test_a_pickled_exception_arrives_as_itself(server: RedisServer) -> None:
    pair = Pair(server, "pickle")
    try:
        pair.backend.store_result("x", ValueError("bad", {1, 2}), "FAILURE")
        raw = pair.backend.client.get("celery-task-meta-x")
        assert type(pickle.loads(raw)["result"]) is ValueError
        with pytest.raises(ValueError) as raised:
            pair.ours.AsyncResult("x").get(timeout=5)
        assert raised.value.args == ("bad", {1, 2})
    finally:
        pair.close()


def test_many_results_of_a_set_are_read_with_few_commands(json_pair: Pair) -> None:
    ids = [str(number) for number in range(2000)]
    for start in range(0, 2000, 100):
        pipe = json_pair.backend.client.pipeline()
        for task_id in ids[start : start + 100]:
            pipe.set(f"celery-task-meta-{task_id}", json.dumps({"status": "SUCCESS", "result": int(task_id)}))
        pipe.execute()
    results = json_pair.ours.ResultSet([json_pair.ours.AsyncResult(task_id) for task_id in ids])
    before = json_pair.backend.client.info("stats")["total_commands_processed"]
    assert results.get(timeout=10) == list(range(2000))
    assert json_pair.backend.client.info("stats")["total_commands_processed"] - before < 30
    fresh = json_pair.ours.ResultSet([json_pair.ours.AsyncResult(task_id) for task_id in ids])
    assert fresh.completed_count() == 2000
    assert fresh.ready() and fresh.successful() and not fresh.failed()


def test_the_results_of_a_set_come_in_the_order_of_their_ends(json_pair: Pair) -> None:
    ids = [str(number) for number in range(1500)]
    results = json_pair.ours.ResultSet([json_pair.ours.AsyncResult(task_id) for task_id in ids])
    json_pair.write("1499", "last")
    arriving = results.iter_native(timeout=20, interval=0.05)
    assert next(arriving)[0] == "1499"
    json_pair.write("3", "x")
    assert next(arriving) == ("3", {"status": "SUCCESS", "result": "x"})


@pytest.mark.parametrize("method", ["zlib", "bzip2", "lzma"])
def test_compressed_results_of_celery_are_read_and_waited_for(server: RedisServer, method: str) -> None:
    pair = Pair(server, "json")
    pair.theirs.conf.result_compression = method
    writer = RedisBackend(app=pair.theirs, url=server.url)
    try:
        writer.store_result("x", {"pid": 1}, "STARTED")
        assert pair.backend.client.get("celery-task-meta-x").startswith(b"\0celery-compressed\0")
        assert pair.ours.AsyncResult("x").state == "STARTED"
        with pytest.raises(TimeoutError):
            pair.ours.AsyncResult("x").get(timeout=0.2)
        waiting = Background(lambda: pair.ours.AsyncResult("x").get(timeout=10))
        writer.store_result("x", "y" * 1000, "SUCCESS")
        assert waiting.result() == "y" * 1000
    finally:
        pair.close()


@pytest.mark.parametrize("method", ["gzip", "bz2", "xz"])
def test_what_is_compressed_here_is_read_by_celery_and_never_overwritten(
    server: RedisServer, method: str
) -> None:
    pair = Pair(server, "json")
    pair.ours.conf.result_compression = method

    @pair.ours.task(name="give")
    def give(size):
        if size < 0:
            raise ValueError("x" * 1000)
        return "x" * size

    child = None
    try:
        large, small, failed = give.delay(5000), give.delay(1), give.delay(-1)
        child = OneChild(pair.ours)
        child.run()
        stored = {one.id: pair.backend.client.get(f"celery-task-meta-{one.id}") for one in (large, small)}
        assert stored[large.id].startswith(b"\0celery-compressed\0")
        assert len(stored[large.id]) < 1000
        assert stored[small.id].startswith(b"{"), "it would only grow"
        assert [large.get(timeout=5), small.get(timeout=5)] == ["x" * 5000, "x"]
        assert pair.theirs.AsyncResult(large.id).get(timeout=5) == "x" * 5000
        assert pair.theirs.AsyncResult(failed.id).state == failed.state == "FAILURE"
        pair.ours.client.results.store([StoredResult(large.id, b'{"status": "FAILURE"}')])
        assert large.state == "SUCCESS", "a second run that fails does not undo it"
    finally:
        if child is not None:
            child.close()
        pair.close()
