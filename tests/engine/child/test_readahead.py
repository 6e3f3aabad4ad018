from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.child.readahead import SAMPLES_MIN, SHORT_S, Kind, ReadAhead

BUDGET_S = 0.1


def test_a_kind_is_short_only_after_enough_short_runs() -> None:
    kind = Kind()
    known = []
    for _ in range(SAMPLES_MIN):
        known.append(kind.short)
        kind.add(0.001)
    assert not any(known)
    assert kind.short


def test_a_run_of_exactly_the_bound_is_not_short() -> None:
    kind = Kind()
    for _ in range(10 * SAMPLES_MIN):
        kind.add(SHORT_S)
    assert not kind.short


def test_one_long_run_costs_a_hundred_short_ones() -> None:
    kind = Kind()
    for _ in range(SAMPLES_MIN):
        kind.add(0.0001)
    kind.add(SHORT_S)
    for _ in range(99):
        kind.add(0.0001)
    assert not kind.short
    kind.add(0.0001)
    assert kind.short


def test_the_average_starts_at_the_first_run_and_follows_the_others_slowly() -> None:
    kind = Kind()
    kind.add(0.004)
    assert kind.average_s == 0.004
    kind.add(0.0)
    assert 0.0 < kind.average_s < 0.004


def test_a_very_long_run_keeps_a_kind_from_being_short_by_its_average() -> None:
    kind = Kind()
    for _ in range(SAMPLES_MIN):
        kind.add(0.0)
    kind.add(3600.0)
    for _ in range(100):
        kind.add(0.0)
    assert kind.debt == 0
    assert kind.short == (kind.average_s < SHORT_S)


def test_the_kinds_of_two_names_are_kept_apart() -> None:
    ahead = ReadAhead(BUDGET_S, 64)
    ahead.kind("a").add(1.0)
    assert ahead.kind("a") is ahead.kind("a")
    assert ahead.kind("a").samples == 1
    assert ahead.kind("b").samples == 0


def test_it_begins_with_one_and_doubles_up_to_the_bound() -> None:
    ahead = ReadAhead(BUDGET_S, 20)
    seen = [ahead.limit()]
    for _ in range(6):
        ahead.batch_done(ahead.limit(), True, 0.0001)
        seen.append(ahead.limit())
    assert seen == [1, 2, 4, 8, 16, 20, 20]


def test_it_stops_growing_where_the_budget_is_spent() -> None:
    ahead = ReadAhead(BUDGET_S, 1000)
    for _ in range(12):
        ahead.batch_done(ahead.limit(), True, 0.004)
    assert ahead.limit() == 25


def test_a_batch_with_something_not_known_to_be_short_falls_back_to_one() -> None:
    ahead = ReadAhead(BUDGET_S, 64)
    for _ in range(4):
        ahead.batch_done(1, True, 0.0001)
    ahead.batch_done(16, False, 0.0001)
    assert ahead.limit() == 1


def test_a_batch_of_nothing_falls_back_to_one() -> None:
    ahead = ReadAhead(BUDGET_S, 64)
    ahead.batch_done(1, True, 0.0001)
    ahead.batch_done(0, True, 0.0)
    assert ahead.limit() == 1


def test_without_budget_or_bound_one_message_is_held() -> None:
    for ahead in (ReadAhead(0.0, 64), ReadAhead(BUDGET_S, 0), ReadAhead(BUDGET_S, -3)):
        for _ in range(5):
            ahead.batch_done(1, True, 0.001)
        assert ahead.limit() == 1


def test_runs_too_fast_to_measure_do_not_divide_by_zero() -> None:
    ahead = ReadAhead(BUDGET_S, 4)
    for _ in range(5):
        ahead.batch_done(1, True, 0.0)
    assert ahead.limit() == 4


@given(
    budget=st.floats(min_value=0, max_value=10),
    bound=st.integers(min_value=-1, max_value=5000),
    batches=st.lists(
        st.tuples(st.integers(0, 500), st.booleans(), st.floats(min_value=0, max_value=SHORT_S)), max_size=30
    ),
)
def test_any_history_keeps_within_budget_and_bound_and_doubles_at_most(
    budget: float, bound: int, batches: list[tuple[int, bool, float]]
) -> None:
    ahead = ReadAhead(budget, bound)
    for ran, all_short, slowest_s in batches:
        before = ahead.limit()
        ahead.batch_done(ran, all_short, slowest_s)
        after = ahead.limit()
        assert 1 <= after <= min(2 * before, max(1, bound))
        assert after == 1 or after * slowest_s <= budget * (1 + 1e-9)
        if not all_short or ran == 0:
            assert after == 1


@given(st.lists(st.floats(min_value=0, max_value=1.0), max_size=300))
def test_a_kind_known_to_be_short_had_at_most_one_long_run_in_a_hundred(runs: list[float]) -> None:
    kind = Kind()
    for runtime_s in runs:
        kind.add(runtime_s)
    long_runs = sum(runtime_s >= SHORT_S for runtime_s in runs)
    if kind.short:
        assert len(runs) >= SAMPLES_MIN
        assert long_runs * 100 <= len(runs)
