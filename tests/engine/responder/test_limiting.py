"""How a rate limit is shown that may have been changed while the worker runs."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from prefork.engine.responder.limiting import rate_shown


def side_with(per_s: float | None) -> Any:
    return SimpleNamespace(rates=SimpleNamespace(bucket=lambda name: SimpleNamespace(per_s=per_s)))


@pytest.mark.parametrize(
    ("declared", "per_s", "shown"),
    [
        ("10/m", 10 / 60, "10/m"),
        ("600/h", 600 / 3600, "600/h"),
        (20, 20.0, 20),
        (0, 0.0, 0),
        ("10/m", 0.0, "0"),
        ("10/m", None, None),
        ("10/m", 3.0, "3/s"),
        (None, 0.25, "15/m"),
        (None, 1e9 / 1_428_571_428, "42/m"),
        (None, 1 / 3600, "1/h"),
        (None, 1 / 36_000, "0.1/h"),
        (None, None, None),
    ],
)
def test_the_rate_of_now_is_shown_as_it_would_be_given(
    declared: Any, per_s: float | None, shown: Any
) -> None:
    assert rate_shown(side_with(per_s), "t", declared) == shown


def test_what_the_code_says_is_shown_where_nothing_is_limited_yet_or_at_all() -> None:
    nothing_yet = SimpleNamespace(rates=SimpleNamespace(bucket=lambda name: None))
    for side in (nothing_yet, SimpleNamespace(rates=None)):
        found: Any = side
        assert rate_shown(found, "t", "10/m") == "10/m"
