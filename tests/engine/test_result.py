from __future__ import annotations

import json
import pickle
import threading
from typing import Any

import pytest

from prefork.engine import result_document
from prefork.engine.app import App
from prefork.engine.eager_result import EagerResult
from prefork.engine.exceptions import ImproperlyConfigured, TaskRevokedError, TimeoutError
from prefork.engine.execution import execute
from prefork.engine.request import Context
from prefork.engine.result import (
    AsyncResult,
    GroupResult,
    ResultSet,
    allow_join_result,
    denied_join_result,
    result_from_tuple,
)
from prefork.engine.result_document import MalformedResult
from prefork.serializers.json import JsonSerializer
from prefork.transports.base import StoredResult
from support.apps import memory_app
from support.waiting import eventually

JSON = JsonSerializer()


@pytest.fixture
def app() -> Any:
    with memory_app() as made:
        yield made


def store(app: App, task_id: str, value: Any, status: str = "SUCCESS", **fields: Any) -> None:
    document = result_document.encode(
        status, value, task_id=task_id, serializer=JSON, date_done_wall_s=1_000_000.0, **fields
    )
    final = status in ("SUCCESS", "FAILURE", "REVOKED")
    app.client.results.store([StoredResult(task_id, document, None, final)])  # type: ignore[union-attr]


# --- one result -------------------------------------------------------------------------------------


def test_nothing_known_is_pending(app: App) -> None:
    result = app.AsyncResult("unknown")
    assert (result.state, result.result, result.traceback) == ("PENDING", None, None)
    assert (result.children, result.date_done, result.name, result.worker) == (None, None, None, None)
    assert not result.ready() and not result.successful() and not result.failed() and not result.exists()


def test_a_success_is_read(app: App) -> None:
    extended = {"name": "n", "args": [1], "kwargs": {}, "worker": "w", "retries": 2, "queue": "q"}
    store(app, "id", {"a": 1}, extended=extended, children=[[["c", None], None]])
    result = app.AsyncResult("id")
    assert result.get(timeout=1) == {"a": 1}
    assert result.successful() and result.ready() and result.exists()
    assert result.status == result.state == "SUCCESS"
    assert result.info == result.result == {"a": 1}
    assert result.date_done is not None and result.date_done.timestamp() == 1_000_000.0
    assert (result.name, result.args, result.kwargs, result.worker) == ("n", [1], {}, "w")
    assert (result.retries, result.queue, result.task_id, result.backend) == (2, "q", "id", app.backend)
    assert result.children == [AsyncResult("c")]


def test_a_failure_is_raised_as_its_class(app: App) -> None:
    store(app, "id", ValueError("why"), "FAILURE", traceback="the traceback")
    result = app.AsyncResult("id")
    with pytest.raises(ValueError, match="why"):
        result.get(timeout=1)
    with pytest.raises(ValueError, match="why"):
        result.throw()
    assert repr(result.get(propagate=False)) == "ValueError('why')"
    assert (result.traceback, result.failed()) == ("the traceback", True)


def test_a_poisoned_record_never_raises_what_it_names(app: App) -> None:
    poison = {"exc_type": "SystemExit", "exc_message": [1], "exc_module": "builtins"}
    store(app, "id", poison, "FAILURE")
    with pytest.raises(Exception, match="SystemExit") as caught:
        app.AsyncResult("id").get(timeout=1)
    assert type(caught.value).__name__ == "RemoteTaskError"


def test_a_record_without_an_exception_still_raises_one(app: App) -> None:
    store(app, "id", None, "FAILURE")
    assert app.AsyncResult("id").result is None
    with pytest.raises(Exception, match="unknown"):
        app.AsyncResult("id").get(timeout=1)


def test_something_else_in_the_store_is_a_typed_error(app: App) -> None:
    app.client.results.store([StoredResult("id", b"[1]")])  # type: ignore[union-attr]
    with pytest.raises(MalformedResult):
        app.AsyncResult("id").get(timeout=1)


def test_a_state_on_the_way_is_read_again(app: App) -> None:
    store(app, "id", {"done": 1}, "PROGRESS")
    result = app.AsyncResult("id")
    assert (result.state, result.info) == ("PROGRESS", {"done": 1})
    store(app, "id", 5)
    assert (result.state, result.info) == ("SUCCESS", 5)


