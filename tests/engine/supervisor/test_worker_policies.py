"""The decisions about a whole worker, as functions of values and time: back-off, scale, shutdown, options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine.supervisor.boot_guard import LAST_DELAY_S, BootGuard, backoff_s
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
