"""Dropping what waits in a queue together with the locks of the unique tasks in it.

Only whoever has a message in hand may free its lock: one that was merely seen may have been started since.
So what is ready is reserved and acknowledged, in small batches. What is delayed cannot be reserved; it is
looked at before it is dropped, and counts as dropped if it was not to become due in the meantime.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from ..serializers.registry import SerializerTable
from ..transports.base import Outcome, Transport
from .clock import wall_s
from .limits.upkeep import lanes_of_queue, purge_with_lanes
from .message import MalformedMessage, TaskMessage, parse
from .unique import TIME
from .unique_locks import UniqueLocks, mark_of_message

DELAYED_MAX: Final = 1_000
"""How many delayed messages of a queue are looked at."""

_AT_ONCE: Final = 100
_LEASE_S: Final = 60.0
_AWAY_S: Final = 60.0


class Purged(NamedTuple):
    """What a purge did.

    :param dropped: messages.
    :param freed: unique tasks among them whose locks were freed.
    :param unseen: delayed messages that were not looked at: if one is unique, its lock ends by its time.
    """

    dropped: int
    freed: int = 0
    unseen: int = 0


def purge(transport: Transport, queue: str, tasks: Mapping[str, Any], table: SerializerTable) -> Purged:
    """Drop what waits in a queue and in its lanes, and free the locks of unique tasks.

    Locks are looked for only where one of the tasks is unique, since it takes longer.

    :param tasks: the registered ones, by name.
    :raises BrokerUnavailable: the broker cannot be reached.
    """
    locks = UniqueLocks(transport)
    if not locks.possible or not any(getattr(task, "unique", None) for task in tasks.values()):
        return Purged(purge_with_lanes(transport, queue, tasks))
    delayed, unseen = _delayed(transport, queue, table)
    dropped = freed = 0
    for name in (queue, *lanes_of_queue(transport, queue, tasks)):
        count, marked = _drain(transport, name, locks, table)
        dropped += count
        freed += marked
    dropped += purge_with_lanes(transport, queue, tasks)
    freed += sum(_free(locks, message) for message in delayed)
    return Purged(dropped, freed, unseen)


def _delayed(transport: Transport, queue: str, table: SerializerTable) -> tuple[list[TaskMessage], int]:
    """Delayed unique tasks that nobody can start before they are dropped; how many nobody looked at."""
    if not transport.capabilities.inspects_schedule:
        return [], 0  # such a broker's purge leaves them alone, and so their locks are in place
    seen = transport.peek(queue, DELAYED_MAX, delayed=True)
    unseen = max(0, transport.depth(queue).delayed - DELAYED_MAX) if len(seen) >= DELAYED_MAX else 0
    safe_wall_s = wall_s() + _AWAY_S
    far = (one.document for one in seen if one.due_wall_s is not None and one.due_wall_s > safe_wall_s)
    found = (_read(document, table) for document in far)
    return [message for message in found if message is not None], unseen


def _drain(transport: Transport, queue: str, locks: UniqueLocks, table: SerializerTable) -> tuple[int, int]:
    """Acknowledge what is ready in one queue: no more than there was, others may go on sending."""
    left = transport.ready([queue])
    if not left:
        return 0, 0
    owner = f"purge-{os.getpid()}-{os.urandom(4).hex()}"
    transport.heartbeat(owner, _LEASE_S)
    dropped = freed = 0
    try:
        consumer = transport.consumer([queue], owner, owner)
        try:
            while left > 0 and (found := consumer.reserve(min(left, _AT_ONCE), 0.0)):
                answers = consumer.settle([Outcome(one.tag) for one in found])
                gone = [one for one, settled in zip(found, answers, strict=True) if settled]
                messages = (_read(one.document, table) for one in gone)
                freed += sum(_free(locks, message) for message in messages if message is not None)
                dropped += len(gone)
                left -= len(found)
                transport.heartbeat(owner, _LEASE_S)
        finally:
            consumer.close()
    finally:
        transport.unregister(owner)
    return dropped, freed


def _read(document: bytes, table: SerializerTable) -> TaskMessage | None:
    """A message that bears the mark of a unique task; None for any other, and for none."""
    try:
        message = parse(document, table)
    except MalformedMessage:
        return None
    mark = mark_of_message(message)
    return None if mark is None or mark.until == TIME else message


def _free(locks: UniqueLocks, message: TaskMessage) -> int:
    mark = mark_of_message(message)
    if mark is None:
        return 0
    locks.free(mark, message.id)
    return 1


def told(purged: Iterable[tuple[str, Purged]]) -> list[str]:
    """Lines for whoever purged: one per queue."""
    lines = []
    for queue, (dropped, freed, unseen) in purged:
        line = f"{queue}: {dropped} dropped"
        if freed:
            line += f", with the locks of {freed} unique ones"
        if unseen:
            line += (
                f"; of {unseen} delayed ones nobody knows whether they were unique (locks end by their time)"
            )
        lines.append(line)
    return lines