def test_get_waits_for_the_end(app: App) -> None:
    thread = threading.Timer(0.05, store, (app, "id", 7))
    thread.start()
    seen: list[Any] = []
    got = app.AsyncResult("id").get(
        timeout=10,
        callback=lambda task_id, value: seen.append((task_id, value)),
        on_message=lambda meta: seen.append(meta["status"]),
    )
    thread.join()
    assert got == 7
    assert seen == ["SUCCESS", ("id", 7)]


def test_get_gives_up_in_time(app: App) -> None:
    with pytest.raises(TimeoutError, match=r"task\[id\] within 0.05 s"):
        app.AsyncResult("id").get(timeout=0.05)
    with pytest.raises(TimeoutError):
        app.AsyncResult("id").get(timeout=0)


def test_get_calls_back_at_every_interval(app: App) -> None:
    intervals = iter([None, StopAsyncIteration()])

    def on_interval() -> None:
        seen = next(intervals)
        if seen is not None:
            raise seen

    with pytest.raises(StopAsyncIteration):
        app.AsyncResult("id").get(timeout=60, interval=0.05, on_interval=on_interval)


def test_an_ignored_result_is_not_waited_for(app: App) -> None:
    task = app.task(name="t", ignore_result=True)(lambda: 1)
    assert task.delay().get(timeout=0) is None


def test_without_a_store_the_remedy_is_named() -> None:
    with memory_app(backend="disabled") as app, pytest.raises(ImproperlyConfigured, match="result_backend"):
        app.AsyncResult("id").state  # noqa: B018


def test_forgetting_deletes_also_the_parents(app: App) -> None:
    store(app, "id", 1)
    store(app, "up", 2)
    result = AsyncResult("id", app=app, parent=AsyncResult("up", app=app))
    assert result.get(timeout=1) == 1
    result.forget()
    assert result.state == "PENDING"
    assert app.AsyncResult("up").state == "PENDING"


def test_a_failed_parent_is_raised_first(app: App) -> None:
    store(app, "up", KeyError("parent"), "FAILURE")
    result = AsyncResult("id", app=app, parent=AsyncResult("up", app=app))
    with pytest.raises(KeyError, match="parent"):
        result.get(timeout=5)


def test_the_leaf_is_found_through_children(app: App) -> None:
    store(app, "a", 1, children=[[["b", None], None]])
    store(app, "b", 2)
    app.set_current()
    assert app.AsyncResult("a").get_leaf() == 2


# --- revoking ---------------------------------------------------------------------------------------


def test_revoking_stores_revoked_unless_it_has_ended(app: App) -> None:
    waiting, ended = app.AsyncResult("waiting"), app.AsyncResult("ended")
    store(app, "ended", 1)
    waiting.revoke()
    ended.revoke()
    assert (waiting.state, ended.state) == ("REVOKED", "SUCCESS")
    with pytest.raises(TaskRevokedError, match="revoked"):
        waiting.get(timeout=1)


def test_a_set_may_hold_what_was_called_eagerly_and_is_revoked_all_the_same(app: App) -> None:
    waiting = app.AsyncResult("waiting")
    app.ResultSet([waiting, EagerResult("eager", 1, "SUCCESS")]).revoke(terminate=True, signal="SIGKILL")
    assert waiting.state == "REVOKED"


# --- waiting inside tasks ---------------------------------------------------------------------------


def test_a_task_must_not_wait_unless_allowed(app: App) -> None:
    store(app, "id", 3)

    @app.task
    def f(how: str) -> Any:
        result = app.AsyncResult("id")
        if how == "allowed":
            with allow_join_result():
                return result.get(timeout=1)
        if how == "denied":
            with allow_join_result(), denied_join_result():
                return result.get(timeout=1)
        return result.get(timeout=1, disable_sync_subtasks=how != "sync")

    def run(how: str) -> Any:
        return execute(f, Context(id="t", args=(how,), called_directly=False))

    assert isinstance(run("plain").value, RuntimeError)
    assert isinstance(run("denied").value, RuntimeError)
    assert run("allowed").value == 3
    assert run("sync").value == 3
    assert f("plain") == 3


# --- forms ------------------------------------------------------------------------------------------


def test_results_are_equal_by_id_and_travel(app: App) -> None:
    result = AsyncResult("id", app=app, parent=AsyncResult("up"))
    assert result == AsyncResult("id") == "id"
    assert result != AsyncResult("other")
    assert result.__eq__(3) is NotImplemented
    assert len({result, AsyncResult("id")}) == 1
    assert (str(result), repr(result)) == ("id", "<AsyncResult: id>")
    assert result.as_tuple() == (("id", (("up", None), None)), None)
    assert result.as_list() == ["id", "up"]
    assert result_from_tuple(json.loads(json.dumps(result.as_tuple()))).parent == AsyncResult("up")
    assert pickle.loads(pickle.dumps(result)) == result
    with pytest.raises(ValueError, match="requires an id"):
        AsyncResult(None)  # type: ignore[arg-type]


