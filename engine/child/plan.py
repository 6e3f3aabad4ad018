"""What the loop has to know of a task, resolved once per child instead of once per message."""

from __future__ import annotations

from typing import Any

from ..limits.policy import limits_of
from ..options import TaskOptions, limits, options_of
from ..settle import AckPolicy, Ending, bits_of_policy, settlement
from ..task import Task
from ..time_limit_board import RunTimeLimits, TimeLimitBoard
from .readahead import Kind


class RunPlan:
    """The options of one task, as the loop needs them.

    :ivar after_success: how a message is settled when its task has returned.
    :ivar policy_bits: `scoreboard.Policy` bits that go with every execution.
    :ivar kind: what is known of its run times.
    :ivar limits: of its rate and its concurrency, as the code has them.
    :ivar limited: a message needs a token before it runs; written by the `limiter`.
    :ivar keyed: likewise, one of the key that its arguments make.
    :ivar limits_seen: the value of `scoreboard.A_TIME_LIMITS` when its time limits were last looked up.
    :ivar run_time: the time limits that a command has set; None when none has.
    """

    __slots__ = (
        "acks",
        "after_success",
        "hard_limit_s",
        "ignore_result",
        "keyed",
        "kind",
        "limited",
        "limits",
        "limits_seen",
        "name",
        "name_bytes",
        "own_limits_s",
        "policy_bits",
        "run_time",
        "soft_limit_s",
        "store_errors",
        "task",
        "throws",
        "track_started",
    )

    def __init__(self, task: Task[Any, Any], config: Any, kind: Kind) -> None:
        options = options_of(task, config)
        self.task = task
        self.name = task.name
        self.name_bytes = task.name.encode("utf-8", "replace")
        self.kind = kind
        self.acks = ack_policy(options)
        self.after_success = settlement(Ending.SUCCESS, self.acks)
        self.soft_limit_s = options.soft_time_limit_s
        self.hard_limit_s = options.time_limit_s
        # What the task itself asks for, hard and soft: clients send it with every call.
        self.own_limits_s = limits(task.time_limit, task.soft_time_limit)
        self.run_time: RunTimeLimits | None = None
        self.limits_seen = 0
        self.ignore_result = options.ignore_result
        self.store_errors = options.store_errors_even_if_ignored
        self.track_started = options.track_started
        self.limits = limits_of(task, config)
        self.limited = False
        self.keyed = False
        # One class will do, as for Celery.
        self.throws = (task.throws,) if isinstance(task.throws, type) else tuple(task.throws or ())
        self.policy_bits = bits_of_policy(self.acks, store_errors=self.store_errors)

    def look_up_limits(self, board: TimeLimitBoard, seen: int) -> None:
        """Take over what commands have set.

        :param seen: `scoreboard.A_TIME_LIMITS`, read before.
        """
        self.run_time = board.get(self.name) or self.run_time
        self.limits_seen = seen

    def limits_after_command(
        self, soft_s: float | None, hard_s: float | None, config: Any
    ) -> tuple[float | None, float | None]:
        """Soft and hard limit in seconds: those of the call, else of the command, else of the worker.

        What a message bears is a wish of its call, unless it is just what the task asks for.
        """
        changed = self.run_time or RunTimeLimits(self.soft_limit_s, self.hard_limit_s)
        own_hard_s, own_soft_s = self.own_limits_s
        if soft_s is None or soft_s == own_soft_s:
            soft_s = config.task_soft_time_limit if changed.soft_s is None else changed.soft_s
        if hard_s is None or hard_s == own_hard_s:
            hard_s = config.task_time_limit if changed.hard_s is None else changed.hard_s
        return soft_s, hard_s


def ack_policy(options: TaskOptions) -> AckPolicy:
    """The acknowledgement part of a task's options; a lost process gives the message back unless
    `reject_on_worker_lost` is False (design §5)."""
    return AckPolicy(
        late=options.acks_late,
        on_failure=options.acks_on_failure,
        on_timeout=options.acks_on_timeout,
        requeue_if_lost=options.reject_on_worker_lost is not False,
    )
