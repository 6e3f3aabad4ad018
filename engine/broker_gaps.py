"""Why something cannot be done on a broker, in words: what is asked, where, and what to do instead."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .limits.policy import TaskLimits


def no_turns(broker: str) -> str:
    """Why queues cannot be served in turns."""
    return (
        f"worker_queue_order and worker_queue_weights cannot be kept on {broker}, which cannot take messages "
        "from one queue at a time; use redis, amqp or filesystem, or a worker for each queue"
    )


def no_fairness(broker: str) -> str:
    """Why priorities cannot take turns."""
    return (
        f"worker_priority_fairness cannot be kept on {broker}, which decides by itself what comes first in a "
        "queue; use a queue for each urgency, and worker_queue_weights"
    )


def no_broadcast(queue: str, broker: str) -> str:
    """Why no worker can have copies of what is sent to a queue."""
    return (
        f"broadcast queue {queue}: {broker} cannot say which workers there are; use redis, amqp or filesystem"
    )


def no_locks(task: str, broker: str) -> str:
    """Why a task cannot be unique."""
    return (
        f"task {task!r}: unique cannot be kept on {broker}, which has no locks; use redis, amqp or "
        "filesystem, or send without unique="
    )


def no_limit(
    task: str, limits: TaskLimits, limited: bool, broker: str, shares: bool, selects: bool
) -> str | None:
    """Why a task cannot be limited; None if it can.

    :param limited: its messages need tokens, whatever their arguments are.
    :param shares: workers share limits there.
    :param selects: messages can be taken from one queue at a time.
    """
    if limits.shared and not shares:
        option = "max_concurrency" if limits.global_per_s is None else "global_rate_limit"
        return (
            f"task {task!r}: {option} cannot be kept on {broker}, which shares nothing between workers but "
            "messages; use redis, amqp or filesystem"
        )
    if limited and not selects:
        return (
            f"task {task!r}: rate_limit cannot be kept on {broker}, which cannot take messages from one "
            "queue at a time; use redis, amqp or filesystem"
        )
    return None
