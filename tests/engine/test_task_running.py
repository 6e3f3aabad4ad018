"""What a task that runs knows of its request, and what it may do: retry, and say its state."""

from __future__ import annotations

import threading
from datetime import datetime, timezone
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.exceptions import ImproperlyConfigured, InvalidTaskError, MaxRetriesExceededError, Retry
from prefork.engine.execution import execute
from prefork.engine.local import current_task, get_current_task, get_current_worker_task
from prefork.engine.publishing import retry_changes
from prefork.engine.request import Context
from support.any_task import make
from support.apps import memory_app, sent

# --- requests ---------------------------------------------------------------------------------------


def test_a_plain_call_has_a_request_that_says_so(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any, x: int) -> Any:
        return self.request.called_directly, self.request.args, current_task == self

    assert f(3) == (True, (3,), True)
    assert f.request.called_directly
    assert f.request.id is None
    assert get_current_task() is None


def test_requests_nest_and_belong_to_their_task(app: App) -> None:
    @app.task(name="inner", bind=True)
    def inner(self: Any) -> Any:
        return self.request.id, outer.request.id, get_current_worker_task() is outer

    @app.task(name="outer", bind=True)
    def outer(self: Any) -> Any:
        return inner()

    done = execute(outer, Context(id="out", called_directly=False))
    assert done.value == (None, "out", True)


def test_a_thread_that_a_task_starts_is_not_the_task(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any) -> Any:
        seen: list[Any] = []
        thread = threading.Thread(target=lambda: seen.append((self.request.id, get_current_task())))
        thread.start()
        thread.join()
        return seen[0]

    assert execute(f, Context(id="x", called_directly=False)).value == (None, None)


def test_a_request_is_pushed_and_popped(app: App) -> None:
    task = make(app)
    task.push_request(id="pushed", called_directly=False)
    assert task.request.id == "pushed"
    task.push_request(Context(id="again"))
    assert task.request.id == "again"
    task.pop_request()
    task.pop_request()
    assert task.request.id is None


def test_a_context_has_every_field_and_takes_more() -> None:
    context = Context({"id": "a"}, retries=2, mine=1)
    assert (context.id, context.retries, context.get("mine"), context.get("none", 5)) == ("a", 2, 1, 5)
    assert (context.eta, context.chord, context.is_eager, context.called_directly) == (
        None,
        None,
        False,
        True,
    )
    context.children.append("x")
    assert context.children == ["x"]
    context.children = None
    assert context.children == []
    context.update(timelimit=[3, 2])
    assert (context.time_limit, context.soft_time_limit) == (3, 2)
    options = context.as_execution_options()
    assert (options["task_id"], options["time_limit"], options["retries"]) == ("a", 3, 2)
    context.clear()
    assert context.id is None
    assert "Context" in repr(context)


def test_headers_of_a_broker_do_not_travel_on() -> None:
    assert Context(headers={"trace": 1, "x-death": []}).custom_headers() == {"trace": 1}
    assert Context(headers={"x-death": []}).custom_headers() is None
    assert Context().custom_headers() is None


def test_tasks_sent_by_a_task_are_its_children(app: App) -> None:
    child = make(app, name="child")

    @app.task(name="parent", bind=True)
    def parent(self: Any) -> Any:
        one = child.delay(1)
        child.apply_async((2,), add_to_parent=False)
        return one, self.request.children

    done = execute(parent, Context(id="p", root_id="r", called_directly=False))
    one, children = done.value
    assert children == [one]
    messages = sent(app)
    assert {(m.root_id, m.parent_id) for m in messages} == {("r", "p")}


def test_priority_is_inherited_when_configured() -> None:
    with memory_app(task_inherit_parent_priority=True) as app:
        child = make(app, name="child")

        @app.task(name="parent")
        def parent() -> None:
            child.apply_async((1,), queue="q")
            child.apply_async((1,), queue="q", priority=1)

        execute(parent, Context(id="p", priority=8, called_directly=False))
        assert sorted(message.priority for message in sent(app, "q")) == [1, 8]


# --- retries ----------------------------------------------------------------------------------------


def run(task: Any, *args: Any, **fields: Any) -> Any:
    return execute(task, Context(id="id", args=args, called_directly=False, **fields))


def test_retry_plans_the_next_attempt_and_sends_nothing(app: App) -> None:
    @app.task(bind=True, default_retry_delay=7)
    def f(self: Any, x: int) -> None:
        raise self.retry(args=(x + 1,), kwargs={"k": 1}, queue="other")

    before = datetime.now(timezone.utc).timestamp()
    done = run(f, 1, retries=1)
    assert (done.state, done.retry.retries) == ("RETRY", 2)
    assert (done.retry.args, done.retry.kwargs, done.retry.options) == ((2,), {"k": 1}, {"queue": "other"})
    assert done.retry.due_wall_s == pytest.approx(before + 7, abs=2)
    assert sent(app) == []


