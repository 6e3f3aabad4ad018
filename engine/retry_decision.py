"""What `Task.retry` and `Snooze` decide: whether the task runs again, when, and as what message."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any, NoReturn

from .clock import wall_s
from .exceptions import MaxSnoozesExceededError, Retry, Snooze
from .options import eta_wall_s, naive_zone
from .request import Context
from .retrying import (
    FIRST_STARTED_HEADER,
    SNOOZES_HEADER,
    RetryPlan,
    call_with,
    delays_of,
    exhausted,
    nth_delay_s,
    over_time,
)

if TYPE_CHECKING:
    from .task import Task


EAGER_ATTEMPTS_MAX = 1000
"""So often a task without a bound is run again where attempts do not wait: nothing changes in between."""


def decide_retry(
    task: Task[Any, Any],
    args: Iterable[Any] | None,
    kwargs: Mapping[str, Any] | None,
    *,
    exc: BaseException | None,
    eta: datetime | None,
    countdown: Any,
    max_retries: int | None,
    options: dict[str, Any],
) -> Retry:
    """The decision to run again, for `Task.retry`, whose parameters these are.

    :raises BaseException: `exc`, when no retry is left or the task was called as a function.
    :raises MaxRetriesExceededError: no retry is left and no `exc` was given; its cause is the exception
        that is being handled.
    :raises InvalidTaskError: a delay that is none.
    """
    request = task.request
    if request.called_directly:
        _raise(exc if exc is not None else Retry("Task can be retried", None))
    now_wall_s = _now_wall_s(request)
    due_wall_s, when = _due(task, request, eta, countdown, now_wall_s)
    limit = retry_limit(task) if max_retries is None else max_retries
    if limit is None and request.is_eager:
        limit = EAGER_ATTEMPTS_MAX
    spent = None
    if exhausted(request.retries, limit):
        spent = f"all {limit} retries are used up"
    elif over_time(request.first_started(now_wall_s), due_wall_s, task.retry_for_s):
        spent = f"the next attempt would begin more than {task.retry_for_s:g} s after the first one"
    if spent is not None:
        _raise(
            exc if exc is not None else _exceeded(task.MaxRetriesExceededError, task, request, spent, "retry")
        )
    if task.retry_for_s is not None:
        first = {FIRST_STARTED_HEADER: request.first_started(now_wall_s)}
        options = {**options, "headers": {**(options.get("headers") or {}), **first}}
    new_args, new_kwargs = call_with(
        task.run,
        request.args or (),
        request.kwargs or {},
        None if args is None else tuple(args),
        kwargs,
    )
    if task.models is not None:
        plain_args, plain_kwargs = task.models.sendable(new_args or (), new_kwargs or {})
        new_args = None if new_args is None else plain_args
        new_kwargs = None if new_kwargs is None else plain_kwargs
    plan = RetryPlan(request.retries + 1, due_wall_s, new_args, new_kwargs, options)
    reason = exc if exc is not None else sys.exc_info()[1]
    return Retry(exc=reason, when=when, is_eager=request.is_eager, plan=plan)


def retry_limit(task: Any) -> int | None:
    """How often a task may be retried. With `retry_for_s` only a number that the task names itself counts."""
    if task.retry_for_s is None or task.names_max_retries:
        limit: int | None = task.max_retries
        return limit
    return None


def _now_wall_s(request: Context) -> float:
    """The time. Eager attempts do not wait for one another: theirs begin when they would have."""
    now = wall_s()
    return max(now, request.started_wall_s or now) if request.is_eager else now


def _due(
    task: Any, request: Context, eta: datetime | None, countdown: Any, now_wall_s: float
) -> tuple[float, Any]:
    """When the next attempt is due, and the same for people."""
    if eta is not None:
        due = eta_wall_s(eta, None, now_wall_s, naive_zone(task.app.config))
        assert due is not None
        return due, eta
    if countdown is not None:
        delays = delays_of("countdown", countdown)
    elif task.retry_delays is not None:
        delays = delays_of("retry_delays", task.retry_delays)
    else:  # None is at once, as for Celery
        delays = delays_of("default_retry_delay", task.default_retry_delay or 0)
    delay_s = nth_delay_s(delays, request.retries)
    return now_wall_s + delay_s, int(delay_s) if delay_s.is_integer() else delay_s


def decide_snooze(task: Any, request: Context, snooze: Snooze) -> RetryPlan:
    """The same attempt again, later.

    :raises MaxSnoozesExceededError: it has been put off `max_snoozes` times.
    """
    done = request.snoozes
    bound = EAGER_ATTEMPTS_MAX if task.max_snoozes is None and request.is_eager else task.max_snoozes
    if bound is not None and done >= bound:
        raise _exceeded(
            MaxSnoozesExceededError, task, request, f"put off {done} times already", "snooze"
        ) from snooze
    headers: dict[str, Any] = {SNOOZES_HEADER: done + 1}
    now_wall_s = _now_wall_s(request)
    if task.retry_for_s is not None:
        headers[FIRST_STARTED_HEADER] = request.first_started(now_wall_s)
    return RetryPlan(request.retries, now_wall_s + snooze.delay_s, options={"headers": headers})


def _exceeded(kind: Any, task: Any, request: Context, why: str, what: str) -> Exception:
    error: Exception = kind(
        f"can't {what} {task.name}[{request.id}]: {why}",
        task_args=request.args,
        task_kwargs=request.kwargs,
    )
    return error


def _raise(exc: BaseException) -> NoReturn:
    """Raise it, caused by what is being handled, as far as that is something else."""
    handled = sys.exc_info()[1]
    if handled is None or handled is exc:
        raise exc
    raise exc from handled
