"""Every exception and warning of the engine, under the names users already catch (parity §6).

The time-limit and lost-worker classes are billiard's own, so that code which catches those keeps
working. They are looked up on first use: billiard costs 12 ms to import, and a client that only
sends never meets them.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from datetime import datetime, timedelta
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..transports.errors import BrokerUnavailable, ResultStoreUnavailable, Unacceptable
from .warning_kinds import (
    AlwaysEagerIgnored,
    CDeprecationWarning,
    CeleryWarning,
    CPendingDeprecationWarning,
    DuplicateNodenameWarning,
    DuplicateTaskNameWarning,
    FixupWarning,
    MisspeltOptionWarning,
    NotConfigured,
    PreforkWarning,
    SecurityWarning,
)

if TYPE_CHECKING:
    from .retrying import RetryPlan

    class TimeLimitExceeded(Exception):
        """The hard time limit was exceeded, and the process was killed."""

    class SoftTimeLimitExceeded(Exception):
        """The soft time limit is exceeded: clean up and end."""

    class WorkerLostError(Exception):
        """The process that ran the task ended."""

    class Terminated(Exception):
        """The process that ran the task was ended on somebody's request."""


# fmt: off
# One to a line, they would be a fifth of this file.
__all__ = [
    "AlreadyRegistered", "AlwaysEagerIgnored", "AppNotFound", "BackendError", "BackendGetMetaError",
    "BackendStoreError", "BrokerUnavailable", "BulkSendError", "CDeprecationWarning",
    "CPendingDeprecationWarning", "CeleryError", "CeleryWarning", "ChordError", "DuplicateNodenameWarning",
    "DuplicateTaskError", "DuplicateTaskNameWarning", "FixupWarning", "Ignore", "ImproperlyConfigured",
    "IncompleteStream", "InvalidArguments", "InvalidTaskError", "MaxRetriesExceededError",
    "MaxSnoozesExceededError", "MisspeltOptionWarning", "NotConfigured", "NotRegistered", "OperationalError",
    "PayloadTooLarge", "PreforkError", "PreforkWarning", "QueueNotFound", "Reject", "RemoteTaskError",
    "ResultStoreUnavailable", "Retry", "RetryTaskError", "SecurityError", "SecurityWarning", "Snooze",
    "SoftTimeLimitExceeded", "TaskCancelledError", "TaskError", "TaskPredicate", "TaskRevokedError",
    "Terminated", "TimeLimitExceeded", "TimeoutError", "Unacceptable", "WorkerLostError", "WorkerShutdown",
    "WorkerTerminate",
]
# fmt: on

FROM_BILLIARD = frozenset({"SoftTimeLimitExceeded", "TimeLimitExceeded", "WorkerLostError", "Terminated"})


def __getattr__(name: str) -> Any:
    if name in FROM_BILLIARD:
        value = getattr(import_module("billiard.exceptions"), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


class PreforkError(Exception):
    """Base of the engine's errors."""


CeleryError = PreforkError

OperationalError = BrokerUnavailable
"""Publishing failed after its retries (the field's name for it)."""


class BulkSendError(BrokerUnavailable):
    """The broker did not take everything that was sent in bulk.

    :ivar accepted: how many tasks it took.
    :ivar unsent: ids of tasks that were certainly not stored.
    :ivar unknown: ids of tasks that may have been stored: sent again, under the same ids, they may run
        twice; left alone, they may not run at all.
    :ivar result: the `BulkResult` up to here, where the call would have returned one. What its iterable
        had not given yet was not taken from it.
    """

    def __init__(
        self,
        accepted: int,
        unsent: Sequence[str],
        unknown: Sequence[str],
        cause: Exception,
        result: Any = None,
    ) -> None:
        super().__init__(
            f"of {accepted + len(unsent) + len(unknown)} tasks the broker took {accepted}; {len(unsent)} "
            f"were not sent and the fate of {len(unknown)} is unknown: {cause}",
            outcome_unknown=bool(unknown),
        )
        self.accepted = accepted
        self.unsent = tuple(unsent)
        self.unknown = tuple(unknown)
        self.cause = cause
        self.result = result

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.accepted, self.unsent, self.unknown, self.cause, self.result)


