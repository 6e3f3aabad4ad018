"""Options of a task and of one call, resolved once: call > task > configuration."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta, timezone, tzinfo
from types import MappingProxyType
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from ..serializers import iso8601
from ..transports.envelope import PRIORITY_MAX
from .binder import ArgumentCheck
from .exceptions import InvalidTaskError
from .retry_options import check_retries
from .retrying import wall_s_of
from .unique import Unique, declared, unique_of
from .urgency import checked as checked_urgency
from .urgency import refuse_both

if TYPE_CHECKING:
    from .app import App
    from .client import Client
    from .routes import Destination

_DELIVERY_MODES: Mapping[Any, int] = MappingProxyType({1: 1, 2: 2, "transient": 1, "persistent": 2})

LATEST_WALL_S = 253_402_214_400.0
"""The last day of the year 9999: what every reader of a message can represent as a date."""


@dataclass(frozen=True)
class TaskOptions:
    """What a task's attributes and the configuration say together; a message may say otherwise.

    Limits in seconds; None means no limit.
    """

    name: str
    serializer: str
    compression: str | None
    ignore_result: bool
    store_errors_even_if_ignored: bool
    store_eager_result: bool
    track_started: bool
    acks_late: bool
    acks_on_failure: bool
    acks_on_timeout: bool
    reject_on_worker_lost: bool | None
    retry_on_worker_lost: bool
    time_limit_s: float | None
    soft_time_limit_s: float | None
    priority: int | None
    urgency: int | None
    rate_limit: str | float | None
    expires: float | datetime | None
    send_events: bool
    unique: Unique | None


def _first(*values: Any) -> Any:
    """The first value that is not None."""
    return next((value for value in values if value is not None), None)


def options_of(task: Any, config: Any) -> TaskOptions:
    """A task's options as they are in force."""
    check_retries(task)
    refuse_both(task.priority, task.urgency, f"the task {task.name}")
    urgency = task.urgency
    if urgency is None and task.priority is None and config.task_default_priority is None:
        urgency = config.task_default_urgency
    urgency = None if urgency is None else checked_urgency(urgency)
    combined = _first(task.acks_on_failure_or_timeout, config.task_acks_on_failure_or_timeout, True)
    return TaskOptions(
        name=task.name,
        serializer=_first(task.serializer, config.task_serializer),
        compression=_first(task.compression, config.task_compression),
        ignore_result=bool(_first(task.ignore_result, config.task_ignore_result)),
        store_errors_even_if_ignored=bool(
            _first(task.store_errors_even_if_ignored, config.task_store_errors_even_if_ignored)
        ),
        store_eager_result=bool(_first(task.store_eager_result, config.task_store_eager_result)),
        track_started=bool(_first(task.track_started, config.task_track_started)),
        acks_late=bool(_first(task.acks_late, config.task_acks_late)),
        acks_on_failure=bool(_first(task.acks_on_failure, config.task_acks_on_failure, combined)),
        acks_on_timeout=bool(_first(task.acks_on_timeout, config.task_acks_on_timeout, combined)),
        reject_on_worker_lost=_first(task.reject_on_worker_lost, config.task_reject_on_worker_lost),
        retry_on_worker_lost=bool(_first(task.retry_on_worker_lost, config.task_retry_on_worker_lost)),
        time_limit_s=_limit("time_limit", _first(task.time_limit, config.task_time_limit)),
        soft_time_limit_s=_limit(
            "soft_time_limit", _first(task.soft_time_limit, config.task_soft_time_limit)
        ),
        priority=_priority(
            _first(task.priority, None if urgency is not None else config.task_default_priority)
        ),
        urgency=urgency,
        rate_limit=_first(task.rate_limit, config.task_default_rate_limit),
        expires=task.expires,
        send_events=bool(task.send_events),
        unique=unique_of(declared(task)),
    )


@dataclass
class TaskPlan:
    """Everything about sending one task that no call changes; made anew when the config changes.

    :param check: the argument check, or None when `typing` is off.
    :param destination: where calls go that name no destination; None when a router function must
        be asked for each call.
    :param limits_sent: hard and soft limit (s) that the task itself asks for; those of the
        configuration are the worker's business and do not travel.
    :param delivery_mode: 2 (messages survive a restart of the broker) or 1.
    :param priority: of a call that names none; None when the broker, or the calling task, decides it.
    """

    task: Any
    app: App
    client: Client
    config: Any
    options: TaskOptions
    check: ArgumentCheck | None
    destination: Destination | None
    always_eager: bool
    limits_sent: tuple[float | None, float | None]
    delivery_mode: int
    priority: int | None


