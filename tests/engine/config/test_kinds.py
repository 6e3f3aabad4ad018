"""Values as sources spell them: every kind takes what it should and says what it does not take."""

from __future__ import annotations

import json
import math
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.config import kinds
from prefork.engine.config.durations import format_duration, parse_duration


@given(st.integers(0, 10**12))
def test_a_duration_reads_back_as_it_was_written(milliseconds: int) -> None:
    assert math.isclose(
        parse_duration(format_duration(milliseconds / 1000)), milliseconds / 1000, abs_tol=1e-6
    )


@given(st.floats(0, 1e9).map(lambda value: round(value, 6)))
def test_a_bare_number_is_a_duration_in_seconds(value: float) -> None:
    assert parse_duration(f"{value:.6f}") == float(f"{value:.6f}")


@given(st.text(max_size=12))
def test_any_text_is_a_duration_or_a_value_error(text: str) -> None:
    try:
        assert parse_duration(text) >= 0
    except ValueError as error:
        assert "duration" in str(error)


@pytest.mark.parametrize(
    ("text", "expected_s"),
    [("90", 90), ("1m30s", 90), ("1.5h", 5400), ("500ms", 0.5), ("2d", 172800), (" 1h 5m ", 3900), ("0", 0)],
)
def test_durations_as_people_write_them(text: str, expected_s: float) -> None:
    assert parse_duration(text) == pytest.approx(expected_s)


@pytest.mark.parametrize("text", ["", "  ", "abc", "-5", "30s1m", "1m1m", "1e3", "5 parsecs", "١s", "1m30"])
def test_texts_that_are_no_duration_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="duration"):
        parse_duration(text)


GOOD: list[tuple[kinds.Kind, Any, Any]] = [
    (kinds.BOOLEAN, True, True),
    (kinds.BOOLEAN, 0, False),
    (kinds.BOOLEAN, " Yes ", True),
    (kinds.BOOLEAN, "off", False),
    (kinds.COUNT, "7", 7),
    (kinds.COUNT, 7.0, 7),
    (kinds.COUNT, 0, 0),
    (kinds.SECONDS, timedelta(minutes=1), 60.0),
    (kinds.SECONDS, "1m30s", 90.0),
    (kinds.SECONDS, 0, 0.0),
    (kinds.number(0), "1.5", 1.5),
    (kinds.number(0), math.inf, math.inf),
    (kinds.TEXT, Path("/var/log"), "/var/log"),
    (kinds.WORD, " json ", "json"),
    (kinds.NAMES, "a, b,,c", ("a", "b", "c")),
    (kinds.NAMES, {"b", "a"}, ("a", "b")),
    (kinds.NAMES, [], ()),
    (kinds.MAP, '{"a": 1}', {"a": 1}),
    (kinds.MAP, {"a": 1}, {"a": 1}),
    (kinds.STRUCTURE, '[{"a": 1}]', [{"a": 1}]),
    (kinds.STRUCTURE, "dotted.name", "dotted.name"),
    (kinds.URLS, ["redis://a", " redis://b "], "redis://a;redis://b"),
    (kinds.RATE, "100/m", "100/m"),
    (kinds.RATE, 5, 5),
    (kinds.LOG_FORMAT, "100%% %(message)s %(lineno)-5d", "100%% %(message)s %(lineno)-5d"),
    (kinds.LOG_LEVEL, "info", "INFO"),
    (kinds.LOG_LEVEL, 15, 15),
    (kinds.CONCURRENCY, "AUTO", "auto"),
    (kinds.CONCURRENCY, "8", 8),
    (kinds.DELIVERY_MODE, "transient", 1),
    (kinds.DELIVERY_MODE, 2, 2),
    (kinds.SECRET, b"x", b"x"),
    (kinds.FLAG_OR_MAP, '{"ca_certs": "x"}', {"ca_certs": "x"}),
    (kinds.FLAG_OR_MAP, {"a": 1}, {"a": 1}),
    (kinds.FLAG_OR_MAP, "true", True),
    (kinds.TIMEZONE, "Europe/Berlin", "Europe/Berlin"),
    (kinds.choice("a", "b"), " A ", "a"),
    (kinds.optional(kinds.COUNT), None, None),
    (kinds.optional(kinds.COUNT), "none", None),
    (kinds.optional(kinds.COUNT), "", None),
    (kinds.optional(kinds.COUNT), 0, 0),
    (kinds.zero_is_none(kinds.SECONDS), 0, None),
    (kinds.zero_is_none(kinds.SECONDS), "null", None),
    (kinds.zero_is_none(kinds.SECONDS), timedelta(days=1), 86400.0),
]


