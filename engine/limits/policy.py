"""What a task's options say about limits, resolved once: task > configuration."""

from __future__ import annotations

import inspect
import math
import string
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any

from ..exceptions import ImproperlyConfigured
from .rates import rate_per_s

KEY_CHARS_MAX = 200
"""Longer keys are cut, with a digest of the rest (`Coordinates` takes names of 255 bytes)."""


@dataclass(frozen=True)
class TaskLimits:
    """The limits of one task kind. None limits nothing.

    :param rate_per_s: of one worker; 0 pauses.
    :param burst: tokens that a bucket holds.
    :param global_per_s: of all workers together; 0 pauses.
    :param max_concurrency: how many run at once, in all workers together.
    :param key: makes the text of the arguments that each have limits of their own.
    """

    rate_per_s: float | None = None
    burst: float = 1.0
    global_per_s: float | None = None
    max_concurrency: int | None = None
    key: Callable[[Sequence[Any], Mapping[str, Any]], str] | None = None

    @property
    def any(self) -> bool:
        """Whether anything is limited at all."""
        limits = (self.rate_per_s, self.global_per_s, self.max_concurrency)
        return any(limit is not None for limit in limits)

    @property
    def shared(self) -> bool:
        """Whether other workers must be asked."""
        return self.global_per_s is not None or self.max_concurrency is not None


def limits_of(task: Any, config: Any) -> TaskLimits:
    """A task's limits as they are in force.

    :raises ImproperlyConfigured: one of them is none.
    """
    where = f"of task {task.name!r}"
    default = None if task.name.startswith("celery.") else config.task_default_rate_limit
    rate = task.rate_limit if task.rate_limit is not None else default
    per_s = rate_per_s(rate, f"rate_limit {where}")
    global_per_s = rate_per_s(task.global_rate_limit, f"global_rate_limit {where}")
    if config.worker_disable_rate_limits:
        per_s = global_per_s = None
    burst = (
        task.rate_limit_burst if task.rate_limit_burst is not None else config.task_default_rate_limit_burst
    )
    if isinstance(burst, bool) or not isinstance(burst, (int, float)) or not 1 <= burst < math.inf:
        raise ImproperlyConfigured(
            f"rate_limit_burst {where}: {burst!r}; write a number of tasks, at least 1"
        )
    most = task.max_concurrency
    if most is not None and (isinstance(most, bool) or not isinstance(most, int) or most < 0):
        raise ImproperlyConfigured(
            f"max_concurrency {where}: {most!r}; write a whole number, 0 (nothing runs) or None"
        )
    return TaskLimits(per_s, float(burst), global_per_s, most, _key_of(task, where))


def _key_of(task: Any, where: str) -> Callable[[Sequence[Any], Mapping[str, Any]], str] | None:
    """What makes the key of a call from its arguments.

    :raises ImproperlyConfigured: it names no argument of the task.
    """
    # A function that is an attribute of a class would become a method of the task.
    key = inspect.getattr_static(task, "key")
    if isinstance(key, staticmethod):
        key = key.__func__
    if key is None:
        return None
    if callable(key):
        return lambda args, kwargs: bounded(str(key(*args, **kwargs)))
    if not isinstance(key, str) or not key:
        raise ImproperlyConfigured(
            f"key {where}: {key!r}; write the name of an argument, a format such as '{{tenant}}', or a "
            "function"
        )
    template = key if "{" in key else f"{{{key}}}"
    signature = inspect.signature(task.run)
    _check_template(template, signature, where)

    def formatted(args: Sequence[Any], kwargs: Mapping[str, Any]) -> str:
        bound = signature.bind(*args, **kwargs)
        bound.apply_defaults()
        return bounded(template.format(**bound.arguments))

    return formatted


def _check_template(template: str, signature: inspect.Signature, where: str) -> None:
    kinds = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = [name for name, one in signature.parameters.items() if one.kind not in kinds]
    try:
        fields = [field for _, field, _, _ in string.Formatter().parse(template) if field is not None]
    except ValueError as error:
        raise ImproperlyConfigured(f"key {where}: {template!r} is no format: {error}") from None
    for field in fields:
        name = field.partition(".")[0].partition("[")[0]
        if name not in known:
            raise ImproperlyConfigured(
                f"key {where}: {template!r} names {name!r}; the task's arguments are "
                f"{', '.join(known) or 'none'}"
            )


def bounded(key: str) -> str:
    """A key short enough for every broker, and still different from every other."""
    if len(key) <= KEY_CHARS_MAX and len(key.encode("utf-8", "surrogatepass")) <= KEY_CHARS_MAX:
        return key
    data = key.encode("utf-8", "surrogatepass")
    return f"{data[:64].decode('utf-8', 'replace')}:{blake2b(data, digest_size=16).hexdigest()}"