def plan_for(task: Any, app: App, config: Any) -> TaskPlan:
    """Resolve a task against a configuration."""
    app.finalize()
    options = options_of(task, config)
    typed = task.typing if task.typing is not None else app.strict_typing
    fixed_priority = options.priority
    if fixed_priority is None and options.urgency is None and not config.task_inherit_parent_priority:
        fixed_priority = 0
    return TaskPlan(
        task=task,
        app=app,
        client=app.client,
        config=config,
        options=options,
        check=task.argument_check() if typed else None,
        destination=app.client.router.fixed(task),
        always_eager=bool(config.task_always_eager),
        limits_sent=limits(task.time_limit, task.soft_time_limit),
        delivery_mode=delivery_mode(
            config.task_default_delivery_mode if task.delivery_mode is None else task.delivery_mode
        ),
        priority=fixed_priority,
    )


def delivery_mode(value: Any) -> int:
    """Whether a message survives a restart of the broker: 2 (persistent), or 1 (transient).

    :raises InvalidTaskError: it is none of these.
    """
    try:
        return _DELIVERY_MODES[value]
    except (KeyError, TypeError):
        raise InvalidTaskError(f"delivery_mode={value!r}: give 'persistent' or 'transient'") from None


def _limit(name: str, value: Any) -> float | None:
    """A time limit in seconds.

    :raises InvalidTaskError: it is no positive, finite number.
    """
    if value is None:
        return None
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        raise InvalidTaskError(f"{name}={value!r}: give seconds as a number, or None for no limit")
    if not math.isfinite(value) or value <= 0:
        raise InvalidTaskError(f"{name}={value!r}: a limit is a positive number of seconds, or None")
    return float(value)


def limits(hard: Any, soft: Any) -> tuple[float | None, float | None]:
    """Both limits of a call, checked against each other.

    :raises InvalidTaskError: one is not a limit, or the soft one would never be reached.
    """
    hard_s, soft_s = _limit("time_limit", hard), _limit("soft_time_limit", soft)
    if hard_s is not None and soft_s is not None and soft_s > hard_s:
        raise InvalidTaskError(
            f"soft_time_limit={soft_s:g} is above time_limit={hard_s:g}: the task would be killed first"
        )
    return hard_s, soft_s


def _priority(value: Any) -> int | None:
    """A priority: 0 to 9, and what is above for queues of RabbitMQ that have more levels.

    :raises InvalidTaskError: it is no whole number from 0 to 255.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= PRIORITY_MAX:
        raise InvalidTaskError(
            f"priority={value!r}: give a whole number from 0 to 9, or up to {PRIORITY_MAX} for a RabbitMQ "
            "queue with that many levels (max_priority)"
        )
    return value


priority = _priority


def naive_zone(config: Any) -> tzinfo | None:
    """What a naive datetime of this application means: UTC, or with `enable_utc` off the time in
    `timezone`; None is the local time of the host, where no zone is configured."""
    if config.enable_utc:
        return timezone.utc
    return None if config.timezone is None else ZoneInfo(config.timezone)


def moment_wall_s(
    name: str, value: Any, now_wall_s: float, zone: tzinfo | None = timezone.utc
) -> float | None:
    """Unix time of an `eta` or `expires`: a datetime, ISO text, or seconds from now.

    :param name: which option it is, for the error.
    :param zone: what a naive moment means, see `naive_zone`.
    :raises InvalidTaskError: it is no moment, or one that no reader can represent.
    """
    if value is None:
        return None
    if isinstance(value, str):
        try:
            value = iso8601.parse(value)
        except ValueError:
            raise InvalidTaskError(f"{name}={value!r}: not an ISO 8601 date and time") from None
    if isinstance(value, datetime):
        try:
            moment = wall_s_of(value, zone)
        except (OverflowError, ValueError, OSError) as exc:
            raise InvalidTaskError(f"{name}={value!r}: out of range ({exc})") from None
    else:
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise InvalidTaskError(f"{name}={value!r}: give a datetime, or seconds from now")
        moment = now_wall_s + value
    if not 0 <= moment < LATEST_WALL_S:
        raise InvalidTaskError(f"{name}={value!r}: out of range; it must lie between 1970 and 9999")
    return moment


def eta_wall_s(
    eta: Any, countdown: Any, now_wall_s: float, zone: tzinfo | None = timezone.utc
) -> float | None:
    """Unix time before which a call must not start; None for at once. `eta` wins over `countdown`.

    :param countdown: seconds; 0, None and negative values mean at once.
    :raises InvalidTaskError: not a moment.
    """
    if eta is not None:
        if not isinstance(eta, (datetime, str)):
            raise InvalidTaskError(f"eta={eta!r}: give a datetime; seconds from now are `countdown`")
        return moment_wall_s("eta", eta, now_wall_s, zone)
    if countdown is None:
        return None
    if isinstance(countdown, (str, datetime)):
        raise InvalidTaskError(f"countdown={countdown!r}: give seconds from now; a moment is `eta`")
    due = moment_wall_s("countdown", countdown, now_wall_s)
    return due if due is not None and due > now_wall_s else None


def expires_wall_s(expires: Any, now_wall_s: float, zone: tzinfo | None = timezone.utc) -> float | None:
    """Unix time after which a call is worthless; None for never."""
    return moment_wall_s("expires", expires, now_wall_s, zone)
