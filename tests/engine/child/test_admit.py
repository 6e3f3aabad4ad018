from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.child.admit import UNKNOWN_SINCE_HEADER, Refusal, admit
from prefork.engine.settle import Ending

NOW_S = 1_700_000_000.0
GRACE_S = 600.0
RETRY_S = 30.0


def decide(**changes: Any) -> Refusal | None:
    """The decision about a message that may run, but for the changes."""
    given_: dict[str, Any] = {
        "known": True,
        "task_name": "add",
        "eta_wall_s": None,
        "expires_wall_s": None,
        "headers": {},
        "unknown_grace_s": GRACE_S,
        "unknown_retry_s": RETRY_S,
        **changes,
    }
    return admit(NOW_S, **given_)


@pytest.mark.parametrize(
    ("changes", "ending", "due_wall_s"),
    [
        ({}, None, None),
        ({"eta_wall_s": NOW_S}, None, None),
        ({"eta_wall_s": NOW_S - 1}, None, None),
        ({"eta_wall_s": 0.0}, None, None),
        ({"eta_wall_s": NOW_S + 1}, Ending.NOT_DUE, NOW_S + 1),
        ({"expires_wall_s": NOW_S}, None, None),
        ({"expires_wall_s": NOW_S + 1}, None, None),
        ({"expires_wall_s": NOW_S - 0.001}, Ending.EXPIRED, None),
        ({"expires_wall_s": 0.0}, Ending.EXPIRED, None),
        ({"expires_wall_s": NOW_S - 1, "eta_wall_s": NOW_S + 1}, Ending.EXPIRED, None),
        ({"expires_wall_s": NOW_S - 1, "known": False}, Ending.EXPIRED, None),
        ({"known": False}, Ending.UNKNOWN_TASK, NOW_S + RETRY_S),
        ({"known": False, "eta_wall_s": NOW_S + 9e6}, Ending.UNKNOWN_TASK, NOW_S + RETRY_S),
        ({"known": False, "unknown_grace_s": 0.0}, Ending.UNKNOWN_TASK_FOR_GOOD, None),
    ],
)
def test_a_message_runs_unless_something_stands_against_it(
    changes: dict[str, Any], ending: Ending | None, due_wall_s: float | None
) -> None:
    refusal = decide(**changes)
    if ending is None:
        assert refusal is None
    else:
        assert refusal is not None
        assert (refusal.ending, refusal.due_wall_s) == (ending, due_wall_s)


@pytest.mark.parametrize(
    ("since", "ending", "due_wall_s"),
    [
        (NOW_S - 10, Ending.UNKNOWN_TASK, NOW_S + RETRY_S),
        (int(NOW_S) - 10, Ending.UNKNOWN_TASK, NOW_S + RETRY_S),
        (NOW_S - GRACE_S + 5, Ending.UNKNOWN_TASK, NOW_S + 5),
        (NOW_S - GRACE_S, Ending.UNKNOWN_TASK_FOR_GOOD, None),
        (0, Ending.UNKNOWN_TASK_FOR_GOOD, None),
    ],
)
def test_a_task_that_nobody_knows_is_looked_at_until_its_grace_ends(
    since: float, ending: Ending, due_wall_s: float | None
) -> None:
    refusal = decide(known=False, headers={UNKNOWN_SINCE_HEADER: since})
    assert refusal is not None
    assert (refusal.ending, refusal.due_wall_s) == (ending, due_wall_s)
    assert "'add'" in refusal.detail


@pytest.mark.parametrize(
    "headers",
    [
        None,
        [],
        "text",
        {},
        {UNKNOWN_SINCE_HEADER: None},
        {UNKNOWN_SINCE_HEADER: "1"},
        {UNKNOWN_SINCE_HEADER: [1]},
        {UNKNOWN_SINCE_HEADER: -1},
        {UNKNOWN_SINCE_HEADER: NOW_S + 1},
        {UNKNOWN_SINCE_HEADER: float("nan")},
        {UNKNOWN_SINCE_HEADER: float("inf")},
        {UNKNOWN_SINCE_HEADER: 10**400},
    ],
)
def test_a_header_that_is_no_moment_of_the_past_starts_the_grace_now(headers: Any) -> None:
    refusal = decide(known=False, headers=headers)
    assert refusal is not None
    assert (refusal.ending, refusal.due_wall_s) == (Ending.UNKNOWN_TASK, NOW_S + RETRY_S)


moments = st.floats(min_value=0, max_value=4e9)
spans = st.floats(min_value=0.01, max_value=1e7)
anything = st.none() | st.text() | st.integers() | st.floats() | st.lists(st.integers(), max_size=2)


@given(
    now=moments,
    known=st.booleans(),
    eta=st.none() | moments,
    expires=st.none() | moments,
    headers=anything | st.dictionaries(st.just(UNKNOWN_SINCE_HEADER), anything | moments),
    grace=spans,
    retry=spans,
)
def test_whatever_the_message_says_the_decision_follows_the_rules(
    now: float,
    known: bool,
    eta: float | None,
    expires: float | None,
    headers: Any,
    grace: float,
    retry: float,
) -> None:
    refusal = admit(
        now,
        known=known,
        task_name="t",
        eta_wall_s=eta,
        expires_wall_s=expires,
        headers=headers,
        unknown_grace_s=grace,
        unknown_retry_s=retry,
    )
    expired = expires is not None and now > expires
    if refusal is None:
        assert known
        assert not expired
        assert eta is None or eta <= now
        return
    assert (refusal.ending is Ending.EXPIRED) == expired
    waits = refusal.ending in (Ending.NOT_DUE, Ending.UNKNOWN_TASK)
    assert (refusal.due_wall_s is not None) == waits
    if refusal.ending is Ending.NOT_DUE:
        assert known
        assert refusal.due_wall_s == eta
    if refusal.ending is Ending.UNKNOWN_TASK:
        assert not known
        assert refusal.due_wall_s is not None
        assert now - 1e-3 <= refusal.due_wall_s <= now + retry
