"""What the loop knows of a task: options resolved once, and the bits that go on the scoreboard."""

from __future__ import annotations

from datetime import timedelta
from itertools import product
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.child.plan import RunPlan
from prefork.engine.child.readahead import Kind
from prefork.engine.exceptions import InvalidTaskError
from prefork.engine.scoreboard import Policy
from prefork.engine.settle import AckPolicy, policy_of_bits
from support.apps import memory_app


def plan_of(app: App, **options: Any) -> RunPlan:
    task = app.task(name="shop.add", **options)(lambda: None)
    return RunPlan(task, app.conf.resolve(), Kind())


def test_a_plan_knows_its_task_by_name_and_keeps_what_is_known_of_its_run_times(app: App) -> None:
    task = app.task(name="läden.add")(lambda: None)
    kind = Kind()
    plan = RunPlan(task, app.conf.resolve(), kind)
    assert (plan.task, plan.name, plan.name_bytes) == (task, "läden.add", "läden.add".encode())
    assert plan.kind is kind


def test_a_name_that_is_no_text_still_gives_bytes(app: App) -> None:
    task = app.task(name="shop.\udcff")(lambda: None)
    assert RunPlan(task, app.conf.resolve(), Kind()).name_bytes == b"shop.?"


@pytest.mark.parametrize(
    ("options", "bits"),
    [
        ({"acks_late": True}, 0),
        ({"acks_late": False}, Policy.ACKED_EARLY),
        ({"reject_on_worker_lost": False}, Policy.FAIL_IF_LOST),
        ({"reject_on_worker_lost": True}, 0),
        ({"acks_on_timeout": False}, Policy.REQUEUE_ON_TIMEOUT),
        ({"acks_on_failure": False}, 0),
        ({"acks_on_failure_or_timeout": False}, Policy.REQUEUE_ON_TIMEOUT),
        ({"acks_on_failure_or_timeout": False, "acks_on_timeout": True}, 0),
        ({"store_errors_even_if_ignored": True}, Policy.STORE_ERRORS),
    ],
)
def test_each_option_sets_its_own_bit(app: App, options: dict[str, Any], bits: int) -> None:
    assert plan_of(app, **({"acks_late": True} | options)).policy_bits == bits


@pytest.mark.parametrize(("late", "on_timeout", "lost"), list(product([True, False], repeat=3)))
def test_the_bits_tell_the_agent_what_the_options_told_the_child(
    app: App, late: bool, on_timeout: bool, lost: bool
) -> None:
    plan = plan_of(app, acks_late=late, acks_on_timeout=on_timeout, reject_on_worker_lost=lost)
    assert plan.acks == AckPolicy(late, True, on_timeout, lost)
    assert policy_of_bits(plan.policy_bits) == plan.acks


def test_a_lost_process_gives_the_message_back_unless_the_task_says_no(app: App) -> None:
    assert plan_of(app).acks.requeue_if_lost is True


def test_without_options_the_configuration_decides() -> None:
    with memory_app(
        task_acks_late=False,
        task_acks_on_failure=False,
        task_acks_on_timeout=False,
        task_reject_on_worker_lost=False,
        task_time_limit=30,
        task_soft_time_limit=20,
        task_ignore_result=True,
        task_store_errors_even_if_ignored=True,
        task_track_started=True,
    ) as app:
        plan = plan_of(app)
    assert plan.acks == AckPolicy(late=False, on_failure=False, on_timeout=False, requeue_if_lost=False)
    assert (plan.hard_limit_s, plan.soft_limit_s) == (30.0, 20.0)
    assert (plan.ignore_result, plan.store_errors, plan.track_started) == (True, True, True)


def test_the_task_wins_over_the_configuration_also_when_it_says_no() -> None:
    with memory_app(
        task_acks_late=True, task_ignore_result=True, task_track_started=True, task_time_limit=30
    ) as app:
        plan = plan_of(app, acks_late=False, ignore_result=False, track_started=False, time_limit=2)
    assert (plan.acks.late, plan.ignore_result, plan.track_started) == (False, False, False)
    assert plan.hard_limit_s == 2.0


def test_a_task_without_limits_has_none(app: App) -> None:
    plan = plan_of(app)
    assert (plan.hard_limit_s, plan.soft_limit_s) == (None, None)


@pytest.mark.parametrize("limit", [5, 5.0, timedelta(seconds=5)])
def test_limits_are_seconds(app: App, limit: Any) -> None:
    plan = plan_of(app, time_limit=limit, soft_time_limit=limit)
    assert (plan.hard_limit_s, plan.soft_limit_s) == (5.0, 5.0)
    assert isinstance(plan.hard_limit_s, float)


@pytest.mark.parametrize("limit", [0, -1, float("nan"), float("inf"), True, "5"])
@pytest.mark.parametrize("name", ["time_limit", "soft_time_limit"])
def test_what_is_no_limit_is_refused_by_name(app: App, name: str, limit: Any) -> None:
    with pytest.raises(InvalidTaskError, match=name):
        plan_of(app, **{name: limit})


@pytest.mark.parametrize("throws", [None, ()])
def test_a_task_that_expects_no_exceptions_has_an_empty_tuple(app: App, throws: Any) -> None:
    assert plan_of(app, throws=throws).throws == ()


def test_expected_exceptions_are_kept(app: App) -> None:
    assert plan_of(app, throws=[KeyError, ValueError]).throws == (KeyError, ValueError)


def test_one_expected_exception_need_not_be_in_a_tuple(app: App) -> None:
    assert plan_of(app, throws=KeyError).throws == (KeyError,)
