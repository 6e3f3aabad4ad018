"""`app.backend` on every store: what Celery's users read and write of results by id."""

from __future__ import annotations

import inspect
import threading
import uuid
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from celery.backends.base import BaseBackend

from prefork.engine import App
from prefork.engine.backend import Backend
from prefork.engine.exceptions import Ignore, ImproperlyConfigured, TaskRevokedError, TimeoutError
from prefork.engine.request import Context
from prefork.engine.testing import start_worker
from prefork.serializers import iso8601
from support.apps import memory_app, sent
from support.redis_server import RedisServer, running_redis

STORES = ("memory", "filesystem", "redis", "database")


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as made:
        yield made


@pytest.fixture(params=STORES)
def app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[App]:
    if request.param == "redis":
        url = f"{request.getfixturevalue('server').url}?global_keyprefix={uuid.uuid4().hex}:"
    else:
        url = {
            "memory": f"memory://{uuid.uuid4().hex}",
            "filesystem": f"filesystem://{tmp_path}",
            "database": f"db+sqlite:///{tmp_path}/results.db",
        }[request.param]
    with memory_app(backend=url) as made:
        yield made


def test_nothing_stored_is_pending(app: App) -> None:
    assert app.backend.get_task_meta("unknown") == {
        **dict.fromkeys(("result", "traceback", "children", "date_done")),
        "status": "PENDING",
        "task_id": "unknown",
    }
    backend = app.backend
    assert backend.get_state("unknown") == backend.get_status("unknown") == "PENDING"
    assert (backend.get_result("unknown"), backend.get_traceback("unknown")) == (None, None)
    assert backend.get_children("unknown") is None


def test_a_value_that_was_stored_is_what_every_reader_sees(app: App) -> None:
    assert app.backend.store_result("id", {"a": [1]}, "SUCCESS") == {"a": [1]}
    meta = app.backend.get_task_meta("id")
    assert (meta["status"], meta["result"], meta["traceback"]) == ("SUCCESS", {"a": [1]}, None)
    assert isinstance(iso8601.parse(meta["date_done"]), datetime)
    assert app.AsyncResult("id").get(timeout=5) == {"a": [1]}
    assert app.backend.get_result("id") == {"a": [1]}


def test_a_failure_is_stored_with_its_traceback_and_read_as_its_exception(app: App) -> None:
    app.backend.store_result("given", ValueError("bad", 3), "FAILURE", traceback="Traceback: line")
    assert repr(app.backend.get_result("given")) == "ValueError('bad', 3)"
    assert app.backend.get_traceback("given") == "Traceback: line"
    try:
        raise KeyError("own")
    except KeyError as error:
        app.backend.mark_as_failure("own", error)
    assert 'KeyError("own")' in str(app.backend.get_traceback("own")).replace("'", '"')
    with pytest.raises(KeyError):
        app.AsyncResult("own").get(timeout=5)


def test_states_are_marked(app: App) -> None:
    backend = app.backend
    backend.mark_as_started("id", pid=7)
    assert (backend.get_state("id"), app.AsyncResult("id").info) == ("STARTED", {"pid": 7})
    backend.mark_as_retry("id", KeyError("again"), traceback="Traceback: x")
    assert (backend.get_state("id"), repr(backend.get_result("id"))) == ("RETRY", "KeyError('again')")
    backend.mark_as_done("id", 5)
    assert (backend.get_state("id"), backend.get_result("id")) == ("SUCCESS", 5)
    backend.mark_as_failure("id", ValueError("late"))
    assert backend.get_result("id") == 5, "a success stays"
    backend.mark_as_revoked("other", "by the owner")
    assert backend.get_state("other") == "REVOKED"
    with pytest.raises(TaskRevokedError, match="by the owner"):
        app.AsyncResult("other").get(timeout=5)


def test_what_is_not_to_be_stored_is_not(app: App) -> None:
    backend = app.backend
    backend.mark_as_done("ignored", 5, request=Context(ignore_result=True))
    for mark, value in (("done", 5), ("failure", ValueError()), ("retry", ValueError()), ("revoked", "")):
        getattr(backend, f"mark_as_{mark}")(mark, value, store_result=False)
        assert backend.get_state(mark) == "PENDING"
    assert backend.get_state("ignored") == "PENDING"


