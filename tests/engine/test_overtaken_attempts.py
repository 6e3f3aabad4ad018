"""What an attempt says on the way never takes the place of the end of a later one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import App
from prefork.engine.request import Context
from prefork.engine.testing import start_worker, temporary_app
from prefork.transports.base import StoredResult


@pytest.fixture
def app() -> Iterator[App]:
    with temporary_app() as made:
        yield made


def held_task(app: App) -> tuple[Any, threading.Event, threading.Event]:
    """A task that stores a state of its own when it is told to go on."""
    began, go_on = threading.Event(), threading.Event()

    @app.task(bind=True)
    def held(self: Any) -> str:
        began.set()
        assert go_on.wait(10)
        self.update_state(state="HALFWAY", meta=1)
        self.progress(1, 2)
        return str(self.AsyncResult(self.request.id).state)

    return held, began, go_on


def store(app: App, task: Any, task_id: str, state: str, value: Any) -> None:
    """What another attempt stores."""
    app.client.stored.store_state(task_id, state, value, request=Context(), options=task.options)


@pytest.mark.parametrize("state", ["FAILURE", "REVOKED"])
def test_the_end_of_a_later_attempt_stays(app: App, state: str, caplog: pytest.LogCaptureFixture) -> None:
    held, began, go_on = held_task(app)
    with start_worker(app) as worker:
        result = held.delay()
        assert began.wait(10)
        store(app, held, result.id, state, ValueError("by another"))
        go_on.set()
        worker.drain()
    assert result.get(timeout=0) == state
    assert "HALFWAY comes from an attempt that was overtaken" in caplog.text


def test_the_end_of_an_earlier_attempt_does_not_stay(app: App) -> None:
    held, _, go_on = held_task(app)
    go_on.set()
    store(app, held, "again", "FAILURE", ValueError("then"))
    time.sleep(0.002)  # the clock of results has microseconds
    with start_worker(app) as worker:
        again = held.apply_async(task_id="again")
        worker.drain()
        assert again.get(timeout=0) == "PROGRESS"


def test_a_document_that_cannot_be_read_stops_nobody(app: App) -> None:
    held, began, go_on = held_task(app)
    with start_worker(app) as worker:
        result = held.delay()
        assert began.wait(10)
        written = app.client.results
        assert written is not None
        written.store([StoredResult(result.id, b'{"status": "FAILURE", "date_done": "soon"}')])
        go_on.set()
        worker.drain()
        assert result.get(timeout=0) == "PROGRESS"
