"""The pytest plugin: fixtures and a marker that mean what Celery's mean (parity §19).

pytest loads it wherever prefork is installed, so it imports nothing of the engine until a fixture is used.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from importlib import import_module
from typing import Any

import pytest


def pytest_configure(config: pytest.Config) -> None:
    """Make the marker known."""
    config.addinivalue_line("markers", "prefork(**settings): settings of the app that prefork_app makes.")


@pytest.fixture(scope="session")
def prefork_config() -> Mapping[str, Any]:
    """Settings of the apps. Override it."""
    return {}


@pytest.fixture(scope="session")
def prefork_parameters() -> Mapping[str, Any]:
    """Parameters of the apps, as `App` takes them. Override it."""
    return {}


@pytest.fixture(scope="session")
def prefork_includes() -> Sequence[str]:
    """Modules whose shared tasks the workers know. Override it."""
    return ()


@pytest.fixture(scope="session")
def prefork_class_tasks() -> Sequence[Any]:
    """Class-based tasks that the workers know. Override it."""
    return ()


@pytest.fixture(scope="session")
def prefork_worker_pool() -> str:
    """How the workers run tasks: ``"solo"`` (a thread of this process) or ``"prefork"``. Override it."""
    return "solo"


@pytest.fixture(scope="session")
def prefork_worker_parameters() -> Mapping[str, Any]:
    """Parameters of the workers, as `start_worker` takes them. Override it."""
    return {}


@pytest.fixture(scope="session")
def prefork_session_app(
    prefork_config: Mapping[str, Any], prefork_parameters: Mapping[str, Any]
) -> Iterator[Any]:
    """An app for all tests of the session."""
    make = import_module(".apps", __package__).temporary_app
    with make(config=prefork_config, **prefork_parameters) as app:
        yield app


@pytest.fixture(scope="session")
def prefork_session_worker(
    prefork_session_app: Any,
    prefork_includes: Sequence[str],
    prefork_class_tasks: Sequence[Any],
    prefork_worker_pool: str,
    prefork_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """A worker of the session's app that runs until the session ends."""
    _give_tasks(prefork_session_app, prefork_includes, prefork_class_tasks)
    start = import_module(".worker", __package__).start_worker
    with start(prefork_session_app, **{"pool": prefork_worker_pool, **prefork_worker_parameters}) as worker:
        yield worker


@pytest.fixture
def prefork_app(
    request: pytest.FixtureRequest,
    prefork_config: Mapping[str, Any],
    prefork_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """An app for one test, with a broker of its own; ``@pytest.mark.prefork(...)`` adds settings."""
    marker = request.node.get_closest_marker("prefork")
    config = {**prefork_config, **(marker.kwargs if marker is not None else {})}
    make = import_module(".apps", __package__).temporary_app
    with make(config=config, **prefork_parameters) as app:
        yield app


@pytest.fixture
def prefork_worker(
    prefork_app: Any,
    prefork_includes: Sequence[str],
    prefork_class_tasks: Sequence[Any],
    prefork_worker_pool: str,
    prefork_worker_parameters: Mapping[str, Any],
) -> Iterator[Any]:
    """A worker of `prefork_app` that runs while the test does."""
    _give_tasks(prefork_app, prefork_includes, prefork_class_tasks)
    start = import_module(".worker", __package__).start_worker
    with start(prefork_app, **{"pool": prefork_worker_pool, **prefork_worker_parameters}) as worker:
        yield worker


def _give_tasks(app: Any, includes: Sequence[str], class_tasks: Sequence[Any]) -> None:
    for name in includes:
        import_module(name)
    for task in class_tasks:
        app.register_task(task)
    app.finalize()
    # An app that was finalized before a module was imported does not have its shared tasks yet.
    import_module("..shared", __package__).shared_tasks.make_all(app)
