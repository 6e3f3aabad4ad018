"""Which tasks may run longer than the broker lets a worker hold a message."""

from __future__ import annotations

import logging

import pytest

from prefork.engine.agent.patience import longer_than, warn_of_long_limits
from support.apps import memory_app


@pytest.mark.parametrize(
    ("hold_s_max", "named"), [(1800.0, ["long"]), (3600.0, []), (59.0, ["long", "short"])]
)
def test_the_tasks_beyond_the_bound_are_named(
    hold_s_max: float, named: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    with memory_app() as app:
        app.task(name="long", time_limit=3600)(lambda: None)
        app.task(name="short", time_limit=60)(lambda: None)
        app.task(name="boundless")(lambda: None)
        tasks = {name: app.tasks[name] for name in ("long", "short", "boundless")}
        config = app.conf.resolve()
        assert list(longer_than(hold_s_max, tasks, config)) == named
        with caplog.at_level(logging.WARNING):
            warn_of_long_limits(hold_s_max, tasks, config, logging.getLogger("test"))
            warn_of_long_limits(None, tasks, config, logging.getLogger("test"))
        assert len(caplog.records) == (1 if named else 0)
        assert all(name in caplog.text for name in named)


def test_the_warning_says_which_option_and_leaves_out_the_tasks_of_our_own(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with memory_app() as app:
        app.task(name="mine")(lambda: None)
        app.conf.task_time_limit = 7200.5
        config = app.conf.resolve()
        assert longer_than(1800.0, app.tasks, config) == {"mine": 7200.5}
        with caplog.at_level(logging.WARNING):
            warn_of_long_limits(1800.0, app.tasks, config, logging.getLogger("test"))
    assert 'broker_transport_options = {"consumer_timeout": 7201}' in caplog.text
    assert "celery." not in caplog.text
