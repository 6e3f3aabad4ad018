from __future__ import annotations

import math
import re
import warnings
from datetime import timedelta
from typing import Any

import pytest

from prefork.engine.boot import BootSpec
from prefork.engine.exceptions import ImproperlyConfigured, MisspeltOptionWarning
from prefork.engine.loaded_app import worker_options
from prefork.engine.task import Task
from support.apps import memory_app

WRONG = [
    ("autoretry_for", ValueError, "autoretry_for=(ValueError,)"),
    ("autoretry_for", ("ValueError",), "the classes themselves"),
    ("autoretry_for", "ValueError", "a tuple"),
    ("autoretry_for", None, "a tuple"),
    ("autoretry_for", iter([ValueError]), "a tuple"),
    ("autoretry_for", (ValueError("x"),), "the classes themselves"),
    ("dont_autoretry_for", KeyError, "dont_autoretry_for=(KeyError,)"),
    ("dont_autoretry_for", (int,), "the classes themselves"),
    ("max_retries", "3", "whole number"),
    ("max_retries", -1, "None for no bound"),
    ("max_retries", 1.5, "whole number"),
    ("max_retries", True, "whole number"),
    ("max_snoozes", -1, "whole number"),
    ("max_snoozes", True, "whole number"),
    ("default_retry_delay", "x", "seconds"),
    ("default_retry_delay", math.nan, "seconds"),
    ("retry_delays", [], "at least one"),
    ("retry_delays", [-1], "negative"),
    ("retry_delays", [1, "2"], "seconds"),
    ("retry_for_s", "1", "seconds"),
    ("retry_for_s", -1, "negative"),
    ("retry_for_s", timedelta(seconds=-1), "negative"),
    ("retry_backoff", "yes", "True"),
    ("retry_backoff", -1, "True"),
    ("retry_backoff", [1], "True"),
    ("retry_backoff_max", None, "math.inf"),
    ("retry_backoff_max", "600", "math.inf"),
    ("retry_jitter", "no", "True or False"),
    ("retry_kwargs", None, "as a dict"),
    ("retry_kwargs", 5, "as a dict"),
    ("retry_kwargs", {"max_retries": "5"}, "whole number"),
    ("retry_kwargs", {"countdown": "5"}, "seconds"),
    ("retry_kwargs", {"exc": ValueError()}, "leave it out"),
    ("on_retry", 5, "give a function"),
    ("on_failure", "handler", "give a function"),
    ("after_return", None, "give a function"),
]


@pytest.mark.parametrize(("option", "value", "remedy"), WRONG)
def test_an_option_that_cannot_be_honoured_is_refused_where_the_task_is_made(
    option: str, value: Any, remedy: str
) -> None:
    with memory_app() as app:
        with pytest.raises(ImproperlyConfigured) as refused:
            app.task(name="made", **{option: value})(lambda: None)
        said = str(refused.value)
        assert said.startswith(option) or option == "retry_kwargs"
        assert option in said and "of task 'made'" in said and remedy in said
        assert "made" not in app.registry, "what was refused is no task"


@pytest.mark.parametrize(("option", "value", "remedy"), WRONG)
def test_a_class_of_ones_own_is_held_to_the_same(option: str, value: Any, remedy: str) -> None:
    made: Any = type("Made", (Task,), {"name": "made", "run": lambda self: None, option: value})
    with memory_app() as app, pytest.raises(ImproperlyConfigured, match=re.escape(remedy)):
        app.register_task(made)


@pytest.mark.parametrize(("option", "value", "remedy"), WRONG)
def test_a_worker_does_not_start_with_a_task_that_was_spoilt_later(
    option: str, value: Any, remedy: str
) -> None:
    if option in ("on_retry", "on_failure", "after_return"):
        value = "no function"
    with memory_app(task_annotations={"made": {option: value}}) as app:
        app.task(name="made")(lambda: None)
        with pytest.raises(ImproperlyConfigured, match="of task 'made'"):
            worker_options(BootSpec(app="options"), app, app.config)


@pytest.mark.parametrize(
    "options",
    [
        {"autoretry_for": [ValueError, KeyError], "dont_autoretry_for": {KeyError}},
        {"autoretry_for": (Exception,), "retry_kwargs": {"max_retries": None, "countdown": [1, 2]}},
        {"max_retries": None},
        {"max_retries": 0},
        {"max_retries": math.inf},
        {"default_retry_delay": None},
        {"default_retry_delay": timedelta(minutes=1)},
        {"default_retry_delay": -1},
        {"retry_delays": [0, 1.5, timedelta(seconds=3)]},
        {"retry_delays": 5},
        {"retry_for_s": timedelta(hours=1)},
        {"retry_backoff": True, "retry_backoff_max": math.inf, "retry_jitter": False},
        {"retry_backoff": 2.5, "retry_jitter": None},
        {"on_retry": lambda *_: None},
    ],
)
def test_what_can_be_honoured_is_taken_without_a_word(options: dict[str, Any]) -> None:
    with memory_app() as app, warnings.catch_warnings():
        warnings.simplefilter("error")
        task = app.task(name="made", **options)(lambda: None)
        task.delay()
        worker_options(BootSpec(app="options"), app, app.config)


def test_two_options_that_contradict_each_other_are_refused() -> None:
    with (
        memory_app() as app,
        pytest.raises(ImproperlyConfigured, match="retry_delays of task 'both'.*backoff"),
    ):
        app.task(name="both", retry_delays=[1], retry_backoff=True)(lambda: None)


def test_a_task_that_is_retried_at_once_says_so_with_none_as_in_celery() -> None:
    with memory_app() as app:
        task = app.task(name="at once", autoretry_for=(KeyError,), default_retry_delay=None, max_retries=1)(
            lambda: {}["the cause"]
        )
        assert repr(task.apply().result) == "KeyError('the cause')"


@pytest.mark.parametrize(
    ("option", "meant"),
    [("retry_backof", "retry_backoff"), ("max_retry", "max_retries"), ("ignore_results", "ignore_result")],
)
def test_a_misspelt_option_is_warned_of_at_the_place_of_the_task(option: str, meant: str) -> None:
    with memory_app() as app, pytest.warns(MisspeltOptionWarning, match=f"did you mean {meant}") as seen:
        task = app.task(name="made", **{option: 3})(lambda: None)
    assert seen[0].filename == __file__
    assert getattr(task, option) == 3


def test_attributes_of_ones_own_are_taken_without_a_word() -> None:
    class Queued(Task[..., Any]):
        abstract = True
        max_retry = 5

    with memory_app() as app, warnings.catch_warnings():
        warnings.simplefilter("error")
        task: Any = app.task(name="made", base=Queued, max_retry=7, tenant="a", Request=None)(lambda: None)
    assert (task.max_retry, task.tenant) == (7, "a")
