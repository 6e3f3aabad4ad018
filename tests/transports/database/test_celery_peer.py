"""Celery's own database backend reads what we store, and we read what it stores."""

from __future__ import annotations

import json
import pickle
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import celery
import celery.exceptions
import pytest
from celery.app.task import Context

from prefork.engine.exceptions import TaskRevokedError
from prefork.engine.result import AsyncResult, GroupResult
from prefork.engine.result_document import decode, encode, rebuild_exception
from prefork.serializers.registry import load_serializer
from prefork.transports.base import ResultStore, StoredResult
from prefork.transports.database import open_results

LIFE_S = 86400.0
SERIALIZERS = ["json", "msgpack", "pickle"]


class Pair:
    """One database, opened by both."""

    def __init__(self, path: Path, serializer: str) -> None:
        url = f"db+sqlite:///{path}"
        self.path = path
        self.serializer = load_serializer(serializer)
        getattr(self.serializer, "allow_unpickling", lambda: None)()
        self.ours: ResultStore = open_results(url, {"result_serializer": serializer, "result_extended": True})
        self.app = celery.Celery("peer", set_as_current=False, broker="memory://", backend=url)
        self.app.conf.update(
            result_serializer=serializer,
            accept_content=[serializer],
            result_extended=True,
        )

    def give(self, status: str, value: Any, **fields: Any) -> dict[str, Any]:
        document = encode(
            status, value, task_id="id", serializer=self.serializer, date_done_wall_s=1.8e9, **fields
        )
        self.ours.store([StoredResult("id", document, LIFE_S)])
        meta: dict[str, Any] = self.app.backend.get_task_meta("id", cache=False)
        return meta

    def take(self, key: str = "id") -> Any:
        (found,) = self.ours.get([key])
        assert found is not None
        return decode(found, self.serializer)

    def close(self) -> None:
        self.ours.close()


@pytest.fixture
def open_pair(tmp_path: Path) -> Iterator[Callable[[str], Pair]]:
    opened: list[Pair] = []

    def _open(serializer: str) -> Pair:
        opened.append(Pair(tmp_path / f"{serializer}.db", serializer))
        return opened[-1]

    yield _open
    for pair in opened:
        pair.close()


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_celery_reads_our_success(open_pair: Callable[[str], Pair], serializer: str) -> None:
    pair = open_pair(serializer)
    extended = {
        "name": "shop.bill",
        "args": [1, "é"],
        "kwargs": {"a": None},
        "worker": "w@h",
        "retries": 2,
        "queue": "bills",
    }
    meta = pair.give("SUCCESS", {"a": [1]}, children=[[["child", None], None]], extended=extended)
    assert (meta["status"], meta["result"]) == ("SUCCESS", {"a": [1]})
    assert meta["children"] in ([[["child", None], None]], [pair.app.AsyncResult("child")])
    assert {name: meta[name] for name in extended} == extended
    assert meta["date_done"] is not None
    assert pair.app.AsyncResult("id").get(timeout=5) == {"a": [1]}


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_celery_rebuilds_our_failure(open_pair: Callable[[str], Pair], serializer: str) -> None:
    meta = open_pair(serializer).give("FAILURE", ValueError("bad", 3), traceback="Traceback")
    assert (type(meta["result"]), meta["result"].args) == (ValueError, ("bad", 3))
    assert meta["traceback"] == "Traceback"


