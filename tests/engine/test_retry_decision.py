"""Whether a task runs again: limits, headers that anybody may have written, and attempts that do not wait."""

from __future__ import annotations

import pickle
import time
from datetime import datetime, timedelta, timezone
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import states
from prefork.engine.exceptions import (
    InvalidTaskError,
    MaxRetriesExceededError,
    MaxSnoozesExceededError,
    Retry,
    Snooze,
)
from prefork.engine.execution import execute
from prefork.engine.request import Context
from prefork.engine.retry_decision import EAGER_ATTEMPTS_MAX, retry_limit
from prefork.engine.retrying import FIRST_STARTED_HEADER, SNOOZES_HEADER
from support.apps import memory_app


@pytest.fixture
def app() -> Any:
    with memory_app() as made:
        yield made


def request(headers: dict[str, Any] | None = None, **fields: Any) -> Context:
    """The request of an attempt that a message with these headers began."""
    message = SimpleNamespace(headers=headers, eta_wall_s=None, expires_wall_s=None)
    fields = {"id": "i", "called_directly": False, "started_wall_s": time.time(), **fields}
    return Context(fields, message=message)


def run(task: Any, context: Context) -> Any:
    return execute(task, context)


def retrying(app: Any, **options: Any) -> Any:
    @app.task(name="t", bind=True, **options)
    def body(self: Any) -> None:
        raise self.retry(exc=ValueError("again"))

    return body


def test_a_total_time_begins_with_the_first_attempt_that_is_told_of(app: Any) -> None:
    task = retrying(app, retry_for_s=100, default_retry_delay=10)
    now = time.time()
    first = run(task, request())
    assert first.state == states.RETRY
    told = first.retry.options["headers"][FIRST_STARTED_HEADER]
    assert told == pytest.approx(now, abs=5)
    assert run(task, request({FIRST_STARTED_HEADER: now - 80})).state == states.RETRY
    last = run(task, request({FIRST_STARTED_HEADER: now - 95}))
    assert (last.state, str(last.value)) == (states.FAILURE, "again")


def test_a_total_time_bounds_retries_alone_unless_the_task_names_a_number(app: Any) -> None:
    assert retry_limit(retrying(app, retry_for_s=100)) is None
    assert retry_limit(app.task(name="u", retry_for_s=100, max_retries=3)(lambda: None)) == 3
    assert retry_limit(app.task(name="v")(lambda: None)) == 3
    task = app.task(name="w", retry_for_s=100)(lambda: None)
    task.max_retries = 7
    assert retry_limit(task) == 7


@given(
    told=st.none() | st.booleans() | st.text(max_size=3) | st.floats() | st.integers() | st.lists(st.none())
)
def test_whatever_a_header_says_the_first_start_lies_in_the_past(told: Any) -> None:
    now = 1_000_000.0
    context = request({FIRST_STARTED_HEADER: told}, started_wall_s=now - 1)
    assert 0 <= context.first_started(now) <= now


@given(
    told=st.none() | st.booleans() | st.text(max_size=3) | st.floats() | st.integers() | st.lists(st.none())
)
def test_whatever_a_header_says_snoozes_are_a_number_of_times(told: Any) -> None:
    snoozes = request({SNOOZES_HEADER: told}).snoozes
    assert isinstance(snoozes, int)
    assert 0 <= snoozes < 2**31


def test_what_workers_tell_one_another_is_no_custom_header(app: Any) -> None:
    assert request({SNOOZES_HEADER: 3}).headers is None
    assert request({SNOOZES_HEADER: 3, "trace": 1}).headers == {"trace": 1}


@pytest.mark.parametrize("delay_s", [-1, True, "5", None, float("nan"), float("inf")])
def test_a_snooze_of_no_delay_is_refused_where_it_is_raised(delay_s: Any) -> None:
    with pytest.raises(ValueError, match="Snooze"):
        Snooze(delay_s)


def test_a_snooze_says_how_long_and_survives_pickling() -> None:
    back = pickle.loads(pickle.dumps(Snooze(timedelta(minutes=1))))
    assert (back.delay_s, str(back)) == (60.0, "Snooze for 60s")


