"""What an operator does to lanes: drop them with their queue, or hand them back to it."""

from __future__ import annotations

import math
import os
from collections.abc import Iterable, Sequence
from typing import Final

from ...serializers.registry import SerializerTable
from ...transports.base import Outcome, Outgoing, Selects, Transport
from ..clock import mono_s
from ..message import MalformedMessage, parse
from .lanes import MARK, is_lane, lane_of, lanes_among

_AT_ONCE: Final = 100


def lanes_of_queue(transport: Transport, queue: str, task_names: Iterable[str]) -> list[str]:
    """The lanes of a queue, as far as anybody can know.

    :param task_names: for a broker that cannot list its queues: only their lanes are found.
    """
    if transport.capabilities.lists_queues:
        return lanes_among(transport.queues(), queue)
    named = [] if is_lane(queue) else [lane_of(queue, name) for name in task_names]
    return [lane for lane in named if transport.ready([lane])]


def purge_with_lanes(transport: Transport, queue: str, task_names: Iterable[str]) -> int:
    """Drop what waits in a queue and in its lanes; how many messages.

    The lanes come last: what a worker parks meanwhile is dropped as well.
    """
    dropped = transport.purge(queue)
    return dropped + sum(transport.purge(lane) for lane in lanes_of_queue(transport, queue, task_names))


def hand_back(
    transport: Transport,
    lane: str,
    queues: Sequence[str],
    table: SerializerTable,
    *,
    for_s: float = math.inf,
) -> int:
    """Move what waits in a lane to the end of its queue, where workers of other makes find it.

    :param queues: where messages may have come from.
    :param for_s: no longer than about so many seconds.
    :returns: how many were moved.
    """
    ends_mono_s = mono_s() + for_s
    owner = f"release-{os.getpid()}-{os.urandom(4).hex()}"
    consumer = transport.consumer([], owner, owner)
    moved = 0
    try:
        if not isinstance(consumer, Selects):
            return 0
        while mono_s() < ends_mono_s and (found := consumer.reserve_from(lane, _AT_ONCE)):
            outcomes = [
                Outcome(
                    one.tag,
                    follow_ups=(
                        Outgoing(_home(lane, one.document, queues, table), one.document, one.priority),
                    ),
                )
                for one in found
            ]
            moved += sum(consumer.settle(outcomes))
    finally:
        consumer.close()
        transport.unregister(owner)
    return moved


def _home(lane: str, document: bytes, queues: Sequence[str], table: SerializerTable) -> str:
    """The queue that a lane belongs to."""
    try:
        name = parse(document, table).task
    except MalformedMessage:
        return lane.partition(MARK)[0]
    homes = (queue for queue in queues if not is_lane(queue) and lane_of(queue, name) == lane)
    return next(homes, lane.partition(MARK)[0])
