"""Runs one task as a coroutine beside others on an event loop; what is around it is as in `execution`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any, Protocol, TypeVar

from . import signals, states
from .clock import mono_s
from .coroutines import reason_of
from .exceptions import TimeLimitExceeded
from .execution import PASSING, Executed, Storable, Telling, failed, returned, tell_end
from .local import running
from .request import Context

T = TypeVar("T")


class Steps(Protocol):
    """Is told whenever a coroutine goes on, and when it waits or ends."""

    def begin(self) -> None:
        """It goes on."""

    def end(self) -> None:
        """It waits, or has ended."""


class Stepped:
    """Awaits a coroutine, and tells somebody of each of its steps."""

    __slots__ = ("_coroutine", "_steps")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], steps: Steps) -> None:
        self._coroutine = coroutine
        self._steps = steps

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, begin, end = self._coroutine, self._steps.begin, self._steps.end
        try:
            begin()
            awaited = coroutine.send(None)
            while True:
                end()
                try:
                    sent = yield awaited
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                    begin()
                    awaited = coroutine.throw(error)
                else:
                    begin()
                    awaited = coroutine.send(sent)
        except StopIteration as stop:
            end()
            return stop.value


async def execute_async(
    task: Any,
    request: Context,
    interrupted_by: Callable[[], BaseException | None] = lambda: None,
    steps: Steps | None = None,
    storable: Storable | None = None,
) -> Executed:
    """Run a task with everything around it, as `execution.execute` does.

    :param interrupted_by: why the asyncio task that this runs in was cancelled, if it was. It becomes what
        the coroutine has ended with, unless it catches the cancellation.
    :param steps: is told of the coroutine's steps.
    :param storable: as in `execution.execute`.
    :raises BaseException: why it was interrupted, if that is no `Exception`.
    """
    args = request.args = request.args if request.args is not None else ()
    kwargs = request.kwargs = request.kwargs if request.kwargs is not None else {}
    token = running.set((task, request, running.get()))
    done: Executed | None = None

    def told(telling: Telling[T]) -> Coroutine[Any, Any, T]:
        return _told(telling, interrupted_by, steps)

    try:
        if signals.task_prerun.receivers:
            signals.task_prerun.send(task, task_id=request.id, task=task, args=args, kwargs=kwargs)
        hooks = task.overridden_hooks
        started_mono_s = mono_s()
        try:
            if hooks and "before_start" in hooks:
                await _begun(task.before_start(request.id, args, kwargs), steps)
            value = task(*args, **kwargs) if hooks and "__call__" in hooks else task.run(*args, **kwargs)
            if type(value) is CoroutineType:
                value = await (value if steps is None else Stepped(value, steps))
        except PASSING:
            raise
        except BaseException as exc:  # noqa: BLE001 - whatever the task raises is its outcome
            done = await told(failed(task, request, _ended_with(exc, interrupted_by)))
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
            done = await told(returned(task, request, done, runtime_s, storable))
        if hooks or signals.task_postrun.receivers:
            await told(tell_end(task, request, done))
        return done
    finally:
        running.reset(token)
        if request.reporter is not None:
            request.reporter.close(stays=done is not None and done.state == states.IGNORED)


def _ended_with(error: BaseException, interrupted_by: Callable[[], BaseException | None]) -> BaseException:
    """What a task has raised, or why it was cancelled.

    :raises BaseException: that reason, if it is none of which anybody is told.
    """
    if not isinstance(error, asyncio.CancelledError):
        return error
    reason = reason_of(interrupted_by(), error)
    if not isinstance(reason, Exception):
        raise reason from None
    return reason


async def _begun(called: Any, steps: Steps | None) -> None:
    if type(called) is CoroutineType:
        await (called if steps is None else Stepped(called, steps))


async def _told(
    telling: Telling[T], interrupted_by: Callable[[], BaseException | None], steps: Steps | None
) -> T:
    """Go through with what calls hooks, and await those that are coroutines.

    :raises BaseException: what is no `Exception`; and the end of the hard limit, at which a process that runs
        one task is killed, whatever it returned.
    """
    try:
        coroutine = next(telling)
        while True:
            try:
                await (coroutine if steps is None else Stepped(coroutine, steps))
            except asyncio.CancelledError as cancelled:
                reason = reason_of(interrupted_by(), cancelled)
                if not isinstance(reason, Exception) or isinstance(reason, TimeLimitExceeded):
                    telling.close()
                    raise reason from None
                coroutine = telling.throw(reason)
            except Exception as error:  # noqa: BLE001 - it is reported as what a plain hook raises
                coroutine = telling.throw(error)
            else:
                coroutine = next(telling)
    except StopIteration as stop:
        value: T = stop.value
        return value