class ImproperlyConfigured(PreforkError):
    """A setting, an option or their combination cannot be honoured."""


class AppNotFound(ImproperlyConfigured):
    """There is no application where ``-A`` or PREFORK_APP says."""


class SecurityError(PreforkError):
    """Something was refused because it could do harm."""


class TaskPredicate(PreforkError):
    """Base of what a task raises to say how it wants to be treated; not a failure."""


class Retry(TaskPredicate):
    """The task will run again.

    :param exc: what went wrong, if anything; what a caller's `get` shows meanwhile.
    :param when: seconds from the attempt, or a datetime; for people and logs.
    :param plan: what whoever runs the task needs in order to send it again. None when user code
        raised `Retry` by itself: then nothing is sent, and only the state says RETRY.
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | str | None = None,
        when: datetime | float | None = None,
        is_eager: bool = False,
        sig: Any = None,
        *,
        plan: RetryPlan | None = None,
    ) -> None:
        self.message = message
        self.exc = exc if isinstance(exc, BaseException) else None
        self.excs = None if exc is None else (exc if isinstance(exc, str) else repr(exc))
        self.when = when
        self.is_eager = is_eager
        self.sig = sig
        self.plan = plan
        super().__init__(message, self.excs, str(when) if isinstance(when, datetime) else when)

    def humanize(self) -> str:
        """When it will run again, in words."""
        return f"in {self.when}s" if isinstance(self.when, (int, float)) else f"at {self.when}"

    def __str__(self) -> str:
        if self.message:
            return str(self.message)  # `raise Retry(exc)` is an easy slip
        if self.excs:
            return f"Retry {self.humanize()}: {self.excs}"
        return f"Retry {self.humanize()}"


RetryTaskError = Retry


class Ignore(TaskPredicate):
    """Acknowledge the message and leave the task's state untouched."""


class Snooze(TaskPredicate):
    """Not now: the same message again later, with no attempt spent and no failure recorded.

    :param delay_s: how long from now, in seconds, or as a timedelta.
    :raises ValueError: that is no delay.
    """

    def __init__(self, delay_s: float | timedelta) -> None:
        value: Any = delay_s.total_seconds() if isinstance(delay_s, timedelta) else delay_s
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < 1e10:
            raise ValueError(f"Snooze({delay_s!r}): give seconds from now, from 0 on")
        self.delay_s = float(value)
        super().__init__(self.delay_s)

    def __str__(self) -> str:
        return f"Snooze for {self.delay_s:g}s"


class Reject(TaskPredicate):
    """Refuse the broker's message.

    :param reason: kept with the dead letter.
    :param requeue: True puts it back into its queue, False makes it a dead letter.
    """

    def __init__(self, reason: Any = None, requeue: bool = False) -> None:
        self.reason = reason
        self.requeue = requeue
        super().__init__(reason, requeue)


class TaskError(PreforkError):
    """Base of errors that concern one task."""


class QueueNotFound(KeyError, TaskError):
    """The call names a queue that `task_queues` lacks while `task_create_missing_queues` is off."""


class IncompleteStream(TaskError):
    """The end of a stream was found before the data was complete."""


class NotRegistered(KeyError, TaskError):
    """No task of this name is registered.

    :param name: the unknown name.
    """

    def __str__(self) -> str:
        name = self.args[0] if self.args else "?"
        return (
            f"no task is registered as {name!r}: import its module (`include=`, `imports`), or check the name"
        )


class AlreadyRegistered(TaskError):
    """A task of this name exists already."""


