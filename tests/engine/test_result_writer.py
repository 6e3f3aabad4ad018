from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from types import SimpleNamespace
from typing import Any

import pytest

from prefork.engine import states
from prefork.engine.app import App
from prefork.engine.einfo import ExceptionInfo
from prefork.engine.exceptions import WorkerLostError
from prefork.engine.execution import Executed
from prefork.engine.message import TaskMessage, fresh_id
from prefork.engine.request import Context
from prefork.engine.result_writer import ResultWriter
from prefork.serializers.registry import SerializerTable
from prefork.transports.base import StoredResult
from support.apps import memory_app, sent

RESULT_BYTES_MAX = 100_000


@pytest.fixture
def message() -> Iterator[TaskMessage]:
    with memory_app() as app:
        yield a_message(app)


def a_message(app: App) -> TaskMessage:
    """A message as a worker parses it, with a group and a parent."""
    app.task(name="add")(lambda x, y=0: x + y)
    app.tasks["add"].apply_async((1,), {"y": 2}, task_id="id-1", group_id="group-1", parent_id="parent-1")
    (message,) = sent(app)
    return message


def a_writer(
    *,
    enabled: bool = True,
    expires: Any = 60,
    failures: Any = None,
    extended: bool = False,
    table: SerializerTable | None = None,
) -> ResultWriter:
    """A writer of JSON."""
    config = SimpleNamespace(
        result_serializer="json",
        result_expires=expires,
        result_failure_expires=failures,
        result_extended=extended,
        result_compression=None,
        result_backend="memory://",
        result_max_bytes=RESULT_BYTES_MAX,
    )
    return ResultWriter(config, table or SerializerTable(), enabled=enabled, node="prefork@host")


def a_request(**fields: Any) -> Context:
    """The request of the message."""
    return Context({"id": "id-1", "args": [1], "kwargs": {"y": 2}, **fields})


def read(stored: StoredResult) -> dict[str, Any]:
    """The document as a peer reads it."""
    found: dict[str, Any] = json.loads(stored.document)
    return found


def test_a_success_is_stored_as_it_is(message: TaskMessage) -> None:
    executed = Executed(states.SUCCESS, {"sum": 3})
    after, (stored,) = a_writer().executed(message, a_request(), executed, states.SUCCESS)
    assert after is executed
    assert (stored.key, stored.expires_s, stored.final) == ("id-1", 60.0, True)
    document = read(stored)
    assert document.pop("date_done")
    assert document == {
        "status": "SUCCESS",
        "result": {"sum": 3},
        "traceback": None,
        "children": [],
        "group_id": message.group,
        "parent_id": message.parent_id,
        "task_id": "id-1",
    }


def test_a_failure_is_stored_with_its_traceback(message: TaskMessage) -> None:
    error = ValueError("no")
    executed = Executed(states.FAILURE, error, ExceptionInfo(error))
    after, (stored,) = a_writer().executed(message, a_request(), executed, states.FAILURE)
    assert after is executed
    document = read(stored)
    assert document["result"] == {"exc_type": "ValueError", "exc_message": ["no"], "exc_module": "builtins"}
    assert "ValueError: no" in document["traceback"]


def test_a_retry_is_no_final_result_and_has_no_date(message: TaskMessage) -> None:
    executed = Executed(states.RETRY, ValueError("later"))
    _, (stored,) = a_writer().executed(message, a_request(), executed, states.RETRY)
    assert not stored.final
    assert read(stored)["date_done"] is None


def test_the_tasks_that_a_task_sent_are_its_children(message: TaskMessage) -> None:
    child = SimpleNamespace(as_tuple=lambda: (("id-2", None), None))
    executed = Executed(states.SUCCESS, None)
    _, (stored,) = a_writer().executed(message, a_request(_children=[child]), executed, states.SUCCESS)
    assert read(stored)["children"] == [[["id-2", None], None]]


def test_a_value_that_cannot_be_encoded_becomes_a_failure(message: TaskMessage) -> None:
    executed = Executed(states.SUCCESS, {"x": object()})
    after, (stored,) = a_writer().executed(message, a_request(), executed, states.SUCCESS)
    assert after.state == states.FAILURE
    assert after.einfo is not None
    document = read(stored)
    assert document["status"] == "FAILURE"
    assert document["result"]["exc_type"] == "EncodeError"
    assert "object" in document["traceback"]
    assert stored.final


def test_a_value_that_is_too_large_becomes_a_failure_that_says_how_large(message: TaskMessage) -> None:
    executed = Executed(states.SUCCESS, "x" * RESULT_BYTES_MAX)
    after, (stored,) = a_writer().executed(message, a_request(), executed, states.SUCCESS)
    assert after.state == states.FAILURE
    document = read(stored)
    assert document["result"]["exc_type"] == "BackendStoreError"
    assert str(RESULT_BYTES_MAX) in document["traceback"]
    assert len(stored.document) < 10_000


