from __future__ import annotations

import pickle
from datetime import datetime, timedelta, timezone
from typing import Any
from zoneinfo import ZoneInfo

import celery.schedules
import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.crontab_fields import FIELDS, parse_field
from prefork.engine.schedules import (
    BaseSchedule,
    ParseException,
    crontab,
    maybe_schedule,
    schedstate,
    schedule,
)
from support.apps import memory_app

UTC = timezone.utc
NOW = datetime(2026, 3, 14, 15, 9, 26, tzinfo=UTC)


def at(moment: datetime) -> Any:
    return lambda: moment


# --- intervals --------------------------------------------------------------------------------------


def test_an_interval_is_due_when_it_has_passed() -> None:
    every = schedule(10, nowfun=at(NOW))
    assert every.is_due(NOW - timedelta(seconds=10)) == schedstate(True, 10.0)
    assert every.is_due(NOW - timedelta(seconds=4)) == schedstate(False, 6.0)
    assert every.is_due((NOW - timedelta(seconds=4)).replace(tzinfo=None)).next == 6.0


def test_a_relative_interval_starts_at_round_multiples() -> None:
    every = schedule(timedelta(minutes=1), relative=True, nowfun=at(NOW))
    assert every.is_due(NOW - timedelta(seconds=5)) == schedstate(False, 34.0)
    assert every.is_due(NOW - timedelta(minutes=2)) == schedstate(True, 34.0)


def test_intervals_compare_and_travel() -> None:
    assert schedule(10) == schedule(timedelta(seconds=10)) == timedelta(seconds=10)
    assert schedule(10) != schedule(11)
    assert hash(schedule(10)) == hash(schedule(10))
    assert pickle.loads(pickle.dumps(schedule(10))) == schedule(10)
    assert (repr(schedule(10)), schedule(10).seconds) == ("<freq: 10 seconds>", 10)
    with pytest.raises(ValueError, match="negative"):
        schedule(-1)


def test_a_schedule_of_ones_own_defines_two_methods() -> None:
    bare = BaseSchedule(nowfun=at(NOW))
    with pytest.raises(AttributeError, match="remaining_estimate"):
        bare.remaining_estimate(NOW)
    with pytest.raises(AttributeError, match="is_due"):
        bare.is_due(NOW)
    assert bare.now() == NOW


def test_numbers_become_schedules() -> None:
    with memory_app() as app:
        made = maybe_schedule(5, app=app)
        assert (made.run_every, made.app) == (timedelta(seconds=5), app)
        assert maybe_schedule(crontab(), app=app).app is app
        assert maybe_schedule(timedelta(1), relative=True).relative


def test_the_time_is_the_apps() -> None:
    with memory_app(timezone="Asia/Tokyo") as app:
        made = crontab(minute=0, hour=9, app=app)
        assert made.next_after(datetime(2026, 1, 1, tzinfo=UTC)).astimezone(UTC).hour == 0
        assert made.now().tzinfo == ZoneInfo("Asia/Tokyo")
        assert made.is_due(app.now()).is_due is False


# --- fields of a crontab ----------------------------------------------------------------------------


def field(index: int, value: Any) -> list[int]:
    return sorted(parse_field(FIELDS[index], value))


@pytest.mark.parametrize(
    ("index", "value", "numbers"),
    [
        (0, "*", list(range(60))),
        (0, 7, [7]),
        (0, "7", [7]),
        (0, "*/15", [0, 15, 30, 45]),
        (0, "3-10/3", [3, 6, 9]),
        (1, "22-2", [0, 1, 2, 22, 23]),
        (1, "8,12-13, 20", [8, 12, 13, 20]),
        (1, {1, 2}, [1, 2]),
        (2, "mon-fri", [1, 2, 3, 4, 5]),
        (2, "Friday-monday", [0, 1, 5, 6]),
        (2, "sun,3", [0, 3]),
        (3, "*/10", [1, 11, 21, 31]),
        (4, "jan,Mar-may", [1, 3, 4, 5]),
        (4, [6, 7], [6, 7]),
    ],
)
def test_a_field_means_these_numbers(index: int, value: Any, numbers: list[int]) -> None:
    assert field(index, value) == numbers


@pytest.mark.parametrize(
    "value",
    ["", ",", "1,", "a", "*/0", "*/x", "*-3", "1-", "-1", "5/2", "1--2", "?", "L", "@daily", "1#2", "mo", []],
)
def test_a_field_that_cannot_be_read_says_why(value: Any) -> None:
    with pytest.raises(ParseException, match="day_of_week"):
        field(2, value)


@pytest.mark.parametrize("value", ["60", 60, -1, "1-99", [61]])
def test_a_number_out_of_range_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="out of range"):
        field(0, value)


@pytest.mark.parametrize("value", [None, True, 1.5, object(), [1.5], [True]])
def test_other_kinds_are_refused(value: Any) -> None:
    with pytest.raises(TypeError):
        field(0, value)


_numbers = st.integers(0, 59)
_parts = st.one_of(
    st.just("*"),
    _numbers.map(str),
    st.tuples(_numbers, _numbers).map(lambda pair: f"{pair[0]}-{pair[1]}"),
    st.integers(1, 70).map(lambda step: f"*/{step}"),
    st.tuples(_numbers, _numbers, st.integers(1, 70)).map(lambda t: f"{t[0]}-{t[1]}/{t[2]}"),
)


