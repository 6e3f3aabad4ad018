"""What a task says about its retries and hooks, checked when it is made and when a worker starts.

Retries are decided while an error is at hand: an option that cannot be honoured would hide it then.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from difflib import get_close_matches
from typing import Any

from .exceptions import ImproperlyConfigured, InvalidTaskError, MisspeltOptionWarning
from .retrying import delays_of, seconds_of
from .task_defaults import TaskDefaults

HOOKS = ("shadow_name", "before_start", "on_success", "on_failure", "on_retry", "after_return")

_SIMILAR = 0.8
"""So alike `max_retry` and `max_retries` are (`difflib`); most names of one's own are less so."""

_OF_CELERY = frozenset({"Request", "Strategy", "from_config", "on_replace"})
"""What Celery's tasks know as well: no misspelling of anything."""


def check_retries(task: Any) -> None:
    """Refuse options about retries, and hooks, that cannot be honoured.

    :raises ImproperlyConfigured: one of them is no such thing, or two contradict each other.
    """
    where = f"of task {task.name!r}"
    for name in ("autoretry_for", "dont_autoretry_for"):
        _check_exceptions(name, getattr(task, name), where)
    _check_times("max_retries", task.max_retries, where)
    _check_times("max_snoozes", task.max_snoozes, where)
    if task.default_retry_delay is not None:
        _check_delays("default_retry_delay", task.default_retry_delay, where)
    _check_retry_delays(task, where)
    if task.retry_for_s is not None:
        _check_seconds("retry_for_s", task.retry_for_s, where)
    _check_backoff(task, where)
    _check_retry_kwargs(task.retry_kwargs, where)
    for name in HOOKS:
        hook = getattr(task, name)
        if not callable(hook):
            raise ImproperlyConfigured(f"{name} {where}: {hook!r}; give a function")


def _check_retry_delays(task: Any, where: str) -> None:
    if task.retry_delays is None:
        return
    _check_delays("retry_delays", task.retry_delays, where)
    listed = isinstance(task.retry_delays, (list, tuple))
    for delay in task.retry_delays if listed else (task.retry_delays,):
        _check_seconds("retry_delays", delay, where)
    if task.retry_backoff:
        raise ImproperlyConfigured(
            f"retry_delays {where}: it and retry_backoff both say how long a retry waits; give one"
        )


def _check_exceptions(name: str, given: Any, where: str) -> None:
    if isinstance(given, type):
        raise ImproperlyConfigured(
            f"{name} {where}: {given!r} is one class; give a tuple of them: {name}=({given.__name__},)"
        )
    # Of what can be gone through only once, the second error would find nothing.
    if isinstance(given, (str, bytes)) or not isinstance(given, Collection):
        raise ImproperlyConfigured(f"{name} {where}: {given!r}; give a tuple of exception classes")
    for one in given:
        if not (isinstance(one, type) and issubclass(one, BaseException)):
            raise ImproperlyConfigured(
                f"{name} {where}: {one!r} is no class of exceptions; give the classes themselves"
            )


def _check_times(name: str, given: Any, where: str) -> None:
    if given is None or given == math.inf:
        return
    if isinstance(given, bool) or not isinstance(given, int) or given < 0:
        raise ImproperlyConfigured(
            f"{name} {where}: {given!r}; give a whole number of times, 0 for none, or None for no bound"
        )


def _check_delays(name: str, given: Any, where: str) -> None:
    try:
        delays_of(name, given)
    except InvalidTaskError as error:
        raise ImproperlyConfigured(f"{name} {where}: {error}") from None


def _check_seconds(name: str, given: Any, where: str) -> None:
    """Of options that no peer knows: there, a negative time is a slip and not "at once"."""
    try:
        seconds_of(name, given)
    except InvalidTaskError as error:
        raise ImproperlyConfigured(f"{name} {where}: {error}") from None
    if (given.total_seconds() if isinstance(given, timedelta) else given) < 0:
        raise ImproperlyConfigured(f"{name} {where}: {given!r} is negative; give seconds, from 0 on")


def _check_backoff(task: Any, where: str) -> None:
    backoff = task.retry_backoff
    if backoff is not None and not isinstance(backoff, bool) and not _is_amount(backoff):
        raise ImproperlyConfigured(
            f"retry_backoff {where}: {backoff!r}; give True, or the seconds before the first retry"
        )
    most_s = task.retry_backoff_max
    if isinstance(most_s, bool) or not (_is_amount(most_s) or most_s == math.inf):
        raise ImproperlyConfigured(
            f"retry_backoff_max {where}: {most_s!r}; give seconds as a number, or math.inf for no bound"
        )
    if task.retry_jitter not in (True, False, None):
        raise ImproperlyConfigured(f"retry_jitter {where}: {task.retry_jitter!r}; give True or False")


def _is_amount(given: Any) -> bool:
    return isinstance(given, (int, float)) and math.isfinite(given) and given >= 0


def _check_retry_kwargs(given: Any, where: str) -> None:
    if not isinstance(given, Mapping) or not all(isinstance(key, str) for key in given):
        raise ImproperlyConfigured(
            f"retry_kwargs {where}: {given!r}; give arguments of retry() as a dict: {{'max_retries': 5}}"
        )
    if "exc" in given:
        raise ImproperlyConfigured(
            f"retry_kwargs {where}: exc is the exception that was caught; leave it out"
        )
    _check_times("max_retries in retry_kwargs", given.get("max_retries"), where)
    if given.get("countdown") is not None:
        _check_delays("countdown", given["countdown"], f"in retry_kwargs {where}")


def warn_of_misspelt(names: Iterable[str], base: type[Any], task_name: str, stacklevel: int) -> None:
    """Warn of options that look like misspellings of those that there are.

    What is unknown becomes an attribute of the task, as in Celery, where classes of one's own read it: so
    it is no error, and nothing to speak of if the class has an attribute of that name.

    :param names: the options that were given to the decorator.
    :param base: the class that the task is derived from.
    :param stacklevel: of the decorated function, seen from the caller.
    """
    known = [name for name in vars(TaskDefaults) if not name.startswith("_")]
    for name in names:
        if name in _OF_CELERY or name.startswith("_") or hasattr(base, name):
            continue
        near = get_close_matches(name, known, n=1, cutoff=_SIMILAR)
        if near:
            warnings.warn(
                f"{name} of task {task_name!r}: there is no such option; did you mean {near[0]}? (it is kept "
                "as an attribute; declare it in the class of the task, if it is one of your own)",
                MisspeltOptionWarning,
                stacklevel=stacklevel + 1,
            )
