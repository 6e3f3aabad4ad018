"""Tasks that run in the process of their caller: what they know, what they may do, and their results."""

from __future__ import annotations

import asyncio
import sys
from datetime import datetime, timezone
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import InvalidTaskError, RemoteTaskError
from prefork.engine.result import AsyncResult, EagerResult
from prefork.serializers.base import EncodeError
from support.apps import memory_app, sent


@pytest.fixture
def eager_app() -> Any:
    with memory_app(task_always_eager=True) as made:
        yield made


def test_apply_runs_the_task_here_with_its_request(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any, x: int) -> Any:
        request = self.request
        return x, request.is_eager, request.called_directly, request.id, request.delivery_info["is_eager"]

    result = f.apply((3,), task_id="mine")
    assert isinstance(result, EagerResult)
    assert result.get() == (3, True, False, "mine", True)
    assert (result.id, result.state, result.traceback, result.name) == ("mine", "SUCCESS", None, f.name)
    assert sent(app) == []


def test_a_failure_is_kept_with_its_traceback_or_thrown(app: App) -> None:
    @app.task
    def f() -> None:
        raise ValueError("why")

    result = f.apply()
    assert result.failed() and result.ready() and not result.successful()
    assert "ValueError: why" in (result.traceback or "")
    assert "in f" in (result.traceback or "")
    assert "execution.py" not in (result.traceback or "")
    with pytest.raises(ValueError, match="why"):
        result.get()
    assert repr(result.get(propagate=False)) == "ValueError('why')"
    with pytest.raises(ValueError, match="why"):
        f.apply(throw=True)


@pytest.mark.parametrize(
    ("error", "throw"),
    [(SystemExit(3), True), (KeyboardInterrupt(), True), (KeyboardInterrupt(), False)],
    ids=repr,
)
def test_what_is_no_exception_goes_on_to_the_caller_and_is_announced(
    app: App, error: BaseException, throw: bool
) -> None:
    told: list[Any] = []

    @app.task(on_failure=lambda self, exc, *_: told.append(exc))
    def f() -> None:
        raise error

    with pytest.raises(type(error)):
        f.apply(throw=throw)
    assert told == [error]


def test_a_result_that_the_store_of_an_eager_call_cannot_take_is_its_failure(app: App) -> None:
    app.conf.result_backend = app.conf.broker_url
    app.conf.task_store_eager_result = True
    task = app.task(name="opaque")(object)
    result = task.apply()
    assert (result.state, type(result.result)) == ("FAILURE", EncodeError)
    assert app.AsyncResult(result.id).state == "FAILURE"


def test_an_eager_result_that_is_stored_is_returned_as_it_is(app: App) -> None:
    app.conf.result_backend = app.conf.broker_url
    app.conf.task_store_eager_result = True
    pair = app.task(name="pair")(lambda: (1, 2))
    assert pair.apply().get() == (1, 2)


def test_delay_runs_here_when_always_eager(eager_app: App) -> None:
    @eager_app.task
    def f(x: int) -> int:
        return x + 1

    result = f.delay(1)
    assert isinstance(result, AsyncResult)
    assert result.get(timeout=1) == 2
    assert sent(eager_app) == []


def test_arguments_go_through_the_serializer_when_always_eager(eager_app: App) -> None:
    @eager_app.task
    def f(pair: Any) -> Any:
        return pair

    assert f.delay((1, 2)).get() == [1, 2]
    with pytest.raises(EncodeError, match=r"\[0\]"):
        f.delay(object())
    with pytest.raises(InvalidTaskError):
        f.apply_async((1,), time_limit=-1)
    with pytest.raises(TypeError, match="missing"):
        f.delay()  # type: ignore[call-arg]
    assert f.apply(((1, 2),)).get() == (1, 2)


def test_errors_propagate_when_configured() -> None:
    with memory_app(task_always_eager=True, task_eager_propagates=True) as app:

        @app.task
        def f() -> None:
            raise KeyError("k")

        with pytest.raises(KeyError):
            f.delay()
        assert f.apply(throw=False).state == "FAILURE"