def test_a_writer_that_is_disabled_makes_no_document(message: TaskMessage) -> None:
    writer = a_writer(enabled=False)
    executed = Executed(states.SUCCESS, object())
    assert writer.executed(message, a_request(), executed, states.SUCCESS) == (executed, ())
    assert writer.failure(ValueError("no"), task_id="id-1") == ()


def test_extended_results_say_what_ran_and_where(message: TaskMessage) -> None:
    executed = Executed(states.SUCCESS, 3)
    _, (stored,) = a_writer(extended=True).executed(message, a_request(), executed, states.SUCCESS)
    document = read(stored)
    extra = {name: document[name] for name in ("name", "args", "kwargs", "worker", "retries", "queue")}
    assert extra == {
        "name": "add",
        "args": [1],
        "kwargs": {"y": 2},
        "worker": "prefork@host",
        "retries": 0,
        "queue": "celery",
    }


def test_arguments_that_cannot_be_encoded_are_shown_as_text_and_spoil_no_success(
    message: TaskMessage,
) -> None:
    request = a_request(args=[object()], kwargs={"y": {1, 2, object()}})
    executed = Executed(states.SUCCESS, 3)
    after, (stored,) = a_writer(extended=True).executed(message, request, executed, states.SUCCESS)
    assert after is executed
    document = read(stored)
    assert (document["status"], document["result"]) == ("SUCCESS", 3)
    assert document["args"].startswith("[<object object at")
    assert document["kwargs"].startswith("{'y': {")


def test_neither_value_nor_arguments_need_to_be_encodable_for_a_failure(message: TaskMessage) -> None:
    request = a_request(args=[object()])
    executed = Executed(states.SUCCESS, object())
    after, (stored,) = a_writer(extended=True).executed(message, request, executed, states.SUCCESS)
    assert after.state == states.FAILURE
    assert read(stored)["result"]["exc_type"] == "EncodeError"


def test_arguments_that_make_a_result_too_large_are_cut_in_the_failure(message: TaskMessage) -> None:
    request = a_request(args=["x" * RESULT_BYTES_MAX])
    executed = Executed(states.SUCCESS, 3)
    after, (stored,) = a_writer(extended=True).executed(message, request, executed, states.SUCCESS)
    assert after.state == states.FAILURE
    assert len(stored.document) < 10_000


def test_a_start_says_what_started_as_far_as_that_has_a_form_and_fits_in() -> None:
    names = ("status", "result", "name", "args", "kwargs", "queue", "group_id")
    with memory_app(task_serializer="msgpack", accept_content=["json", "msgpack"]) as app:
        add = app.task(name="add")(lambda x, y=0: x)
        for value in (1, {b"key": 1}, "x" * RESULT_BYTES_MAX):
            add.apply_async((value,), {"y": 2}, group_id="group-1", argsrepr="(...)", kwargsrepr="{...}")
        started = a_writer(extended=True, table=app.client.table).on_start({"pid": 7})
        small, strange, large = [read(started(message)) for message in sent(app)]
    head = {
        "status": "STARTED",
        "result": {"pid": 7},
        "name": "add",
        "queue": "celery",
        "group_id": "group-1",
    }
    assert {name: small[name] for name in names} == {**head, "args": [1], "kwargs": {"y": 2}}
    assert (strange["args"], strange["kwargs"]) == ("[{b'key': 1}]", "{'y': 2}")
    assert (large["args"], large["kwargs"]) == ("(...)", "{...}")
    assert len(json.dumps(large)) < 10_000


@pytest.mark.parametrize("expires", [None, 0])
def test_without_a_lifetime_results_are_kept(expires: int | None) -> None:
    assert a_writer(expires=expires).state("id-1", states.STARTED, None).expires_s is None


@pytest.mark.parametrize(
    ("failures", "kept_s"), [(None, 60.0), (5, 5.0), (timedelta(minutes=5), 300.0), (0, None)]
)
def test_failures_may_be_kept_for_another_time(
    message: TaskMessage, failures: Any, kept_s: float | None
) -> None:
    writer = a_writer(failures=failures)
    (failed,) = writer.failure(ValueError("no"), task_id="id-1", message=message)
    executed = Executed(states.FAILURE, ValueError("no"))
    _, (raised,) = writer.executed(message, a_request(), executed, states.FAILURE)
    assert (failed.expires_s, raised.expires_s) == (kept_s, kept_s)
    assert writer.state("id-1", states.STARTED, None).expires_s == 60.0


