"""The soft limit's signal may land between any two instructions of a task."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.child import trial
from prefork.engine.child.driving import Driver
from prefork.engine.child.main import arm_soft_limit, prefer_as_oom_victim
from prefork.engine.child.outcomes import ending_of
from prefork.engine.child.trial import Interrupted, run_body
from prefork.engine.exceptions import SoftTimeLimitExceeded
from prefork.engine.request import Context
from prefork.engine.scoreboard import C_BODY, S_SOFT_TARGET, Scoreboard, Slot
from prefork.engine.settle import Ending
from support.forked import in_child


@pytest.fixture
def slot() -> Iterator[Slot]:
    before = signal.getsignal(signal.SIGUSR1)
    made = Scoreboard().slot(0)
    made.clear(1)
    arm_soft_limit(made, Driver())
    yield made
    signal.signal(signal.SIGUSR1, before)


def request() -> Context:
    return Context({"id": "id-1", "task": "proj.work", "args": [], "kwargs": {}, "called_directly": False})


def instructions(task: Any, slot: Slot, *, signal_at: int) -> tuple[int, Any]:
    """Run a task and send the signal before one instruction of `run_body`; how many there were."""
    count = 0

    def trace(frame: FrameType, event: str, arg: Any) -> Any:
        nonlocal count
        if frame.f_code is not run_body.__code__:
            return None
        frame.f_trace_opcodes = True
        if event == "opcode":
            count += 1
            if count == signal_at:
                signal.raise_signal(signal.SIGUSR1)
        return trace

    sys.settrace(trace)
    try:
        executed = run_body(task, request(), slot.words, 7)
    finally:
        sys.settrace(None)
    return count, executed


@pytest.mark.parametrize("fails", [False, True])
def test_a_soft_limit_at_any_instruction_ends_this_task_and_nothing_else(
    app: App, slot: Slot, fails: bool
) -> None:
    @app.task(name="proj.work")
    def work():
        if fails:
            raise ValueError("as it was to be")
        return 1

    slot.words[S_SOFT_TARGET] = 7
    # Twice: Python 3.12 begins to report instructions only the next time that tracing is set.
    instructions(work, slot, signal_at=0)
    last, _ = instructions(work, slot, signal_at=0)
    assert last > 10
    endings = set()
    for number in range(1, last + 1):
        _, executed = instructions(work, slot, signal_at=number)
        assert slot.words[C_BODY] == 0, f"at instruction {number}"
        assert executed.state in ("SUCCESS", "FAILURE")
        endings.add(type(executed.value))
    assert SoftTimeLimitExceeded in endings
    assert endings <= {SoftTimeLimitExceeded, ValueError, int}


def test_a_soft_limit_that_is_meant_for_another_execution_is_ignored(app: App, slot: Slot) -> None:
    @app.task(name="proj.work")
    def work():
        signal.raise_signal(signal.SIGUSR1)
        return 1

    slot.words[S_SOFT_TARGET] = 6
    assert run_body(work, request(), slot.words, 7).value == 1
    signal.raise_signal(signal.SIGUSR1)
    slot.words[S_SOFT_TARGET] = 7
    executed = run_body(work, request(), slot.words, 7)
    assert ending_of(executed) is Ending.SOFT_LIMIT
    signal.raise_signal(signal.SIGUSR1)  # too late: the task is over


@pytest.mark.parametrize(
    "error", [SystemExit(3), KeyboardInterrupt(), GeneratorExit(), BaseException("bare")]
)
def test_whatever_a_task_raises_is_its_failure(app: App, slot: Slot, error: BaseException) -> None:
    @app.task(name="proj.work")
    def work():
        raise error

    executed = run_body(work, request(), slot.words, 7)
    assert (executed.state, executed.value) == ("FAILURE", error)
    assert ending_of(executed) is Ending.FAILURE
    assert slot.words[C_BODY] == 0


def test_a_task_that_is_interrupted_is_to_run_again(app: App, slot: Slot) -> None:
    @app.task(name="proj.work")
    def work():
        raise Interrupted("the worker leaves")

    assert ending_of(run_body(work, request(), slot.words, 7)) is Ending.SHUTDOWN
    assert trial.Interrupted is Interrupted


def test_a_child_is_preferred_by_the_out_of_memory_killer() -> None:
    def check() -> None:
        prefer_as_oom_victim()
        assert int(Path("/proc/self/oom_score_adj").read_text()) >= 300

    in_child(check)


def test_a_host_that_forbids_it_is_said_so(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    def refuse(*_: Any) -> Any:
        raise PermissionError(1, "not here")

    monkeypatch.setattr("builtins.open", refuse)
    prefer_as_oom_victim()
    monkeypatch.undo()
    assert "not here" in capsys.readouterr().err
    assert os.getpid() > 0
