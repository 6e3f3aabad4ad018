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
        assert longer_than(hold_s_max, tasks, config) == named
        with caplog.at_level(logging.WARNING):
            warn_of_long_limits(hold_s_max, tasks, config, logging.getLogger("test"))
            warn_of_long_limits(None, tasks, config, logging.getLogger("test"))
        assert len(caplog.records) == (1 if named else 0)
        assert all(name in caplog.text for name in named)
