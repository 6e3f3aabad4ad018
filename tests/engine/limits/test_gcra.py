"""The token bucket, compared with one that counts tokens."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.limits import gcra
from prefork.engine.limits.gcra import Shape, due_ns, give_back, shape_of, take

START_NS = 10**12


class Counting:
    """A bucket as one would draw it: so many tokens are in it, and they come at a rate. Exact."""

    def __init__(self, shape: Shape) -> None:
        self.shape = shape
        self.most = Fraction(shape.capacity_ns, shape.interval_ns)
        self.tokens = self.most
        self.now_ns = START_NS

    def advance(self, now_ns: int) -> None:
        self.tokens = min(self.most, self.tokens + Fraction(now_ns - self.now_ns, self.shape.interval_ns))
        self.now_ns = now_ns

    def take(self, want: int) -> int:
        taken = min(want, int(self.tokens))
        self.tokens -= taken
        return taken

    def due_ns(self) -> Fraction:
        missing = max(Fraction(0), 1 - self.tokens)
        return self.now_ns + missing * self.shape.interval_ns


rates = st.one_of(
    st.floats(1e-3, 1e6, allow_nan=False),
    st.sampled_from([10.0, 100 / 60, 5 / 3600, 1.0, 1000.0]),
)
steps = st.lists(
    st.tuples(st.integers(0, 20_000_000_000), st.integers(0, 20), st.integers(0, 3)), min_size=1, max_size=60
)


@given(rates, st.floats(1, 50), steps)
def test_it_gives_what_a_bucket_that_counts_would_give(
    rate: float, burst: float, steps: list[tuple[int, int, int]]
) -> None:
    shape = shape_of(rate, burst)
    model, full_at_ns, now_ns = Counting(shape), 0, START_NS
    for pause_ns, want, unused in steps:
        now_ns += pause_ns
        model.advance(now_ns)
        taken = take(full_at_ns, shape, now_ns, want)
        assert taken.tokens == model.take(want)
        full_at_ns = taken.full_at_ns
        if taken.tokens < want:
            assert now_ns + taken.wait_ns == model.due_ns()
        back = min(unused, taken.tokens)
        full_at_ns = give_back(full_at_ns, shape, back)
        model.tokens += back
        assert max(due_ns(full_at_ns, shape, now_ns), now_ns) == model.due_ns()


@given(rates, st.floats(1, 20), steps)
def test_no_window_has_more_than_the_rate_and_the_burst(
    rate: float, burst: float, steps: list[tuple[int, int, int]]
) -> None:
    shape = shape_of(rate, burst)
    full_at_ns, now_ns = 0, START_NS
    given_: list[tuple[int, int]] = []
    for pause_ns, want, _ in steps:
        now_ns += pause_ns
        taken = take(full_at_ns, shape, now_ns, want)
        full_at_ns = taken.full_at_ns
        given_.append((now_ns, taken.tokens))
    for at, (begun_ns, _) in enumerate(given_):
        total = 0
        for ended_ns, tokens in given_[at:]:
            total += tokens
            most = Fraction(ended_ns - begun_ns + shape.capacity_ns, shape.interval_ns)
            assert total <= most


@given(rates, rates, st.integers(0, 10**12))
def test_a_rate_that_is_raised_takes_effect_at_once(slow: float, fast: float, later_ns: int) -> None:
    slow, fast = min(slow, fast), max(slow, fast)
    before, after = shape_of(slow, 1.0), shape_of(fast, 1.0)
    full_at_ns = take(0, before, START_NS, 100).full_at_ns
    now_ns = START_NS + later_ns
    for _ in range(5):
        assert due_ns(full_at_ns, after, now_ns) <= now_ns + 2 * after.interval_ns
        found = take(full_at_ns, after, now_ns, 1)
        assert found.wait_ns <= 2 * after.interval_ns
        full_at_ns, now_ns = found.full_at_ns, now_ns + found.wait_ns
    assert found.tokens or take(full_at_ns, after, now_ns, 1).tokens


def test_who_overdraws_pays_it_back() -> None:
    shape = shape_of(10.0, 1.0)
    first = take(0, shape, START_NS, 5)
    assert first.tokens == 1
    overdrawn = take(first.full_at_ns, shape, START_NS, 5, overdraft=1)
    assert overdrawn.tokens == 1
    assert take(overdrawn.full_at_ns, shape, START_NS, 1, overdraft=1).tokens == 0
    patient = take(overdrawn.full_at_ns, shape, START_NS, 1)
    assert patient.tokens == 0
    assert patient.wait_ns == pytest.approx(150_000_000, abs=1)


def test_the_wait_is_exact() -> None:
    shape = shape_of(4.0, 2.0)
    taken = take(0, shape, START_NS, 3)
    assert taken.tokens == 2
    assert take(taken.full_at_ns, shape, START_NS + taken.wait_ns - 1, 1).tokens == 0
    assert take(taken.full_at_ns, shape, START_NS + taken.wait_ns, 1).tokens == 1
    assert taken.wait_ns == 250_000_000 - gcra.CATCH_UP_NS


@pytest.mark.parametrize(("rate", "late_ns"), [(100.0, 3_000_000), (20.0, 20_000_000), (1000.0, 5_000_000)])
def test_who_comes_late_loses_nothing_of_the_rate(rate: float, late_ns: int) -> None:
    shape = shape_of(rate, 1.0)
    full_at_ns, now_ns, total = 0, START_NS, 0
    while now_ns < START_NS + 10_000_000_000:
        taken = take(full_at_ns, shape, now_ns, 100)
        total, full_at_ns = total + taken.tokens, taken.full_at_ns
        now_ns += taken.wait_ns + late_ns
    assert 0.98 <= total / (10 * rate) <= 1.02
