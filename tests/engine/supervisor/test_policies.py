"""The decisions, as functions of values and time."""

from __future__ import annotations

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.scoreboard import State
from prefork.engine.supervisor.boot_guard import LAST_DELAY_S, BootGuard, backoff_s
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
from prefork.engine.supervisor.options import CONCURRENCY_MAX, OptionsError, WorkerOptions, worker_options
from prefork.engine.supervisor.scaling import KEEPALIVE_S, Load, Scale, Sizing, autoscale
from prefork.engine.supervisor.shutdown import (
    COLD_S,
    HANDOVER_S,
    HURRY_S,
    PARTING_S,
    Ask,
    Shutdown,
    Stage,
    advance,
    ask,
    stop_within,
)
from prefork.engine.supervisor.signals import remapped
from prefork.engine.worker_names import incarnation, node_name, safe

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


# --- boot --------------------------------------------------------------------------------------


@given(st.integers(1, 1000), st.floats(0, 1, exclude_max=True))
def test_the_back_off_grows_is_bounded_and_never_nothing(failures: int, fraction: float) -> None:
    delay_s = backoff_s(failures, fraction)
    assert 0 < delay_s <= LAST_DELAY_S
    assert backoff_s(failures + 1, fraction) >= delay_s
    assert backoff_s(0, fraction) == 0


def test_the_back_off_has_jitter() -> None:
    assert backoff_s(3, 0.0) != backoff_s(3, 0.9)


def test_a_success_between_failures_starts_the_count_again() -> None:
    guard = BootGuard(2, lambda: 0.5)
    guard.failed(1.0)
    assert not guard.may_fork(1.0)
    assert not guard.exhausted
    guard.succeeded()
    assert guard.may_fork(1.0)
    guard.failed(2.0)
    assert not guard.exhausted
    guard.failed(3.0)
    assert guard.exhausted


# --- scale -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("scale", "load", "now_s", "expected"),
    [
        (Scale(1), Load(waiting=5, busy=1, idle=0), 0.0, Scale(4)),
        (Scale(1), Load(waiting=2, busy=1, idle=0), 0.0, Scale(3)),
        (Scale(2), Load(waiting=2, busy=1, idle=0), 0.0, Scale(2)),  # one is still booting
        (Scale(2), Load(waiting=2, busy=1, idle=1), 0.0, Scale(2)),
        (Scale(3), Load(waiting=0, busy=1, idle=2), 5.0, Scale(3, 5.0)),
        (Scale(3, 5.0), Load(waiting=0, busy=1, idle=2), 5.0 + KEEPALIVE_S, Scale(1)),
        (Scale(3, 5.0), Load(waiting=0, busy=3, idle=0), 6.0, Scale(3)),
        (Scale(0), Load(0, 0, 0), 0.0, Scale(1)),
        (Scale(9), Load(0, 9, 0), 0.0, Scale(4)),
    ],
)
def test_autoscale_between_one_and_four(scale: Scale, load: Load, now_s: float, expected: Scale) -> None:
    assert autoscale(scale, load, (4, 1), now_s) == expected


@given(
    st.integers(0, 50),
    st.builds(Load, waiting=st.integers(0, 1000), busy=st.integers(0, 50), idle=st.integers(0, 50)),
    st.tuples(st.integers(1, 20), st.integers(0, 10)).map(lambda pair: (pair[0] + pair[1], pair[1])),
    st.floats(0, 1000),
)
def test_autoscale_stays_within_its_bounds(
    target: int, load: Load, bounds: tuple[int, int], now_s: float
) -> None:
    scale = autoscale(Scale(target), load, bounds, now_s)
    assert bounds[1] <= scale.target <= bounds[0]


def test_a_number_set_by_hand_is_where_autoscale_goes_on() -> None:
    sizing = Sizing()
    sizing.set(3)
    assert not sizing.adapt(Load(0, 3, 0), (4, 1), 0.0)
    assert sizing.adapt(Load(1, 3, 0), (4, 1), 0.0)
    assert sizing.target == 4


# --- shutdown ----------------------------------------------------------------------------------

RUN = Shutdown()
SOFT_S = 25.0


@pytest.mark.parametrize(
    ("asks", "stage", "deadline_s"),
    [
        ([Ask.TERM], Stage.WARM, 100 + SOFT_S),
        ([Ask.INT], Stage.WARM, None),
        ([Ask.INT, Ask.INT], Stage.WARM, 100 + SOFT_S),
        ([Ask.INT, Ask.TERM], Stage.WARM, 100 + SOFT_S),
        ([Ask.TERM, Ask.TERM], Stage.COLD, 100 + COLD_S),
        ([Ask.INT, Ask.INT, Ask.INT], Stage.COLD, 100 + COLD_S),
        ([Ask.QUIT], Stage.COLD, 100 + COLD_S),
        ([Ask.QUIT, Ask.TERM, Ask.QUIT], Stage.COLD, 100 + COLD_S),
        ([Ask.HOST_GONE], Stage.COLD, 100 + HURRY_S),
        ([Ask.QUIT, Ask.HOST_GONE], Stage.COLD, 100 + HURRY_S),
    ],
)
def test_what_signals_lead_to(asks: list[Ask], stage: Stage, deadline_s: float | None) -> None:
    state = RUN
    for what in asks:
        state = ask(state, what, 100.0, SOFT_S)
    assert (state.stage, state.deadline_s) == (stage, deadline_s)


