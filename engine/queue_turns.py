"""Which queue is looked at next: strictly in order, or by weights. Pure.

Weights are kept by smooth weighted round robin: each queue earns its weight with every message that is
taken from any, and the one whose message is taken pays for all. What is taken one by one then repeats
itself after as many messages as the weights make together, evenly spread: of these, each queue has had as
many as its weight says, wherever one begins to count.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from .exceptions import ImproperlyConfigured

WEIGHT_MAX = 100


class Turns(Protocol):
    """Decides between queues."""

    def order(self) -> Sequence[str]:
        """The queues, in the order in which they are to be looked at now."""

    def share(self, queue: str, limit: int) -> int:
        """How many messages to take at most, of `limit` that may be held."""

    def took(self, queue: str, count: int, empty: Sequence[str]) -> None:
        """Messages came from a queue; nothing was found in those looked at before."""


class InOrder:
    """Whatever the first of the queues has comes before anything of the next."""

    def __init__(self, queues: Sequence[str]) -> None:
        self._queues = tuple(queues)

    def order(self) -> Sequence[str]:
        """As in `Turns.order`."""
        return self._queues

    def share(self, queue: str, limit: int) -> int:
        """As in `Turns.share`: all."""
        return limit

    def took(self, queue: str, count: int, empty: Sequence[str]) -> None:
        """Nothing to remember."""


class Weighted:
    """Of the messages of all queues, each queue has the share that its weight says, while it has any.

    :param weights: by queue, from 1 to `WEIGHT_MAX`.
    :param begin: how many messages are taken to have come already. Processes that end after a few tasks
        begin at random, or the heaviest queue alone would be served.
    """

    def __init__(self, weights: Mapping[str, int], begin: int = 0) -> None:
        self._weights = dict(weights)
        self._total = sum(weights.values())
        self._credit = dict.fromkeys(weights, 0)
        for _ in range(begin % self._total):
            self.took(self.order()[0], 1, ())

    def order(self) -> Sequence[str]:
        """As in `Turns.order`."""
        credit, weights = self._credit, self._weights
        return sorted(weights, key=lambda name: -(credit[name] + weights[name]))

    def share(self, queue: str, limit: int) -> int:
        """As in `Turns.share`: what is its due of so many, and at least one."""
        return max(1, limit * self._weights[queue] // self._total)

    def took(self, queue: str, count: int, empty: Sequence[str]) -> None:
        """As in `Turns.took`. A queue that had nothing keeps no claim on what others got meanwhile."""
        paid = 0
        for name, weight in self._weights.items():
            if name in empty:
                self._credit[name] = 0
            else:
                self._credit[name] += count * weight
                paid += count * weight
        self._credit[queue] -= paid


def weights_of(queues: Sequence[str], given: Mapping[Any, Any]) -> dict[str, int]:
    """The weight of each queue; 1 for those of which nothing is said.

    :param given: `worker_queue_weights`; queues that are not consumed here may be in it.
    :raises ImproperlyConfigured: a weight is no whole number from 1 to `WEIGHT_MAX`.
    """
    for name, weight in given.items():
        if isinstance(weight, bool) or not isinstance(weight, int) or not 1 <= weight <= WEIGHT_MAX:
            raise ImproperlyConfigured(
                f"worker_queue_weights: {name!r} has the weight {weight!r}; give a whole number "
                f"from 1 to {WEIGHT_MAX}"
            )
    return {name: given.get(name, 1) for name in queues}


def turns_of(queues: Sequence[str], order: str, given: Mapping[Any, Any], begin: int) -> Turns | None:
    """What a worker's settings say of its queues; None where the transport decides, a queue at a time.

    :param order: `worker_queue_order`: round_robin or strict.
    :param given: `worker_queue_weights`.
    :param begin: see `Weighted`.
    :raises ImproperlyConfigured: they contradict each other, or a weight is none.
    """
    weights = weights_of(queues, given)
    if order == "strict":
        if given:
            raise ImproperlyConfigured(
                "worker_queue_order is strict, so weights mean nothing: drop it, or worker_queue_weights "
                "(-Q queue=weight)"
            )
        return InOrder(queues) if len(queues) > 1 else None
    if len(set(weights.values())) < 2:
        return None
    return Weighted(weights, begin)