@given(st.lists(_parts, min_size=1, max_size=4).map(",".join))
def test_every_valid_text_means_what_it_means_to_celery(text: str) -> None:
    theirs = celery.schedules.crontab_parser(60).parse(text)
    assert parse_field(FIELDS[0], text) == theirs


@given(st.text(max_size=12))
def test_any_text_is_read_or_refused_with_one_of_two_errors(text: str) -> None:
    try:
        found = parse_field(FIELDS[4], text)
    except (ParseException, ValueError):
        return
    assert found <= set(range(1, 13))


# --- crontabs ---------------------------------------------------------------------------------------


def test_the_parameters_come_in_the_order_users_know() -> None:
    made = crontab(1, 2, "wed", 4, 5)
    assert (made.minute, made.hour, made.day_of_week) == ({1}, {2}, {3})
    assert (made.day_of_month, made.month_of_year) == ({4}, {5})
    assert made == crontab.from_string("1 2 4 5 wed")
    assert repr(made) == "<crontab: 1 2 4 5 wed (m/h/dM/MY/d)>"
    with pytest.raises(ParseException, match="3 fields"):
        crontab.from_string("1 2 3")


def test_a_crontab_is_due_at_its_minute_and_says_when_next() -> None:
    quarter = crontab(minute="*/15", nowfun=at(NOW))
    assert quarter.is_due(datetime(2026, 3, 14, 15, 0)) == schedstate(False, 5 * 60 + 34)
    assert quarter.is_due(datetime(2026, 3, 14, 14, 59)) == schedstate(True, 5 * 60 + 34)
    last, delta, now = quarter.remaining_delta(datetime(2026, 3, 14, 14, 59))
    assert (last + delta, now) == (datetime(2026, 3, 14, 15, 0, tzinfo=UTC), NOW)


def test_all_fields_must_match() -> None:
    friday_13th = crontab(0, 0, "fri", 13, nowfun=at(NOW))
    assert friday_13th.next_after(NOW) == datetime(2026, 11, 13, tzinfo=UTC)


def test_the_29th_of_february_is_found() -> None:
    assert crontab(0, 0, "*", 29, 2, nowfun=at(NOW)).next_after(NOW) == datetime(2028, 2, 29, tzinfo=UTC)
    assert crontab(0, 0, "sun", 29, 2, nowfun=at(NOW)).next_after(NOW).year == 2032


@pytest.mark.parametrize("fields", [("30", "2"), ("31", "apr,jun"), ({31}, {2, 4})])
def test_a_date_that_never_comes_is_refused(fields: tuple[Any, Any]) -> None:
    with pytest.raises(ValueError, match="no date"):
        crontab(0, 0, "*", *fields)


def test_crontabs_compare_and_travel() -> None:
    made = crontab(minute=5)
    assert made == crontab(minute="5")
    assert made != crontab(minute=6)
    assert made != 3
    assert hash(made) == hash(crontab(minute={5}))
    assert pickle.loads(pickle.dumps(made)) == made


def test_a_missed_time_is_passed_over_when_so_configured(monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_app(beat_cron_starting_deadline=60) as app:
        now = datetime(2026, 3, 1, 12, 0, 30, tzinfo=UTC)
        monkeypatch.setattr(app, "now", lambda: now)
        late = crontab(minute="*", app=app)
        assert not late.is_due(now - timedelta(hours=1)).is_due
        assert not late.is_due(now - timedelta(seconds=91)).is_due, "missed by 90 s"
        assert late.is_due(now - timedelta(seconds=90)).is_due


@given(
    minute=st.sets(st.integers(0, 59), min_size=1, max_size=3),
    hour=st.sets(st.integers(0, 23), min_size=1, max_size=3),
    weekday=st.sets(st.integers(0, 6), min_size=2),
    start=st.datetimes(datetime(2000, 1, 1), datetime(2090, 1, 1)),
)
def test_the_next_time_matches_and_no_minute_between_does(
    minute: set[int], hour: set[int], weekday: set[int], start: datetime
) -> None:
    made = crontab(minute, hour, weekday, nowfun=at(NOW))
    after = start.replace(tzinfo=UTC)
    found = made.next_after(after)
    assert found > after
    assert (found.minute in minute, found.hour in hour, found.isoweekday() % 7 in weekday) == (True,) * 3
    assert made.next_after(found - timedelta(seconds=1)) == found
    probe = max(after, found - timedelta(hours=30)).replace(second=0, microsecond=0) + timedelta(minutes=1)
    while probe < found:
        matches = probe.minute in minute and probe.hour in hour and probe.isoweekday() % 7 in weekday
        assert not matches or probe <= after
        probe += timedelta(minutes=1)


def test_changing_clocks_neither_skip_nor_repeat_a_daily_time() -> None:
    rome = ZoneInfo("Europe/Rome")
    daily = crontab(30, 2, nowfun=at(datetime(2026, 3, 1, tzinfo=rome)))
    times = [datetime(2026, 3, 27, tzinfo=rome)]
    for _ in range(4):
        times.append(daily.next_after(times[-1]))
    assert [moment.date().day for moment in times[1:]] == [27, 28, 29, 30]
    autumn = [datetime(2026, 10, 24, 0, 0, tzinfo=rome)]
    for _ in range(3):
        autumn.append(daily.next_after(autumn[-1]))
    assert [moment.date().day for moment in autumn[1:]] == [24, 25, 26]
