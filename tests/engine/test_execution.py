from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.exceptions import Ignore, Reject
from prefork.engine.execution import Interrupted, autoretry, execute
from prefork.engine.request import Context
from prefork.engine.signals import Signal
from prefork.engine.unset import UNSET
from support.apps import memory_app

WATCHED = (
    signals.task_prerun,
    signals.task_postrun,
    signals.task_success,
    signals.task_failure,
    signals.task_retry,
    signals.task_internal_error,
)


@pytest.fixture
def app() -> Any:
    with memory_app() as made:
        yield made


@contextmanager
def heard() -> Iterator[list[tuple[str, dict[str, Any]]]]:
    """Every signal that an execution sends, in order."""
    seen: list[tuple[str, dict[str, Any]]] = []

    def listener(signal: Signal, sender: Any, **named: Any) -> None:
        seen.append((signal.name, named))

    with ExitStack() as stack:
        for signal in WATCHED:
            signal.connect(listener)
            stack.callback(signal.disconnect, listener)
        yield seen


def run(task: Any, *args: Any) -> Any:
    return execute(task, Context(id="id", args=args, called_directly=False))


def test_a_success_is_announced(app: App) -> None:
    task = app.task(name="t")(lambda x: x + 1)
    with heard() as seen:
        run(task, 1)
    assert [name for name, _ in seen] == ["task_prerun", "task_success", "task_postrun"]
    assert (seen[0][1]["task_id"], seen[0][1]["args"], seen[0][1]["task"]) == ("id", (1,), task)
    assert seen[1][1]["result"] == 2
    assert seen[1][1]["runtime"] >= 0
    assert (seen[2][1]["retval"], seen[2][1]["state"]) == (2, "SUCCESS")


def test_a_failure_is_announced_with_its_traceback(app: App) -> None:
    task = app.task(name="t")(lambda: 1 / 0)
    with heard() as seen:
        done = run(task)
    assert [name for name, _ in seen] == ["task_prerun", "task_failure", "task_postrun"]
    told = seen[1][1]
    assert isinstance(told["exception"], ZeroDivisionError)
    assert told["einfo"] is done.einfo
    assert told["traceback"] is done.einfo.tb


def test_a_retry_is_announced_with_its_reason(app: App) -> None:
    @app.task(bind=True)
    def f(self: Any) -> None:
        raise self.retry(exc=ValueError("why"))

    with heard() as seen:
        done = run(f)
    assert [name for name, _ in seen] == ["task_prerun", "task_retry", "task_postrun"]
    assert seen[1][1]["reason"].exc.args == ("why",)
    assert (done.state, repr(done.value)) == ("RETRY", "ValueError('why')")
    assert seen[2][1]["retval"] is seen[1][1]["reason"], "both are told of the Retry"
    assert seen[2][1]["state"] == "RETRY"


def test_a_hook_that_raises_is_announced_as_an_internal_error(app: App) -> None:
    class Bad(app.Task):  # type: ignore[name-defined, misc]
        def after_return(self, *_: Any) -> None:
            raise RuntimeError("bad hook")

    task = app.task(name="t", base=Bad)(lambda: 1)
    with heard() as seen:
        assert run(task).value == 1
    ((_, told),) = [entry for entry in seen if entry[0] == "task_internal_error"]
    assert (told["task_id"], str(told["exception"])) == ("id", "bad hook")


def test_a_hook_before_the_start_can_stop_the_task(app: App) -> None:
    class Careful(app.Task):  # type: ignore[name-defined, misc]
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            raise ValueError("not today")

    done = run(app.task(name="t", base=Careful)(lambda: 1))
    assert (done.state, str(done.value)) == ("FAILURE", "not today")


@pytest.mark.parametrize(
    ("exc", "state", "requeue"),
    [(Ignore(), "IGNORED", False), (Reject("no"), "REJECTED", False), (Reject("no", True), "REJECTED", True)],
)
def test_what_asks_for_special_treatment_is_never_retried_by_itself(
    app: App, exc: Exception, state: str, requeue: bool
) -> None:
    @app.task(autoretry_for=(Exception,))
    def f() -> None:
        raise exc

    done = run(f)
    assert (done.state, done.requeue) == (state, requeue)


def test_automatic_retries_without_throwing_leave_the_exception(app: App) -> None:
    task = app.task(name="t", autoretry_for=(ValueError,), retry_kwargs={"throw": False})(lambda: None)
    error = ValueError()
    request = Context(id="id", called_directly=False)
    task.push_request(request)
    try:
        assert autoretry(task, request, error) is error
    finally:
        task.pop_request()


NO_EXCEPTIONS = (SystemExit(3), KeyboardInterrupt(), BaseException("bare"))


@pytest.mark.parametrize("error", NO_EXCEPTIONS, ids=repr)
def test_what_is_no_exception_is_announced_as_any_failure(app: App, error: BaseException) -> None:
    def body() -> None:
        raise error

    task = app.task(name="t")(body)
    with heard() as seen:
        done = run(task)
    assert (done.state, done.value) == ("FAILURE", error)
    assert done.einfo is not None and "in body" in done.einfo.traceback
    assert [name for name, _ in seen] == ["task_prerun", "task_failure", "task_postrun"]
    assert (seen[1][1]["exception"], seen[2][1]["state"]) == (error, "FAILURE")


@pytest.mark.parametrize(("retries", "state"), [(0, "RETRY"), (1, "FAILURE")])
def test_a_process_exit_is_retried_by_itself_where_the_task_says_so(
    app: App, retries: int, state: str
) -> None:
    @app.task(autoretry_for=(SystemExit,), max_retries=1)
    def f() -> None:
        raise SystemExit(3)

    done = execute(f, Context(id="id", args=(), retries=retries, called_directly=False))
    assert (done.state, repr(done.value)) == (state, "SystemExit(3)")


@pytest.mark.parametrize("error", [Interrupted("the worker leaves"), GeneratorExit()], ids=repr)
def test_nobody_hears_of_an_end_that_is_not_the_tasks_own(app: App, error: BaseException) -> None:
    task = app.task(name="t")(lambda: (_ for _ in ()).throw(error))
    with heard() as seen, pytest.raises(type(error)):
        run(task)
    assert [name for name, _ in seen] == ["task_prerun"]
    assert app.current_task is None
    assert app.current_worker_task is None


def test_proxies_stand_for_what_they_name(app: App) -> None:
    from prefork.engine import current_app

    app.set_current()
    current_app.mine = 5
    assert app.mine == 5  # type: ignore[attr-defined]
    del current_app.mine
    assert not hasattr(app, "mine")
    assert bool(current_app)
    assert hash(current_app) == hash(app)
    assert (repr(current_app), str(current_app)) == (repr(app), str(app))
    assert "main" in dir(current_app)
    assert isinstance(current_app, App)
    task = app.task(name="t")(lambda x=0: x)
    from prefork.engine.local import Proxy

    stand_in = Proxy(lambda: task)
    assert stand_in(3) == 3
    assert len((Proxy(task.s) | task.s()).tasks) == 2
    assert copy.copy(Proxy(lambda: task)) is task


def test_unset_is_neither_true_nor_false() -> None:
    assert repr(UNSET) == "UNSET"
    with pytest.raises(TypeError, match="is UNSET"):
        bool(UNSET)
