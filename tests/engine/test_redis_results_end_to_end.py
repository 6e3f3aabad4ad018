"""A worker, a client and a result store in Redis: what becomes of results of every kind."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from prefork.engine import App, Worker
from prefork.engine.exceptions import BackendStoreError
from support.redis_server import RedisServer, running_redis
from support.waiting import eventually

MODULE = "redis_results_app"


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with running_redis() as running:
        yield running


@pytest.fixture(scope="module")
def app(server: RedisServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[App]:
    """An app in a module that the worker's processes can import, with a worker of one child."""
    directory = tmp_path_factory.mktemp("app")
    (directory / f"{MODULE}.py").write_text(
        f"""
from prefork.engine import App

app = App({MODULE!r}, broker={server.url!r}, result_backend={server.url!r}, result_max_bytes=50_000_000)


@app.task
def large(size):
    return "x" * size


@app.task
def opaque():
    return object()


@app.task(ignore_result=True)
def silent(x):
    return x
"""
    )
    sys.path.insert(0, str(directory))
    module: ModuleType = __import__(MODULE)
    made: App = module.app
    try:
        with Worker(made, concurrency=1):
            yield made
    finally:
        made.close()
        sys.path.remove(str(directory))
        del sys.modules[MODULE]


def task(app: App, name: str) -> Any:
    return app.tasks[f"{MODULE}.{name}"]


def calls(server: RedisServer, command: str) -> int:
    found = re.search(rf"cmdstat_{command}:calls=(\d+)", server.cli("INFO", "commandstats"))
    return int(found[1]) if found else 0


@pytest.mark.parametrize("size", [0, 10_000, 1_000_000, 40_000_000])
def test_a_result_of_any_size_comes_back(app: App, size: int) -> None:
    assert len(task(app, "large").delay(size).get(timeout=30)) == size


def test_a_result_that_is_too_large_is_a_clear_failure(app: App) -> None:
    result = task(app, "large").delay(50_000_001)
    with pytest.raises(BackendStoreError, match="result_max_bytes"):
        result.get(timeout=30)
    assert result.state == "FAILURE"


def test_a_result_that_has_no_form_is_a_clear_failure(app: App) -> None:
    result = task(app, "opaque").delay()
    with pytest.raises(Exception, match="cannot be encoded as json"):
        result.get(timeout=30)
    assert result.state == "FAILURE"


def test_an_ignored_result_costs_neither_a_key_nor_an_announcement(app: App, server: RedisServer) -> None:
    task(app, "large").delay(1).get(timeout=30)
    before = calls(server, "publish"), calls(server, "set")
    results = task(app, "silent").map_async(range(50))
    eventually(lambda: server.cli("EXISTS", "celery") == "0" and server.cli("KEYS", "prefork:held:*") == "")
    assert (calls(server, "publish"), calls(server, "set")) == before
    assert results.get(timeout=1) == [None] * 50
    assert server.cli("EXISTS", *(f"celery-task-meta-{result.id}" for result in results)) == "0"


def test_many_results_come_back_in_order(app: App) -> None:
    sizes = [number % 7 for number in range(2000)]
    assert task(app, "large").map_async(sizes).get(timeout=60) == ["x" * size for size in sizes]
    results = task(app, "large").map_async(sizes)
    assert len(dict(results.iter_native(timeout=60))) == 2000
