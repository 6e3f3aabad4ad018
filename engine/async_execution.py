"""Runs one task as a coroutine beside others on an event loop; what is around it is as in `execution`."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Generator
from types import CoroutineType
from typing import Any

from . import signals, states
from .clock import mono_s
from .coroutines import reason_of
from .execution import Executed, failed, tell_end, tell_success
from .local import running
from .request import Context


class Stepped:
    """Awaits a coroutine, and says so whenever it goes on.

    :param on_step: called before each step.
    """

    __slots__ = ("_coroutine", "_on_step")

    def __init__(self, coroutine: Coroutine[Any, Any, Any], on_step: Callable[[], None]) -> None:
        self._coroutine = coroutine
        self._on_step = on_step

    def __await__(self) -> Generator[Any, Any, Any]:
        coroutine, on_step = self._coroutine, self._on_step
        on_step()
        try:
            awaited = coroutine.send(None)
            while True:
                try:
                    sent = yield awaited
                except BaseException as error:  # noqa: BLE001 - whatever it is, it is the coroutine's
                    on_step()
                    awaited = coroutine.throw(error)
                else:
                    on_step()
                    awaited = coroutine.send(sent)
        except StopIteration as stop:
            return stop.value


async def execute_async(
    task: Any,
    request: Context,
    interrupted_by: Callable[[], BaseException | None] = lambda: None,
    on_step: Callable[[], None] | None = None,
) -> Executed:
    """Run a task with everything around it, as `execution.execute` does.

    :param interrupted_by: why the asyncio task that this runs in was cancelled, if it was. It becomes what
        the coroutine has ended with, unless it catches the cancellation.
    :param on_step: called whenever the coroutine goes on.
    :raises BaseException: what is no `Exception`, be it raised by the coroutine or why it was interrupted.
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
                task.before_start(request.id, args, kwargs)
            value = task(*args, **kwargs) if hooks and "__call__" in hooks else task.run(*args, **kwargs)
            if type(value) is CoroutineType:
                value = await (value if on_step is None else Stepped(value, on_step))
        except asyncio.CancelledError as cancelled:
            reason = reason_of(interrupted_by(), cancelled)
            if not isinstance(reason, Exception):
                raise reason from None
            done = failed(task, request, reason)
        except Exception as exc:  # noqa: BLE001 - whatever the task raises is its outcome
            done = failed(task, request, exc)
        else:
            done = Executed(states.SUCCESS, value, retry=request.retry_plan)
            if hooks or signals.task_success.receivers:
                tell_success(task, request, value, mono_s() - started_mono_s)
        if hooks or signals.task_postrun.receivers:
            tell_end(task, request, done)
        return done
    finally:
        running.reset(token)
        if request.reporter is not None:
            request.reporter.close(stays=done is not None and done.state == states.IGNORED)
