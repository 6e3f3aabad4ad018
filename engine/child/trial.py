"""Runs the body of one execution so that nothing it raises, and no late signal, gets past it."""

from __future__ import annotations

from typing import Any

from .. import states
from ..einfo import ExceptionInfo
from ..exceptions import SoftTimeLimitExceeded
from ..execution import Drive, Executed, Interrupted, Storable, execute
from ..request import Context
from ..scoreboard import C_BODY


def run_body(
    task: Any,
    request: Context,
    words: memoryview,
    number: int,
    drive: Drive | None = None,
    storable: Storable | None = None,
) -> Executed:
    """Run a task as execution `number`; whatever it raises becomes a FAILURE.

    `SystemExit`, `KeyboardInterrupt` and other `BaseException`s of a task are its failure, not the
    end of this process (faults.md 7, 8). The soft limit's signal may come between any two
    instructions up to the store of 0 into C_BODY; the outer `try` is for the few between the end
    of the inner one and that store.

    :param drive: see `execute`, also for `storable`.
    """
    try:
        try:
            words[C_BODY] = number
            executed = execute(task, request, drive, storable)
            words[C_BODY] = 0
        except BaseException as exc:
            words[C_BODY] = 0
            executed = Executed(states.FAILURE, exc, ExceptionInfo(exc, skip_frames=1))
    except (SoftTimeLimitExceeded, Interrupted) as exc:
        words[C_BODY] = 0
        executed = Executed(states.FAILURE, exc, ExceptionInfo(exc, skip_frames=1))
    return executed
