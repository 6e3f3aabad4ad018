from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.execution import Executed, execute
from prefork.engine.follow_ups import on_failure, on_retry, on_success
from prefork.engine.message import parse
from prefork.engine.message_retry import OWN_RETRY_HEADER
from prefork.engine.request import Context
from prefork.engine.retrying import RetryPlan
from prefork.serializers.base import EncodeError
from support.apps import memory_app, payload, sent


@pytest.fixture
def app() -> Any:
    with memory_app() as made:
        made.task(name="add")(lambda x, y=0: x + y)
        yield made


def request_of(app: App, **options: Any) -> Context:
    """The request of a task sent with options."""
    app.tasks["add"].apply_async((1,), **options)
    message = sent(app)[-1]
    args, kwargs, embed = payload(app, message)
    return Context(
        {
            "id": message.id,
            "task": "add",
            "root_id": message.root_id,
            "args": args,
            "kwargs": kwargs,
            "callbacks": embed.callbacks,
            "errbacks": embed.errbacks,
            "chain": embed.chain,
            "called_directly": False,
        }
    )


def test_callbacks_and_the_next_step_are_made_and_not_sent(app: App) -> None:
    add = app.tasks["add"]
    request = request_of(app, link=[add.s(2), add.si(3)], chain=[dict(add.s(9)), dict(add.s(4))])
    before = app.client.transport.depth("celery").ready
    made = [parse(item.document, app.client.table) for item in on_success(app, request, 7).messages]
    assert [payload(app, message)[0] for message in made] == [[7, 2], [3], [7, 4]]
    assert {(message.parent_id, message.root_id) for message in made} == {(request.id, request.root_id)}
    (rest,) = payload(app, made[2])[2].chain or ()
    assert rest["args"] == [9]
    assert app.client.transport.depth("celery").ready == before


def test_a_value_that_a_callback_cannot_take_is_an_error(app: App) -> None:
    with pytest.raises(EncodeError):
        on_success(app, request_of(app, link=app.tasks["add"].s()), object())


def failed(app: App) -> Executed:
    task = app.task(name="boom")(lambda: {}["missing"])
    return execute(task, Context(id="x", called_directly=False))


def test_an_error_callback_with_one_parameter_is_sent_and_others_are_called(app: App) -> None:
    seen: list[Any] = []
    note = app.task(name="note")(lambda task_id: None)
    full = app.task(name="full")(
        lambda request, exc, traceback, own=None: seen.append((request.id, repr(exc), traceback, own))
    )
    request = request_of(app, link_error=[note.s(), full.s(7)])
    (message,) = on_failure(app, request, failed(app))
    parsed = parse(message.document, app.client.table)
    assert (parsed.task, payload(app, parsed)[0]) == ("note", [request.id])
    assert seen[0][:2] == (request.id, "KeyError('missing')")
    assert "KeyError" in seen[0][2]
    assert seen[0][3] == 7, "its own arguments come after those that it is called with"


def test_an_error_callback_that_fails_is_logged(app: App, caplog: pytest.LogCaptureFixture) -> None:
    bad = app.task(name="bad")(lambda request, exc, traceback: 1 / 0)
    with caplog.at_level(logging.ERROR):
        assert on_failure(app, request_of(app, link_error=bad.s()), failed(app)) == ()
    assert "ZeroDivisionError" in caplog.text


def test_a_retry_keeps_a_priority_that_only_rabbitmq_has(app: App) -> None:
    app.tasks["add"].apply_async((1,), priority=20)
    (message,) = sent(app)
    (again,) = on_retry(app, message, app.client.table, "came-from", RetryPlan(1, 100.0))
    assert again.priority == parse(again.document, app.client.table).priority == 20


def test_a_retry_keeps_the_message_and_takes_its_options(app: App) -> None:
    app.tasks["add"].apply_async((1,), {"y": 2}, headers={"trace": 1}, priority=3)
    (message,) = sent(app)
    table = app.client.table
    plain = on_retry(app, message, table, "came-from", RetryPlan(1, 100.0))[0]
    assert (plain.queue, plain.priority, plain.due_wall_s) == ("came-from", 3, 100.0)
    again = parse(plain.document, table)
    assert (again.id, again.retries, again.headers) == (message.id, 1, {"trace": 1, OWN_RETRY_HEADER: 1})
    assert payload(app, again)[:2] == ([1], {"y": 2})
    changed = RetryPlan(2, 50.0, (5,), {}, {"queue": "other", "priority": 9, "time_limit": 4})
    moved = on_retry(app, message, table, "came-from", changed)[0]
    again = parse(moved.document, table)
    assert (moved.queue, moved.priority) == ("other", 9)
    assert (again.routing_key, again.time_limit_s, again.retries) == ("other", 4.0, 2)
    assert payload(app, again)[:2] == ([5], {})
    with pytest.raises(EncodeError, match=r"args\[0\]"):
        on_retry(app, message, table, "q", RetryPlan(1, 0.0, (object(),)))


def test_an_error_callback_that_is_a_coroutine_function_runs_to_its_end_in_eager_calls(app: App) -> None:
    explained: list[Any] = []

    @app.task(name="explain")
    async def explain(request: Any, exc: BaseException, trace: str | None) -> None:
        await asyncio.sleep(0)
        explained.append((request.id, str(exc), trace is not None))

    @app.task(name="breaks")
    def breaks() -> None:
        raise ValueError("broken")

    breaks.apply(task_id="one", link_error=explain.s())

    async def on_a_loop() -> None:
        breaks.apply(task_id="two", link_error=explain.s())

    asyncio.run(on_a_loop())
    assert explained == [("one", "broken", True), ("two", "broken", True)]
