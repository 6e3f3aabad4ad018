"""Runs one task, from its request to its outcome; used by worker children and in process alike.

Nothing here stores, sends or acknowledges: `Executed` says what happened, and the caller acts.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Coroutine, Generator
from importlib import import_module
from types import CoroutineType
from typing import Any, Final, TypeVar

from . import signals, states
from .clock import mono_s
from .einfo import ExceptionInfo
from .exceptions import Ignore, MaxSnoozesExceededError, Reject, Retry, Snooze, TaskPredicate
from .local import running
from .request import Context
from .retry_decision import decide_snooze
from .retrying import RetryPlan, backoff_s, wants_autoretry

_logger = logging.getLogger("celery.app.trace")

Drive = Callable[[Coroutine[Any, Any, Any]], Any]
"""Runs the coroutine of an ``async def`` task to its end and returns what it returned."""

Storable = Callable[[Context, "Executed"], "Executed"]
"""Whether what a task returned can be stored, if it is to be: its success, or what has failed it instead."""

T = TypeVar("T")

Telling = Generator[Coroutine[Any, Any, Any], None, T]
"""Calls hooks and sends signals, and yields the coroutines of hooks that are to be awaited, one by one."""


_UNTOLD = frozenset({states.IGNORED, states.REJECTED, states.RETRY, states.SNOOZED})
"""What `after_return` is not called for: the task has not ended, or nothing was returned."""


class Interrupted(BaseException):
    """Ends the running task because the worker leaves at once; its message is given back."""


# Of what is no `Exception`, what is no end that a task came to: nobody is told. A coroutine that is closed
# could not await a hook either.
PASSING: Final = (Interrupted, GeneratorExit)


class Executed:
    """What came of one execution.

    :ivar state: SUCCESS, FAILURE, RETRY, IGNORED, REJECTED or SNOOZED.
    :ivar value: the return value; for FAILURE the exception; for RETRY what went wrong (or `Retry`).
    :ivar einfo: the traceback of a FAILURE or RETRY.
    :ivar retry: the plan of the next attempt, if the task is to run again.
    :ivar requeue: for REJECTED: back to the queue (True) or dead letter.
    """

    __slots__ = ("einfo", "requeue", "retry", "state", "value")

    def __init__(
        self,
        state: str,
        value: Any,
        einfo: ExceptionInfo | None = None,
        retry: RetryPlan | None = None,
        requeue: bool = False,
    ) -> None:
        self.state = state
        self.value = value
        self.einfo = einfo
        self.retry = retry
        self.requeue = requeue


def execute(
    task: Any, request: Context, drive: Drive | None = None, storable: Storable | None = None
) -> Executed:
    """Run a task with everything around it: request, hooks, signals, automatic retries.

    `request.args` and `request.kwargs` are what it is called with. What it raises is its outcome, be it
    `SystemExit`. What runs beside others on one event loop has the same around it in `async_execution`.

    :param drive: runs the coroutine of an ``async def`` task; None runs it on a loop of its own.
    :param storable: asked of a success before anybody is told of it, and only if anybody is.
    :raises Interrupted: it was ended from outside.
    """
    args = request.args = request.args if request.args is not None else ()
    kwargs = request.kwargs = request.kwargs if request.kwargs is not None else {}
    token = running.set((task, request, running.get()))
    done: Executed | None = None
    try:
        if signals.task_prerun.receivers:
            signals.task_prerun.send(task, task_id=request.id, task=task, args=args, kwargs=kwargs)
        hooks = task.overridden_hooks
        started_mono_s = mono_s()
        try:
            if hooks and "before_start" in hooks:
                begun = task.before_start(request.id, args, kwargs)
                if type(begun) is CoroutineType:
                    _run(begun, drive)
            if hooks and "__call__" in hooks:
                value = task(*args, **kwargs)
            else:
                value = task.run(*args, **kwargs)
            if type(value) is CoroutineType:
                value = _run(value, drive)
        except PASSING:
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever the task raises is its outcome
            done = _told(failed(task, request, exc), drive)
        else:
            done = Executed(states.SUCCESS, value, retry=request.retry_plan)
            if not (
                hooks
                or signals.task_success.receivers
                or signals.task_failure.receivers
                or signals.task_postrun.receivers
            ):
                return done
            runtime_s = mono_s() - started_mono_s
            done = _told(returned(task, request, done, runtime_s, storable), drive)
        if hooks or signals.task_postrun.receivers:
            _told(tell_end(task, request, done), drive)
        return done
    finally:
        running.reset(token)
        if request.reporter is not None:
            request.reporter.close(stays=done is not None and done.state == states.IGNORED)


def _run(coroutine: Coroutine[Any, Any, Any], drive: Drive | None) -> Any:
    return drive_here(coroutine) if drive is None else drive(coroutine)


def _told(telling: Telling[T], drive: Drive | None) -> T:
    """Go through with it, and run each coroutine to its end."""
    try:
        coroutine = next(telling)
        while True:
            try:
                _run(coroutine, drive)
            except Exception as error:  # noqa: BLE001 - it is reported as what a plain hook raises
                coroutine = telling.throw(error)
            else:
                coroutine = next(telling)
    except StopIteration as stop:
        value: T = stop.value
        return value


def drive_here(coroutine: Coroutine[Any, Any, Any]) -> Any:
    """Run a coroutine on an event loop of its own, in a thread of its own if a loop runs in this one."""
    # Event loops are a tenth of a second's import, which a client without them need not pay.
    return import_module(".coroutines", __package__).run_here(coroutine)


def returned(
    task: Any, request: Context, done: Executed, runtime_s: float, storable: Storable | None
) -> Telling[Executed]:
    """What came of a task that returned, with the hooks and signals that go with it.

    :param done: its success.
    :param storable: see `execute`.
    """
    if storable is not None:
        done = storable(request, done)
    if done.state == states.SUCCESS:
        yield from _tell_success(task, request, done.value, runtime_s)
    else:
        yield from _tell_failure(task, request, done)
    return done


def _tell_success(task: Any, request: Context, value: Any, runtime_s: float) -> Telling[None]:
    """Send `task_success` and call `on_success`."""
    if signals.task_success.receivers:
        signals.task_success.send(task, result=value, runtime=runtime_s)
    if "on_success" in task.overridden_hooks:
        yield from _hook(task, request, task.on_success, value, request.id, request.args, request.kwargs)


def tell_end(task: Any, request: Context, done: Executed) -> Telling[None]:
    """Call `after_return` and send `task_postrun`."""
    args, kwargs = request.args, request.kwargs
    if "after_return" in task.overridden_hooks and done.state not in _UNTOLD:
        values = (done.state, done.value, request.id, args, kwargs, done.einfo)
        yield from _hook(task, request, task.after_return, *values)
    if signals.task_postrun.receivers:
        told = done.value
        if done.state == states.RETRY and done.einfo is not None:
            told = done.einfo.exception  # the `Retry`, as in `task_retry`, and not what went wrong
        signals.task_postrun.send(
            task,
            task_id=request.id,
            task=task,
            args=args,
            kwargs=kwargs,
            retval=told,
            state=done.state,
        )


def _hook(task: Any, request: Context, hook: Any, *values: Any) -> Telling[None]:
    """Call a hook of the user's; what it raises is reported and does not change the outcome."""
    try:
        called = hook(*values)
        if type(called) is CoroutineType:
            yield called
    except (Exception, SystemExit) as exc:
        _logger.exception("hook %s of task %s[%s] raised", hook.__name__, task.name, request.id)
        report_internal_error(task, request, exc)


