"""The queues in which limited messages wait: one per task kind and queue, its *lane*.

A message whose kind is out of tokens is moved there once, and waits there in order, out of the way of
everything else in its queue.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import blake2b
from typing import Final

MARK: Final = ".limited."
NAME_BYTES_MAX: Final = 255
_DIGEST_BYTES: Final = 16


def lane_of(queue: str, task_name: str) -> str:
    """The lane of a task kind's messages from a queue: its name, at most `NAME_BYTES_MAX` long.

    What would be longer is replaced by a digest: the task's name first, then the queue's.
    """
    name = f"{queue}{MARK}{task_name}"
    if _length(name) <= NAME_BYTES_MAX:
        return name
    digest = blake2b(
        f"{queue}\0{task_name}".encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES
    ).hexdigest()
    name = f"{queue}{MARK}{digest}"
    return name if _length(name) <= NAME_BYTES_MAX else f"long{MARK}{digest}"


def is_lane(name: str) -> bool:
    """Whether a queue is a lane of some other one."""
    return MARK in name


def lanes_among(names: Iterable[str], queue: str) -> list[str]:
    """Those of these queues that are lanes of a queue; not of one whose name is too long for that."""
    return [name for name in names if name.startswith(queue + MARK)]


def lanes_of(queues: Sequence[str], task_name: str) -> list[str]:
    """The lanes of a task kind, for each queue that it may come from."""
    return [lane_of(queue, task_name) for queue in queues if not is_lane(queue)]


def _length(name: str) -> int:
    return len(name.encode("utf-8", "surrogatepass"))