def test_retries_run_at_once_and_end(app: App) -> None:
    attempts: list[int] = []

    @app.task(bind=True, max_retries=2)
    def f(self: Any, x: int) -> int:
        attempts.append(self.request.retries)
        if self.request.retries < x:
            raise self.retry(countdown=1000)
        return x

    assert f.apply((2,)).get() == 2
    assert attempts == [0, 1, 2]
    assert f.apply((3,)).state == "FAILURE"


def test_ignore_and_reject_are_states_of_their_own(app: App) -> None:
    from prefork.engine.exceptions import Ignore, Reject

    @app.task
    def f(exc: Any) -> None:
        raise exc

    assert f.apply((Ignore(),)).state == "IGNORED"
    assert f.apply((Reject("no", requeue=True),)).state == "REJECTED"


def test_an_eager_result_is_stored_when_configured() -> None:
    with memory_app(task_store_eager_result=True) as app:

        @app.task
        def f(x: int) -> int:
            if x < 0:
                raise ValueError("negative")
            return x

        good, bad = f.apply((5,)), f.apply((-1,))
        assert app.AsyncResult(good.id).get(timeout=1) == 5
        with pytest.raises(ValueError, match="negative"):
            app.AsyncResult(bad.id).get(timeout=1)


def test_an_eager_result_answers_what_others_answer(app: App) -> None:
    @app.task
    def f() -> int:
        return 1

    result = f.apply()
    seen: list[Any] = []
    assert result.get(callback=lambda task_id, value: seen.append((task_id, value))) == 1
    assert seen == [(result.id, 1)]
    assert (result.children, result.date_done, result.exists(), result.args) == (None, None, False, None)
    result.forget()
    result.revoke()
    assert result.state == "REVOKED"
    with pytest.raises(RuntimeError):
        result.get()


@pytest.mark.parametrize("eager", [False, True], ids=["apply", "always eager"])
@pytest.mark.parametrize("kind", ["plain", "coroutine"])
def test_a_task_that_wants_to_leave_the_process_has_failed(eager: bool, kind: str) -> None:
    explained: list[Any] = []
    with memory_app(task_always_eager=eager) as app:

        @app.task(name="plain")
        def plain() -> None:
            sys.exit(3)

        @app.task(name="coroutine")
        async def coroutine() -> None:
            sys.exit(3)

        @app.task(name="explain")
        def explain(request: Any, exc: BaseException, trace: str) -> None:
            explained.append((repr(exc), "sys.exit(3)" in trace))

        task = app.tasks[kind]
        result = (task.apply_async if eager else task.apply)(link_error=explain.s())
        assert (result.state, app.current_task) == ("FAILURE", None)
        assert explained == [("SystemExit(3)", True)]
        with pytest.raises(RemoteTaskError, match="SystemExit"):
            result.get()


def test_a_coroutine_that_wants_to_leave_the_process_leaves_the_loop_of_its_caller_alone() -> None:
    with memory_app(task_always_eager=True) as app:

        @app.task(name="coroutine")
        async def coroutine() -> None:
            sys.exit(3)

        async def main() -> str:
            result = await coroutine.adelay()
            await asyncio.sleep(0)
            return str(result.state)

        assert asyncio.run(main()) == "FAILURE"


def test_pickle_works_for_results_and_eager_arguments_when_configured() -> None:
    settings = {
        "task_serializer": "pickle",
        "result_serializer": "pickle",
        "accept_content": ["json", "pickle"],
    }
    with memory_app(task_always_eager=True, task_store_eager_result=True, **settings) as app:

        @app.task
        def f(values: set[int]) -> set[int]:
            return values

        result = f.delay({1, 2})
        assert result.get() == {1, 2}
        assert app.AsyncResult(result.id).get(timeout=1) == {1, 2}


def test_a_task_that_is_applied_knows_when_it_expires_and_whether_its_result_counts(app: App) -> None:
    @app.task(bind=True, ignore_result=True, expires=60)
    def f(self: Any) -> Any:
        return self.request.ignore_result, self.request.expires

    ignored, expires = f.apply().get()
    assert ignored is True and datetime.fromisoformat(expires) > datetime.now(timezone.utc)
    later = datetime(2100, 1, 2, tzinfo=timezone.utc)
    ignored, expires = f.apply(ignore_result=False, expires=later).get()
    assert ignored is False and datetime.fromisoformat(expires) == later
