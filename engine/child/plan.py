"""What the loop has to know of a task, resolved once per child instead of once per message."""

from __future__ import annotations

from typing import Any

from ..options import TaskOptions, options_of
from ..settle import AckPolicy, bits_of_policy
from ..task import Task
from .readahead import Kind


class RunPlan:
    """The options of one task, as the loop needs them.

    :ivar policy_bits: `scoreboard.Policy` bits that go with every execution.
    :ivar kind: what is known of its run times.
    """

    __slots__ = (
        "acks",
        "hard_limit_s",
        "ignore_result",
        "kind",
        "name",
        "name_bytes",
        "policy_bits",
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
        self.soft_limit_s = options.soft_time_limit_s
        self.hard_limit_s = options.time_limit_s
        self.ignore_result = options.ignore_result
        self.store_errors = options.store_errors_even_if_ignored
        self.track_started = options.track_started
        self.throws = tuple(task.throws or ())
        self.policy_bits = bits_of_policy(self.acks, store_errors=self.store_errors)


def ack_policy(options: TaskOptions) -> AckPolicy:
    """The acknowledgement part of a task's options; a lost process gives the message back unless
    `reject_on_worker_lost` is False (design §5)."""
    return AckPolicy(
        late=options.acks_late,
        on_failure=options.acks_on_failure,
        on_timeout=options.acks_on_timeout,
        requeue_if_lost=options.reject_on_worker_lost is not False,
    )