def test_retry_without_throwing_lets_the_task_go_on(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any) -> str:
        retry = self.retry(countdown=1, throw=False)
        assert isinstance(retry, Retry)
        return "went on"

    done = run(f)
    assert (done.state, done.value, done.retry.retries) == ("SUCCESS", "went on", 1)


def test_retries_run_out(app: App) -> None:
    @app.task(bind=True, max_retries=2)
    def f(self: Any, exc: Any) -> None:
        raise self.retry(exc=exc)

    with_exc = run(f, ValueError("why"), retries=2)
    assert (with_exc.state, repr(with_exc.value)) == ("FAILURE", "ValueError('why')")
    without = run(f, None, retries=2)
    assert isinstance(without.value, MaxRetriesExceededError)
    assert without.value.task_args == (None,)
    f.max_retries = None
    assert run(f, None, retries=10_000).state == "RETRY"


def test_a_call_may_raise_its_own_ceiling(app: App) -> None:
    @app.task(bind=True, max_retries=0)
    def f(self: Any) -> None:
        raise self.retry(max_retries=5)

    assert run(f, retries=4).state == "RETRY"
    assert run(f, retries=5).state == "FAILURE"


def test_retry_in_a_plain_call_raises_what_went_wrong(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any, exc: Any) -> None:
        raise self.retry(exc=exc)

    with pytest.raises(ValueError, match="why"):
        f(ValueError("why"))
    with pytest.raises(Retry):
        f(None)


def test_automatic_retries_back_off(app: App) -> None:
    @app.task(
        autoretry_for=(LookupError,),
        dont_autoretry_for=[IndexError],
        retry_backoff=10,
        retry_backoff_max=25,
        retry_jitter=False,
        retry_kwargs={"max_retries": 2},
    )
    def f(exc: Exception) -> None:
        raise exc

    now = datetime.now(timezone.utc).timestamp()
    assert run(f, KeyError(), retries=0).retry.due_wall_s == pytest.approx(now + 10, abs=2)
    assert run(f, KeyError(), retries=1).retry.due_wall_s == pytest.approx(now + 20, abs=2)
    assert isinstance(run(f, KeyError("k"), retries=2).value, KeyError)
    assert run(f, IndexError()).state == "FAILURE"
    assert run(f, ValueError()).state == "FAILURE"
    f.override_max_retries = 9  # type: ignore[attr-defined]
    assert run(f, KeyError(), retries=8).state == "RETRY"


# --- states -----------------------------------------------------------------------------------------


def test_a_state_of_ones_own_is_readable(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any) -> Any:
        self.update_state(state="PROGRESS", meta={"done": 3})
        return app.AsyncResult("id").state, app.AsyncResult("id").info

    assert run(f).value == ("PROGRESS", {"done": 3})


def test_no_state_is_stored_for_an_ignored_result(app: App) -> None:
    @app.task(bind=True, ignore_result=True)
    def f(self: Any) -> str:
        self.update_state(state="PROGRESS")
        return app.AsyncResult("id").state

    assert run(f).value == "PENDING"
    assert run(f, ignore_result=False).value == "PROGRESS"


def test_a_state_needs_an_id(app: App) -> None:
    task = make(app)
    with pytest.raises(ImproperlyConfigured, match="task_id"):
        task.update_state(state="X")
    task.update_state(task_id="other", state="X")
    assert app.AsyncResult("other").state == "X"


def test_a_request_shows_the_message_it_came_in(app: App) -> None:
    make(app).apply_async((1,), headers={"trace": 1}, countdown=60, expires=90)
    (message,) = sent(app)
    context = Context({"message": message})
    assert context.headers == {"trace": 1}
    assert context.eta is not None and context.expires is not None
    assert datetime.fromisoformat(context.eta).timestamp() == message.eta_wall_s
    assert datetime.fromisoformat(context.expires).timestamp() == message.expires_wall_s
    context.headers, context.eta, context.expires = {"other": 2}, "then", None
    assert (context.headers, context.eta, context.expires) == ({"other": 2}, "then", None)


def test_options_of_a_retry_become_changes_of_the_message() -> None:
    changes = retry_changes(
        {
            "queue": "q",
            "expires": 5,
            "time_limit": 3,
            "priority": 4,
            "link": [{"task": "t"}],
            "headers": {"a": 1},
            "shadow": "s",
        },
        100.0,
    )
    assert changes == {
        "expires_wall_s": 105.0,
        "time_limit_s": 3.0,
        "priority": 4,
        "callbacks": [{"task": "t"}],
        "headers": {"a": 1},
        "shadow": "s",
    }
    assert retry_changes({}, 0.0) == {}
    with pytest.raises(InvalidTaskError):
        retry_changes({"priority": -1}, 0.0)
