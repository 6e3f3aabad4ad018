"""A worker for tests, in a thread of the test's own process, and fixtures for pytest.

``start_worker`` runs an app's tasks through the real pipeline: messages, serializer, worker loop, result
store. The fixtures are in `plugin`, which pytest finds by itself. Importing this package costs next to
nothing: what it needs is imported when it is first used.
"""

from __future__ import annotations

from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .apps import temporary_app as temporary_app
    from .worker import ThreadWorker as ThreadWorker
    from .worker import WorkerStuck as WorkerStuck
    from .worker import start_worker as start_worker

_PLACES = MappingProxyType(
    {
        "ThreadWorker": ".worker",
        "WorkerStuck": ".worker",
        "start_worker": ".worker",
        "temporary_app": ".apps",
    }
)

__all__ = ["ThreadWorker", "WorkerStuck", "start_worker", "temporary_app"]


def __getattr__(name: str) -> Any:
    place = _PLACES.get(name)
    if place is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(place, __name__), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_PLACES})
