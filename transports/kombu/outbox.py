"""What the bridge publishes: messages of others, messages that return, wait, or are dead."""

from __future__ import annotations

from typing import Any

from ..base import Outgoing
from .documents import CAUSES, CRASHES, DUE, QUEUE, REASON, parts_of
from .journal import Entry
from .line import Line

PARKING = "prefork-deferred"
"""The queue of messages that wait for their time; agents read it."""

GRAVEYARD = "prefork-dead-letters"
"""The queue of dead letters, for people to read with the tools of their broker."""


def check(message: Outgoing) -> None:
    """Refuse what cannot be sent.

    :raises ValueError: the message names no queue.
    """
    if not message.queue:
        raise ValueError("a message needs the name of a queue")


def send(line: Line, message: Outgoing) -> None:
    """Publish a message."""
    line.publish(message.queue, parts_of(message.document, message.priority))


def give_back(line: Line, entry: Entry) -> None:
    """Put a message into its queue again, with its record; one that waits, where it waits."""
    marks = _record(entry)
    if entry.due_wall_s is not None:
        marks |= {DUE: entry.due_wall_s, QUEUE: entry.home}
    line.publish(entry.queue, parts_of(entry.document, entry.priority, marks))


def go_home(line: Line, entry: Entry) -> None:
    """Put a message that waited into the queue it belongs to."""
    line.publish(entry.home, parts_of(entry.document, entry.priority, _record(entry)))


def charge(entry: Entry, causes: tuple[str, ...]) -> Entry:
    """The message after one more process died of it."""
    return Entry(
        entry.queue,
        entry.document,
        entry.priority,
        entry.crashes + 1,
        (*entry.causes, *causes),
        True,
        entry.due_wall_s,
        entry.home,
    )


def park(line: Line, entry: Entry, due_wall_s: float) -> None:
    """Let a message wait."""
    marks = {**_record(entry), DUE: due_wall_s, QUEUE: entry.queue}
    line.publish(PARKING, parts_of(entry.document, entry.priority, marks))


def bury(line: Line, entry: Entry, reason: str, causes: tuple[str, ...]) -> None:
    """Put a message among the dead letters."""
    marks = {
        QUEUE: entry.queue,
        REASON: reason,
        CRASHES: entry.crashes,
        CAUSES: [*entry.causes, *causes],
    }
    line.publish(GRAVEYARD, parts_of(entry.document, entry.priority, marks))


def _record(entry: Entry) -> dict[str, Any]:
    marks: dict[str, Any] = {}
    if entry.crashes:
        marks[CRASHES] = entry.crashes
    if entry.causes:
        marks[CAUSES] = list(entry.causes)
    return marks
