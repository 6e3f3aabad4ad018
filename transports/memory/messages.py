"""The record that a memory broker keeps of one message."""

from __future__ import annotations

import math
from dataclasses import dataclass

from ..base import Outgoing, Waiting

LOWEST_PRIORITY = 0
HIGHEST_PRIORITY = 9


@dataclass(slots=True, eq=False)
class Stored:
    """One message while the broker has it. Written only under the lock of its broker.

    :param place: where it stands among the messages of its queue and priority; a message that is
        given back keeps its place.
    :param suspect: a worker vanished while it held this message.
    :param started: the present holder announced that it is about to run this suspect.
    :param causes: one line for each crash, oldest first.
    """

    place: int
    queue: str
    document: bytes
    priority: int
    due_wall_s: float | None = None
    crashes: int = 0
    suspect: bool = False
    started: bool = False
    redelivered: bool = False
    causes: tuple[str, ...] = ()

    def seen(self) -> Waiting:
        """The message as inspection shows it."""
        return Waiting(
            queue=self.queue,
            document=self.document,
            priority=self.priority,
            due_wall_s=self.due_wall_s,
            crashes=self.crashes,
        )


def served_priority(priority: int) -> int:
    """Clamp a priority to what is served (interop §1.2)."""
    return min(max(priority, LOWEST_PRIORITY), HIGHEST_PRIORITY)


def check_due(due_wall_s: float | None) -> None:
    """Refuse a due time that cannot be ordered.

    :raises ValueError: it is not a number.
    """
    if due_wall_s is not None and math.isnan(due_wall_s):
        raise ValueError("due_wall_s must be a Unix time or None, not NaN")


def check_outgoing(message: Outgoing) -> None:
    """Refuse what could not be served. Raises ValueError, before anything is stored."""
    if not message.queue:
        raise ValueError("a message needs the name of a queue; got an empty one")
    check_due(message.due_wall_s)