def test_without_a_soft_timeout_term_waits_and_the_second_signal_is_cold() -> None:
    warm = ask(RUN, Ask.TERM, 1.0, 0.0)
    assert (warm.stage, warm.deadline_s) == (Stage.WARM, None)
    assert ask(warm, Ask.TERM, 2.0, 0.0).stage is Stage.COLD


@pytest.mark.parametrize(
    ("state", "graceful_s", "expected"),
    [
        (RUN, None, Shutdown(Stage.WARM, None)),
        (RUN, 3.0, Shutdown(Stage.WARM, 13.0)),
        (RUN, 0, Shutdown(Stage.COLD, 10.0 + COLD_S)),
        (Shutdown(Stage.WARM, 11.0), 3.0, Shutdown(Stage.WARM, 11.0)),
        (Shutdown(Stage.WARM, None), 3.0, Shutdown(Stage.WARM, 13.0)),
        (Shutdown(Stage.HANDOVER, 11.0), 3.0, Shutdown(Stage.HANDOVER, 11.0)),
    ],
)
def test_a_stop_within_a_time(state: Shutdown, graceful_s: float | None, expected: Shutdown) -> None:
    assert stop_within(state, 10.0, graceful_s) == expected


def test_handover_and_parting_share_less_than_two_seconds() -> None:
    handover = advance(Shutdown(Stage.WARM), 10.0, children=0, unrecovered=1, agent=True)
    assert (handover.stage, handover.deadline_s) == (Stage.HANDOVER, 10.0 + HANDOVER_S)
    soon = advance(handover, 10.1, children=0, unrecovered=0, agent=True)
    late = advance(handover, 10.0 + HANDOVER_S, children=0, unrecovered=1, agent=True)
    assert soon.stage is late.stage is Stage.PARTING
    assert soon.deadline_s == late.deadline_s == 10.0 + HANDOVER_S + PARTING_S < 12.0


steps = st.lists(
    st.one_of(
        st.sampled_from(list(Ask)),
        st.tuples(st.floats(0, 20), st.integers(0, 2), st.integers(0, 2), st.booleans()),
    ),
    max_size=40,
)


@given(steps, st.sampled_from([0.0, 5.0]))
def test_no_sequence_goes_back_and_every_stage_but_an_unbounded_warm_one_ends(
    script: list[Ask | tuple[float, int, int, bool]], soft_s: float
) -> None:
    state, now_s = RUN, 0.0
    for step in script:
        before = state
        if isinstance(step, Ask):
            state = ask(state, step, now_s, soft_s, exit_code=3 if step is Ask.FAIL else 0)
        else:
            now_s += step[0]
            state = advance(state, now_s, children=step[1], unrecovered=step[2], agent=step[3])
        assert state.stage >= before.stage
        assert state.exit_code >= before.exit_code
        if state.stage not in (Stage.RUN, Stage.WARM, Stage.DONE):
            assert state.deadline_s is not None
            assert state.deadline_s - now_s <= max(COLD_S, HANDOVER_S, PARTING_S) + 1e-6
    if state.stage is Stage.RUN:
        return
    state = ask(state, Ask.QUIT, now_s, soft_s)
    for _ in range(4):
        now_s += max(COLD_S, HANDOVER_S, PARTING_S) + 1e-6
        state = advance(state, now_s, children=1, unrecovered=1, agent=True)
    assert state.stage is Stage.DONE


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


# --- names, options, signals ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (None, "worker@db1.example.org"),
        ("w1@%h", "w1@db1.example.org"),
        ("%n-a@%d", "db1-a@example.org"),
        ("solo", "solo@db1.example.org"),
        ("a%%i@%n", "a%i@db1"),
        ("a%i@x", "a%i@x"),
    ],
)
def test_node_names(template: str | None, expected: str) -> None:
    assert node_name(template, "db1.example.org") == expected


@given(st.text(), st.binary(min_size=4, max_size=4))
def test_an_incarnation_is_safe_in_a_file_name(node: str, random: bytes) -> None:
    name = incarnation(node, random)
    assert "/" not in name
    assert len(name) < 100
    assert safe(name) == name


def test_options_have_their_defaults() -> None:
    options = worker_options({"concurrency": 2, "autoscale": None, "tasks": ["a"], "unknown": object()})
    assert options == WorkerOptions(concurrency=2, tasks=("a",))
    assert worker_options({"autoscale": [4, 2]}).first_target == 2


@pytest.mark.parametrize(
    "reported", [{"concurrency": 0}, {"concurrency": CONCURRENCY_MAX + 1}, {"autoscale": [9999, 1]}]
)
def test_a_number_of_children_out_of_range_is_refused(reported: dict[str, object]) -> None:
    with pytest.raises(OptionsError, match="a worker can have 1 to"):
        worker_options(reported)


def test_a_remap_to_no_signal_is_refused() -> None:
    assert remapped({}) == {}
    with pytest.raises(ValueError, match="SIGQIT"):
        remapped({"REMAP_SIGTERM": "SIGQIT"})
