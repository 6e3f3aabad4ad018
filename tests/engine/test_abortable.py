"""Tasks that may be asked to stop, and look whether they are."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine import abortable
from prefork.engine.abortable import ABORTED, AbortableAsyncResult, AbortableTask
from prefork.engine.app import App
from prefork.engine.exceptions import ImproperlyConfigured
from prefork.transports.errors import ResultStoreUnavailable
from support.apps import memory_app
from support.one_child import OneChild


@pytest.fixture
def app() -> Iterator[App]:
    with memory_app() as made:
        yield made


@pytest.fixture
def child(app: App) -> Iterator[OneChild]:
    made = OneChild(app)
    yield made
    made.close()


def task_of(app: App, looks: list[Any], **clock: Any) -> Any:
    @app.task(bind=True, base=AbortableTask, name="export")
    def export(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"at": 1})
        looks.append(self.is_aborted())
        return "stopped" if looks[-1] else "done"

    return export


def test_a_task_that_was_asked_before_it_began_sees_it_whatever_it_has_stored(
    app: App, child: OneChild
) -> None:
    looks: list[Any] = []
    result = task_of(app, looks).delay()
    assert isinstance(result, AbortableAsyncResult)
    assert not result.is_aborted()
    result.abort()
    assert (result.state, result.is_aborted()) == (ABORTED, True)
    child.run()
    assert looks == [True]
    assert (result.state, result.result) == ("SUCCESS", "stopped")
    assert not result.is_aborted()


def test_nobody_asked(app: App, child: OneChild) -> None:
    looks: list[Any] = []
    result = task_of(app, looks).delay()
    child.run()
    assert looks == [False]
    assert result.get(timeout=1) == "done"


def test_what_has_ended_cannot_be_aborted(app: App, child: OneChild) -> None:
    result = task_of(app, []).delay()
    child.run()
    result.abort()
    assert (result.state, result.is_aborted()) == ("SUCCESS", False)


def test_a_state_stored_by_celery_s_client_is_enough(app: App, child: OneChild) -> None:
    looks: list[Any] = []

    @app.task(bind=True, base=AbortableTask, name="plain")
    def plain(self: Any) -> None:
        looks.append(self.is_aborted())

    result = plain.delay()
    app.client.stored._write(result.id, "ABORTED", None)
    child.run()
    assert looks == [True]


def test_to_ask_again_and_again_costs_one_look_in_a_while(
    app: App, child: OneChild, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    now_s = [100.0]
    monkeypatch.setattr(abortable, "mono_s", lambda: now_s[0])

    @app.task(bind=True, base=AbortableTask, name="busy")
    def busy(self: Any) -> list[bool]:
        stored, seen = self.app.client.stored, []
        ask = stored.is_aborted
        monkeypatch.setattr(stored, "is_aborted", lambda task_id: looks.append(task_id) or ask(task_id))
        for turn in range(9):
            if turn == 4:
                self.AsyncResult(self.request.id).abort()
            seen.append(self.is_aborted())
            now_s[0] += abortable.LOOK_EVERY_S / 2
        return seen

    result = busy.delay()
    child.run()
    assert result.get(timeout=1) == [False] * 4 + [True] * 5
    assert len(looks) == 3


def test_while_the_store_is_away_the_answer_is_what_it_was(
    app: App, child: OneChild, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task(bind=True, base=AbortableTask, name="away")
    def away(self: Any) -> bool:
        with monkeypatch.context() as patched:
            patched.setattr(self.app.client.stored, "is_aborted", _away)
            return bool(self.is_aborted())

    result = away.delay()
    child.run()
    assert result.get(timeout=1) is False
    assert "cannot tell whether" in caplog.text


def _away(task_id: str) -> bool:
    raise ResultStoreUnavailable("no route")


def test_another_task_may_be_asked_about(app: App) -> None:
    task = task_of(app, [])
    task.AsyncResult("other").abort()
    assert task.is_aborted(task_id="other")
    assert not task.is_aborted(task_id="third")


def test_called_as_a_function_or_eagerly_nobody_can_ask_it_to_stop(app: App) -> None:
    looks: list[Any] = []

    @app.task(bind=True, base=AbortableTask, name="direct")
    def direct(self: Any) -> None:
        looks.append(self.is_aborted())

    direct()
    direct.apply()
    assert looks == [False, False]
    app.conf.task_always_eager = True
    assert not isinstance(direct.delay(), AbortableAsyncResult)


def test_without_a_result_store_it_is_refused(app: App) -> None:
    app.conf.result_backend = None
    with pytest.raises(ImproperlyConfigured, match="result_backend"):
        AbortableAsyncResult("id", app=app).abort()
