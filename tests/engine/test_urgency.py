"""Urgency is said in one way and means the same everywhere."""

from __future__ import annotations

from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import InvalidTaskError
from prefork.engine.follow_ups import on_retry
from prefork.engine.message import TaskMessage, parse
from prefork.engine.retrying import RetryPlan
from prefork.transports.base import Capabilities


class Turned:
    """The client's transport, on which 0 is served first."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @property
    def capabilities(self) -> Capabilities:
        return Capabilities(name="turned", highest_priority_first=False)


@pytest.fixture(params=["9 first", "0 first"])
def app(request: pytest.FixtureRequest) -> Any:
    with App("urgency", broker="memory://urgency", set_as_current=False) as app:
        if request.param == "0 first":
            app.client._use(app.client._mine(), Turned(app.client.transport))
        yield app
        app.client.transport.purge("celery")


def sent(app: App) -> TaskMessage:
    (found,) = app.client.transport.peek("celery")
    app.client.transport.purge("celery")
    message = parse(found.document, app.client.table)
    assert found.priority == message.priority
    return message


def expected(app: App, urgency: int) -> int:
    return urgency if app.client.transport.capabilities.highest_priority_first else 9 - urgency


@pytest.mark.parametrize("urgency", [0, 4, 9])
def test_a_call_a_task_a_route_and_the_configuration_may_say_it(app: App, urgency: int) -> None:
    plain = app.task(name="plain", shared=False)(lambda: None)
    pressing = app.task(name="pressing", shared=False, urgency=urgency)(lambda: None)
    plain.apply_async(urgency=urgency)
    assert sent(app).priority == expected(app, urgency)
    pressing.delay()
    assert sent(app).priority == expected(app, urgency)
    pressing.apply_async(urgency=3)
    assert sent(app).priority == expected(app, 3)
    plain.s().set(urgency=urgency).apply_async()
    assert sent(app).priority == expected(app, urgency)
    app.conf.task_routes = {"plain": {"urgency": urgency}}
    plain.delay()
    assert sent(app).priority == expected(app, urgency)
    plain.apply_async(priority=2)
    assert sent(app).priority == 2, "what the call says wins over its route"
    app.conf.task_routes = None
    app.conf.task_default_urgency = urgency
    plain.delay()
    assert sent(app).priority == expected(app, urgency)
    app.conf.task_default_priority = 5
    plain.delay()
    assert sent(app).priority == 5


def test_a_retry_keeps_it_and_may_change_it(app: App) -> None:
    plain = app.task(name="plain", shared=False)(lambda: None)
    plain.apply_async(urgency=7)
    message = sent(app)
    table = app.client.table
    assert on_retry(app, message, table, "celery", RetryPlan(1, 1.0))[0].priority == expected(app, 7)
    changed = on_retry(app, message, table, "celery", RetryPlan(1, 1.0, options={"urgency": 1}))[0]
    assert changed.priority == parse(changed.document, table).priority == expected(app, 1)


@pytest.mark.parametrize("urgency", [-1, 10, True, "high", 3.0])
def test_what_is_no_urgency_is_refused(app: App, urgency: Any) -> None:
    plain = app.task(name="plain", shared=False)(lambda: None)
    with pytest.raises(InvalidTaskError, match="urgency=.*0 to 9"):
        plain.apply_async(urgency=urgency)
    bad = app.task(name="bad", shared=False, urgency=urgency)(lambda: None)
    with pytest.raises(InvalidTaskError, match="urgency=.*0 to 9"):
        bad.delay()


def test_to_say_both_is_refused(app: App) -> None:
    plain = app.task(name="plain", shared=False)(lambda: None)
    with pytest.raises(InvalidTaskError, match="priority=1 and urgency=2"):
        plain.apply_async(priority=1, urgency=2)
    both = app.task(name="both", shared=False, priority=1, urgency=2)(lambda: None)
    with pytest.raises(InvalidTaskError, match="the task both"):
        both.delay()
