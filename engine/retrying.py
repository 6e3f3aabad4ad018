"""When and whether a task is retried: pure decisions; whoever runs the task obeys them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

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


def wall_s_of(moment: datetime) -> float:
    """Unix time of a datetime; a naive one is UTC (interop §18, 13)."""
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=timezone.utc)
    return moment.timestamp()


def due_wall_s(
    now_wall_s: float,
    *,
    eta: datetime | float | None,
    countdown_s: float | None,
    default_delay_s: float,
) -> float:
    """Unix time of the next attempt: `eta`, else `countdown_s` from now, else the default delay."""
    if eta is not None:
        return wall_s_of(eta) if isinstance(eta, datetime) else float(eta)
    return now_wall_s + (default_delay_s if countdown_s is None else max(0.0, float(countdown_s)))


def wants_autoretry(
    exc: BaseException,
    autoretry_for: tuple[type[BaseException], ...],
    dont_autoretry_for: tuple[type[BaseException], ...],
) -> bool:
    """Whether an exception is one that its task retries by itself."""
    return isinstance(exc, autoretry_for) and not isinstance(exc, dont_autoretry_for)
