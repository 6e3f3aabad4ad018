"""A unique task that follows another one and is not sent, because one with the same key is on its way."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from prefork.engine import Unique, group
from prefork.engine.app import App
from prefork.engine.exceptions import DuplicateTaskError
from support.apps import sent
from support.one_child import OneChild

Make = Callable[..., OneChild]


class Duty:
    """An app with a unique task, of which one call is under way: it waits in a queue of its own."""

    def __init__(self, app: App) -> None:
        self.app = app
        self.calls: list[Any] = []

        @app.task(name="first")
        def first(value=None):
            return value

        @app.task(name="slow", unique=True)
        def slow(value):
            return value

        @app.task(name="repl", bind=True)
        def repl(task, value, chained=False):
            return task.replace(slow.s(value) | first.s() if chained else slow.s(value))

        @app.task(name="sorry")
        def sorry(task_id):
            self.calls.append(task_id)

        @app.task(name="explain")
        def explain(request, exc, traceback):
            self.calls.append((request.id, type(exc), exc.existing_id))

        self.first, self.slow, self.repl, self.sorry, self.explain = first, slow, repl, sorry, explain
        self.running = slow.apply_async((7,), queue="slow")

    def states(self, result: Any) -> list[str]:
        """Of a chain's results, first to last."""
        found = []
        while result is not None:
            found.append(self.app.AsyncResult(result.id).state)
            result = result.parent
        return found[::-1]

    def is_duplicate(self, result: Any) -> bool:
        with pytest.raises(DuplicateTaskError) as raised:
            result.get(timeout=1, follow_parents=False)
        return raised.value.existing_id == self.running.id


@pytest.fixture
def duty(app: App) -> Duty:
    app.conf.task_queues = {"celery": {}, "slow": {}}
    return Duty(app)


def run(duty: Duty, child_of: Make) -> None:
    child_of(duty.app, queues=["celery"]).run()


def test_a_step_that_is_not_sent_has_failed_with_all_that_was_to_follow(
    duty: Duty, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    result = (duty.first.s(7) | duty.slow.s() | duty.first.s() | duty.first.s()).delay()
    run(duty, child_of)
    assert duty.states(result) == ["SUCCESS", "FAILURE", "FAILURE", "FAILURE"]
    assert duty.is_duplicate(result)
    assert duty.is_duplicate(result.parent.parent)
    step_id = result.parent.parent.id
    assert f"slow[{step_id}] is not sent, as {duty.running.id} has the same key, and what" in caplog.text


def test_the_last_step_of_a_chain_that_is_not_sent_has_failed(
    duty: Duty, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    result = (duty.first.s(7) | duty.slow.s()).delay()
    run(duty, child_of)
    assert duty.states(result) == ["SUCCESS", "FAILURE"]
    assert duty.is_duplicate(result)
    assert f"slow[{result.id}] is not sent, as {duty.running.id} has the same key\n" in caplog.text


def test_a_step_with_another_key_is_sent(duty: Duty, child_of: Make) -> None:
    result = (duty.first.s(8) | duty.slow.s() | duty.first.s()).delay()
    run(duty, child_of)
    assert duty.states(result) == ["SUCCESS"] * 3


def test_a_step_that_ignores_its_result_has_none_although_it_is_not_sent(
    duty: Duty, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    result = (duty.first.s(7) | duty.slow.s().set(ignore_result=True) | duty.first.s()).delay()
    run(duty, child_of)
    assert duty.states(result) == ["SUCCESS", "PENDING", "FAILURE"]
    assert "is not sent" in caplog.text


def test_the_error_callbacks_of_a_step_that_is_not_sent_are(duty: Duty, child_of: Make) -> None:
    chain = duty.first.s(7) | duty.slow.s() | duty.first.s()
    chain.link_error(duty.sorry.s())
    chain.link_error(duty.explain.s())
    result = chain.delay()
    run(duty, child_of)
    step_id = result.parent.id
    assert duty.calls == [step_id, (step_id, DuplicateTaskError, duty.running.id)]


def test_a_callback_that_is_made_already_is_not_missed(
    duty: Duty, child_of: Make, caplog: pytest.LogCaptureFixture
) -> None:
    result = duty.first.apply_async((7,), link=[duty.slow.s(), duty.first.s()])
    run(duty, child_of)
    assert result.state == "SUCCESS"
    assert "is not sent" not in caplog.text


@pytest.mark.parametrize("grouped", [False, True])
def test_a_callback_of_which_somebody_knows_the_id_has_failed(
    duty: Duty, child_of: Make, grouped: bool
) -> None:
    chain = duty.slow.s() | duty.first.s()
    link = duty.slow.s().set(task_id="known") if not grouped else group(chain.set(task_id="known"))
    duty.first.apply_async((7,), link=link)
    run(duty, child_of)
    assert duty.is_duplicate(duty.app.AsyncResult("known"))


@pytest.mark.parametrize("chained", [False, True])
def test_a_task_that_cannot_be_replaced_fails_with_all_that_was_to_follow(
    duty: Duty, child_of: Make, chained: bool, caplog: pytest.LogCaptureFixture
) -> None:
    chain = duty.repl.s(7, chained) | duty.first.s() | duty.first.s()
    chain.link_error(duty.explain.s())
    result = chain.delay()
    run(duty, child_of)
    assert duty.states(result) == ["FAILURE"] * 3
    assert duty.is_duplicate(result)
    replaced_id = result.parent.parent.id
    assert duty.is_duplicate(duty.app.AsyncResult(replaced_id))
    assert duty.calls == [(replaced_id, DuplicateTaskError, duty.running.id)]
    assert f"is not sent, as {duty.running.id} has the same key" in caplog.text
    assert replaced_id in caplog.text


def test_a_task_may_do_something_else_where_it_cannot_be_replaced(duty: Duty, child_of: Make) -> None:
    @duty.app.task(bind=True)
    def careful(task, value):
        try:
            return task.replace(duty.slow.s(value))
        except DuplicateTaskError as error:
            return error.existing_id

    result = (careful.s(7) | duty.first.s()).delay()
    run(duty, child_of)
    assert result.get(timeout=1) == duty.running.id


def test_a_task_that_cannot_be_replaced_yet_may_be_retried_until_it_can(duty: Duty, child_of: Make) -> None:
    @duty.app.task(bind=True, autoretry_for=(DuplicateTaskError,), retry_delays=[0], max_retries=3)
    def patient(task, value):
        if task.request.retries == 1:
            duty.app.client.unique.free("slow", (value,))
        return task.replace(duty.slow.s(value))

    result = patient.delay(7)
    run(duty, child_of)
    assert result.get(timeout=1) == 7


def test_where_one_takes_the_place_of_the_other_nothing_is_lost(duty: Duty, child_of: Make) -> None:
    newest = duty.slow.s().set(unique=Unique(on_conflict="replace"))
    result = (duty.first.s(7) | newest | duty.first.s()).delay()
    run(duty, child_of)
    assert result.get(timeout=1) == 7
    assert sent(duty.app, "slow")[0].id == duty.running.id


def test_where_a_second_one_is_an_error_the_step_before_it_has_failed_too(duty: Duty, child_of: Make) -> None:
    only = duty.slow.s().set(unique=Unique(on_conflict="raise"))
    result = (duty.first.s(7) | only | duty.first.s()).delay()
    run(duty, child_of)
    assert duty.states(result) == ["FAILURE"] * 3
    assert duty.is_duplicate(result)
