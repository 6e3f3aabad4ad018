"""Who waits for a later step of a chain learns that one before it has failed, if only that one says so."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from prefork.engine import ancestry, result_document
from prefork.engine.ancestry import Ancestry
from prefork.engine.app import App
from prefork.engine.async_result import AsyncResult
from prefork.engine.exceptions import TimeoutError
from prefork.transports.base import StoredResult
from prefork.transports.errors import ResultStoreUnavailable
from support.apps import memory_app
from support.waiting import Background, eventually

Get = Callable[..., Any]


@pytest.fixture
def app(monkeypatch: pytest.MonkeyPatch) -> Iterator[App]:
    monkeypatch.setattr(ancestry, "LOOK_EVERY_S", 0.02)
    with memory_app() as made:
        yield made


@pytest.fixture(params=["get", "aget"])
def get(request: pytest.FixtureRequest) -> Get:
    """Waits for a result, in this thread or on an event loop."""

    def blocking(result: Any, **options: Any) -> Any:
        return result.get(**options)

    def awaiting(result: Any, **options: Any) -> Any:
        return asyncio.run(result.aget(**options))

    return blocking if request.param == "get" else awaiting


def store(app: App, task_id: str, value: Any, status: str) -> None:
    codec = app.client.result_table.by_name("json")
    document = result_document.encode(status, value, task_id=task_id, serializer=codec, date_done_wall_s=1.0)
    app.client.results.store([StoredResult(task_id, document, None, status in ("SUCCESS", "FAILURE"))])


def chain_of(app: App, *ids: str) -> AsyncResult[Any]:
    """The result of the last of these."""
    result = None
    for task_id in ids:
        result = AsyncResult(task_id, app=app, parent=result)
    assert result is not None
    return result


def looks(app: App, monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Which ids are looked at, whenever they are."""
    seen: list[list[str]] = []
    read = app.client.stored.read_final
    monkeypatch.setattr(app.client.stored, "read_final", lambda ids: seen.append(list(ids)) or read(ids))
    return seen


def test_a_parent_that_fails_meanwhile_ends_the_wait(
    app: App, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = looks(app, monkeypatch)
    waiting = Background(lambda: get(chain_of(app, "a", "b", "c"), timeout=20))
    eventually(lambda: len(seen) > 1)
    store(app, "a", 1, "SUCCESS")
    eventually(lambda: seen[-1] == ["b"])
    store(app, "b", LookupError("b"), "FAILURE")
    with pytest.raises(LookupError, match="b"):
        waiting.result()


def ends_after_a_look(app: App, monkeypatch: pytest.MonkeyPatch, task_id: str, error: Exception) -> None:
    """Have a task fail just after somebody has seen that it has not ended."""
    read = app.client.stored.read

    def then_fails(asked: str) -> Any:
        found = read(asked)
        if asked == task_id and (found is None or found.status == "STARTED"):
            store(app, task_id, error, "FAILURE")
        return found

    monkeypatch.setattr(app.client.stored, "read", then_fails)


def test_a_parent_that_fails_just_after_it_was_looked_at_ends_the_wait(
    app: App, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    ends_after_a_look(app, monkeypatch, "a", LookupError("a"))
    with pytest.raises(LookupError, match="a"):
        get(chain_of(app, "a", "b", "c"), timeout=20)


def test_what_a_task_has_raised_is_never_taken_for_its_value(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    store(app, "a", {"pid": 1}, "STARTED")
    ends_after_a_look(app, monkeypatch, "a", LookupError("a"))
    result = chain_of(app, "a")
    assert result.maybe_throw() == {"pid": 1}
    with pytest.raises(LookupError, match="a"):
        result.maybe_throw()


def test_a_parent_whose_failure_another_thread_reads_first_ends_the_wait(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    result = chain_of(app, "a", "b")
    above = Ancestry(result, app.client.stored)
    read = app.client.stored.read_final

    def another_reads(ids: Any) -> Any:
        found = read(ids)
        store(app, "a", LookupError("a"), "FAILURE")
        assert result.parent.failed()
        return found

    monkeypatch.setattr(app.client.stored, "read_final", another_reads)

    def look() -> bool:
        above.look()
        return False

    with pytest.raises(LookupError, match="a"):
        eventually(look)


@pytest.mark.parametrize("timeout", [20, None])
def test_what_comes_meanwhile_is_returned(
    app: App, get: Get, monkeypatch: pytest.MonkeyPatch, timeout: float | None
) -> None:
    seen = looks(app, monkeypatch)
    waiting = Background(lambda: get(chain_of(app, "a", "b"), timeout=timeout))
    eventually(lambda: len(seen) > 1)
    store(app, "b", 2, "SUCCESS")
    assert waiting.result() == 2


def test_the_wait_ends_in_time_although_others_are_looked_at(app: App, get: Get) -> None:
    with pytest.raises(TimeoutError):
        get(chain_of(app, "a", "b"), timeout=0.1)


def test_who_does_not_follow_parents_does_not_look_at_them(
    app: App, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = looks(app, monkeypatch)
    store(app, "a", LookupError("a"), "FAILURE")
    with pytest.raises(TimeoutError):
        get(chain_of(app, "a", "b"), timeout=0.1, follow_parents=False)
    assert seen == []


def test_where_others_are_called_at_intervals_parents_are_looked_at_then(app: App) -> None:
    store(app, "a", 1, "SUCCESS")
    calls: list[int] = []

    def on_interval() -> None:
        calls.append(1)
        if len(calls) == 3:
            store(app, "b", LookupError("b"), "FAILURE")

    with pytest.raises(LookupError, match="b"):
        chain_of(app, "a", "b", "c").get(timeout=20, interval=0.03, on_interval=on_interval)


def test_a_store_that_cannot_be_read_for_a_moment_ends_no_wait(
    app: App, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    away = threading.Event()

    def read_final(ids: Any) -> Any:
        away.set()
        raise ResultStoreUnavailable("away")

    monkeypatch.setattr(app.client.stored, "read_final", read_final)
    waiting = Background(lambda: get(chain_of(app, "a", "b"), timeout=20))
    assert away.wait(10)
    store(app, "b", 2, "SUCCESS")
    assert waiting.result() == 2


def test_nothing_is_looked_at_where_all_before_it_are_known(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = looks(app, monkeypatch)
    store(app, "a", 1, "SUCCESS")
    result = chain_of(app, "a", "b")
    assert result.parent.get() == 1
    above = Ancestry(result, app.client.stored)
    assert above.step_s(7.0) == 7.0
    above.look()
    assert seen == []
