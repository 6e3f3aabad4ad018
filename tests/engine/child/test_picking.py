"""Where the next messages come from, when the settings ask for more than the broker does by itself."""

from __future__ import annotations

from collections import Counter
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.child.picking import Picker, picker_of
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.queue_turns import InOrder, Weighted
from prefork.transports.base import Capabilities, Delivery


class Broker:
    """Queues that are asked one at a time, as a consumer of RabbitMQ: it also has a descriptor."""

    def __init__(self, **queues: int) -> None:
        self.waiting = dict(queues)
        self.asked: list[str] = []

    def fileno(self) -> int:
        return -1

    def reserve(self, max_n: int, timeout_s: float = 0.0) -> list[Delivery]:
        self.asked.append("all")
        for name in self.waiting:
            if found := self._take(name, max_n):
                return found
        return []

    def reserve_from(self, queue: str, max_n: int) -> list[Delivery]:
        self.asked.append(queue)
        return self._take(queue, max_n)

    def _take(self, name: str, max_n: int) -> list[Delivery]:
        count = min(max_n, self.waiting[name])
        self.waiting[name] -= count
        return [Delivery(b"%d" % number, name, b"") for number in range(count)]


class Rotating(Broker):
    """One that can look at other priorities first."""

    def __init__(self, **queues: int) -> None:
        super().__init__(**queues)
        self.rotations: list[int] = []

    def reserve_rotated(self, by: int, max_n: int, queue: str | None = None) -> list[Delivery]:
        self.rotations.append(by)
        return self.reserve(max_n) if queue is None else self.reserve_from(queue, max_n)


def picker(broker: Any, turns: Any = None, fairness: int | None = None) -> Picker:
    return Picker(broker, turns, fairness)


def settings(**given: Any) -> Any:
    usual = {
        "worker_queue_order": "round_robin",
        "worker_queue_weights": {},
        "worker_priority_fairness": None,
    }
    return SimpleNamespace(**{**usual, **given})


def test_the_next_queue_is_asked_when_the_first_has_nothing() -> None:
    broker = Broker(a=0, b=1)
    found = picker(broker, InOrder(["a", "b"])).reserve(5)
    assert [one.queue for one in found] == ["b"]
    assert broker.asked == ["a", "b"]


def test_an_idle_consumer_takes_what_was_pushed_to_it_first() -> None:
    broker = Broker(a=0, b=0)
    one = picker(broker, InOrder(["a", "b"]))
    assert one.reserve(5) == []
    assert broker.asked == ["a", "b", "all"]
    broker.waiting["b"] += 1
    assert [d.queue for d in one.reserve(5)] == ["b"]
    assert one.reserve(5) == []
    assert broker.asked[3:] == ["all", "a", "b", "all"]


def test_nothing_is_asked_for_when_nothing_may_be_held() -> None:
    broker = Broker(a=3)
    assert picker(broker, InOrder(["a"])).reserve(0) == []
    assert broker.asked == []


@given(
    fairness=st.integers(2, 12),
    limits=st.lists(st.integers(1, 20), min_size=1, max_size=40),
)
def test_of_so_many_messages_exactly_one_is_taken_out_of_order(fairness: int, limits: list[int]) -> None:
    broker = Rotating(a=10_000)
    one = picker(broker, None, fairness)
    by_priority = rotated = 0
    for limit in limits:
        before = len(broker.rotations)
        found = len(one.reserve(limit))
        if len(broker.rotations) > before:
            assert found == 1
            rotated += 1
        else:
            by_priority += found
        assert rotated == (by_priority + rotated) // fairness
    assert all(1 <= by <= 9 for by in broker.rotations)
    expected = [(broker.rotations[0] - 1 + step) % 9 + 1 for step in range(rotated)] if rotated else []
    assert broker.rotations == expected


@given(weights=st.lists(st.integers(1, 9), min_size=2, max_size=4), limit=st.integers(1, 32))
def test_weights_hold_whatever_is_taken_at_once(weights: list[int], limit: int) -> None:
    names = "abcd"[: len(weights)]
    broker = Broker(**dict.fromkeys(names, 100_000))
    one = picker(broker, Weighted(dict(zip(names, weights))))
    taken: Counter[str] = Counter()
    for _ in range(60):
        taken.update(delivery.queue for delivery in one.reserve(limit))
    for name, weight in zip(names, weights):
        assert abs(taken[name] - taken.total() * weight / sum(weights)) <= len(names) * limit + 1


def test_a_picker_is_only_made_when_it_is_needed() -> None:
    able = Capabilities(name="able")
    broker: Any = Rotating(a=1, b=1)
    assert picker_of(broker, ["a", "b"], settings(), able) is None
    assert picker_of(broker, ["a"], settings(worker_queue_order="strict"), able) is None
    assert picker_of(broker, ["a", "b"], settings(worker_queue_order="strict"), able) is not None
    assert picker_of(broker, ["a", "b"], settings(worker_queue_weights={"a": 2}), able) is not None
    assert picker_of(broker, ["a"], settings(worker_priority_fairness=5), able) is not None


def test_what_a_broker_cannot_do_is_refused() -> None:
    unable = Capabilities(name="unable")
    plain: Any = SimpleNamespace(reserve=lambda max_n, timeout_s=0.0: [])
    with pytest.raises(ImproperlyConfigured, match="worker_queue_weights cannot be kept on unable"):
        picker_of(plain, ["a", "b"], settings(worker_queue_weights={"a": 2}), unable)
    with pytest.raises(ImproperlyConfigured, match="worker_priority_fairness cannot be kept on unable"):
        picker_of(plain, ["a"], settings(worker_priority_fairness=2), unable)
