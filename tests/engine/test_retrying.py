from __future__ import annotations

from datetime import datetime, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.publishing import retry_pause_s
from prefork.engine.retrying import backoff_s, due_wall_s, exhausted, wall_s_of, wants_autoretry


@given(
    factor=st.floats(0.1, 100),
    retries=st.integers(0, 10_000),
    maximum_s=st.floats(0, 1e6),
    jitter=st.booleans(),
)
def test_a_backoff_stays_between_nothing_and_its_maximum(
    factor: float, retries: int, maximum_s: float, jitter: bool
) -> None:
    pause = backoff_s(factor, retries, maximum_s, jitter=jitter, uniform=lambda low, high: (low + high) / 2)
    assert 0 <= pause <= maximum_s


def test_a_backoff_doubles() -> None:
    pauses = [backoff_s(2, n, 100, jitter=False, uniform=max) for n in range(7)]
    assert pauses == [2, 4, 8, 16, 32, 64, 100]


@pytest.mark.parametrize(
    ("done", "limit", "answer"),
    [(0, 3, False), (2, 3, False), (3, 3, True), (0, 0, True), (10**6, None, False)],
)
def test_retries_end_at_their_maximum(done: int, limit: int | None, answer: bool) -> None:
    assert exhausted(done, limit) is answer


def test_the_next_attempt_is_due_at_eta_else_after_countdown_else_after_the_default() -> None:
    eta = datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert due_wall_s(5.0, eta=eta, countdown_s=1, default_delay_s=180) == eta.timestamp()
    assert due_wall_s(5.0, eta=77.0, countdown_s=None, default_delay_s=180) == 77.0
    assert due_wall_s(5.0, eta=None, countdown_s=0, default_delay_s=180) == 5.0
    assert due_wall_s(5.0, eta=None, countdown_s=-3, default_delay_s=180) == 5.0
    assert due_wall_s(5.0, eta=None, countdown_s=None, default_delay_s=180) == 185.0


def test_a_naive_datetime_is_utc() -> None:
    assert wall_s_of(datetime(1970, 1, 2)) == 86400.0


def test_exclusions_win_over_automatic_retries() -> None:
    assert wants_autoretry(KeyError(), (LookupError,), ())
    assert not wants_autoretry(KeyError(), (LookupError,), (KeyError,))
    assert not wants_autoretry(ValueError(), (LookupError,), ())


def test_publishing_pauses_grow_by_steps_and_end() -> None:
    policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.3}
    assert [retry_pause_s(policy, n) for n in range(1, 5)] == [0, 0.2, 0.3, None]
    assert retry_pause_s({"max_retries": None, "interval_start": 1}, 10**6) == 1
