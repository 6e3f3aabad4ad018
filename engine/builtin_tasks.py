"""Tasks that every app has, under the names that workers of this wire agree on (interop §9.2)."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from .canvas import maybe_signature

if TYPE_CHECKING:
    from .app import App


def add_builtin_tasks(app: App) -> None:
    """Register ``celery.map``, ``starmap``, ``accumulate`` and ``backend_cleanup``."""

    def body_of(task: Any) -> Any:
        return maybe_signature(task, app)

    def xmap(task: Any, it: Iterable[Any]) -> list[Any]:
        sig = body_of(task)
        return [sig(item) for item in it]

    def xstarmap(task: Any, it: Iterable[Any]) -> list[Any]:
        sig = body_of(task)
        return [sig(*item) for item in it]

    def accumulate(*args: Any, **kwargs: Any) -> Any:
        index = kwargs.get("index")
        return list(args) if index is None else args[index]

    def backend_cleanup() -> None:
        store = app.client.results
        while store is not None and store.expire(1000):
            continue

    for name, function in (
        ("celery.map", xmap),
        ("celery.starmap", xstarmap),
        ("celery.accumulate", accumulate),
        ("celery.backend_cleanup", backend_cleanup),
    ):
        if name not in app.registry:
            app.task_of(function, name=name)