@pytest.mark.parametrize(("kind", "raw", "expected"), GOOD)
def test_a_kind_takes_a_value_in_all_its_spellings(kind: kinds.Kind, raw: Any, expected: Any) -> None:
    parsed = kind.parse(raw)
    assert parsed == expected
    assert type(parsed) is type(expected)


BAD: list[tuple[kinds.Kind, Any, str]] = [
    (kinds.BOOLEAN, "maybe", "true or false"),
    (kinds.BOOLEAN, 2, "true or false"),
    (kinds.BOOLEAN, None, "true or false"),
    (kinds.COUNT, -1, "least value is 0"),
    (kinds.COUNT, "x", "whole number"),
    (kinds.COUNT, True, "whole number"),
    (kinds.COUNT, 1.5, "whole number"),
    (kinds.integer(0, 9), 10, "greatest value is 9"),
    (kinds.DURATION, 0, "more than 0 s"),
    (kinds.SECONDS, -1, "negative"),
    (kinds.SECONDS, math.inf, "finite"),
    (kinds.SECONDS, math.nan, "number"),
    (kinds.SECONDS, True, "number"),
    (kinds.SECONDS, "soon", "duration"),
    (kinds.number(0), "x", "number"),
    (kinds.number(0), "nan", "number"),
    (kinds.TEXT, 5, "text"),
    (kinds.TEXT, ["a"], "text"),
    (kinds.WORD, "  ", "not empty"),
    (kinds.NAMES, 5, "list of names"),
    (kinds.NAMES, {"a": 1}, "list of names"),
    (kinds.NAMES, ["a", 5], "every item"),
    (kinds.MAP, "{", "map"),
    (kinds.MAP, "[]", "map"),
    (kinds.MAP, 5, "map"),
    (kinds.STRUCTURE, "{oops", "JSON"),
    (kinds.URLS, [], "URL"),
    (kinds.URLS, "", "URL"),
    (kinds.URLS, [5], "URL"),
    (kinds.RATE, "fast", "rate"),
    (kinds.RATE, -1, "rate"),
    (kinds.RATE, True, "rate"),
    (kinds.LOG_FORMAT, "%(message)", "doubled"),
    (kinds.LOG_FORMAT, "100%", "doubled"),
    (kinds.LOG_LEVEL, "loud", "DEBUG"),
    (kinds.LOG_LEVEL, True, "DEBUG"),
    (kinds.CONCURRENCY, 0, "least value is 1"),
    (kinds.CONCURRENCY, 5000, "greatest value is 1024"),
    (kinds.DELIVERY_MODE, 3, "persistent"),
    (kinds.DELIVERY_MODE, True, "persistent"),
    (kinds.FLAG_OR_MAP, "perhaps", "true or false"),
    (kinds.TIMEZONE, 5, "time zone"),
    (kinds.choice("a", "b"), "c", "one of: a, b"),
    (kinds.choice("a", "b"), 5, "one of: a, b"),
]


@pytest.mark.parametrize(("kind", "raw", "says"), BAD)
def test_a_kind_says_what_it_takes_instead(kind: kinds.Kind, raw: Any, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        kind.parse(raw)


ALL_KINDS = [kind for kind, _raw, _expected in GOOD]
ANY_VALUE = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8) | st.binary(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=6,
)


@given(st.sampled_from(ALL_KINDS), ANY_VALUE)
def test_any_value_parses_to_a_fixed_point_or_is_a_value_error(kind: kinds.Kind, raw: Any) -> None:
    try:
        once = kind.parse(raw)
    except ValueError as error:
        assert str(error)
        return
    assert kind.parse(once) == once or once != once


@given(st.dictionaries(st.text(), st.integers() | st.text()))
def test_a_map_reads_back_from_its_json(value: dict[str, Any]) -> None:
    assert kinds.MAP.parse(json.dumps(value)) == value


def test_a_time_zone_object_is_taken_by_its_name() -> None:
    from datetime import timezone
    from zoneinfo import ZoneInfo

    assert kinds.TIMEZONE.parse(ZoneInfo("Europe/Paris")) == "Europe/Paris"
    assert kinds.TIMEZONE.parse(timezone.utc) == "UTC"
