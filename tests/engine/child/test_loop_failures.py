"""The worker loop of a child while broker or store fail, or take its messages away."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from prefork.engine.app import App
from prefork.engine.child.loop import EXIT_AS_TOLD, EXIT_OWNER_LOST, EXIT_UNSETTLED
from prefork.engine.exceptions import WorkerLostError
from prefork.engine.scoreboard import C_RUNNING, S_STOP, Stop
from prefork.engine.settling import Settler, decode_outcome
from prefork.transports.errors import BrokerUnavailable, OwnerLost
from support.faulty import Faulty
from support.listening import failures_heard
from support.loop_scene import depth, faulty_consumer, known_to_be_short
from support.one_child import OneChild

Make = Callable[..., OneChild]


@pytest.mark.parametrize("name", ["reserve", "settle", "mark_started"])
@pytest.mark.parametrize("early", [False, True])
def test_a_broker_that_comes_back_costs_nothing(app: App, child_of: Make, name: str, early: bool) -> None:
    @app.task(acks_late=not early)
    def add(x, y):
        return x + y

    result = add.delay(1, 2)
    child = child_of(app)
    # It becomes a suspect, whose start is recorded.
    app.client.transport.heartbeat("gone", 0.0)
    app.client.transport.consumer(["celery"], "gone.0.1", "gone").reserve(1)
    app.client.transport.heartbeat("gone", 0.0)
    assert app.client.transport.recover_lapsed().suspects == 1
    faulty = faulty_consumer(child)
    faulty.fail(name, 3)
    child.idle._before = lambda: name == "reserve" and depth(app)[0] > 0
    assert child.run() == EXIT_AS_TOLD
    assert result.get(timeout=1) == 3
    assert depth(app) == (0, 0, 0)
    assert faulty.calls["mark_started"] >= 1


def test_a_suspect_that_was_taken_back_does_not_run(app: App, child_of: Make) -> None:
    @app.task
    def never():
        ran.append(1)

    ran: list[int] = []
    never.delay()
    app.client.transport.heartbeat("gone", 0.0)
    app.client.transport.consumer(["celery"], "gone.0.1", "gone").reserve(1)
    app.client.transport.heartbeat("gone", 0.0)
    app.client.transport.recover_lapsed()
    child = child_of(app)
    child.parts.consumer.mark_started = lambda tag: False  # type: ignore[method-assign]
    child.run()
    assert ran == []
    child.parts.give_back()
    assert depth(app) == (1, 0, 0)


def test_an_early_acknowledgement_comes_before_the_start_and_alone(app: App, child_of: Make) -> None:
    seen: list[tuple[int, int, int]] = []

    @app.task(acks_late=False)
    def look():
        seen.append(depth(app))
        return 1

    results = [look.delay() for _ in range(3)]
    child = child_of(app)
    known_to_be_short(child, look.name, 3)
    child.run()
    assert seen == [(0, 0, 2), (0, 0, 1), (0, 0, 0)]
    assert [result.get(timeout=1) for result in results] == [1, 1, 1]


def test_a_message_that_is_taken_back_before_its_early_acknowledgement_does_not_run(
    app: App, child_of: Make
) -> None:
    ran: list[int] = []

    @app.task(acks_late=False)
    def never():
        ran.append(1)

    never.delay()
    child = child_of(app)
    child.parts.consumer.settle = lambda outcomes: [False]  # type: ignore[method-assign]
    child.run()
    assert ran == []
    assert child.words[C_RUNNING] == 0


def test_an_early_acknowledgement_without_an_answer_starts_nothing_and_is_a_failure(
    app: App, child_of: Make
) -> None:
    ran: list[int] = []

    @app.task(acks_late=False)
    def never():
        ran.append(1)

    result = never.delay()
    child = child_of(app)
    lost_answer = BrokerUnavailable("connection reset", outcome_unknown=True)
    faulty_consumer(child).fail("settle", 1, lambda: lost_answer, after=True)
    with failures_heard() as told:
        assert child.run() == EXIT_AS_TOLD
    assert ran == []
    ((sender, about),) = told
    assert (sender, about["task_id"], type(about["exception"])) == (never, result.id, WorkerLostError)
    with pytest.raises(WorkerLostError, match="did not start: connection reset"):
        result.get(timeout=1)
    assert child.words[C_RUNNING] == 0
    assert depth(app) == (0, 0, 0)


def test_an_early_acknowledgement_that_was_never_sent_is_sent_again(app: App, child_of: Make) -> None:
    @app.task(acks_late=False)
    def add(x, y):
        return x + y

    result = add.delay(1, 2)
    child = child_of(app)
    lost = BrokerUnavailable("connection reset", outcome_unknown=True)
    faulty_consumer(child).fail("settle", 2, lambda: lost)
    assert child.run() == EXIT_AS_TOLD
    assert result.get(timeout=1) == 3


def test_the_result_of_an_early_acknowledged_task_waits_for_the_store(app: App, child_of: Make) -> None:
    @app.task(acks_late=False)
    def add(x, y):
        return x + y

    result = add.delay(1, 2)
    child = child_of(app)
    child.parts.pause = lambda seconds: None  # type: ignore[method-assign]
    child.storage.store = store = Faulty(child.storage.store)  # type: ignore[assignment]
    store.fail("store", 4)
    assert child.run() == EXIT_AS_TOLD
    assert result.get(timeout=1) == 3
    assert store.calls["store"] == 5


def test_what_cannot_be_said_to_have_started_runs_all_the_same(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(track_started=True)
    def add(x, y):
        return x + y

    result = add.delay(1, 2)
    child = child_of(app)
    store = Faulty(child.storage.store)
    child.parts.settler = Settler(child.storage.transport, store, together=True)  # type: ignore[arg-type]
    store.fail("store_soon", 1)
    child.run()
    assert result.get(timeout=1) == 3
    assert "has started" in caplog.text


def test_a_child_whose_owner_was_recovered_ends_so_that_another_takes_its_place(
    app: App, child_of: Make
) -> None:
    @app.task
    def nothing():
        return None

    nothing.delay()
    child = child_of(app)
    app.client.transport.recover(child.parts.consumer.owner)
    with pytest.raises(OwnerLost):
        child.parts.consumer.reserve(1)
    assert child.run() == EXIT_OWNER_LOST
    assert child.idle.waits == 0, "it slept first, with nobody to take its place"
    assert depth(app) == (1, 0, 0)


def test_what_cannot_be_settled_when_leaving_is_left_to_the_agent(app: App, child_of: Make) -> None:
    @app.task
    def leave(n):
        if n == 1:
            child.words[S_STOP] = Stop.LEAVE
        return n

    ids = [leave.delay(n).id for n in range(3)]
    child = child_of(app)
    known_to_be_short(child, leave.name, 3)
    faulty = faulty_consumer(child)
    faulty.fail("settle", 1_000)
    faulty.fail("give_back", 1_000)
    assert child.run() == EXIT_UNSETTLED
    left = [decode_outcome(record) for record in child.slot.read_outcomes()]
    assert [outcome.results[0].key for outcome in left] == ids[:2]


def test_an_answer_that_was_lost_on_the_way_repeats_nothing(app: App, child_of: Make) -> None:
    @app.task
    def after(value):
        return value

    @app.task
    def add(x, y):
        return x + y

    result = add.apply_async((1, 2), link=after.s().set(queue="after"))
    child = child_of(app)
    faulty_consumer(child).fail("settle", 1, after=True)
    child.run()
    assert result.get(timeout=1) == 3
    assert depth(app, "after") == (1, 0, 0)


def test_a_child_that_cannot_give_back_leaves_all_the_same(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    child = child_of(app)
    faulty_consumer(child).fail("close", 1)
    child.parts.give_back()
    assert "left to others" in caplog.text


def test_nobody_knows_what_was_revoked_while_the_store_is_away(
    app: App, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def add(x, y):
        return x + y

    result = add.delay(1, 2)
    child = child_of(app)
    child.storage.store = store = Faulty(child.storage.store)  # type: ignore[assignment]
    store.fail("get", 1)
    with caplog.at_level(logging.WARNING):
        child.run()
    assert result.get(timeout=1) == 3
    assert "cannot tell whether" in caplog.text
