"""Asks the broker for messages in the order of queues and priorities that a worker is to keep.

Only made where the settings ask for more than transports do by themselves: take the best priority of all
queues, and queue after queue within one priority.
"""

from __future__ import annotations

import random
from typing import Any, Final

from ...transports.base import Capabilities, Consumer, Delivery, Rotates, Selects, Wakeable
from ..broker_gaps import no_fairness, no_turns
from ..exceptions import ImproperlyConfigured
from ..queue_turns import WEIGHT_MAX, Turns, turns_of

# Priorities are 0 to 9: all but the best one get their turns as the first to be looked at.
_OTHER_PRIORITIES: Final = 9


class Picker:
    """Chooses where the next messages come from. Used by one thread of one child.

    :param turns: decides between queues; None leaves that to the transport.
    :param fairness: of so many messages, one is taken where another priority than the best is looked at
        first; None keeps to priorities strictly.
    """

    def __init__(self, consumer: Consumer, turns: Turns | None, fairness: int | None) -> None:
        self._consumer = consumer
        self._turns = turns
        self._fairness = fairness
        self._by_priority = 0  # messages since the last one that was taken out of order
        self._rotation = random.randrange(_OTHER_PRIORITIES)
        # An idle consumer that messages are pushed to has some at hand, of any queue: they come first.
        self._pushed = isinstance(consumer, Wakeable)
        self._idle = False

    def reserve(self, limit: int) -> list[Delivery]:
        """Take up to so many messages, as `Consumer.reserve` without waiting.

        :raises TransportError: as that does.
        """
        if limit <= 0:
            return []
        if self._idle:
            found = self._consumer.reserve(limit)
            self._idle = not found
            return found
        if self._fairness is None:
            return self._from_queues(limit, 0)
        room = self._fairness - 1 - self._by_priority
        if room > 0:
            found = self._from_queues(min(limit, room), 0)
            self._by_priority += len(found)
            return found
        found = self._from_queues(1, 1 + self._rotation)
        if found:
            self._by_priority = 0
            self._rotation = (self._rotation + 1) % _OTHER_PRIORITIES
        return found

    def _from_queues(self, limit: int, rotation: int) -> list[Delivery]:
        turns = self._turns
        if turns is None:
            return self._take(None, limit, rotation)
        order = turns.order()
        for place, queue in enumerate(order):
            found = self._take(queue, min(limit, turns.share(queue, limit)), rotation)
            if found:
                turns.took(queue, len(found), order[:place])
                return found
        found = self._consumer.reserve(limit)
        self._idle = self._pushed and not found
        return found

    def _take(self, queue: str | None, limit: int, rotation: int) -> list[Delivery]:
        consumer = self._consumer
        if rotation:
            assert isinstance(consumer, Rotates)
            return consumer.reserve_rotated(rotation, limit, queue)
        if queue is None:
            return consumer.reserve(limit)
        assert isinstance(consumer, Selects)
        return consumer.reserve_from(queue, limit)


def picker_of(
    consumer: Consumer, queues: list[str], config: Any, capabilities: Capabilities
) -> Picker | None:
    """What a worker's settings ask for; None where the transport does it by itself.

    :raises ImproperlyConfigured: they contradict each other, or this broker cannot do it.
    """
    begin = random.randrange(len(queues) * WEIGHT_MAX) if queues else 0
    turns = turns_of(queues, config.worker_queue_order, config.worker_queue_weights, begin)
    fairness = config.worker_priority_fairness
    if turns is not None and not isinstance(consumer, Selects):
        raise ImproperlyConfigured(no_turns(capabilities.name))
    if fairness is not None and not isinstance(consumer, Rotates):
        raise ImproperlyConfigured(no_fairness(capabilities.name))
    return None if turns is None and fairness is None else Picker(consumer, turns, fairness)