def test_a_failure_is_told_to_error_callbacks_and_to_the_rest_of_the_chain(app: App) -> None:
    told = app.task(name="told")(lambda task_id: None)
    following = app.task(name="following")(lambda value: None)
    chain = [dict(following.s().set(task_id="next"))]
    request = Context(id="id", root_id="id", errbacks=[dict(told.s())], chain=chain)
    app.backend.mark_as_failure("id", ValueError("bad"), request=request)
    assert [message.task for message in sent(app)] == ["told"]
    assert repr(app.backend.get_result("next")) == "ValueError('bad')"
    app.backend.mark_as_failure("id", ValueError("bad"), request=request, call_errbacks=False)
    assert len(sent(app)) == 1


def test_children_and_the_extended_fields_of_a_request_are_kept(app: App) -> None:
    app.conf.result_extended = True
    request = Context(id="id", task="shop.add", args=[1], kwargs={}, hostname="w@h", retries=2)
    request.delivery_info = {"routing_key": "high"}
    request.children.append(app.AsyncResult("child"))
    app.backend.store_result("id", 3, "SUCCESS", request=request)
    result = app.AsyncResult("id")
    assert (result.name, result.worker, result.retries, result.queue) == ("shop.add", "w@h", 2, "high")
    assert [child.id for child in result.children] == ["child"]
    assert app.backend.get_children("id") == [[["child", None], None]]


def test_the_end_of_a_task_is_waited_for(app: App) -> None:
    seen: list[int] = []
    with pytest.raises(TimeoutError, match="no result of id within 0.05 s"):
        app.backend.wait_for("id", timeout=0.05, interval=0.01, on_interval=lambda: seen.append(1))
    assert seen
    waiting = threading.Timer(0.05, app.backend.mark_as_failure, ("id", ValueError("bad")))
    waiting.start()
    meta = app.backend.wait_for("id", timeout=10)
    waiting.join()
    assert (meta["status"], repr(meta["result"])) == ("FAILURE", "ValueError('bad')")


def test_what_is_forgotten_is_pending_again_and_cleaning_up_leaves_what_is_young(app: App) -> None:
    app.backend.store_result("gone", 1, "SUCCESS")
    app.backend.store_result("kept", 1, "SUCCESS")
    app.backend.forget("gone")
    app.backend.cleanup()
    assert (app.backend.get_state("gone"), app.backend.get_state("kept")) == ("PENDING", "SUCCESS")


def test_a_task_that_runs_stores_through_its_own_backend(app: App) -> None:
    app.conf.broker_url = f"memory://{uuid.uuid4().hex}"

    @app.task(name="own", bind=True)
    def own(self: Any) -> None:
        assert self.backend is app.backend and self.backend.get_state(self.request.id) == "PENDING"
        self.backend.store_result(self.request.id, "said by itself", "FAILURE", request=self.request)
        raise Ignore

    with start_worker(app):
        assert app.backend.wait_for(own.delay().id, timeout=15)["result"] is not None


def test_where_results_are_stored_is_said_without_the_password() -> None:
    with memory_app(backend="redis://:secret@127.0.0.1:1/0") as app:
        assert app.backend.as_uri() == "redis://:**@127.0.0.1:1/0"
        assert app.backend.as_uri(include_password=True) == "redis://:secret@127.0.0.1:1/0"
        assert "secret" not in repr(app.backend)


def test_without_a_store_writing_does_nothing_and_reading_says_what_to_set() -> None:
    with memory_app(backend="disabled") as app:
        assert app.backend.store_result("id", 1, "SUCCESS") == 1
        app.backend.mark_as_failure("id", ValueError())
        app.backend.cleanup()
        with pytest.raises(ImproperlyConfigured, match="result_backend"):
            app.backend.get_task_meta("id")
        assert app.backend.as_uri() == "disabled://"


def test_every_method_takes_what_that_of_celery_takes() -> None:
    own = [name for name, member in vars(Backend).items() if inspect.isfunction(member) and name[0] != "_"]
    assert len(own) > 12
    for name in own:
        ours = list(inspect.signature(getattr(Backend, name)).parameters)
        theirs = list(inspect.signature(getattr(BaseBackend, name)).parameters)
        assert [one.lstrip("_").replace("options", "kwargs") for one in ours] == theirs, name
