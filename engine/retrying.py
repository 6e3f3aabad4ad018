"""When and whether a task is retried: pure decisions; whoever runs the task obeys them."""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta, timezone, tzinfo
from typing import Any

from .exceptions import InvalidTaskError

FIRST_STARTED_HEADER = "prefork_first_started"
"""When the first attempt of a task with `retry_for_s` began (Unix time); workers that do not know it
pass it on."""

SNOOZES_HEADER = "prefork_snoozes"
"""How often a task has raised `Snooze` so far."""

DEFAULT_RETRY_DELAY_S = 180.0
DEFAULT_MAX_RETRIES = 3
DEFAULT_BACKOFF_MAX_S = 600.0


@dataclass(frozen=True)
class RetryPlan:
    """Everything that is needed to send a task again under its own id.

    :param retries: the number that the new attempt bears.
    :param due_wall_s: Unix time before which it must not start; None means at once.
    :param args: new positional arguments, or None to keep the old ones.
    :param kwargs: new keyword arguments, or None to keep the old ones.
    :param options: options of `apply_async` that differ from the message being retried.
    """

    retries: int
    due_wall_s: float | None
    args: tuple[Any, ...] | None = None
    kwargs: dict[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def backoff_s(
    factor: float,
    retries: int,
    maximum_s: float,
    *,
    jitter: bool,
    uniform: Callable[[float, float], float],
) -> float:
    """Exponential delay: ``factor * 2 ** retries``, capped; with jitter anything from 0 up to it.

    :param uniform: `random.uniform` or a stand-in; called only with jitter.
    """
    # 2 ** 64 is beyond every cap in use; larger exponents would only cost time.
    delay_s = min(maximum_s, factor * float(2 ** min(max(retries, 0), 64)))
    if jitter:
        delay_s = uniform(0.0, delay_s)
    return max(0.0, delay_s)


def exhausted(retries_done: int, max_retries: int | None) -> bool:
    """Whether one more retry would be one too many; None allows any number."""
    return max_retries is not None and retries_done + 1 > max_retries


def wall_s_of(moment: datetime, zone: tzinfo | None = timezone.utc) -> float:
    """Unix time of a datetime.

    A local time that a clock change skips counts from the change as it would have without it (02:30 of
    a night that goes from 02:00 to 03:00 is 03:30); of one that comes twice the first is meant, unless
    ``fold=1`` says the second (PEP 495).

    :param zone: what a naive one means; None is the local time of this host.
    """
    if moment.tzinfo is None and zone is not None:
        moment = moment.replace(tzinfo=zone)
    return moment.timestamp()


def over_time(first_started_wall_s: float, due_wall_s: float, retry_for_s: float | None) -> bool:
    """Whether an attempt would begin later than `retry_for_s` after the first one did; None allows any."""
    return retry_for_s is not None and due_wall_s > first_started_wall_s + retry_for_s


def seconds_of(name: str, value: Any) -> float:
    """A delay in seconds, from a number or a timedelta; what is negative is 0, as for peers.

    :param name: which option it is, for the error.
    :raises InvalidTaskError: it is no finite number.
    """
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not math.isfinite(value):
        raise InvalidTaskError(f"{name}={value!r}: give seconds as a number, or a list of them")
    return max(0.0, float(value))


def delays_of(name: str, value: Any) -> tuple[float, ...]:
    """Delays in seconds: one, or a list of which the n-th retry waits the n-th.

    :param name: which option it is, for the error.
    :raises InvalidTaskError: something else, or an empty list.
    """
    if isinstance(value, Sequence) and not isinstance(value, (str, bytes)):
        if not value:
            raise InvalidTaskError(f"{name}={value!r}: give at least one delay")
        return tuple(seconds_of(name, one) for one in value)
    return (seconds_of(name, value),)


def nth_delay_s(delays: Sequence[float], retries_done: int) -> float:
    """What the next retry waits: the n-th of the delays, the last again and again."""
    return delays[min(retries_done, len(delays) - 1)]


def call_with(
    function: Callable[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    new_args: Sequence[Any] | None,
    new_kwargs: Mapping[str, Any] | None,
) -> tuple[tuple[Any, ...] | None, dict[str, Any] | None]:
    """The arguments of the next attempt, when positional ones or keywords were given anew.

    Only one of the two being given, the other is kept; but a parameter that is given anew is not passed
    a second time by what is kept.

    :param function: the body of the task, whose signature says which positional argument is which.
    :returns: both; None for what stays as it was.
    """
    if new_args is not None and new_kwargs is None and kwargs:
        names = _positional_names(function)[: len(new_args)]
        kept = {name: value for name, value in kwargs.items() if name not in names}
        return tuple(new_args), kept if len(kept) < len(kwargs) else None
    if new_kwargs is not None and new_args is None and args:
        given = dict(new_kwargs)
        names = _positional_names(function)[: len(args)]
        kept_args = [given.pop(name) if name in given else value for name, value in zip(names, args)]
        return (*kept_args, *args[len(names) :]), given
    return (
        None if new_args is None else tuple(new_args),
        None if new_kwargs is None else dict(new_kwargs),
    )


def _positional_names(function: Callable[..., Any]) -> list[str | None]:
    """Names by which positional arguments could be given as well; None for one that has no such name."""
    kinds = {inspect.Parameter.POSITIONAL_ONLY: False, inspect.Parameter.POSITIONAL_OR_KEYWORD: True}
    try:
        parameters = inspect.signature(function).parameters.values()
    except (TypeError, ValueError):
        return []  # written in C: nobody can tell
    return [p.name if kinds[p.kind] else None for p in parameters if p.kind in kinds]


def wants_autoretry(
    exc: BaseException,
    autoretry_for: tuple[type[BaseException], ...],
    dont_autoretry_for: tuple[type[BaseException], ...],
) -> bool:
    """Whether an exception is one that its task retries by itself."""
    return isinstance(exc, autoretry_for) and not isinstance(exc, dont_autoretry_for)
