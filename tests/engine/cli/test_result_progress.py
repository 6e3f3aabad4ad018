"""`prefork result` of a task that runs."""

from __future__ import annotations

import argparse

import pytest

from prefork.engine.cli.failures import ExitCode
from prefork.engine.cli.result import show_outcome
from prefork.engine.request import Context
from prefork.engine.testing import temporary_app


def test_the_progress_of_a_running_task_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with temporary_app() as app:

        @app.task
        def copy() -> None:
            return None

        meta = {"current": 3, "total": 12, "note": "pages\x1b[2J"}
        app.client.stored.store_state("t", "PROGRESS", meta, request=Context(), options=copy.options)
        asked = argparse.Namespace(wait=False, json=False, traceback=False)
        assert show_outcome(app.AsyncResult("t"), asked) == ExitCode.NOT_READY
    shown = capsys.readouterr().err
    assert "t: PROGRESS: 3/12 (25%): pages" in shown
    assert "\x1b" not in shown
