"""The figures of `prefork bench` are counted right, and the recommendation follows its rule."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.bench.figures import (
    Figures,
    delays_ms,
    median,
    percentile,
    rate,
    recommend,
    starts_ns,
)
from prefork.engine.bench.tasks import RECORD
from prefork.engine.bench.trial import Load, default_concurrency


def log(*records: tuple[int, int]) -> bytes:
    return b"".join(RECORD.pack(*record) for record in records)


def figures(concurrency: int, read_ahead: int, per_s: float, p99_ms: float = 1.0) -> Figures:
    return Figures(concurrency, read_ahead, per_s, 0.5, p99_ms, None)


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 10**12))), st.binary(max_size=RECORD.size - 1))
def test_every_whole_record_counts_and_a_message_that_ran_twice_counts_once(
    records: list[tuple[int, int]], rest: bytes
) -> None:
    found = starts_ns(log(*records) + rest)
    assert found == {n: min(t for m, t in records if m == n) for n, _ in records}


def test_the_rate_is_between_the_first_start_and_the_last() -> None:
    assert rate([1_500_000_000, 500_000_000, 1_000_000_000]) == 2.0
    assert rate([7, 7]) == pytest.approx(1e9)


def test_what_began_before_all_children_were_there_does_not_count_unless_it_was_nearly_all() -> None:
    slow, fast = [0, 500_000_000], [1_000_000_000, 1_100_000_000, 1_200_000_000]
    assert rate([*slow, *fast], 900_000_000) == pytest.approx(10)
    assert rate([*slow, *fast], 1_150_000_000) == rate([*slow, *fast]) == pytest.approx(4 / 1.2)
    assert rate([*range(97), *fast], 1_000_000_000) == rate([*range(97), *fast])


def test_delays_are_those_of_the_stamped_messages() -> None:
    assert delays_ms({3: 1_000_000, 4: 2_000_000}, {1: 5, 3: 1_500_000, 4: 5_000_000}) == [0.5, 3.0]


def test_median_and_percentile_are_values_of_the_sample() -> None:
    values = [float(n) for n in range(1, 101)]
    assert median([1.0, 9.0, 2.0]) == 2.0
    assert percentile(values, 99) == 99.0
    assert percentile([4.0], 99) == 4.0


def test_of_those_that_are_as_fast_the_one_with_the_fewest_children_is_recommended() -> None:
    found = [figures(1, 0, 500.0), figures(2, 0, 980.0), figures(4, 0, 1000.0)]
    assert recommend(found) is found[1]


def test_an_unbounded_read_ahead_wins_among_equals_and_then_the_quickest() -> None:
    bounded, unbounded = figures(2, 16, 1000.0, 0.5), figures(2, 0, 990.0, 2.0)
    assert recommend([bounded, unbounded]) is unbounded
    quick, slow = figures(2, 16, 1000.0, 0.5), figures(2, 4, 1000.0, 3.0)
    assert recommend([slow, quick]) is quick


def test_long_tasks_get_as_many_messages_as_there_is_time_for() -> None:
    load = Load(messages=1000, probes=5, task_ms=100.0, seconds=5.0, timeout_s=60.0)
    assert load.count(2) == 100
    assert load.count(1000) == 1000
    assert Load(1000, 5, 60_000.0, 5.0, 60.0).count(1) == 2
    assert Load(1000, 5, 0.0, 5.0, 60.0).count(1) == 1000


def test_one_child_is_always_tried() -> None:
    tried = default_concurrency()
    assert tried[0] == 1
    assert tried == sorted(set(tried))


def test_figures_are_plain_data() -> None:
    assert figures(2, 0, 10.0).plain()["concurrency"] == 2
    with pytest.raises(AttributeError):
        figures(2, 0, 10.0).per_s = 3.0  # type: ignore[misc]
