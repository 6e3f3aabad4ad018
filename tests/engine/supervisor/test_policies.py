"""The decisions about one child, as functions of values and time: limits, stops, what it died of."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.scoreboard import State
from prefork.engine.supervisor.deadlines import (
    RECALL_AFTER_NS,
    SOFT_REPEAT_NS,
    Due,
    Limits,
    Record,
    View,
    due,
    next_look_ns,
)
from prefork.engine.supervisor.deaths import Exit, OutOfMemoryCounter, explain
from prefork.engine.supervisor.killing import CONFIRM_S, Doom, Purpose, Stopping, Termination, Verdict, judge

NO_LIMITS = Limits()
SECOND = 1_000_000_000

# --- limits ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("view", "now_ns", "expected"),
    [
        (View(running=0, hard_ns=5), 10, Due.NOTHING),
        (View(running=3, hard_ns=10), 9, Due.NOTHING),
        (View(running=3, hard_ns=10), 10, Due.HARD_LIMIT),
        (View(running=3, hard_ns=10, soft_ns=5), 10, Due.HARD_LIMIT),
        (View(running=3, hard_ns=0, soft_ns=5), 5, Due.SOFT_LIMIT),
        (View(running=3, hard_ns=0, soft_ns=0), 10**18, Due.NOTHING),
        (View(running=3, start_ns=1, batch=4, cursor=1, held=2), 1 + RECALL_AFTER_NS, Due.RECALL),
        (View(running=3, start_ns=1, batch=4, cursor=2, held=2), 1 + RECALL_AFTER_NS, Due.NOTHING),
        (
            View(running=3, start_ns=1, batch=4, cursor=2, held=2, outcome_bytes=1),
            1 + RECALL_AFTER_NS,
            Due.RECALL,
        ),
        (View(running=3, start_ns=1, batch=4, cursor=1, held=2), RECALL_AFTER_NS, Due.NOTHING),
        (View(running=0, start_ns=1, batch=4, cursor=1, held=2), 10**18, Due.NOTHING),
        (View(state=State.RETIRING), 1, Due.RETIRE_TASKS),
    ],
)
def test_what_a_slot_calls_for(view: View, now_ns: int, expected: Due) -> None:
    assert due(view, Record(), NO_LIMITS, now_ns) is expected


def test_a_soft_limit_is_repeated_every_second_for_the_same_execution_only() -> None:
    view = View(running=7, soft_ns=100)
    sent = Record(soft_execution=7, soft_sent_ns=200)
    assert due(view, sent, NO_LIMITS, 200 + SOFT_REPEAT_NS - 1) is Due.NOTHING
    assert due(view, sent, NO_LIMITS, 200 + SOFT_REPEAT_NS) is Due.SOFT_LIMIT
    assert due(view._replace(running=8), sent, NO_LIMITS, 201) is Due.SOFT_LIMIT


def test_a_child_whose_loop_goes_on_looks_after_what_it_holds_by_itself() -> None:
    view = View(running=1, start_ns=1, batch=4, cursor=1, held=2, loop_ns=SECOND - 1)
    assert due(view, Record(), NO_LIMITS, SECOND) is Due.NOTHING
    look_ns = next_look_ns(view, Record())
    assert look_ns is not None
    assert look_ns > SECOND
    assert due(view, Record(), NO_LIMITS, look_ns) is Due.RECALL


def test_a_batch_is_recalled_once() -> None:
    view = View(running=1, start_ns=1, batch=4, cursor=1, held=2)
    assert due(view, Record(recalled_batch=4), NO_LIMITS, SECOND) is Due.NOTHING
    assert due(view, Record(recalled_batch=3), NO_LIMITS, SECOND) is Due.RECALL


@pytest.mark.parametrize(
    ("running", "private_kib", "limits", "expected"),
    [
        (1, 101, Limits(100, None), Due.RETIRE_MEMORY),
        (0, 101, Limits(100, None), Due.RETIRE_MEMORY),
        (1, 100, Limits(100, 100), Due.NOTHING),
        (1, 101, Limits(None, 100), Due.HARD_MEMORY),
        (0, 101, Limits(None, 100), Due.LEAVE_MEMORY),
        (1, 1, Limits(0, None), Due.RETIRE_MEMORY),
    ],
)
def test_memory_limits(running: int, private_kib: int, limits: Limits, expected: Due) -> None:
    assert due(View(running=running, private_kib=private_kib), Record(), limits, 1) is expected


def test_what_an_earlier_execution_used_is_not_held_against_this_one() -> None:
    limits = Limits(None, 100)
    sampled_before = View(running=2, start_ns=50, private_kib=101, sampled_ns=49)
    assert due(sampled_before, Record(), limits, 60) is Due.LEAVE_MEMORY
    assert due(sampled_before._replace(sampled_ns=50), Record(), limits, 60) is Due.HARD_MEMORY


views = st.builds(
    View,
    state=st.sampled_from([State.IDLE, State.WORKING, State.RETIRING]),
    running=st.integers(0, 3),
    start_ns=st.integers(1, 5 * SECOND),
    soft_ns=st.integers(0, 5 * SECOND),
    hard_ns=st.integers(0, 5 * SECOND),
    batch=st.integers(1, 3),
    cursor=st.integers(0, 3),
    held=st.integers(0, 3),
    outcome_bytes=st.integers(0, 1),
)
records = st.builds(
    Record,
    soft_execution=st.integers(0, 3),
    soft_sent_ns=st.integers(0, 5 * SECOND),
    recalled_batch=st.integers(0, 3),
)


@given(views, records, st.integers(0, 10 * SECOND), st.integers(0, 10 * SECOND))
def test_nothing_becomes_due_before_the_next_look(
    view: View, record: Record, now_ns: int, later_ns: int
) -> None:
    if due(view, record, NO_LIMITS, now_ns) is not Due.NOTHING:
        return
    look_ns = next_look_ns(view, record)
    if now_ns <= later_ns and (look_ns is None or later_ns < look_ns):
        assert due(view, record, NO_LIMITS, later_ns) is Due.NOTHING


# --- stop and look -----------------------------------------------------------------------------

DOOM = Doom("timeout", "hard time limit 1 s", True, 1.0)
KILL = Stopping(Purpose.HARD_LIMIT, 5, 2, 10.0, DOOM)
RECALL = Stopping(Purpose.RECALL, 5, 2, 10.0)
SAME = View(running=5, batch=2, cursor=1, held=3)


@pytest.mark.parametrize(
    ("stopping", "view", "confirmed", "now_s", "expected"),
    [
        (KILL, SAME, False, 10.0, Verdict.WAIT),
        (KILL, SAME, True, 10.0, Verdict.KILL),
        (KILL, SAME, False, 10.1 + CONFIRM_S, Verdict.KILL),
        (KILL, SAME._replace(running=6), True, 10.0, Verdict.CONTINUE),
        (KILL, SAME._replace(running=0), False, 10.1 + CONFIRM_S, Verdict.CONTINUE),
        (RECALL, SAME, True, 10.0, Verdict.MARK),
        (RECALL, SAME, False, 10.0, Verdict.WAIT),
        (RECALL, SAME, False, 10.1 + CONFIRM_S, Verdict.CONTINUE),
        (RECALL, SAME._replace(batch=3), True, 10.0, Verdict.CONTINUE),
        (RECALL, SAME._replace(running=6), True, 10.0, Verdict.CONTINUE),
        (RECALL, SAME._replace(cursor=3), True, 10.0, Verdict.CONTINUE),
    ],
)
def test_what_follows_a_stop(
    stopping: Stopping, view: View, confirmed: bool, now_s: float, expected: Verdict
) -> None:
    assert judge(stopping, view, confirmed=confirmed, now_s=now_s) is expected


@given(views, st.booleans(), st.floats(0, 1), st.sampled_from([KILL, RECALL]))
def test_another_execution_is_never_killed_and_a_moving_child_never_marked(
    view: View, confirmed: bool, waited_s: float, stopping: Stopping
) -> None:
    verdict = judge(stopping, view, confirmed=confirmed, now_s=10.0 + waited_s)
    if view.running != stopping.execution:
        assert verdict is Verdict.CONTINUE
    if verdict is Verdict.MARK:
        assert confirmed
    if waited_s > CONFIRM_S + 1e-6:
        assert verdict is not Verdict.WAIT


# --- deaths ------------------------------------------------------------------------------------

# Somebody wants execution 7 to end.
ENDED = Termination(7, signal.SIGTERM).doom


@pytest.mark.parametrize(
    ("ended", "facts", "verdict", "cause"),
    [
        (Exit(None, 9), {}, "crash", "signal 9"),
        (Exit(None, 9), {"doom": DOOM}, "timeout", "hard time limit 1 s"),
        (Exit(1, None), {"doom": DOOM}, "crash", "exit code 1"),  # it was faster than the kill
        (Exit(None, 9), {"out_of_memory": True}, "crash", "signal 9, probably out of memory"),
        (Exit(None, 11), {"out_of_memory": True}, "crash", "signal 11 (SIGSEGV)"),
        (Exit(0, None), {"told_to_leave": True}, "exit", "left as told"),
        (Exit(0, None), {"told_to_leave": True, "at_work": True}, "crash", "exit code 0"),
        (Exit(4, None), {}, "exit", "what it held was taken over by another worker"),
        (Exit(5, None), {"at_work": True}, "crash", "exit code 5"),  # the task's own
        (Exit(1, None), {"told_to_leave": True}, "crash", "exit code 1"),
        (Exit(0, None), {}, "crash", "exit code 0"),
        (Exit(3, None), {"was_ready": False}, "boot", "exit code 3 before it was ready"),
        (Exit(None, 63), {}, "crash", "signal 63"),
        (Exit(None, 15), {"at_work": True}, "crash", "signal 15"),
        (
            Exit(None, 15),
            {"at_work": True, "told_to_leave": True},
            "shutdown",
            "signal 15 when it had been told to leave",
        ),
        (Exit(None, 15), {"doom": ENDED, "running": 7, "at_work": True}, "terminated", ENDED.cause),
        (Exit(3, None), {"doom": ENDED, "running": 7, "at_work": True}, "terminated", ENDED.cause),
        (Exit(None, 9), {"doom": ENDED, "running": 8, "at_work": True}, "terminated", ENDED.cause),
        (Exit(None, 11), {"doom": ENDED, "running": 8, "at_work": True}, "crash", "signal 11 (SIGSEGV)"),
        (Exit(0, None), {"doom": ENDED, "told_to_leave": True}, "exit", "left as told"),
    ],
)
def test_what_a_child_died_of(ended: Exit, facts: dict[str, object], verdict: str, cause: str) -> None:
    usual = {"was_ready": True, "told_to_leave": False, "at_work": False, "out_of_memory": False}
    given_facts = {"doom": None, **usual, **facts}
    doom = explain(ended, given_facts.pop("doom"), **given_facts)  # type: ignore[arg-type]
    assert (doom.verdict, doom.cause) == (verdict, cause)


def test_the_counter_of_kills_for_memory_says_when_it_has_risen(tmp_path: object) -> None:
    path = f"{tmp_path}/memory.events"
    with open(path, "w", encoding="ascii") as counters:
        counters.write("oom 4\noom_kill 2\n")
    counter = OutOfMemoryCounter([f"{tmp_path}/missing", path])
    assert not counter.risen()
    with open(path, "w", encoding="ascii") as counters:
        counters.write("oom_kill_disable 0\nunder_oom 0\noom_kill 3\n")
    assert counter.risen()
    assert not counter.risen()


def test_a_machine_without_the_counter_has_no_such_deaths() -> None:
    assert not OutOfMemoryCounter(["/proc/self/no-such-file"]).risen()