def test_celery_reads_our_revocation_and_states_on_the_way(open_pair: Callable[[str], Pair]) -> None:
    pair = open_pair("json")
    assert pair.give("STARTED", {"pid": 1, "hostname": "w@h"})["result"] == {"pid": 1, "hostname": "w@h"}
    assert pair.give("PROGRESS", {"done": 3})["status"] == "PROGRESS"
    assert pair.give("RETRY", ValueError("again"))["result"].args == ("again",)
    meta = pair.give("REVOKED", TaskRevokedError("revoked"))
    assert type(meta["result"]) is celery.exceptions.TaskRevokedError


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_we_read_what_celery_stores(open_pair: Callable[[str], Pair], serializer: str) -> None:
    pair = open_pair(serializer)
    request = Context(
        task="shop.bill",
        args=[1],
        kwargs={"a": 2},
        hostname="w@h",
        retries=1,
        delivery_info={"routing_key": "bills"},
        children=[],
    )
    pair.app.backend.store_result("id", {"a": [1]}, "SUCCESS", request=request)
    read = pair.take()
    assert (read.status, read.result, read.task_id) == ("SUCCESS", {"a": [1]}, "id")
    assert read.date_done is not None and read.date_done.endswith("+00:00")
    shown = {
        "name": "shop.bill",
        "args": [1],
        "kwargs": {"a": 2},
        "worker": "w@h",
        "retries": 1,
        "queue": "bills",
    }
    assert {name: read.extended[name] for name in shown} == shown
    pair.app.backend.store_result("bad", ValueError("bad"), "FAILURE", traceback="Traceback")
    failed = pair.take("bad")
    made = rebuild_exception(failed.result, failed.traceback)
    assert (type(made), made.args, failed.traceback) == (ValueError, ("bad",), "Traceback")


def test_neither_overwrites_a_success_of_the_other(open_pair: Callable[[str], Pair]) -> None:
    pair = open_pair("json")
    pair.give("SUCCESS", 1)
    pair.app.backend.store_result("id", 2, "SUCCESS")
    assert pair.take().result == 1
    pair.app.backend.store_result("theirs", 3, "SUCCESS")
    pair.ours.store([StoredResult("theirs", json.dumps({"status": "FAILURE", "result": 4}).encode(), LIFE_S)])
    assert pair.take("theirs").result == 3


def test_we_wait_for_what_celery_stores(open_pair: Callable[[str], Pair]) -> None:
    pair = open_pair("json")
    pair.app.backend.store_result("id", None, "STARTED")
    assert pair.ours.wait(["id"], 0.05) == {}
    pair.app.backend.store_result("id", 7, "SUCCESS")
    assert json.loads(pair.ours.wait(["id"], 10.0)["id"])["result"] == 7


def test_celery_cleans_up_what_we_stored(open_pair: Callable[[str], Pair]) -> None:
    pair = open_pair("json")
    document = json.dumps({"status": "SUCCESS", "result": 1}).encode()
    pair.ours.store([StoredResult("old", document, -1.0), StoredResult("young", document, LIFE_S)])
    pair.ours.save_group("old", b'{"result": 1}', -1.0)
    pair.app.backend.cleanup()
    connection = sqlite3.connect(pair.path)
    assert connection.execute("SELECT task_id FROM celery_taskmeta").fetchall() == [("young",)]
    assert connection.execute("SELECT taskset_id FROM celery_tasksetmeta").fetchall() == []
    connection.close()


@pytest.mark.parametrize("serializer", SERIALIZERS)
def test_groups_are_read_both_ways(open_pair: Callable[[str], Pair], serializer: str) -> None:
    pair = open_pair(serializer)
    ours = GroupResult("g", [AsyncResult("a"), AsyncResult("b")]).as_tuple()
    pair.ours.save_group("g", pair.serializer.dumps({"result": ours}), LIFE_S)
    restored = pair.app.GroupResult.restore("g")
    assert [child.id for child in restored.results] == ["a", "b"]
    pair.app.GroupResult("h", [pair.app.AsyncResult("c")]).save()
    found = pair.ours.get_group("h")
    assert found is not None
    theirs = pair.serializer.loads(found)["result"]
    if serializer == "pickle":  # Celery pickles the object itself, which only processes with Celery can load
        theirs = theirs.as_tuple()
    assert json.loads(json.dumps(theirs)) == [["h", None], [[["c", None], None]]]


def test_rows_of_older_releases_are_read_by_us(open_pair: Callable[[str], Pair]) -> None:
    pair = open_pair("json")
    pair.ours.get(["make the tables"])
    connection = sqlite3.connect(pair.path)
    connection.execute(
        "INSERT INTO celery_taskmeta (task_id, status, result) VALUES (?, ?, ?)",
        ("id", "SUCCESS", pickle.dumps({"a": (1, 2)})),
    )
    connection.commit()
    connection.close()
    assert pair.take().result == {"a": [1, 2]}
