"""The task kinds of a worker that have a bucket, and what one process knows of each."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from .board import Bucket, RateBoard
from .lanes import is_lane, lane_of
from .policy import TaskLimits, limits_of


class Limited:
    """One task kind that is limited, or was. Used by one thread.

    :ivar limits: what its code says.
    """

    __slots__ = ("_lanes", "_turn", "bucket", "limits", "name")

    def __init__(self, name: str, bucket: Bucket, queues: Sequence[str]) -> None:
        self.name = name
        self.bucket = bucket
        self.limits = TaskLimits()
        self._lanes = [(queue, lane_of(queue, name)) for queue in queues if not is_lane(queue)]
        self._turn = 0

    def follow(self, limits: TaskLimits) -> None:
        """Take what the code says."""
        self.limits = limits

    @property
    def keyed(self) -> bool:
        """Whether each key has limits of its own, so that the payload must be read first."""
        return self.limits.key is not None and self._any

    @property
    def limited(self) -> bool:
        """Whether messages need a token, without regard to their payload."""
        return self.limits.key is None and self._any

    @property
    def _any(self) -> bool:
        return self.limits.shared or self.bucket.shape() is not None

    @property
    def lanes(self) -> list[str]:
        """Where its messages wait: one lane per queue."""
        return [lane for _, lane in self._lanes]

    def has_lane_of(self, queue: str) -> bool:
        """Whether anybody looks into the lane of a queue: not so for what a broker makes for one worker."""
        return any(queue == known for known, _ in self._lanes)

    def lanes_in_turn(self) -> list[tuple[str, str]]:
        """Queues with their lanes, beginning with another one each time."""
        if len(self._lanes) > 1:
            self._turn = (self._turn + 1) % len(self._lanes)
        return self._lanes[self._turn :] + self._lanes[: self._turn]


def limited_kinds(board: RateBoard, names: Iterable[str], queues: Sequence[str]) -> dict[str, Limited]:
    """Those of these tasks that have, or had, a limit."""
    found = ((name, board.bucket(name)) for name in names)
    return {name: Limited(name, bucket, queues) for name, bucket in found if bucket is not None}


def declare_all(board: RateBoard, tasks: Iterable[Any], config: Any) -> None:
    """Enter what the code says of every task; rates that were set at run time stay.

    :raises ImproperlyConfigured: a limit is none, or there are too many.
    """
    for task in tasks:
        limits = limits_of(task, config)
        if limits.any:
            board.declare(task.name, limits.rate_per_s, limits.burst)
        elif board.bucket(task.name) is not None:
            board.declare(task.name, None, limits.burst)
