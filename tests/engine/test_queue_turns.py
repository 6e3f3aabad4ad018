"""Which queue is looked at next: weights are kept exactly, and nobody starves."""

from __future__ import annotations

from collections.abc import Mapping

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.queue_turns import WEIGHT_MAX, InOrder, Weighted, turns_of, weights_of

WEIGHTS = st.lists(st.integers(1, 12), min_size=1, max_size=5).map(
    lambda numbers: {f"q{index}": weight for index, weight in enumerate(numbers)}
)


def picks(turns: Weighted, count: int, limit: int = 1) -> list[str]:
    """What is taken while every queue always has messages."""
    taken: list[str] = []
    while len(taken) < count:
        name = turns.order()[0]
        n = min(limit, turns.share(name, limit))
        turns.took(name, n, ())
        taken += [name] * n
    return taken


@given(weights=WEIGHTS, begin=st.integers(0, 200), offset=st.integers(0, 60))
def test_any_window_as_long_as_all_weights_holds_each_queue_as_often_as_it_weighs(
    weights: dict[str, int], begin: int, offset: int
) -> None:
    total = sum(weights.values())
    window = picks(Weighted(weights, begin), offset + total)[offset:]
    assert {name: window.count(name) for name in weights} == weights


@given(weights=WEIGHTS, begin=st.integers(0, 200), limit=st.integers(1, 64))
def test_batches_keep_the_shares_to_within_a_batch_for_each_queue(
    weights: dict[str, int], begin: int, limit: int
) -> None:
    total = sum(weights.values())
    taken = picks(Weighted(weights, begin), 40 * limit, limit)
    for name, weight in weights.items():
        due = len(taken) * weight / total
        assert abs(taken.count(name) - due) <= len(weights) * max(limit, 1) + 1


@given(
    weights=WEIGHTS,
    steps=st.lists(st.tuples(st.sets(st.integers(0, 4), max_size=4), st.integers(1, 8)), max_size=60),
)
def test_a_queue_that_keeps_having_messages_waits_for_no_more_than_one_round(
    weights: dict[str, int], steps: list[tuple[set[int], int]]
) -> None:
    """Whatever the others do: q0 always has messages."""
    turns, total = Weighted(weights), sum(weights.values())
    missed = 0
    for empty_numbers, _ in steps:
        empty = {f"q{number}" for number in empty_numbers} - {"q0"}
        order = turns.order()
        place = next(place for place, name in enumerate(order) if name not in empty)
        turns.took(order[place], 1, order[:place])
        missed = 0 if order[place] == "q0" else missed + 1
        assert missed <= total * len(weights)


def test_a_queue_that_had_nothing_claims_nothing_afterwards() -> None:
    turns = Weighted({"high": 3, "low": 1})
    for _ in range(100):
        order = turns.order()
        turns.took("high", 1, order[: order.index("high")])
    assert picks(turns, 8).count("low") <= 3


def test_a_begin_at_random_serves_each_queue_first_as_often_as_it_weighs() -> None:
    firsts = [Weighted({"high": 5, "low": 1}, begin).order()[0] for begin in range(6)]
    assert (firsts.count("high"), firsts.count("low")) == (5, 1)


def test_in_order_never_changes() -> None:
    turns = InOrder(["b", "a"])
    turns.took("a", 5, ("b",))
    assert (list(turns.order()), turns.share("a", 7)) == (["b", "a"], 7)


def test_settings_say_what_decides() -> None:
    assert turns_of(["a", "b"], "round_robin", {}, 0) is None
    assert turns_of(["a", "b"], "round_robin", {"elsewhere": 3}, 0) is None
    assert turns_of(["a"], "strict", {}, 0) is None
    assert isinstance(turns_of(["a", "b"], "strict", {}, 0), InOrder)
    assert isinstance(turns_of(["a", "b"], "round_robin", {"a": 2}, 0), Weighted)
    assert weights_of(["a", "b"], {"a": 2, "c": 9}) == {"a": 2, "b": 1}


@pytest.mark.parametrize("wrong", [{"a": 0}, {"a": WEIGHT_MAX + 1}, {"a": "2"}, {"a": True}, {"a": 1.5}])
def test_weights_that_are_none_are_refused(wrong: Mapping[str, object]) -> None:
    with pytest.raises(ImproperlyConfigured, match="worker_queue_weights: 'a'"):
        weights_of(["a"], wrong)


def test_weights_and_a_strict_order_contradict_each_other() -> None:
    with pytest.raises(ImproperlyConfigured, match="strict"):
        turns_of(["a", "b"], "strict", {"a": 2}, 0)
