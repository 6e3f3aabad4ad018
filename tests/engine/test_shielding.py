"""`shield()`: nothing is raised within it, nothing is lost, and what waits comes at its end."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.engine import shield
from prefork.engine.app import App
from prefork.engine.child.driving import Driver
from prefork.engine.child.main import arm_soft_limit
from prefork.engine.child.trial import run_body
from prefork.engine.exceptions import SoftTimeLimitExceeded
from prefork.engine.execution import Executed
from prefork.engine.request import Context
from prefork.engine.scoreboard import S_SOFT_TARGET, Scoreboard, Slot
from prefork.engine.shielding import held_off, shielded
from support.apps import memory_app


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        yield made


@pytest.fixture
def slot() -> Iterator[Slot]:
    before = signal.getsignal(signal.SIGUSR1)
    slot = Scoreboard().slot(0)
    yield slot
    signal.signal(signal.SIGUSR1, before)


class Told:
    """What the slot was told."""

    def __init__(self) -> None:
        self.heard: list[bool] = []

    def __call__(self, begins: bool) -> None:
        self.heard.append(begins)


def run(app: App, slot: Slot, body: Callable[..., Any], told: Told | None = None) -> Executed:
    """Run a function as the body of a task, execution 1, which the soft limit is meant for."""
    driver = Driver()
    arm_soft_limit(slot, driver)
    slot.words[S_SOFT_TARGET] = 1
    task = app.task(body, name="body")
    try:
        return run_body(task, Context(id="id", on_shield=told, args=[], kwargs={}), slot.words, 1, driver)
    finally:
        driver.close()


def limit() -> None:
    """The soft limit comes."""
    signal.raise_signal(signal.SIGUSR1)


def test_outside_of_a_task_a_shield_does_nothing() -> None:
    with shield():
        assert not held_off(SoftTimeLimitExceeded())


def test_what_comes_within_is_raised_at_the_end(app: App, slot: Slot) -> None:
    steps = []

    def body() -> None:
        with shield():
            limit()
            steps.append("within")
        steps.append("after")

    executed = run(app, slot, body)
    assert steps == ["within"]
    assert isinstance(executed.value, SoftTimeLimitExceeded)


def test_it_waits_for_the_outermost(app: App, slot: Slot) -> None:
    steps, told = [], Told()

    def body() -> None:
        with shield():
            with shield():
                limit()
            steps.append("inner over")
        steps.append("outer over")

    executed = run(app, slot, body, told)
    assert steps == ["inner over"]
    assert isinstance(executed.value, SoftTimeLimitExceeded)
    assert told.heard == [True, False]


def test_a_task_that_is_called_within_a_shield_is_in_it_as_well(app: App, slot: Slot) -> None:
    steps, told = [], Told()

    @app.task
    def inner() -> None:
        limit()
        steps.append("inner")
        with shield():
            limit()
        steps.append("inner over")

    def body() -> None:
        with shield():
            inner.apply(throw=True)
            steps.append("outer")

    executed = run(app, slot, body, told)
    assert steps == ["inner", "inner over", "outer"]
    assert isinstance(executed.value, SoftTimeLimitExceeded)
    assert told.heard[0] is True
    assert told.heard[-1] is False


def test_what_came_once_is_raised_once(app: App, slot: Slot) -> None:
    raised = []

    def body() -> str:
        for _ in range(3):
            try:
                with shield():
                    if not raised:
                        limit()
            except SoftTimeLimitExceeded as error:
                raised.append(error)
        return "done"

    assert run(app, slot, body).value == "done"
    assert len(raised) == 1


def test_an_error_within_is_kept_as_the_context_of_what_waited(app: App, slot: Slot) -> None:
    def body() -> None:
        with shield():
            limit()
            raise KeyError("within")

    error = run(app, slot, body).value
    assert isinstance(error, SoftTimeLimitExceeded)
    assert isinstance(error.__context__, KeyError)


def test_an_error_within_passes_when_nothing_waits(app: App, slot: Slot) -> None:
    def body() -> None:
        with shield():
            raise KeyError("within")

    assert isinstance(run(app, slot, body).value, KeyError)


def test_a_shield_in_another_thread_of_its_own_context_leaves_the_task_as_it_is(app: App, slot: Slot) -> None:
    inside, leave = threading.Event(), threading.Event()

    def elsewhere() -> None:
        with shield():
            inside.set()
            leave.wait(10)

    def body() -> None:
        thread = threading.Thread(target=elsewhere)
        thread.start()
        inside.wait(10)
        try:
            limit()
        finally:
            leave.set()
            thread.join()

    assert isinstance(run(app, slot, body).value, SoftTimeLimitExceeded)


def test_a_coroutine_that_awaits_in_a_shield_is_not_cancelled(app: App, slot: Slot) -> None:
    steps = []

    async def body() -> None:
        asyncio.get_running_loop().call_later(0.01, limit)
        with shield():
            await asyncio.sleep(0.05)
            steps.append("within")
        steps.append("after")

    executed = run(app, slot, body)
    assert steps == ["within"]
    assert isinstance(executed.value, SoftTimeLimitExceeded)


def test_an_execution_tells_whether_it_is_shielded(app: App, slot: Slot) -> None:
    seen = []

    def body(self: Any) -> None:
        seen.append(shielded(self.request))
        with shield():
            seen.append(shielded(self.request))
        seen.append(shielded(self.request))

    driver = Driver()
    run_body(app.task(body, name="b", bind=True), Context(id="id", args=[], kwargs={}), slot.words, 1, driver)
    assert seen == [False, True, False]


def test_no_limit_tears_what_is_shielded_and_none_is_lost(app: App, slot: Slot) -> None:
    """Signals at random moments, at the edges of shields above all."""
    stop = threading.Event()
    caught = books = torn = 0

    def storm() -> None:
        while not stop.is_set():
            os.kill(os.getpid(), signal.SIGUSR1)
            time.sleep(0.0002)

    def body() -> None:
        nonlocal caught, books, torn
        end_s = time.monotonic() + 1.5
        while time.monotonic() < end_s:
            try:
                left = right = 0
                try:
                    with shield():
                        left += 1
                        for _ in range(20):
                            pass
                        right += 1
                        books += 1
                finally:
                    torn += left != right
            except SoftTimeLimitExceeded:
                caught += 1

    thread = threading.Thread(target=storm)
    arm_soft_limit(slot, Driver())
    # What is raised while the collector finalizes what earlier tests left is printed, and ends there.
    gc.collect()
    gc.disable()
    thread.start()
    try:
        while True:
            executed = run(app, slot, body)
            if executed.value is None or not isinstance(executed.value, SoftTimeLimitExceeded):
                break
            if caught > 100:
                break
    finally:
        stop.set()
        thread.join()
        gc.enable()
    assert torn == 0
    assert caught > 20
    assert books > 20
