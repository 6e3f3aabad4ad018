"""What a child's slot calls for: limits, recall, retirement. Pure functions of slot and time."""

from __future__ import annotations

import enum
from typing import Final, NamedTuple

from ..scoreboard import (
    A_PRIVATE_KIB,
    A_SAMPLED_NS,
    C_BATCH,
    C_CURSOR,
    C_HARD_LIMIT_MS,
    C_HARD_NS,
    C_HELD,
    C_LOOP_NS,
    C_OUTCOME_BYTES,
    C_RUNNING,
    C_SOFT_NS,
    C_START_NS,
    C_STATE,
    Slot,
    State,
)

SOFT_REPEAT_NS: Final = 1_000_000_000
# A task that has run for so long is not one of the short ones that read-ahead is meant for. With
# the tick while messages are held, and the stop, outcomes are settled well within 100 ms.
RECALL_AFTER_NS: Final = 40_000_000


class View(NamedTuple):
    """A slot as it was read."""

    state: int = State.EMPTY
    running: int = 0
    start_ns: int = 0
    soft_ns: int = 0
    hard_ns: int = 0
    hard_limit_ms: int = 0
    batch: int = 0
    cursor: int = 0
    held: int = 0
    outcome_bytes: int = 0
    private_kib: int = 0
    loop_ns: int = 0
    sampled_ns: int = 0

    @property
    def has_recallable(self) -> bool:
        """It holds messages it has not started, or outcomes it has not settled."""
        return self.held > self.cursor or self.outcome_bytes > 0


def look(slot: Slot) -> View:
    """Read a slot. Deadlines belong to `running`; when that keeps changing, nothing runs long."""
    words = slot.words
    view = View()
    for _ in range(3):
        running = words[C_RUNNING]
        view = View(
            words[C_STATE],
            running,
            words[C_START_NS],
            words[C_SOFT_NS],
            words[C_HARD_NS],
            words[C_HARD_LIMIT_MS],
            words[C_BATCH],
            words[C_CURSOR],
            words[C_HELD],
            words[C_OUTCOME_BYTES],
            words[A_PRIVATE_KIB],
            words[C_LOOP_NS],
            words[A_SAMPLED_NS],
        )
        if words[C_RUNNING] == running:
            return view
    return view._replace(running=0)


class Record:
    """What has been done about a child already. Written by the supervisor's loop only.

    :ivar soft_execution: the execution that was last sent a soft limit.
    :ivar recalled_batch: the batch that was last recalled.
    """

    __slots__ = ("recalled_batch", "soft_execution", "soft_sent_ns")

    def __init__(self, soft_execution: int = 0, soft_sent_ns: int = 0, recalled_batch: int = 0) -> None:
        self.soft_execution = soft_execution
        self.soft_sent_ns = soft_sent_ns
        self.recalled_batch = recalled_batch


class Limits(NamedTuple):
    """Memory limits in KiB; None for none."""

    max_memory_kib: int | None = None
    hard_memory_kib: int | None = None


class Due(enum.Enum):
    """What is to be done about a child."""

    NOTHING = "nothing"
    HARD_LIMIT = "hard limit"
    HARD_MEMORY = "hard memory limit"
    SOFT_LIMIT = "soft limit"
    RECALL = "recall"
    RETIRE_TASKS = "retire: task count"
    RETIRE_MEMORY = "retire: memory"
    LEAVE_MEMORY = "leave at once: memory"


def due(view: View, record: Record, limits: Limits, now_ns: int) -> Due:
    """The most urgent thing that a slot calls for."""
    if view.running:
        if 0 < view.hard_ns <= now_ns:
            return Due.HARD_LIMIT
        # What was sampled before this execution began was another one's memory.
        if view.sampled_ns >= view.start_ns and _over(view.private_kib, limits.hard_memory_kib):
            return Due.HARD_MEMORY
        if 0 < view.soft_ns <= now_ns and not _soft_sent_lately(view, record, now_ns):
            return Due.SOFT_LIMIT
        if _recall_wanted(view, record) and now_ns - _alone_since_ns(view) >= RECALL_AFTER_NS:
            return Due.RECALL
    if view.state == State.RETIRING:
        return Due.RETIRE_TASKS
    if _over(view.private_kib, limits.hard_memory_kib):
        return Due.LEAVE_MEMORY
    if _over(view.private_kib, limits.max_memory_kib):
        return Due.RETIRE_MEMORY
    return Due.NOTHING


def next_look_ns(view: View, record: Record) -> int | None:
    """When the slot will call for something if nothing in it changes; None for never."""
    if not view.running:
        return None
    moments = [view.hard_ns, view.soft_ns]
    if view.soft_ns and record.soft_execution == view.running:
        moments[1] = record.soft_sent_ns + SOFT_REPEAT_NS
    if _recall_wanted(view, record):
        moments.append(_alone_since_ns(view) + RECALL_AFTER_NS)
    return min((moment for moment in moments if moment), default=None)


def _alone_since_ns(view: View) -> int:
    """Since when nobody in the child looks after what it holds.

    Its loop stands still while a task runs; where tasks run beside each other, it goes on.
    """
    return max(view.start_ns, view.loop_ns)


def _over(value_kib: int, limit_kib: int | None) -> bool:
    return limit_kib is not None and value_kib > limit_kib


def _soft_sent_lately(view: View, record: Record, now_ns: int) -> bool:
    return record.soft_execution == view.running and now_ns - record.soft_sent_ns < SOFT_REPEAT_NS


def _recall_wanted(view: View, record: Record) -> bool:
    return view.has_recallable and view.batch != record.recalled_batch
