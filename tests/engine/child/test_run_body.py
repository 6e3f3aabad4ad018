"""The body of one execution: nothing it raises, and no late signal, gets past `run_body`."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import FrameType
from typing import Any

import pytest

from prefork.engine import states
from prefork.engine.app import App
from prefork.engine.child.driving import Driver
from prefork.engine.child.main import arm_soft_limit
from prefork.engine.child.trial import Interrupted, run_body
from prefork.engine.exceptions import SoftTimeLimitExceeded
from prefork.engine.execution import Executed
from prefork.engine.request import Context
from prefork.engine.scoreboard import C_BODY, C_RUNNING, S_SOFT_TARGET, Scoreboard, Slot
from support.one_child import OneChild

NUMBER = 7


@pytest.fixture
def slot() -> Slot:
    made = Scoreboard().slot(0)
    made.clear(1)
    return made


@pytest.fixture
def armed(slot: Slot) -> Iterator[Slot]:
    """A slot whose soft limit's signal is handled as in a child."""
    before = signal.getsignal(signal.SIGUSR1)
    arm_soft_limit(slot, Driver())
    yield slot
    signal.signal(signal.SIGUSR1, before)


def tried(app: App, slot: Slot, body: Callable[[], Any]) -> Executed:
    task = app.task(name="t")(body)
    return run_body(task, Context(id="id", args=(), called_directly=False), slot.words, NUMBER)


def limit(slot: Slot, number: int = NUMBER) -> None:
    """What the supervisor does when the soft limit of an execution is over."""
    slot.words[S_SOFT_TARGET] = number
    os.kill(os.getpid(), signal.SIGUSR1)


def test_what_a_task_returns_is_its_success(app: App, slot: Slot) -> None:
    done = tried(app, slot, lambda: 42)
    assert (done.state, done.value, slot.words[C_BODY]) == (states.SUCCESS, 42, 0)


@pytest.mark.parametrize(
    "raised",
    [
        ValueError("no"),
        SystemExit(3),
        KeyboardInterrupt(),
        GeneratorExit(),
        BaseException("base"),
        MemoryError(),
        RecursionError(),
        Interrupted("stopped"),
        SoftTimeLimitExceeded(),
    ],
    ids=repr,
)
def test_whatever_a_task_raises_is_its_failure(app: App, slot: Slot, raised: BaseException) -> None:
    def body() -> None:
        raise raised

    done = tried(app, slot, body)
    assert (done.state, slot.words[C_BODY]) == (states.FAILURE, 0)
    assert done.value is raised
    assert done.einfo is not None
    assert "in body" in done.einfo.traceback
    assert "in run_body" not in done.einfo.traceback


def test_the_number_is_on_the_scoreboard_while_the_body_runs_and_only_then(app: App, slot: Slot) -> None:
    assert tried(app, slot, lambda: slot.words[C_BODY]).value == NUMBER
    assert slot.words[C_BODY] == 0


def test_an_execution_is_running_on_the_scoreboard_from_before_its_body_until_after(
    app: App, child_of: Callable[..., OneChild]
) -> None:
    seen: list[tuple[int, int]] = []

    @app.task
    def look() -> None:
        seen.append((child.words[C_RUNNING], child.words[C_BODY]))

    child = child_of(app)
    look.delay()
    look.delay()
    assert child.run() == 0
    assert seen == [(1, 1), (2, 2)]
    assert (child.words[C_RUNNING], child.words[C_BODY]) == (0, 0)


def test_a_soft_limit_is_raised_inside_the_body(app: App, armed: Slot) -> None:
    def body() -> str:
        limit(armed)
        return "not reached"

    done = tried(app, armed, body)
    assert done.state == states.FAILURE
    assert isinstance(done.value, SoftTimeLimitExceeded)
    assert armed.words[C_BODY] == 0


def test_a_task_may_clean_up_after_its_soft_limit_and_succeed(app: App, armed: Slot) -> None:
    def body() -> str:
        try:
            limit(armed)
        except SoftTimeLimitExceeded:
            return "cleaned up"
        return "not reached"

    done = tried(app, armed, body)
    assert (done.state, done.value) == (states.SUCCESS, "cleaned up")


@pytest.mark.parametrize("number", [0, NUMBER - 1, NUMBER + 1])
def test_a_soft_limit_meant_for_another_execution_is_nothing(app: App, armed: Slot, number: int) -> None:
    def body() -> str:
        limit(armed, number)
        return "undisturbed"

    assert tried(app, armed, body).value == "undisturbed"


def test_a_soft_limit_that_comes_after_the_body_is_nothing(app: App, armed: Slot) -> None:
    done = tried(app, armed, lambda: 1)
    limit(armed)
    assert done.value == 1


class RaiseAt:
    """Raises the soft limit at one instruction of `run_body`, where the signal's handler would."""

    def __init__(self, words: memoryview, instruction: int) -> None:
        self._words = words
        self._left = instruction
        self.reached = False

    def __call__(self, frame: FrameType, event: str, argument: Any) -> Any:
        if frame.f_code is not run_body.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode" and not self.reached:
            self._left -= 1
            if self._left < 0:
                self.reached = True
                if self._words[C_BODY]:
                    raise SoftTimeLimitExceeded()
        return self


def ends_of(body: Callable[[], Any], app: App, slot: Slot) -> list[tuple[str, type]]:
    """How `run_body` ends, for the limit at its first instruction, at its second, and so on to its last."""
    task = app.task(name="t")(body)
    ends: list[tuple[str, type]] = []
    # Python 3.12 begins to report instructions only the next time that tracing is set.
    sys.settrace(RaiseAt(slot.words, 1_000_000))
    run_body(task, Context(id="id", args=(), called_directly=False), slot.words, NUMBER)
    for instruction in range(1000):
        at = RaiseAt(slot.words, instruction)
        sys.settrace(at)
        done = run_body(task, Context(id="id", args=(), called_directly=False), slot.words, NUMBER)
        sys.settrace(None)
        assert slot.words[C_BODY] == 0, f"instruction {instruction}"
        ends.append((done.state, type(done.value)))
        if not at.reached:
            break
    return ends


@pytest.mark.parametrize("leaves", [False, True])
def test_a_soft_limit_at_no_instruction_gets_past(app: App, slot: Slot, leaves: bool) -> None:
    def body() -> int:
        if leaves:
            raise GeneratorExit()  # almost all else is dealt with before it comes back to `run_body`
        return 1

    # A tracer may raise where no signal's handler can, in the middle of leaving an `except`; the interpreter
    # then goes on "handling" that exception for as long as the thread lives. So this thread ends here.
    with ThreadPoolExecutor(1) as thread:
        ends = thread.submit(ends_of, body, app, slot).result()
    undisturbed = (states.FAILURE, GeneratorExit) if leaves else (states.SUCCESS, int)
    assert ends[0] == ends[-1] == undisturbed
    assert set(ends) == {undisturbed, (states.FAILURE, SoftTimeLimitExceeded)}
