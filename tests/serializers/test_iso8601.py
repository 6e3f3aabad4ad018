from __future__ import annotations

from datetime import datetime, timedelta, timezone

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from prefork.serializers import iso8601

_offsets = st.timedeltas(
    min_value=timedelta(hours=-23, minutes=-59), max_value=timedelta(hours=23, minutes=59)
).map(timezone)


@given(st.datetimes(timezones=st.none() | _offsets))
@example(datetime(1, 1, 1, tzinfo=timezone(timedelta(hours=14))))
@example(datetime(9999, 12, 31, 23, 59, 59, 999999, tzinfo=timezone(timedelta(hours=-14))))
def test_whatever_isoformat_writes_is_read_back(when: datetime) -> None:
    back = iso8601.parse(when.isoformat())
    assert (back, back.utcoffset()) == (when, when.utcoffset())


@given(st.datetimes(timezones=_offsets))
def test_unix_time_of_a_text_is_that_of_its_datetime(when: datetime) -> None:
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    assert iso8601.parse_unix(when.isoformat()) == (when - epoch) / timedelta(seconds=1)


@given(st.datetimes(min_value=datetime(1900, 1, 1), max_value=datetime(2200, 1, 1)))
def test_a_unix_time_survives_being_written(when: datetime) -> None:
    wall_s = iso8601.unix(when)
    text = iso8601.utc_text(wall_s)
    assert text.endswith("+00:00")
    assert abs(iso8601.parse_unix(text) - wall_s) < 2e-6


@pytest.mark.parametrize(
    "text",
    [
        "2024-01-02T03:04:05Z",
        "2024-01-02 03:04:05Z",
        "20240102T030405Z",
        "2024-01-02T03:04:05,000Z",
        "2024-01-02T03:04:05.000000000Z",
        "2024-01-02T04:04:05+01",
        "2024-01-02T04:04:05+0100",
        "2024-01-02T04:04:05+01:00",
        "2024-01-02T02:34:05-00:30",
        "2024-01-02T03:04:05",
    ],
)
def test_the_forms_that_peers_write_all_mean_the_same(text: str) -> None:
    expected = datetime(2024, 1, 2, 3, 4, 5, tzinfo=timezone.utc).timestamp()
    assert iso8601.parse_unix(text) == expected


def test_a_date_alone_is_its_first_instant_in_utc() -> None:
    assert iso8601.parse_unix("1970-01-02") == 86400.0


@pytest.mark.parametrize(
    "text",
    [
        "",
        "now",
        "2024",
        "2024-01",
        "2024-W01-1",
        "2024-13-01",
        "2024-02-30",
        "2024-01-02T25:00",
        "2024-01-02T03:60",
        "2024-01-02T03:04:61",
        "2024-01-02T03:04:05+24:00",
        "2024-01-02T03:04:05+01:60",
        "2024-01-02T03:04:05 +01:00",
        "2024-01-02T03:04:05z",
        "2024-01-02T",
        "-2024-01-02",
        "٢٠٢٤-01-02",
        "2024-01-02T03:04:05.Z",
        " 2024-01-02",
        "2024-01-02\n",
        "2" * 1000,
    ],
)
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        iso8601.parse(text)


@given(st.text(alphabet="0123456789-:+.TZ ,") | st.text())
def test_any_text_is_a_time_or_refused(text: str) -> None:
    try:
        iso8601.parse_unix(text)
    except ValueError:
        return
    assert iso8601.parse(text).year >= 1


@pytest.mark.parametrize("wall_s", [float("nan"), float("inf"), -float("inf"), 1e20, -1e20, 2.6e11])
def test_times_that_cannot_be_written_are_refused(wall_s: float) -> None:
    with pytest.raises(ValueError, match="not a time"):
        iso8601.utc_text(wall_s)