def test_a_snooze_is_no_exception_that_retries_by_itself(app: Any) -> None:
    @app.task(name="t", autoretry_for=(Exception,), max_snoozes=1)
    def body() -> None:
        raise Snooze(5)

    done = run(body, request())
    assert (done.state, done.retry.retries) == (states.SNOOZED, 0)
    assert done.retry.options == {"headers": {SNOOZES_HEADER: 1}}
    ended = run(body, request({SNOOZES_HEADER: 1}))
    assert ended.state == states.FAILURE
    assert isinstance(ended.value, MaxSnoozesExceededError)
    assert isinstance(ended.value.__cause__, Snooze)


def test_a_snooze_keeps_the_first_start_of_a_task_with_a_total_time(app: Any) -> None:
    @app.task(name="t", retry_for_s=100)
    def body() -> None:
        raise Snooze(5)

    began = time.time() - 50
    done = run(body, request({FIRST_STARTED_HEADER: began}))
    assert done.retry.options["headers"][FIRST_STARTED_HEADER] == began


def test_a_task_called_as_a_function_raises_what_was_handled_or_named(app: Any) -> None:
    @app.task(name="t", bind=True)
    def body(self: Any, named: bool) -> None:
        try:
            raise KeyError("handled")
        except KeyError as error:
            self.retry(exc=ValueError("named") if named else error)

    with pytest.raises(ValueError, match="named") as raised:
        body(True)
    assert isinstance(raised.value.__cause__, KeyError)
    with pytest.raises(KeyError):
        body(False)
    with pytest.raises(Retry, match="can be retried"):
        app.task(name="u", bind=True)(lambda self: self.retry())()


@pytest.mark.parametrize(
    "options", [{"countdown": "5"}, {"countdown": []}, {"eta": 5}, {"countdown": [1, None]}]
)
def test_a_retry_that_is_no_time_fails_the_task_by_name(app: Any, options: dict[str, Any]) -> None:
    @app.task(name="t", bind=True)
    def body(self: Any) -> None:
        raise self.retry(**options)

    done = run(body, request())
    assert isinstance(done.value, InvalidTaskError)
    assert next(iter(options)) in str(done.value)


def test_an_eta_wins_over_every_delay(app: Any) -> None:
    eta = datetime(2030, 1, 1, tzinfo=timezone.utc)

    @app.task(name="t", bind=True, retry_delays=[7])
    def body(self: Any, **options: Any) -> None:
        raise self.retry(**options)

    done = run(body, request(kwargs={"eta": eta, "countdown": 5}))
    assert done.retry.due_wall_s == eta.timestamp()
    now = time.time()
    assert run(body, request()).retry.due_wall_s == pytest.approx(now + 7, abs=5)
    assert run(body, request(kwargs={"countdown": 3})).retry.due_wall_s == pytest.approx(now + 3, abs=5)


def test_eager_attempts_without_a_bound_come_to_an_end(app: Any) -> None:
    retried = retrying(app, max_retries=None)
    result = retried.apply()
    assert (result.state, str(result.result)) == ("FAILURE", "again")

    @app.task(name="u")
    def put_off() -> None:
        raise Snooze(5)

    with pytest.raises(MaxRetriesExceededError, match=f"put off {EAGER_ATTEMPTS_MAX} times"):
        put_off.apply().get()


def test_an_eager_task_with_a_total_time_ends_when_it_would_have(app: Any) -> None:
    ran: list[int] = []

    @app.task(name="t", bind=True, retry_for_s=100, retry_delays=[30])
    def body(self: Any) -> None:
        ran.append(self.request.retries)
        raise self.retry()

    with pytest.raises(MaxRetriesExceededError, match="more than 100 s"):
        body.apply().get()
    assert ran == [0, 1, 2, 3]


def test_functions_of_annotations_are_hooks_too() -> None:
    told: list[Any] = []

    def on_failure(self: Any, exc: Any, *rest: Any) -> None:
        told.append((self.name, str(exc)))

    with memory_app(task_annotations={"*": {"on_failure": on_failure}}) as app:
        task = app.task(name="t")(lambda: 1 / 0)
        app.finalize()
        assert task.apply().state == "FAILURE"
    assert told == [("t", "division by zero")]