def test_a_state_on_the_way_is_not_final_and_needs_no_message() -> None:
    stored = a_writer().state("id-1", "PROGRESS", {"done": 5})
    assert (stored.key, stored.final, stored.expires_s) == ("id-1", False, 60.0)
    document = read(stored)
    assert (document["status"], document["result"], document["date_done"]) == ("PROGRESS", {"done": 5}, None)
    assert not {"group_id", "parent_id"} & set(document)


@pytest.mark.parametrize(
    "lineage", [{}, {"group": "g"}, {"parent_id": "p"}, {"id": "short", "reply_to": "q"}]
)
def test_the_document_of_a_start_is_the_one_of_its_state(lineage: dict[str, Any]) -> None:
    fields = {"id": fresh_id(), "group": None, "parent_id": None, "reply_to": None, **lineage}
    message: Any = SimpleNamespace(**fields)
    writer, meta = a_writer(), {"pid": 7, "hostname": "node"}
    start = writer.on_start(meta)
    assert start(message) == writer.state(message.id, states.STARTED, meta, message)


def test_a_state_says_the_group_and_parent_of_its_message(message: TaskMessage) -> None:
    document = read(a_writer().state("id-1", states.STARTED, None, message))
    assert (document.get("group_id"), document.get("parent_id")) == (message.group, message.parent_id)
    assert message.group == "group-1"


@pytest.mark.parametrize("state", [states.FAILURE, states.REVOKED])
def test_what_could_not_be_run_to_its_end_is_stored_as_final(message: TaskMessage, state: str) -> None:
    (stored,) = a_writer().failure(ValueError("lost"), task_id="id-1", message=message, state=state)
    document = read(stored)
    assert (stored.key, stored.final, stored.expires_s) == ("id-1", True, 60.0)
    assert (document["status"], document["result"]["exc_message"]) == (state, ["lost"])
    assert document["date_done"]
    assert document["group_id"] == "group-1"


def test_a_failure_without_a_message_says_no_group() -> None:
    (stored,) = a_writer().failure(ValueError("lost"), task_id="id-1")
    assert "group_id" not in read(stored)


@pytest.mark.parametrize("task_id", [None, ""])
def test_a_failure_without_an_id_is_not_stored(task_id: str | None) -> None:
    assert a_writer().failure(ValueError("lost"), task_id=task_id) == ()


LOST = WorkerLostError("signal 9")


def lost(message: TaskMessage, **options: Any) -> dict[str, Any]:
    """What is stored of a task that was ended from outside."""
    (stored,) = a_writer(extended=True).failure(LOST, task_id="id-1", message=message, **options)
    found = read(stored)
    return {name: found.get(name) for name in ("name", "args", "kwargs", "worker", "retries", "queue")}


def test_an_extended_failure_of_a_lost_task_says_what_it_was(message: TaskMessage) -> None:
    expected = {
        "name": "add",
        "args": [1],
        "kwargs": {"y": 2},
        "worker": "prefork@host",
        "retries": 0,
        "queue": "celery",
    }
    assert lost(message) == expected
    assert lost(message, in_brief=True) == {**expected, "args": None, "kwargs": None}
    assert lost(message, state=states.REVOKED) == expected


def test_a_failure_that_is_not_extended_says_nothing_of_it(message: TaskMessage) -> None:
    (stored,) = a_writer().failure(LOST, task_id="id-1", message=message)
    assert not {"name", "args", "kwargs", "worker", "retries", "queue"} & set(read(stored))
    (stored,) = a_writer(extended=True).failure(LOST, task_id="id-1")
    assert "name" not in read(stored)


@pytest.mark.parametrize(
    ("options", "args"),
    [
        ({"serializer": "pickle"}, None),
        ({"serializer": "pickle", "argsrepr": "(1, ...)"}, "(1, ...)"),
        ({"compression": "zlib", "argsrepr": "(1, ...)"}, "(1, ...)"),
    ],
)
def test_arguments_that_may_do_harm_are_not_read_for_a_failure(options: dict[str, Any], args: Any) -> None:
    with memory_app() as app:
        app.conf.accept_content = ["json", "pickle"]
        app.task(name="add")(lambda x, y=0: x + y)
        app.tasks["add"].apply_async((1,), **options)
        (message,) = sent(app)
    assert lost(message)["args"] == args
    assert lost(message)["name"] == "add"


def test_arguments_that_make_a_failure_too_large_are_left_out() -> None:
    with memory_app() as app:
        app.task(name="add")(lambda x, y=0: x + y)
        app.tasks["add"].apply_async(("x" * RESULT_BYTES_MAX,), argsrepr="('xxx...',)")
        (message,) = sent(app)
    assert lost(message)["args"] == "('xxx...',)"
