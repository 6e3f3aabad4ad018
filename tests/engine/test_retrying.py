from __future__ import annotations

import math
from datetime import datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from prefork.engine.exceptions import InvalidTaskError
from prefork.engine.publishing import retry_pause_s
from prefork.engine.retrying import (
    backoff_s,
    call_with,
    delays_of,
    exhausted,
    nth_delay_s,
    over_time,
    wall_s_of,
    wants_autoretry,
)


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


@given(
    delays=st.lists(st.floats(0, 1e6), min_size=1, max_size=8),
    retries=st.integers(0, 100),
)
def test_the_nth_retry_waits_the_nth_delay_and_the_last_repeats(delays: list[float], retries: int) -> None:
    found = [nth_delay_s(delays_of("retry_delays", delays), n) for n in range(retries + 1)]
    assert found[: len(delays)] == delays[: len(found)]
    assert set(found[len(delays) :]) <= {delays[-1]}


def test_one_delay_is_a_list_of_itself_and_a_negative_one_is_none() -> None:
    assert delays_of("countdown", 5) == (5.0,)
    assert delays_of("countdown", timedelta(minutes=1)) == (60.0,)
    assert delays_of("countdown", (0, -3, timedelta(seconds=2))) == (0.0, 0.0, 2.0)


@pytest.mark.parametrize("value", [[], "5", b"5", True, None, math.nan, math.inf, [1, "2"], [[1]], {1: 2}])
def test_what_is_no_delay_is_refused_by_name(value: object) -> None:
    with pytest.raises(InvalidTaskError, match="retry_delays="):
        delays_of("retry_delays", value)


@given(
    first=st.floats(0, 2e9),
    delays=st.lists(st.floats(0.001, 100), min_size=1, max_size=5),
    took=st.lists(st.floats(0, 50), min_size=1, max_size=5),
    retry_for_s=st.floats(0, 300),
)
def test_no_attempt_begins_later_than_the_total_time_allows(
    first: float, delays: list[float], took: list[float], retry_for_s: float
) -> None:
    starts, attempt = [first], 0
    while True:
        due = starts[-1] + took[attempt % len(took)] + nth_delay_s(delays, attempt)
        if over_time(first, due, retry_for_s) or attempt > 1000:
            break
        starts.append(due)
        attempt += 1
    assert all(start <= first + retry_for_s for start in starts[1:])
    assert due > first + retry_for_s or attempt > 1000
    assert not over_time(first, due, None)


def test_a_naive_datetime_is_utc_unless_a_zone_says_otherwise() -> None:
    assert wall_s_of(datetime(1970, 1, 2)) == 86400.0
    assert wall_s_of(datetime(1970, 1, 2), ZoneInfo("Europe/Rome")) == 86400.0 - 3600
    assert wall_s_of(datetime(2026, 7, 1, 12), None) == datetime(2026, 7, 1, 12).timestamp()


def test_what_a_clock_change_skips_counts_on_and_what_it_repeats_comes_first() -> None:
    rome = ZoneInfo("Europe/Rome")
    skipped = wall_s_of(datetime(2026, 3, 29, 2, 30), rome)  # from 02:00 to 03:00
    assert datetime.fromtimestamp(skipped, rome).isoformat() == "2026-03-29T03:30:00+02:00"
    repeated = datetime(2026, 10, 25, 2, 30)  # from 03:00 back to 02:00
    first, second = wall_s_of(repeated, rome), wall_s_of(repeated.replace(fold=1), rome)
    assert second - first == 3600
    assert datetime.fromtimestamp(first, rome).utcoffset() == timedelta(hours=2)


zones = st.sampled_from(["UTC", "Europe/Rome", "America/St_Johns", "Australia/Lord_Howe", "Pacific/Apia"])


@given(moment=st.datetimes(datetime(1980, 1, 1), datetime(2037, 1, 1), allow_imaginary=False), name=zones)
def test_a_naive_moment_is_the_one_that_clocks_of_its_zone_show(moment: datetime, name: str) -> None:
    zone = ZoneInfo(name)
    shown = datetime.fromtimestamp(wall_s_of(moment, zone), zone).replace(tzinfo=None)
    skipped_s = (shown - moment).total_seconds()
    assert 0 <= skipped_s <= 86_400
    if skipped_s == 0:
        assert abs(wall_s_of(shown, zone) - wall_s_of(moment, zone)) <= 86_400


def test_arguments_given_anew_take_the_place_of_old_ones() -> None:
    def body(a: int, b: int = 0, *rest: int, c: int = 0) -> None: ...

    assert call_with(body, (1,), {"b": 2}, None, None) == (None, None)
    assert call_with(body, (1,), {"b": 2}, (5, 6), None) == ((5, 6), {})
    assert call_with(body, (1,), {"c": 2}, (5, 6), None) == ((5, 6), None)
    assert call_with(body, (1, 2, 3), {}, None, {"b": 9, "c": 8}) == ((1, 9, 3), {"c": 8})
    assert call_with(body, (), {"a": 1}, None, {"b": 9}) == (None, {"b": 9})
    assert call_with(body, (1,), {"b": 2}, (7,), {"b": 3}) == ((7,), {"b": 3})
    assert call_with(max, (1, 2), {}, None, {"key": abs}) == ((1, 2), {"key": abs})


@given(
    args=st.lists(st.integers(), max_size=3),
    kwargs=st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3),
    new_args=st.none() | st.lists(st.integers(), max_size=3),
    new_kwargs=st.none() | st.dictionaries(st.sampled_from("abc"), st.integers(), max_size=3),
)
def test_a_call_that_was_possible_stays_possible(
    args: list[int], kwargs: dict[str, int], new_args: list[int] | None, new_kwargs: dict[str, int] | None
) -> None:
    def body(a: int = 0, b: int = 0, c: int = 0) -> tuple[int, int, int]:
        return a, b, c

    overlap = set("abc"[: len(args)]) & set(kwargs)
    both = new_args is not None and new_kwargs is not None
    assume(not overlap and not both)
    found_args, found_kwargs = call_with(body, args, kwargs, new_args, new_kwargs)
    seen = body(
        *(args if found_args is None else found_args), **(kwargs if found_kwargs is None else found_kwargs)
    )
    for index, value in enumerate(new_args or ()):
        assert seen[index] == value
    for name, value in (new_kwargs or {}).items():
        assert seen["abc".index(name)] == value


def test_exclusions_win_over_automatic_retries() -> None:
    assert wants_autoretry(KeyError(), (LookupError,), ())
    assert not wants_autoretry(KeyError(), (LookupError,), (KeyError,))
    assert not wants_autoretry(ValueError(), (LookupError,), ())


def test_publishing_pauses_grow_by_steps_and_end() -> None:
    policy = {"max_retries": 3, "interval_start": 0, "interval_step": 0.2, "interval_max": 0.3}
    assert [retry_pause_s(policy, n) for n in range(1, 5)] == [0, 0.2, 0.3, None]
    assert retry_pause_s({"max_retries": None, "interval_start": 1}, 10**6) == 1
