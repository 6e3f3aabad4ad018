"""Result documents and signatures, read and written by Celery itself."""

from __future__ import annotations

import json
from typing import Any

import celery
import celery.exceptions
import pytest
from celery.backends.base import BaseKeyValueStoreBackend

from prefork.engine.exceptions import TaskRevokedError
from prefork.engine.result_document import decode, encode, rebuild_exception
from prefork.serializers.json import JsonSerializer

JSON = JsonSerializer()


class DictBackend(BaseKeyValueStoreBackend):  # type: ignore[misc]
    """Celery's own backend over a dict."""

    def __init__(self, app: Any) -> None:
        super().__init__(app)
        self.data: dict[str, bytes] = {}

    def get(self, key: Any) -> Any:
        return self.data.get(key.decode() if isinstance(key, bytes) else key)

    def set(self, key: Any, value: Any) -> None:
        self.data[key.decode() if isinstance(key, bytes) else key] = value


@pytest.fixture
def backend() -> DictBackend:
    return DictBackend(
        celery.Celery("peer", set_as_current=False, broker="memory://", backend="cache+memory://")
    )


def give(backend: DictBackend, status: str, value: Any, **fields: Any) -> dict[str, Any]:
    document = encode(status, value, task_id="id", serializer=JSON, date_done_wall_s=1000.0, **fields)
    backend.set(backend.get_key_for_task("id"), document)
    meta: dict[str, Any] = backend.get_task_meta("id")
    return meta


def take(backend: DictBackend) -> Any:
    data = backend.get(backend.get_key_for_task("id"))
    return decode(data if isinstance(data, bytes) else data.encode(), JSON)


def test_celery_reads_our_success(backend: DictBackend) -> None:
    meta = give(backend, "SUCCESS", {"a": [1]}, children=[[["child", None], None]])
    assert (meta["status"], meta["result"]) == ("SUCCESS", {"a": [1]})
    assert meta["children"] == [[["child", None], None]]


@pytest.mark.parametrize("exc", [ValueError("bad", 3), KeyError("k")])
def test_celery_rebuilds_our_failures(backend: DictBackend, exc: Exception) -> None:
    meta = give(backend, "FAILURE", exc, traceback="Traceback")
    assert (type(meta["result"]), meta["result"].args) == (type(exc), exc.args)
    assert meta["traceback"] == "Traceback"


def test_celery_rebuilds_our_exceptions_as_its_own(backend: DictBackend) -> None:
    meta = give(backend, "REVOKED", TaskRevokedError("revoked"))
    assert type(meta["result"]) is celery.exceptions.TaskRevokedError


def test_we_read_what_celery_stores(backend: DictBackend) -> None:
    backend.store_result("id", {"a": 1}, "SUCCESS")
    read = take(backend)
    assert (read.status, read.result, read.task_id) == ("SUCCESS", {"a": 1}, "id")
    assert read.date_done is not None


def test_we_rebuild_what_celery_stores(backend: DictBackend) -> None:
    backend.store_result("id", ValueError("bad"), "FAILURE", traceback="Traceback")
    read = take(backend)
    made = rebuild_exception(read.result, read.traceback)
    assert (type(made), made.args, read.traceback) == (ValueError, ("bad",), "Traceback")
    backend.data.clear()
    backend.store_result("id", celery.exceptions.TaskRevokedError("expired"), "REVOKED")
    assert type(rebuild_exception(take(backend).result)) is TaskRevokedError


def test_a_group_saved_by_either_is_the_same_document(backend: DictBackend) -> None:
    app = backend.app
    group = app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")])
    backend.save_group("g", group)
    theirs = json.loads(backend.get(backend.get_key_for_group("g")))
    from prefork.engine.result import AsyncResult, GroupResult

    ours = GroupResult("g", [AsyncResult("a"), AsyncResult("b")]).as_tuple()
    assert json.loads(json.dumps(ours)) == theirs["result"]