def test_what_is_no_result_tuple_is_refused() -> None:
    for wrong in (3, [], [1, 2, 3], [["a", None, None], None]):
        with pytest.raises(ValueError, match="not a result tuple"):
            result_from_tuple(wrong)
    result = AsyncResult("id")
    assert result_from_tuple(result) is result


# --- sets -------------------------------------------------------------------------------------------


def test_a_set_collects_results_in_order(app: App) -> None:
    for number in range(3):
        store(app, str(number), number * 10)
    results = app.ResultSet([app.AsyncResult(str(n)) for n in range(3)])
    seen: list[Any] = []
    assert results.get(timeout=1, callback=lambda task_id, value: seen.append(task_id)) == [0, 10, 20]
    assert seen == ["0", "1", "2"]
    assert results.join(timeout=1) == results.join_native(timeout=1) == [0, 10, 20]
    assert results.ready() and results.successful() and not results.failed() and not results.waiting()
    assert results.completed_count() == len(results) == 3
    assert results[1].id == "1"
    assert "1" in results


def test_a_set_is_a_set() -> None:
    a, b = AsyncResult("a"), AsyncResult("b")
    results = ResultSet([a])
    results.add(a)
    results.update([b, a])
    assert list(results) == [a, b]
    results.remove(a)
    with pytest.raises(KeyError):
        results.remove(a)
    results.discard(a)
    assert results == ResultSet([b])
    assert repr(results) == "<ResultSet: [b]>"
    results.clear()
    assert len(results) == 0
    assert len({results}) == 1


def test_a_long_set_names_its_first_results_only(app: App) -> None:
    results = ResultSet([app.AsyncResult(str(number)) for number in range(1000)])
    assert repr(results) == "<ResultSet: [0, 1, 2, 3, 4, 5, 6, 7, 8, 9, ... 1000 in all]>"


def test_a_set_has_one_time_limit_for_all(app: App) -> None:
    store(app, "0", 1)
    results = app.ResultSet([app.AsyncResult("0"), app.AsyncResult("missing")])
    with pytest.raises(TimeoutError):
        results.get(timeout=0.05)
    with pytest.raises(TimeoutError, match="1 of 2 results missing"):
        list(results.iter_native(timeout=0.05))


def test_results_are_handed_out_as_they_come(app: App) -> None:
    store(app, "b", 2)
    eager = app.task(name="t")(lambda: 9).apply()
    results = app.ResultSet([app.AsyncResult("a"), app.AsyncResult("b"), eager])
    stream = results.iter_native(timeout=10)
    assert next(stream) == (eager.id, {"status": "SUCCESS", "result": 9})
    assert next(stream)[0] == "b"
    store(app, "a", 1)
    assert next(stream) == ("a", {"status": "SUCCESS", "result": 1})
    assert list(stream) == []


def test_a_set_forgets_and_revokes(app: App) -> None:
    store(app, "a", 1)
    results = app.ResultSet([app.AsyncResult("a"), app.AsyncResult("b")])
    results.revoke()
    assert [result.state for result in results] == ["SUCCESS", "REVOKED"]
    results.forget()
    assert [result.state for result in results] == ["PENDING", "PENDING"]


def test_a_group_is_saved_and_restored(app: App) -> None:
    group = app.GroupResult("g", [app.AsyncResult("a"), app.AsyncResult("b")])
    assert group.save() is group
    restored = GroupResult.restore("g", app=app)
    assert restored == group
    assert restored is not None and restored.children == group.children
    group.delete()
    assert GroupResult.restore("g", app=app) is None
    assert hash(group) == hash("g")
    assert pickle.loads(pickle.dumps(group)) == group


def test_many_threads_wait_through_one_process(app: App) -> None:
    got: list[Any] = []
    threads = [
        threading.Thread(target=lambda n=n: got.append(app.AsyncResult(str(n)).get(timeout=20)))
        for n in range(20)
    ]
    for thread in threads:
        thread.start()
    for n in range(20):
        store(app, str(n), n)
    for thread in threads:
        thread.join()
    assert eventually(lambda: sorted(got) == list(range(20)))
