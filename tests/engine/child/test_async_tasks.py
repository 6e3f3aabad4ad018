"""`async def` tasks in a child that runs one task at a time: one event loop, limits as cancellation."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.engine import current_task, signals, states
from prefork.engine.app import App
from prefork.engine.child.driving import Driver
from prefork.engine.child.main import arm_soft_limit
from prefork.engine.child.trial import run_body
from prefork.engine.exceptions import (
    Ignore,
    Reject,
    SoftTimeLimitExceeded,
    TaskCancelledError,
)
from prefork.engine.execution import Executed
from prefork.engine.request import Context
from prefork.engine.scoreboard import C_BODY, S_SOFT_TARGET, Scoreboard, Slot
from support.one_child import OneChild

NUMBER = 7


@pytest.fixture
def slot() -> Slot:
    made = Scoreboard().slot(0)
    made.clear(1)
    return made


@pytest.fixture
def driver(slot: Slot) -> Iterator[Driver]:
    """A child's event loop, and the soft limit's signal armed for it."""
    made = Driver()
    before = signal.getsignal(signal.SIGUSR1)
    arm_soft_limit(slot, made)
    yield made
    signal.signal(signal.SIGUSR1, before)
    made.close()


class Limiter:
    """Does what the supervisor does when a soft limit is over, every so often until it is told to stop."""

    def __init__(self, slot: Slot, after_s: float, repeat_s: float = 0.1) -> None:
        slot.words[S_SOFT_TARGET] = NUMBER
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(after_s, repeat_s), daemon=True)

    def _run(self, wait_s: float, repeat_s: float) -> None:
        while not self._over.wait(wait_s):
            os.kill(os.getpid(), signal.SIGUSR1)
            wait_s = repeat_s

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


def tried(app: App, slot: Slot, driver: Driver, body: Callable[[], Any]) -> Executed:
    task = app.task(name=f"t-{body.__qualname__}")(body)
    return run_body(task, Context(id="id", args=(), called_directly=False), slot.words, NUMBER, driver)


def test_what_a_coroutine_returns_is_the_tasks_success(app: App, slot: Slot, driver: Driver) -> None:
    async def body() -> int:
        await asyncio.sleep(0)
        return 42

    done = tried(app, slot, driver, body)
    assert (done.state, done.value, slot.words[C_BODY]) == (states.SUCCESS, 42, 0)


def test_a_plain_function_that_returns_a_coroutine_is_one_too(app: App, slot: Slot, driver: Driver) -> None:
    async def inner() -> str:
        return "awaited"

    assert tried(app, slot, driver, lambda: inner()).value == "awaited"


@pytest.mark.parametrize("error", [ValueError("no"), SystemExit(3), KeyboardInterrupt()], ids=repr)
def test_what_a_coroutine_raises_is_its_failure_and_the_loop_serves_the_next(
    app: App, slot: Slot, driver: Driver, error: BaseException
) -> None:
    async def body() -> None:
        await asyncio.sleep(0)
        raise error

    async def after() -> str:
        await asyncio.sleep(0.001)
        return "fine"

    done = tried(app, slot, driver, body)
    assert (done.state, done.value) == (states.FAILURE, error)
    assert done.einfo is not None
    assert "in body" in done.einfo.traceback
    assert tried(app, slot, driver, after).value == "fine"


def test_tasks_share_one_loop_on_which_what_they_began_goes_on(app: App, slot: Slot, driver: Driver) -> None:
    loops: list[asyncio.AbstractEventLoop] = []
    kept: list[asyncio.Task[str]] = []

    async def background() -> str:
        await asyncio.sleep(0.01)
        return "done in the next task"

    async def first() -> None:
        loops.append(asyncio.get_running_loop())
        kept.append(asyncio.create_task(background()))

    async def second() -> str:
        loops.append(asyncio.get_running_loop())
        return await kept[0]

    tried(app, slot, driver, first)
    assert tried(app, slot, driver, second).value == "done in the next task"
    assert loops[0] is loops[1]


def test_what_is_left_in_the_background_is_cancelled_when_the_child_leaves(app: App, slot: Slot) -> None:
    driver = Driver()
    ended: list[str] = []

    async def background() -> None:
        try:
            await asyncio.sleep(60)
        finally:
            ended.append("cleaned up")

    async def generator() -> Any:
        try:
            yield 1
        finally:
            ended.append("generator closed")

    generators: list[Any] = []

    async def body() -> None:
        generators.append(generator())
        await generators[0].__anext__()
        asyncio.create_task(background())
        await asyncio.sleep(0)

    tried(app, slot, driver, body)
    driver.close()
    assert ended == ["cleaned up", "generator closed"]


def test_a_soft_limit_cancels_what_waits_and_is_what_the_task_ends_with(
    app: App, slot: Slot, driver: Driver
) -> None:
    seen: list[type] = []

    async def body() -> None:
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError as error:
            seen.append(type(error))
            raise

    with Limiter(slot, 0.05):
        done = tried(app, slot, driver, body)
    assert (done.state, type(done.value), seen) == (
        states.FAILURE,
        SoftTimeLimitExceeded,
        [asyncio.CancelledError],
    )
    assert done.einfo is not None
    assert "in body" in done.einfo.traceback


def test_a_coroutine_may_clean_up_after_its_soft_limit_and_succeed(
    app: App, slot: Slot, driver: Driver
) -> None:
    async def body() -> str:
        try:
            await asyncio.gather(asyncio.sleep(60), asyncio.sleep(61))
        except asyncio.CancelledError:
            return "cleaned up"
        return "not reached"

    with Limiter(slot, 0.05):
        done = tried(app, slot, driver, body)
    assert (done.state, done.value) == (states.SUCCESS, "cleaned up")


def test_a_soft_limit_is_said_again_to_a_coroutine_that_does_not_listen(
    app: App, slot: Slot, driver: Driver
) -> None:
    said: list[int] = []

    async def body() -> None:
        while len(said) < 3:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                said.append(1)
        await asyncio.sleep(60)

    with Limiter(slot, 0.05, 0.05):
        done = tried(app, slot, driver, body)
    assert isinstance(done.value, SoftTimeLimitExceeded)
    assert len(said) == 3


def test_a_soft_limit_interrupts_a_coroutine_that_blocks_its_loop(
    app: App, slot: Slot, driver: Driver
) -> None:
    async def body() -> None:
        time.sleep(60)

    with Limiter(slot, 0.05):
        done = tried(app, slot, driver, body)
    assert isinstance(done.value, SoftTimeLimitExceeded)
    assert done.einfo is not None
    assert "time.sleep(60)" in done.einfo.traceback


def test_a_soft_limit_interrupts_a_blocking_task_that_the_coroutine_waits_for(
    app: App, slot: Slot, driver: Driver
) -> None:
    async def blocks() -> None:
        time.sleep(60)

    async def body() -> None:
        await asyncio.gather(blocks(), asyncio.sleep(60))

    with Limiter(slot, 0.05, 0.05):
        done = tried(app, slot, driver, body)
    assert isinstance(done.value, SoftTimeLimitExceeded)


def test_a_soft_limit_for_another_execution_is_nothing(app: App, slot: Slot, driver: Driver) -> None:
    async def body() -> str:
        slot.words[S_SOFT_TARGET] = NUMBER + 1
        os.kill(os.getpid(), signal.SIGUSR1)
        await asyncio.sleep(0.01)
        return "undisturbed"

    assert tried(app, slot, driver, body).value == "undisturbed"


def test_a_coroutine_that_cancels_itself_fails_with_an_error_that_says_so(
    app: App, slot: Slot, driver: Driver
) -> None:
    failures: list[BaseException] = []

    def on_failure(exception: BaseException, **_: Any) -> None:
        failures.append(exception)

    signals.task_failure.connect(on_failure, weak=False)

    async def body() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(1)

    try:
        done = tried(app, slot, driver, body)
    finally:
        signals.task_failure.disconnect(on_failure)
    assert isinstance(done.value, TaskCancelledError)
    assert failures == [done.value]


@pytest.mark.parametrize("where", ["create_task", "run_until_complete"])
def test_a_soft_limit_in_the_loops_own_code_leaves_the_loop_in_order(
    app: App, slot: Slot, driver: Driver, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    async def body() -> str:
        await asyncio.sleep(0)
        return "ended"

    tried(app, slot, driver, body)
    original = getattr(asyncio.BaseEventLoop, where)

    def limited(self: Any, what: Any) -> Any:
        monkeypatch.undo()
        before = where == "create_task"
        value = None if before else original(self, what)
        slot.words[S_SOFT_TARGET] = NUMBER
        os.kill(os.getpid(), signal.SIGUSR1)
        return original(self, what) if before else value

    monkeypatch.setattr(asyncio.BaseEventLoop, where, limited)
    done = tried(app, slot, driver, body)
    if where == "create_task":
        assert isinstance(done.value, SoftTimeLimitExceeded)
    else:
        assert done.value == "ended"
    assert tried(app, slot, driver, body).value == "ended"


def test_there_is_nothing_to_interrupt_between_coroutines(app: App, slot: Slot, driver: Driver) -> None:
    async def body() -> None:
        return None

    assert driver.interrupt(SoftTimeLimitExceeded()) is False
    tried(app, slot, driver, body)
    assert driver.interrupt(SoftTimeLimitExceeded()) is False


def test_the_pipeline_of_a_child_treats_both_sorts_alike(app: App, child_of: Callable[..., OneChild]) -> None:
    seen: list[Any] = []

    @app.task(bind=True, max_retries=2, default_retry_delay=0)
    async def flaky(self: Any, x: int) -> Any:
        await asyncio.sleep(0)
        seen.append((self.request.id, current_task.request.id, self.request.retries))
        if self.request.retries < 2:
            raise self.retry(args=(x + 1,), countdown=0)
        return x

    @app.task
    async def ignored() -> None:
        raise Ignore

    @app.task
    async def rejected() -> None:
        raise Reject("no", requeue=False)

    @app.task
    def plain() -> str:
        return "plain"

    results = [flaky.delay(1), plain.delay()]
    ignored.delay()
    rejected.delay()
    child = child_of(app)
    assert child.run() == 0
    child.parts.driver.close()
    assert [result.get(timeout=5) for result in results] == [3, "plain"]
    assert seen == [(results[0].id, results[0].id, attempt) for attempt in range(3)]
    assert [letter.reason for letter in child.storage.transport.dead_letters()] == ["reject"]


class TestEagerly:
    """What runs in the process that calls: a direct call, `apply`, and `task_always_eager`."""

    def test_a_direct_call_gives_the_coroutine_as_python_does(self, app: App) -> None:
        @app.task
        async def double(x: int) -> int:
            return 2 * x

        assert asyncio.run(double(2)) == 4

    def test_apply_runs_it_to_its_end(self, app: App) -> None:
        @app.task(bind=True)
        async def who(self: Any) -> Any:
            await asyncio.sleep(0)
            return self.request.id, self.request.is_eager

        done = who.apply(task_id="mine")
        assert done.get() == ("mine", True)

    def test_apply_inside_a_running_loop_runs_it_beside(self, app: App) -> None:
        @app.task(bind=True)
        async def who(self: Any) -> Any:
            await asyncio.sleep(0)
            return self.request.id

        @app.task
        async def bad() -> None:
            raise ValueError("bad")

        async def caller() -> Any:
            return who.apply(task_id="mine").get(), bad.apply().result

        value, error = asyncio.run(caller())
        assert value == "mine"
        assert isinstance(error, ValueError)

    def test_always_eager_sends_it_nowhere(self, app: App) -> None:
        app.conf.task_always_eager = True

        @app.task
        async def double(x: int) -> int:
            await asyncio.sleep(0)
            return 2 * x

        assert double.delay(4).get() == 8
