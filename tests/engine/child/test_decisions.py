"""The pure decisions of a child: may it run, how many to hold."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.child.admit import UNKNOWN_SINCE_HEADER, Refusal, admit
from prefork.engine.child.readahead import SAMPLES_MIN, SHORT_S, Kind, ReadAhead
from prefork.engine.settle import Ending

NOW = 1_700_000_000.0
MOMENTS = st.none() | st.floats(0, 4e9)


def decide(**changes: Any) -> Refusal | None:
    given: dict[str, Any] = {
        "known": True,
        "task_name": "proj.add",
        "eta_wall_s": None,
        "expires_wall_s": None,
        "headers": {},
        "unknown_grace_s": 300.0,
        "unknown_retry_s": 5.0,
    }
    return admit(NOW, **(given | changes))


@given(eta=MOMENTS, expires=MOMENTS)
def test_a_known_task_runs_between_its_due_time_and_its_expiry(
    eta: float | None, expires: float | None
) -> None:
    refusal = decide(eta_wall_s=eta, expires_wall_s=expires)
    if expires is not None and expires < NOW:
        assert refusal is not None and refusal.ending is Ending.EXPIRED
    elif eta is not None and eta > NOW:
        assert refusal == Refusal(Ending.NOT_DUE, eta)
    else:
        assert refusal is None


ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2),
    max_leaves=3,
)


@given(
    headers=st.none() | ANYTHING | st.dictionaries(st.just(UNKNOWN_SINCE_HEADER), ANYTHING),
    grace_s=st.floats(0, 1e6),
    retry_s=st.floats(0.001, 1e4),
)
def test_an_unknown_task_waits_within_its_grace_whatever_its_headers_say(
    headers: Any, grace_s: float, retry_s: float
) -> None:
    refusal = decide(known=False, headers=headers, unknown_grace_s=grace_s, unknown_retry_s=retry_s)
    assert refusal is not None and "proj.add" in refusal.detail
    if refusal.ending is Ending.UNKNOWN_TASK_FOR_GOOD:
        assert refusal.due_wall_s is None
    else:
        assert refusal.ending is Ending.UNKNOWN_TASK
        assert refusal.due_wall_s is not None
        assert NOW <= refusal.due_wall_s <= NOW + min(retry_s, grace_s) + 1e-3


def test_an_absurd_number_in_the_header_is_no_moment() -> None:
    for since in (-(10**400), 10**400, float("nan"), -1.0, NOW + 1):
        refusal = decide(known=False, headers={UNKNOWN_SINCE_HEADER: since})
        assert refusal is not None and refusal.ending is Ending.UNKNOWN_TASK


def test_an_unknown_task_is_given_up_after_its_grace() -> None:
    refusal = decide(known=False, headers={UNKNOWN_SINCE_HEADER: NOW - 300})
    assert refusal is not None and refusal.ending is Ending.UNKNOWN_TASK_FOR_GOOD


# --- read-ahead ------------------------------------------------------------------------------------------


@given(runtimes=st.lists(st.floats(0, 1), max_size=200))
def test_a_kind_is_short_only_with_enough_samples_that_are(runtimes: list[float]) -> None:
    kind = Kind()
    for runtime_s in runtimes:
        kind.add(runtime_s)
    if kind.short:
        assert len(runtimes) >= SAMPLES_MIN
        assert all(runtime_s < SHORT_S for runtime_s in runtimes[-100:])


def test_one_long_run_in_a_hundred_is_forgotten_after_a_hundred_short_ones() -> None:
    kind = Kind()
    for _ in range(SAMPLES_MIN):
        kind.add(0.0001)
    assert kind.short
    kind.add(0.006)
    assert not kind.short
    for _ in range(100):
        kind.add(0.0001)
    assert kind.short


@given(
    batches=st.lists(st.tuples(st.integers(0, 256), st.booleans(), st.floats(0, 0.005)), max_size=40),
    budget_s=st.floats(0, 0.1),
    most=st.integers(0, 256),
)
def test_a_child_holds_no_more_work_than_it_may(
    batches: list[tuple[int, bool, float]], budget_s: float, most: int
) -> None:
    ahead = ReadAhead(budget_s, most)
    assert ahead.limit() == 1
    for names, all_short, slowest_s in batches:
        before = ahead.limit()
        ahead.batch_done(names, all_short, slowest_s)
        assert 1 <= ahead.limit() <= max(1, most)
        assert ahead.limit() <= 2 * before
        if not all_short or names == 0:
            assert ahead.limit() == 1
        elif ahead.limit() > 1:
            assert ahead.limit() * slowest_s <= budget_s + 1e-9