class MaxRetriesExceededError(TaskError):
    """The task was retried as often as `max_retries` allows."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_args = kwargs.pop("task_args", [])
        self.task_kwargs = kwargs.pop("task_kwargs", {})
        super().__init__(*args)


class MaxSnoozesExceededError(MaxRetriesExceededError):
    """The task has put itself off as often as `max_snoozes` allows."""


class TaskRevokedError(TaskError):
    """The task was revoked, so there is no result."""


class TaskCancelledError(TaskError):
    """The coroutine of an ``async def`` task ended as cancelled, and not because the worker asked for it."""


class InvalidTaskError(TaskError):
    """The message of a task, or an option of a call, is not what it must be."""


class InvalidArguments(TaskError, ValueError):
    """An argument of a task with ``pydantic=True`` is not what its model asks for.

    Says where and what was expected, never what was given: that may be a secret.

    :ivar task: the task's name.
    :ivar argument: the parameter's name.
    :ivar problems: one line each.
    """

    def __init__(self, task: str, argument: str, problems: Sequence[str]) -> None:
        super().__init__(task, argument, list(problems))
        self.task = task
        self.argument = argument
        self.problems = list(problems)

    def __str__(self) -> str:
        return f"argument {self.argument!r} of {self.task}: {'; '.join(self.problems)}"


class PayloadTooLarge(Unacceptable):
    """The message of a task is larger than `task_payload_max_bytes`.

    :ivar task: its name.
    :ivar size_bytes: of the message, as it would have been sent.
    :ivar limit_bytes: how large it may be.
    """

    def __init__(self, task: str, size_bytes: int, limit_bytes: int) -> None:
        super().__init__(task, size_bytes, limit_bytes)
        self.task = task
        self.size_bytes = size_bytes
        self.limit_bytes = limit_bytes

    def __str__(self) -> str:
        return (
            f"the message of {self.task} has {self.size_bytes} bytes, of at most {self.limit_bytes}: keep "
            "large data elsewhere and pass on where they are, use compression, or raise "
            "task_payload_max_bytes"
        )


class DuplicateTaskError(TaskError):
    """A unique task was not sent, because one with the same key is on its way.

    Raised where that is to be an error (``on_conflict="raise"``), and where it would leave a result that
    nobody stores: by `self.replace`, and as the result of a step of a chain.

    :param task: its name.
    :param key: a digest of what makes the calls the same.
    :param existing_id: the task that is on its way.
    """

    def __init__(self, task: str, key: str, existing_id: str) -> None:
        super().__init__(task, key, existing_id)
        self.task = task
        self.key = key
        self.existing_id = existing_id

    def __str__(self) -> str:
        return (
            f"{self.task} was not sent: {self.existing_id} has the same key ({self.key}); wait for it, or "
            "revoke it"
        )


class ChordError(TaskError):
    """A member of the header of a chord failed."""


class RemoteTaskError(TaskError):
    """A task failed with an exception that this process cannot, or must not, rebuild.

    :param type_name: dotted name of the original class, as text. Never looked up or imported.
    :param text: its arguments, as text.
    :param traceback: the worker's traceback, as text, if it was stored.
    """

    def __init__(self, type_name: str, text: str = "", traceback: str | None = None) -> None:
        super().__init__(type_name, text)
        self.type_name = type_name
        self.text = text
        self.traceback = traceback

    def __str__(self) -> str:
        return f"{self.type_name}({self.text})"


class TimeoutError(PreforkError, builtins.TimeoutError):
    """The result did not arrive in time."""


BackendError = ResultStoreUnavailable


class BackendGetMetaError(BackendError):
    """A result could not be read."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)


class BackendStoreError(BackendError):
    """A result could not be stored."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state = kwargs.get("state", "")
        self.task_id = kwargs.get("task_id", "")
        super().__init__(*args)


class WorkerTerminate(SystemExit):
    """Raise it in a hook to stop the worker at once."""


class WorkerShutdown(SystemExit):
    """Raise it in a hook to stop the worker after what runs."""
