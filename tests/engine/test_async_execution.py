"""`execute_async` does what `execute` does: same outcomes, hooks and signals, in the same order."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from prefork.engine import signals
from prefork.engine.app import App
from prefork.engine.async_execution import execute_async
from prefork.engine.exceptions import Ignore, Reject, Snooze, TaskCancelledError
from prefork.engine.execution import Executed, Interrupted, execute
from prefork.engine.local import current_task, running
from prefork.engine.request import Context
from prefork.engine.task import Task
from support.apps import memory_app

SIGNALS = ("task_prerun", "task_postrun", "task_success", "task_failure", "task_retry", "task_internal_error")


class Seen:
    """What hooks and signals were called, in order."""

    def __init__(self) -> None:
        self.events: list[Any] = []
        self._stack = ExitStack()

    def listen(self) -> None:
        for name in SIGNALS:
            self._connect(getattr(signals, name), name)

    def _connect(self, one: signals.Signal, name: str) -> None:
        def receiver(**values: Any) -> None:
            shown = {key: repr(value)[:60] for key, value in values.items() if key in ("result", "state")}
            self.events.append((name, shown))

        one.connect(receiver, weak=False)
        self._stack.callback(one.disconnect, receiver)

    def close(self) -> None:
        self._stack.close()


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        yield made


def returns(task: Any, x: int) -> Any:
    return x, task.request.id, current_task.name, task.request.args


def fails(task: Any, x: int) -> Any:
    raise ValueError(x)


def retries(task: Any, x: int) -> Any:
    raise task.retry(countdown=x)


def asks_and_returns(task: Any, x: int) -> Any:
    task.retry(countdown=x, throw=False)
    return "asked"


def ignores(task: Any, x: int) -> Any:
    raise Ignore("enough")


def rejects(task: Any, x: int) -> Any:
    raise Reject("no", requeue=True)


def snoozes(task: Any, x: int) -> Any:
    raise Snooze(x)


def is_retried_by_itself(task: Any, x: int) -> Any:
    raise KeyError(x)


def leaves(task: Any, x: int) -> Any:
    raise SystemExit(x)


def is_opaque(task: Any, x: int) -> Any:
    return object


BODIES = (
    *(returns, fails, retries, asks_and_returns, ignores, rejects, snoozes, is_retried_by_itself),
    *(leaves, is_opaque),
)


def storable(request: Context, done: Executed) -> Executed:
    """Stands for a store that takes no classes."""
    if done.value is object:
        return Executed("FAILURE", TypeError("opaque"))
    return done


def shown(done: Executed) -> tuple[Any, ...]:
    retry = None if done.retry is None else (done.retry.retries, done.retry.args)
    return done.state, repr(done.value), done.requeue, retry, done.einfo is not None


def tried(
    app: App, body: Callable[..., Any], how: str, broken_hooks: bool, async_hooks: bool = False
) -> tuple[tuple[Any, ...], list[Any]]:
    seen = Seen()

    class Told(Task[Any, Any]):
        abstract = True
        __module__ = "told"

    for hook in ("before_start", "on_success", "on_failure", "on_retry", "after_return"):

        def called(self: Any, *values: Any, hook: str = hook) -> None:
            seen.events.append((hook, repr(values[:3])[:80]))
            if broken_hooks and hook != "before_start":
                raise RuntimeError(hook)

        async def awaited_hook(self: Any, *values: Any, called: Any = called) -> None:
            await asyncio.sleep(0)
            called(self, *values)
            await asyncio.sleep(0)

        setattr(Told, hook, awaited_hook if async_hooks else called)

    options: dict[str, Any] = {"bind": True, "base": Told, "max_retries": 5, "retry_backoff": False}
    if body is is_retried_by_itself:
        options |= {"autoretry_for": (KeyError,), "default_retry_delay": 2}
    if how == "sync":
        task = app.task(name="t", **options)(body)
    else:

        async def awaited(self: Any, x: int) -> Any:
            await asyncio.sleep(0)
            return body(self, x)

        task = app.task(name="t", **options)(awaited)
    request = Context(id="id", args=(3,), called_directly=False, hostname="host")
    seen.listen()
    try:
        if how == "beside":
            done = asyncio.run(execute_async(task, request, storable=storable))
        else:
            done = execute(task, request, storable=storable)
    finally:
        seen.close()
        app.tasks.unregister("t")
    assert running.get() is None
    return shown(done), seen.events


@pytest.mark.parametrize("broken_hooks", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_all_ways_to_run_a_task_agree(app: App, body: Callable[..., Any], broken_hooks: bool) -> None:
    plain = tried(app, body, "sync", broken_hooks)
    assert tried(app, body, "coroutine", broken_hooks) == plain
    assert tried(app, body, "beside", broken_hooks) == plain
    assert plain[1]


@pytest.mark.parametrize("broken_hooks", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_hooks_that_are_coroutines_are_awaited_where_plain_ones_are_called(
    app: App, body: Callable[..., Any], broken_hooks: bool
) -> None:
    plain = tried(app, body, "sync", broken_hooks)
    for how in ("sync", "coroutine", "beside"):
        assert tried(app, body, how, broken_hooks, async_hooks=True) == plain, how


def test_a_plain_function_may_be_run_so_too(app: App) -> None:
    task = app.task(name="plain")(lambda x: x + 1)
    done = asyncio.run(execute_async(task, Context(id="id", args=(1,), called_directly=False)))
    assert (done.state, done.value) == ("SUCCESS", 2)


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_is_no_exception_is_the_failure_of_its_task(app: App, error: BaseException) -> None:
    @app.task
    async def leaves() -> None:
        raise error

    done = asyncio.run(execute_async(leaves, Context(id="id", called_directly=False)))
    assert (done.state, done.value) == ("FAILURE", error)


@pytest.mark.parametrize("error", [Interrupted("the worker leaves"), GeneratorExit()], ids=repr)
def test_nobody_hears_of_an_end_that_is_not_the_tasks_own(app: App, error: BaseException) -> None:
    @app.task
    async def leaves() -> None:
        raise error

    async def main() -> BaseException | None:
        try:
            await execute_async(leaves, Context(id="id", called_directly=False))
        except BaseException as caught:
            return caught
        return None

    seen = Seen()
    seen.listen()
    try:
        assert asyncio.run(main()) is error
    finally:
        seen.close()
    assert [name for name, _ in seen.events] == ["task_prerun"]


def test_why_it_was_cancelled_is_what_it_ends_with(app: App) -> None:
    @app.task
    async def waits() -> None:
        await asyncio.sleep(60)

    async def main(reason: BaseException | None) -> Any:
        request = Context(id="id", called_directly=False)
        task = asyncio.ensure_future(execute_async(waits, request, lambda: reason))
        await asyncio.sleep(0)
        task.cancel()
        return (await task).value

    expected = ValueError("why")
    assert asyncio.run(main(expected)) is expected
    assert isinstance(asyncio.run(main(None)), TaskCancelledError)
    with pytest.raises(SystemExit):
        asyncio.run(main(SystemExit(1)))


@pytest.mark.parametrize("how", ["coroutine", "beside"])
def test_a_coroutine_task_that_another_one_awaits_has_a_request_of_its_own(app: App, how: str) -> None:
    seen: list[Any] = []

    @app.task(name="inner", bind=True)
    async def inner(self: Any, x: int) -> int:
        await asyncio.sleep(0)
        request = self.request
        seen.append((current_task.name, request.id, request.called_directly, request.args))
        return x

    @app.task(name="outer", bind=True)
    async def outer(self: Any) -> Any:
        first = await inner(1)
        both = await asyncio.gather(inner(2), inner(3))
        return [first, *both, current_task.name, self.request.id]

    request = Context(id="id", called_directly=False)
    done = execute(outer, request) if how == "coroutine" else asyncio.run(execute_async(outer, request))
    assert done.value == [1, 2, 3, "outer", "id"]
    assert sorted(seen, key=str) == [("inner", None, True, (x,)) for x in (1, 2, 3)]


def test_a_coroutine_that_is_left_behind_is_closed_from_anywhere(app: App) -> None:
    closed: list[bool] = []

    @app.task(name="waits")
    async def waits() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            closed.append(True)

    coroutine: Any = waits()

    async def begin() -> None:
        coroutine.send(None)

    asyncio.run(begin())
    coroutine.close()
    assert (closed, running.get()) == ([True], None)
