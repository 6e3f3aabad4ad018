"""Tasks that every app has, under the names that workers of this wire agree on (interop §9.2)."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Sequence
from types import CoroutineType
from typing import TYPE_CHECKING, Any

from .canvas import maybe_signature
from .request import Context
from .result_document import rebuild_exception

if TYPE_CHECKING:
    from .app import App

ERRBACK = "celery.prefork_errback"
"""Calls an error callback that takes request, exception and traceback, for a task that was ended from
outside: whoever notices that may not run tasks. Known to workers of this engine only."""


def add_builtin_tasks(app: App) -> None:
    """Register ``celery.map``, ``starmap``, ``accumulate``, ``backend_cleanup``, and `ERRBACK`."""

    def body_of(task: Any) -> Any:
        return maybe_signature(task, app)

    def xmap(task: Any, it: Iterable[Any]) -> Any:
        return xstarmap(task, [(item,) for item in it])

    def xstarmap(task: Any, it: Iterable[Sequence[Any]]) -> Any:
        sig = body_of(task)
        local = app.registry.get(sig.task)
        if local is not None and inspect.iscoroutinefunction(local.run):
            return one_by_one(sig, it)
        return [sig(*item) for item in it]

    async def one_by_one(sig: Any, it: Iterable[Sequence[Any]]) -> list[Any]:
        return [await sig(*item) for item in it]

    def accumulate(*args: Any, **kwargs: Any) -> Any:
        index = kwargs.get("index")
        return list(args) if index is None else args[index]

    def backend_cleanup() -> None:
        app.backend.cleanup()

    def errback(callback: Any, request: dict[str, Any], error: Any, trace: str | None) -> Any:
        called = body_of(callback)(Context(request), rebuild_exception(error, trace), trace)
        # One that is a coroutine function is awaited by whoever runs this.
        return called if type(called) is CoroutineType else None

    for name, function in (
        ("celery.map", xmap),
        ("celery.starmap", xstarmap),
        ("celery.accumulate", accumulate),
        ("celery.backend_cleanup", backend_cleanup),
        (ERRBACK, errback),
    ):
        if name not in app.registry:
            app.task_of(function, name=name)
