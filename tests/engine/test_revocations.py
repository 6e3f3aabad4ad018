from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from prefork.engine.app import App
from prefork.engine.lifetimes import lifetimes
from prefork.engine.revocations import LOOK_EVERY_S, Revocations
from prefork.engine.stored_results import StoredResults
from prefork.serializers.json import JsonSerializer
from prefork.serializers.registry import SerializerTable
from prefork.transports.base import StoredResult
from support.apps import memory_app


@pytest.fixture
def app() -> Any:
    with memory_app() as made:
        yield made


def revocations(app: App) -> Revocations:
    return Revocations(lambda: app.client.results, JsonSerializer())


def test_nothing_is_revoked_at_first(app: App) -> None:
    assert not revocations(app).revoked("id", 0.0)


def test_a_revoked_task_is_known_soon_and_others_are_not_concerned(app: App) -> None:
    seen = revocations(app)
    assert not seen.revoked("id", 0.0)
    app.client.stored.revoke(["id"])
    assert not seen.revoked("id", LOOK_EVERY_S / 2)
    assert seen.revoked("id", LOOK_EVERY_S)
    assert not seen.revoked("other", LOOK_EVERY_S)


def test_a_task_that_ended_is_not_revoked(app: App) -> None:
    app.client.stored._write("done", "SUCCESS", 1)
    app.client.stored.revoke(["done", "id"])
    assert not revocations(app).revoked("done", 0.0)
    assert revocations(app).revoked("id", 0.0)


def test_the_store_is_asked_about_single_tasks_only_when_something_was_revoked(
    app: App, monkeypatch: pytest.MonkeyPatch
) -> None:
    store: Any = app.client.results
    asked: list[Any] = []
    get = store.get
    monkeypatch.setattr(store, "get", lambda keys: asked.append(list(keys)) or get(keys))
    seen = revocations(app)
    for number in range(100):
        seen.revoked(str(number), 0.0)
    assert len(asked) == 1


def test_something_else_under_the_id_is_no_revocation(app: App) -> None:
    app.client.stored.revoke(["x"])
    app.client.results.store([StoredResult("id", b"[]", None, False)])  # type: ignore[union-attr]
    seen = revocations(app)
    assert not seen.revoked("id", 0.0)
    assert seen.revoked("x", 0.0)


def test_without_a_store_nothing_can_be_revoked() -> None:
    with memory_app(backend="disabled") as app:
        assert not revocations(app).revoked("id", 0.0)


@pytest.fixture(params=["msgpack", "pickle"])
def other(app: App, request: pytest.FixtureRequest) -> Iterator[StoredResults]:
    """The same store as one sees it whose `result_serializer` is another one."""
    names = ("json", request.param)
    table = SerializerTable(set(names), names)
    table.allow_unpickling()
    yield StoredResults(lambda: app.client.results, table.by_name(request.param), lifetimes(app.config))


def test_a_task_is_revoked_whatever_serializer_its_client_stores_with(app: App, other: StoredResults) -> None:
    other.revoke(["id"])
    other.put("ran", "SUCCESS", 1)
    assert revocations(app).revoked("id", 0.0)
    assert not revocations(app).revoked("ran", 0.0)


@pytest.mark.parametrize(("state", "value"), [("FAILURE", ValueError("no")), ("STARTED", {"pid": 1})])
def test_what_another_serializer_stored_of_a_task_that_ran_is_not_overwritten(
    app: App, other: StoredResults, state: str, value: Any
) -> None:
    other.put("id", state, value)
    other.put("waiting", "RETRY", ValueError("later"))
    app.client.stored.revoke(["id", "waiting"], waiting_only=True)
    kept, replaced = other.read("id"), app.client.stored.read("waiting")
    assert kept is not None
    assert replaced is not None
    assert (kept.status, replaced.status) == (state, "REVOKED")
