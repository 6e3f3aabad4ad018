"""``@shared_task``: a task for every app, without importing any of them."""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Literal, ParamSpec, TypeVar, cast, overload

from .local import Proxy, apps, get_current_app
from .naming import gen_task_name

if TYPE_CHECKING:
    from .app import App
    from .decorating import AsyncTask, BindsTask, MakesTask
    from .task import Task

P = ParamSpec("P")
R = TypeVar("R")


class SharedTasks:
    """Functions that every app makes a task of when it is finalised.

    Written while modules are imported; a function of a name replaces an earlier one of that name.
    """

    def __init__(self) -> None:
        self._makers: dict[tuple[str, str], tuple[Callable[..., Any], dict[str, Any]]] = {}

    def add(self, function: Callable[..., Any], options: dict[str, Any]) -> None:
        """Remember a function."""
        self._makers[(function.__module__, function.__qualname__)] = (function, options)

    def make_all(self, app: App) -> None:
        """Make the tasks that an app does not have yet."""
        for function, options in list(self._makers.values()):
            name = options.get("name") or app.gen_task_name(function.__name__, function.__module__)
            if name not in app.registry:
                app.task_of(function, **{**options, "name": name})


shared_tasks = SharedTasks()


def _share(function: Callable[..., Any], options: dict[str, Any]) -> Any:
    shared_tasks.add(function, options)
    current = apps.current
    if current is not None and current.finalized:
        shared_tasks.make_all(current)

    def current_task() -> Any:
        app = get_current_app()
        name = options.get("name") or gen_task_name(app.main, function.__name__, function.__module__)
        return app.tasks[name]

    return Proxy(current_task, function.__name__)


@overload
def shared_task(function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...


@overload
def shared_task(function: Callable[P, R], /) -> Task[P, R]: ...


@overload
def shared_task(*, bind: Literal[True], name: str | None = ..., **options: Any) -> BindsTask: ...


@overload
def shared_task(*, bind: Literal[False] = ..., name: str | None = ..., **options: Any) -> MakesTask: ...


def shared_task(function: Any = None, /, **options: Any) -> Any:
    """Like ``@app.task``, for whichever app is current when the task is used."""
    if function is not None:
        return _share(function, options)
    return lambda fun: cast("Task[Any, Any]", _share(fun, options))
