"""The rule of a token bucket, as pure arithmetic with a clock that the test turns."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.transports.coordination import Level, check_bucket, check_time

rates = st.floats(0.001, 10_000.0)
bursts = st.floats(1.0, 1000.0)
steps = st.lists(st.tuples(st.floats(-5.0, 100.0), st.integers(0, 50)), max_size=60)


@given(rate=rates, burst=bursts, calls=steps)
def test_nobody_takes_more_than_the_burst_and_the_rate_allow(
    rate: float, burst: float, calls: list[tuple[float, int]]
) -> None:
    level, taken, elapsed_s = Level(burst), 0, 0.0
    for pause_s, want in calls:
        level, grant = level.take(pause_s, rate, burst, want)
        elapsed_s += max(0.0, pause_s)
        taken += grant.tokens
        assert 0 <= grant.tokens <= want
        assert 0.0 <= level.tokens <= burst
        assert taken <= burst + elapsed_s * rate + 1e-6 * (1 + len(calls) * (burst + elapsed_s * rate))


@given(
    rate=rates,
    burst=bursts,
    tokens=st.floats(0.0, 1000.0),
    pause_s=st.floats(0.0, 100.0),
    want=st.integers(1, 50),
)
def test_whoever_waits_as_long_as_was_said_gets_a_token(
    rate: float, burst: float, tokens: float, pause_s: float, want: int
) -> None:
    level, grant = Level(min(tokens, burst)).take(pause_s, rate, burst, want)
    assert (grant.retry_after_s == 0.0) is (grant.tokens == want)
    _level, following = level.take(grant.retry_after_s, rate, burst, 1)
    if grant.tokens < want:
        assert following.tokens == 1
        assert level.take(grant.retry_after_s * 0.99 - 1e-8 / rate, rate, burst, 1)[1].tokens == 0


@given(rate=rates, burst=bursts, tokens=st.floats(0.0, 1000.0))
def test_a_bucket_is_full_when_it_was_said_to_be(rate: float, burst: float, tokens: float) -> None:
    level = Level(min(tokens, burst))
    filled, _grant = level.take(level.full_after_s(rate, burst), rate, burst, 0)
    assert filled.tokens == pytest.approx(burst)
    assert filled.full_after_s(rate, burst) == pytest.approx(0.0, abs=1e-6 / rate * burst)


def test_a_clock_that_was_set_back_takes_nothing_away() -> None:
    level, grant = Level(3.0).take(-1000.0, 1.0, 5.0, 1)
    assert (level.tokens, grant.tokens) == (2.0, 1)


@pytest.mark.parametrize("seconds", [0.0, -1.0, float("nan"), float("inf")])
def test_a_time_without_an_end_is_refused(seconds: float) -> None:
    with pytest.raises(ValueError, match="ttl_s"):
        check_time("ttl_s", seconds)
    with pytest.raises(ValueError, match="rate_per_s"):
        check_bucket(seconds, 1.0, 1)
