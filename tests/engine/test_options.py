from __future__ import annotations

import math
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.exceptions import InvalidTaskError
from prefork.engine.message import parse
from prefork.engine.options import eta_wall_s, expires_wall_s, limits, moment_wall_s, naive_zone, priority
from support.apps import memory_app

NOW = 1_700_000_000.0


def test_call_wins_over_task_and_task_over_configuration() -> None:
    with memory_app(task_time_limit=30, task_ignore_result=True, task_default_priority=2) as app:
        plain = app.task(name="plain")(lambda: None)
        special = app.task(name="special", time_limit=5, ignore_result=False, priority=0)(lambda: None)
        assert plain.options.time_limit_s == 30
        assert plain.options.ignore_result is True
        assert plain.options.priority == 2
        assert special.options.time_limit_s == 5
        assert special.options.ignore_result is False
        assert special.options.priority == 0


def test_zero_means_zero() -> None:
    with memory_app(task_default_rate_limit="5/s") as app:
        task = app.task(name="t", rate_limit=0)(lambda: None)
        assert task.options.rate_limit == 0


def test_late_acknowledgement_is_the_default() -> None:
    with memory_app() as app:
        task = app.task(name="t")(lambda: None)
        assert task.options.acks_late is True
        assert task.options.acks_on_failure is True
        task.acks_late = False
        assert task.options.acks_late is False


def test_the_combined_setting_holds_for_failure_and_timeout_unless_each_says_otherwise() -> None:
    with memory_app(task_acks_on_failure_or_timeout=False, task_acks_on_timeout=True) as app:
        task = app.task(name="t")(lambda: None)
        assert task.options.acks_on_failure is False
        assert task.options.acks_on_timeout is True


@pytest.mark.parametrize("value", [0, -1, math.inf, math.nan, True, "5", object()])
def test_a_limit_is_a_positive_finite_number(value: Any) -> None:
    with pytest.raises(InvalidTaskError, match="time_limit"):
        limits(value, None)


def test_limits_are_checked_against_each_other() -> None:
    assert limits(timedelta(seconds=5), 5) == (5.0, 5.0)
    assert limits(None, 3) == (None, 3.0)
    with pytest.raises(InvalidTaskError, match="killed first"):
        limits(3, 5)


@pytest.mark.parametrize("value", [-1, 256, 1.5, True, "high"])
def test_a_priority_is_a_small_whole_number(value: Any) -> None:
    with pytest.raises(InvalidTaskError, match="from 0 to 9, or up to 255 for a RabbitMQ queue"):
        priority(value)


@pytest.mark.parametrize("value", [0, 9, 10, 255])
def test_a_priority_may_be_as_high_as_rabbitmq_has_levels(value: int) -> None:
    assert priority(value) == value


def test_an_eta_wins_over_a_countdown() -> None:
    eta = datetime(2030, 1, 1, tzinfo=timezone.utc)
    assert eta_wall_s(eta, 5, NOW) == eta.timestamp()
    assert eta_wall_s("2030-01-01T00:00:00Z", None, NOW) == eta.timestamp()
    assert eta_wall_s(None, 5, NOW) == NOW + 5
    assert eta_wall_s(None, timedelta(seconds=2), NOW) == NOW + 2


@pytest.mark.parametrize("countdown", [None, 0, -5])
def test_no_countdown_means_at_once(countdown: Any) -> None:
    assert eta_wall_s(None, countdown, NOW) is None


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e300, True, [], "tomorrow"])
def test_a_moment_that_no_reader_could_represent_is_refused(value: Any) -> None:
    with pytest.raises(InvalidTaskError, match="expires="):
        expires_wall_s(value, NOW)


def test_a_number_as_eta_is_refused_and_the_remedy_named() -> None:
    with pytest.raises(InvalidTaskError, match="countdown"):
        eta_wall_s(5, None, NOW)


@given(
    st.datetimes(min_value=datetime(1970, 1, 2), max_value=datetime(9999, 12, 30), timezones=st.timezones())
)
def test_an_aware_datetime_and_its_text_are_the_same_moment(moment: datetime) -> None:
    assert moment_wall_s("eta", moment, NOW) == pytest.approx(moment_wall_s("eta", moment.isoformat(), NOW))


@pytest.mark.parametrize(
    ("settings", "shown"),
    [
        ({}, "2026-07-01T12:00:00+00:00"),
        ({"timezone": "Europe/Rome"}, "2026-07-01T12:00:00+00:00"),
        ({"timezone": "Europe/Rome", "enable_utc": False}, "2026-07-01T10:00:00+00:00"),
    ],
)
def test_a_naive_moment_is_utc_unless_utc_is_off(settings: dict[str, Any], shown: str) -> None:
    with memory_app(**settings) as app:
        task = app.task(name="t")(lambda: None)
        naive = datetime(2026, 7, 1, 12)
        for given in (naive, naive.isoformat()):
            with app.client.collecting() as messages:
                task.apply_async(eta=given, expires=given)
            (one,) = messages
            message = parse(one.document, app.client.table)
            assert message.eta_wall_s == message.expires_wall_s == datetime.fromisoformat(shown).timestamp()


def test_without_a_zone_and_without_utc_a_naive_moment_is_local_time() -> None:
    with memory_app(enable_utc=False) as app:
        assert naive_zone(app.config) is None
        naive = datetime(2026, 7, 1, 12)
        assert moment_wall_s("eta", naive, 0.0, naive_zone(app.config)) == naive.timestamp()