def report_internal_error(task: Any, request: Context, exc: BaseException) -> None:
    """Send `task_internal_error`."""
    if signals.task_internal_error.receivers:
        einfo = ExceptionInfo(exc)
        signals.task_internal_error.send(
            task,
            task_id=request.id,
            args=request.args,
            kwargs=request.kwargs,
            request=request,
            exception=exc,
            traceback=exc.__traceback__,
            einfo=einfo,
        )


def autoretry(task: Any, request: Context, exc: BaseException) -> BaseException:
    """What an exception becomes once the task's `autoretry_for` was considered: often itself.

    :returns: a `Retry` with its plan, or the exception that ends the task.
    """
    if isinstance(exc, TaskPredicate) or not wants_autoretry(
        exc, tuple(task.autoretry_for), tuple(task.dont_autoretry_for)
    ):
        return exc
    options = dict(task.retry_kwargs)
    if task.retry_backoff:
        options["countdown"] = backoff_s(
            float(task.retry_backoff),
            request.retries,
            task.retry_backoff_max,
            jitter=task.retry_jitter,
            uniform=random.uniform,
        )
    if hasattr(task, "override_max_retries"):
        options["max_retries"] = task.override_max_retries
    try:
        task.retry(exc=exc, **options)
    except Exception as decided:  # noqa: BLE001 - `retry` answers by raising
        return decided
    except BaseException as decided:
        if decided is not exc:
            raise
    return exc


def failed(task: Any, request: Context, exc: BaseException) -> Telling[Executed]:
    """What an exception of the task makes of its execution, with the hooks and signals that go with it."""
    if task.autoretry_for:
        exc = autoretry(task, request, exc)
    if isinstance(exc, Retry):
        return (yield from _retried(task, request, exc))
    if isinstance(exc, Snooze):
        try:
            return Executed(states.SNOOZED, exc, retry=decide_snooze(task, request, exc))
        except MaxSnoozesExceededError as too_often:
            exc = too_often
    if isinstance(exc, Ignore):
        return Executed(states.IGNORED, exc)
    if isinstance(exc, Reject):
        return Executed(states.REJECTED, exc, requeue=exc.requeue)
    # The first frame is this module's; the reader wants to see the task's.
    done = Executed(states.FAILURE, exc, ExceptionInfo(exc, skip_frames=1))
    yield from _tell_failure(task, request, done)
    return done


def _tell_failure(task: Any, request: Context, done: Executed) -> Telling[None]:
    """Call `on_failure` and send `task_failure`."""
    if "on_failure" in task.overridden_hooks:
        values = (done.value, request.id, request.args, request.kwargs, done.einfo)
        yield from _hook(task, request, task.on_failure, *values)
    send_failure(task, request, done.value, done.einfo)


def send_failure(task: Any, request: Context, error: BaseException, einfo: ExceptionInfo | None) -> None:
    """Send `task_failure`.

    :param task: None if none of that name is registered here.
    """
    if signals.task_failure.receivers:
        signals.task_failure.send(
            task,
            task_id=request.id,
            exception=error,
            args=request.args,
            kwargs=request.kwargs,
            traceback=None if einfo is None else einfo.tb,
            einfo=einfo,
        )


def _retried(task: Any, request: Context, exc: Retry) -> Telling[Executed]:
    reason: BaseException = exc.exc if exc.exc is not None else exc
    einfo = ExceptionInfo(exc, skip_frames=1)
    if "on_retry" in task.overridden_hooks:
        yield from _hook(
            task, request, task.on_retry, reason, request.id, request.args, request.kwargs, einfo
        )
    if signals.task_retry.receivers:
        signals.task_retry.send(task, request=request, reason=exc, einfo=einfo)
    return Executed(states.RETRY, reason, einfo, retry=exc.plan)
