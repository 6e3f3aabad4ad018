"""Waiting until queues are empty, while what is in them moves."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest

from prefork.engine.draining import await_empty
from prefork.engine.limits.lanes import lane_of
from prefork.transports.base import Capabilities, Depth

NOTHING = Depth(0, 0, 0)


class Moving:
    """A broker whose only message goes from one queue to another between two looks."""

    capabilities = Capabilities(name="moving")

    def __init__(self, *places: str | None, known: Sequence[str] = ("a", "b")) -> None:
        self._places = list(places)
        self._known = known
        self.asked: list[str] = []

    def depth(self, queue: str) -> Depth:
        self.asked.append(queue)
        place = self._places.pop(0) if self._places else None
        return Depth(1, 0, 0) if place == queue else NOTHING

    def queues(self) -> list[str]:
        return list(self._known)

    def moves(self) -> int:
        """What the task that moves it has counted."""
        return -len(self._places)


def drained(broker: Any, timeout_s: float = 5.0, served: Callable[[str], None] = lambda left: None) -> None:
    await_empty(broker, ["a", "b"], served, broker.moves, timeout_s, delayed=True)


def test_a_message_that_goes_to_a_queue_just_looked_at_is_waited_for() -> None:
    # In b while a is looked at, in a while b is; then it is seen in a, and gone.
    broker = Moving("b", "a", "a", "a")
    drained(broker)
    assert len(broker.asked) == 2 * 5


@pytest.mark.parametrize("times", range(9))
def test_a_chain_that_is_never_seen_where_it_is_looked_for_is_waited_for(times: int) -> None:
    broker = Moving(*["b", "a"] * times, "a", "a")
    drained(broker)
    assert broker.moves() == 0


def test_a_chain_that_never_ends_is_waited_for_no_longer_than_was_said() -> None:
    broker = Moving(*["b", "a"] * 1000)
    with pytest.raises(TimeoutError, match="not empty within 0 s: tasks go on"):
        drained(broker, 0.0)
    assert len(broker.asked) == 2 * 3


def test_what_is_left_is_said_when_the_time_is_over() -> None:
    with pytest.raises(TimeoutError, match="not empty within 0 s: a: 1 ready, 0 in work, 0 delayed"):
        drained(Moving("a"), 0.0)


def test_who_is_asked_whether_somebody_serves_what_is_left_may_end_the_wait() -> None:
    def nobody(left: str) -> None:
        raise LookupError(left)

    with pytest.raises(LookupError, match="b: 1 ready"):
        drained(Moving(None, "b"), served=nobody)


def test_what_waits_in_a_lane_of_a_queue_is_left_in_that_queue() -> None:
    mine, other = lane_of("b", "limited"), lane_of("other", "limited")
    with pytest.raises(TimeoutError, match="b.limited.limited: 1 ready"):
        drained(Moving(None, None, mine, known=["b", other, mine]), 0.0)
    drained(Moving(None, None, other, known=["b", other]))
