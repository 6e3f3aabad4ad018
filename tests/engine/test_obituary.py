"""Word about tasks that were ended from outside."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.exceptions import TaskRevokedError, TimeLimitExceeded, WorkerLostError
from prefork.engine.obituary import error_of, note_of, read_note


@pytest.mark.parametrize(
    ("report", "error", "said"),
    [
        ({"verdict": "timeout", "cause": "hard time limit", "limit_s": 2.0}, TimeLimitExceeded, "2.0"),
        (
            {"verdict": "memory", "cause": "memory limit", "op": "dead", "slot": 3},
            WorkerLostError,
            "memory limit",
        ),
        ({"verdict": "crash", "cause": "signal 9"}, WorkerLostError, "signal 9"),
        ({"verdict": "terminated", "cause": "SIGTERM"}, TaskRevokedError, "terminated"),
    ],
)
def test_what_is_left_is_what_the_supervisor_saw(report: dict[str, Any], error: type, said: str) -> None:
    left = read_note(note_of(report))
    for found in (left.error, error_of(report)):
        assert type(found) is error
        assert said in str(found)
    assert left.dead is False


def test_a_message_that_was_held_too_long_twice_is_dead() -> None:
    left = read_note(b'{"verdict":"consumer_timeout","cause":"too long"}')
    assert (left.dead, left.cause, type(left.error)) == (True, "too long", WorkerLostError)


@given(st.binary(max_size=60))
def test_damaged_word_is_word_all_the_same(note: bytes) -> None:
    assert isinstance(read_note(note).error, Exception)
