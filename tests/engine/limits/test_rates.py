"""Rates as people write them, limits as tasks have them, names of lanes."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from prefork.engine import App
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.engine.limits.lanes import NAME_BYTES_MAX, is_lane, lane_of, lanes_among, lanes_of
from prefork.engine.limits.policy import KEY_CHARS_MAX, bounded, limits_of
from prefork.engine.limits.rates import rate_per_s
from prefork.engine.limits.shared import bounded_name
from support.apps import memory_app


@pytest.mark.parametrize(
    ("written", "per_s"),
    [
        ("10/s", 10),
        ("100/m", 100 / 60),
        ("5/h", 5 / 3600),
        ("7", 7),
        (2.5, 2.5),
        ("0.5/s", 0.5),
        (0, 0),
        ("0/m", 0),
        (None, None),
        (" 10 / m ", 1 / 6),
    ],
)
def test_a_rate_is_read(written: Any, per_s: float | None) -> None:
    assert rate_per_s(written, "x") == (None if per_s is None else pytest.approx(per_s))


@pytest.mark.parametrize(
    "written", ["fast", "10/d", "-1", -1, True, float("nan"), float("inf"), [], "1/s/s", ""]
)
def test_what_is_no_rate_is_refused_by_name(written: Any) -> None:
    with pytest.raises(ImproperlyConfigured, match="rate_limit of task 't'"):
        rate_per_s(written, "rate_limit of task 't'")


def limits(app: App, **options: Any) -> Any:
    @app.task(name="t", **options)
    def task(tenant: str, amount: int = 1, *rest: Any) -> None:
        """Nothing."""

    app.finalize()
    return limits_of(app.tasks["t"], app.conf.resolve())


def test_a_task_has_the_limits_that_it_says() -> None:
    with memory_app() as app:
        found = limits(app, rate_limit="10/s", rate_limit_burst=3, global_rate_limit="1/m", max_concurrency=2)
    assert (found.rate_per_s, found.burst, found.max_concurrency) == (10, 3, 2)
    assert found.global_per_s == pytest.approx(1 / 60)
    assert found.any
    assert found.shared


def test_a_task_without_limits_has_none() -> None:
    with memory_app() as app:
        assert not limits(app).any


def test_the_configuration_limits_what_has_no_limit_of_its_own() -> None:
    with memory_app() as app:
        app.conf.update(task_default_rate_limit="5/s", task_default_rate_limit_burst=4)
        found = limits(app)
        assert (found.rate_per_s, found.burst) == (5, 4)
        builtin = next(task for name, task in app.tasks.items() if name.startswith("celery."))
        assert not limits_of(builtin, app.conf.resolve()).any


def test_rate_limits_can_be_switched_off() -> None:
    with memory_app() as app:
        app.conf.worker_disable_rate_limits = True
        found = limits(app, rate_limit=1, global_rate_limit=1, max_concurrency=3)
    assert (found.rate_per_s, found.global_per_s, found.max_concurrency) == (None, None, 3)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"rate_limit": "x"}, "rate_limit of task 't': 'x' is no rate"),
        ({"global_rate_limit": -1}, "global_rate_limit of task 't': -1 is no rate"),
        ({"rate_limit_burst": 0.5}, "rate_limit_burst of task 't': 0.5"),
        ({"max_concurrency": -1}, "max_concurrency of task 't': -1"),
        ({"max_concurrency": True}, "max_concurrency of task 't': True"),
        ({"rate_limit": 1, "key": "customer"}, "names 'customer'; the task's arguments are tenant, amount"),
        ({"rate_limit": 1, "key": "{tenant"}, "is no format"),
        ({"rate_limit": 1, "key": 7}, "key of task 't': 7"),
    ],
)
def test_what_is_no_limit_is_refused_by_name(options: dict[str, Any], said: str) -> None:
    with memory_app() as app, pytest.raises(ImproperlyConfigured) as error:
        limits(app, **options)
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("key", "made"),
    [
        ("tenant", "acme"),
        ("{tenant}:{amount}", "acme:1"),
        (lambda tenant, amount=0, *rest: (tenant, amount), "('acme', 0)"),
        (staticmethod(lambda tenant: tenant.upper()), "ACME"),
    ],
)
def test_a_key_is_made_of_arguments(key: Any, made: str) -> None:
    with memory_app() as app:
        found = limits(app, rate_limit=1, key=key)
    assert found.key is not None
    assert found.key(("acme",), {}) == made


def test_a_long_key_is_cut_and_still_its_own() -> None:
    one, other = "ä" * 300 + "1", "ä" * 300 + "2"
    assert bounded(one) != bounded(other)
    assert len(bounded(one).encode()) <= 255
    assert bounded("x" * KEY_CHARS_MAX) == "x" * KEY_CHARS_MAX


@given(st.text(), st.text())
def test_a_lane_has_a_name_that_every_broker_takes(queue: str, task: str) -> None:
    lane = lane_of(queue, task)
    assert len(lane.encode("utf-8", "surrogatepass")) <= NAME_BYTES_MAX
    assert is_lane(lane)


@given(st.lists(st.tuples(st.text("ab", max_size=3), st.text("ab.", min_size=1, max_size=300)), unique=True))
def test_different_kinds_have_different_lanes(kinds: list[tuple[str, str]]) -> None:
    assert len({lane_of(queue, task) for queue, task in kinds}) == len(kinds)


def test_the_lanes_of_a_queue_are_those_that_begin_with_its_name() -> None:
    names = ["celery", "celery.limited.a", "celery2.limited.a", "x.celery.limited.a"]
    assert lanes_among(names, "celery") == ["celery.limited.a"]
    assert lanes_of(["celery", "celery.limited.a"], "b") == ["celery.limited.b"]


@given(st.text(max_size=400), st.text(max_size=400))
def test_names_of_what_is_shared_are_bounded(task: str, key: str) -> None:
    assert len(bounded_name("rate", task, key).encode("utf-8", "surrogatepass")) <= NAME_BYTES_MAX
