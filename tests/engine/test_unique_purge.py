"""A purge frees the locks of what it has in hand, and of nothing else."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from prefork.engine import Unique
from prefork.engine.app import App
from prefork.engine.unique_purge import DELAYED_MAX, Purged, purge, told
from prefork.transports.base import Outgoing
from support.apps import memory_app

DAY_S = 86_400


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        made.task(name="t", unique=True)(lambda key: None)
        made.task(name="p")(lambda key: None)
        yield made


def drop(app: App, queue: str = "celery") -> Purged:
    return purge(app.client.transport, queue, app.tasks, app.client.table)


def holder(app: App, key: int) -> str | None:
    return app.client.unique.holder("t", (key,))


def test_what_is_no_message_or_not_unique_is_dropped_as_well(app: App) -> None:
    app.client.transport.send([Outgoing("celery", b"no message")])
    app.tasks["p"].delay(1)
    app.tasks["p"].apply_async((1,), headers={"prefork_unique": "somebody else's"})
    app.tasks["t"].delay(1)
    assert drop(app) == Purged(4, 1)
    assert drop(app) == Purged(0)
    assert holder(app, 1) is None


def test_what_runs_keeps_its_lock(app: App) -> None:
    running = app.tasks["t"].delay(1)
    consumer = app.client.transport.consumer(["celery"], "child", "worker")
    (delivery,) = consumer.reserve(1)
    app.tasks["t"].delay(2)
    assert drop(app) == Purged(1, 1)
    assert holder(app, 1) == running.id
    assert consumer.give_back([delivery.tag]) == 1
    consumer.close()


def test_a_lock_that_another_one_has_by_now_stays(app: App) -> None:
    app.tasks["t"].delay(1)
    app.client.unique.free("t", (1,))
    second = app.tasks["t"].apply_async((1,), queue="other")
    drop(app)
    assert holder(app, 1) == second.id


def test_what_becomes_due_in_a_moment_may_have_been_started(app: App) -> None:
    soon = app.tasks["t"].apply_async((1,), countdown=20)
    app.tasks["t"].apply_async((2,), countdown=DAY_S)
    app.tasks["t"].apply_async((3,), countdown=DAY_S, unique=Unique(until=600))
    assert drop(app) == Purged(3, 1)
    assert holder(app, 1) == soon.id
    assert holder(app, 2) is None
    assert holder(app, 3) is not None


def test_lanes_are_looked_at_too(app: App) -> None:
    app.tasks["t"].apply_async((1,), queue="celery.limited.t")
    assert drop(app) == Purged(1, 1)
    assert holder(app, 1) is None


def test_of_very_many_delayed_ones_it_is_said_how_many_were_not_seen(app: App) -> None:
    for key in range(DELAYED_MAX + 3):
        app.tasks["p"].apply_async((key,), countdown=DAY_S)
    assert drop(app) == Purged(DELAYED_MAX + 3, 0, 3)


def test_without_unique_tasks_nothing_is_looked_at() -> None:
    with memory_app() as app:
        app.task(name="p")(lambda: None)
        app.send_task("elsewhere", (1,), unique=True)
        assert drop(app) == Purged(1)


def test_the_lines_say_what_was_freed_and_what_was_not_seen() -> None:
    lines = told([("a", Purged(4)), ("b", Purged(4, 2)), ("c", Purged(9, 1, 3))])
    assert lines[0] == "a: 4 dropped"
    assert lines[1] == "b: 4 dropped, with the locks of 2 unique ones"
    assert lines[2].startswith("c: 9 dropped, with the locks of 1 unique ones; of 3 delayed ones nobody")
