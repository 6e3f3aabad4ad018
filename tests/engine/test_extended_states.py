"""`result_extended` holds of states on the way and of eager calls, as of what a worker stores at the end."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import App
from prefork.serializers.base import EncodeError
from support.apps import memory_app

NAMES = ("name", "args", "kwargs", "retries", "queue")


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app(result_extended=True, task_store_eager_result=True) as made:
        made.conf.result_backend = made.conf.broker_url
        yield made


def stored(app: App, task_id: str) -> dict[str, Any]:
    """The document as a peer reads it."""
    store = app.client.results
    assert store is not None
    (document,) = store.get([task_id])
    assert document is not None
    found: dict[str, Any] = json.loads(document)
    return found


def test_a_state_of_ones_own_says_what_runs_and_what_it_has_sent(app: App) -> None:
    note = app.task(name="note")(lambda: None)
    seen: list[dict[str, Any]] = []

    @app.task(name="report", bind=True)
    def report(self: Any, x: int, y: int = 0) -> None:
        sent = note.delay()
        self.update_state(state="SEARCHING", meta={"found": 1})
        seen.append({**stored(app, self.request.id), "sent": sent.id})

    result = report.apply((1,), {"y": 2}, queue="high")
    (document,) = seen
    assert (document["status"], document["result"]) == ("SEARCHING", {"found": 1})
    assert {name: document[name] for name in NAMES} == {
        "name": "report",
        "args": [1],
        "kwargs": {"y": 2},
        "retries": 0,
        "queue": "high",
    }
    assert document["worker"]
    assert document["children"] == [[[document["sent"], None], None]]
    assert app.AsyncResult(result.id).state == "SUCCESS"


def test_the_stored_result_of_an_eager_call_says_what_ran(app: App) -> None:
    add = app.task(name="add")(lambda x, y=0: x + y)
    result = app.AsyncResult(add.apply((1,), {"y": 2}).id)
    assert (result.result, result.name, result.args, result.kwargs) == (3, "add", [1], {"y": 2})


def test_arguments_without_a_form_are_shown_as_text_and_a_value_without_one_is_refused(app: App) -> None:
    seen: list[dict[str, Any]] = []

    @app.task(name="report", bind=True)
    def report(self: Any, what: Any) -> None:
        self.update_state(state="SEARCHING")
        seen.append(stored(app, self.request.id))
        with pytest.raises(EncodeError, match="object"):
            self.update_state(state="SEARCHING", meta={"found": object()})

    report.apply((object(),))
    assert seen[0]["args"].startswith("(<object object at")
    assert seen[0]["kwargs"] == "{}"


def test_the_state_of_another_task_does_not_say_what_this_one_is(app: App) -> None:
    @app.task(name="report", bind=True)
    def report(self: Any) -> None:
        self.update_state(task_id="other", state="SEARCHING")

    report.apply()
    document = stored(app, "other")
    assert document["status"] == "SEARCHING"
    assert not document.keys() & {*NAMES, "worker"}


def test_a_task_of_a_chain_that_was_not_reached_says_nothing_of_itself(app: App) -> None:
    @app.task(name="fail")
    def fail() -> None:
        raise ValueError("no")

    following = app.task(name="following")(lambda value: value)
    fail.apply(chain=[dict(following.s().set(task_id="next"))])
    document = stored(app, "next")
    assert document["status"] == "FAILURE"
    assert not document.keys() & {*NAMES, "worker"}
