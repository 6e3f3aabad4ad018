"""The tasks of an app, by name, and how a function becomes one of them."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from .exceptions import DuplicateTaskNameWarning, ImproperlyConfigured, NotRegistered
from .pydantic_calls import ModelCalls
from .retry_options import check_retries, warn_of_misspelt

if TYPE_CHECKING:
    from .app import App
    from .task import Task


class TaskRegistry(dict[str, "Task[Any, Any]"]):
    """Tasks by name. Written while modules are imported; read by everybody afterwards."""

    NotRegistered = NotRegistered

    def __missing__(self, name: str) -> Task[Any, Any]:
        raise NotRegistered(name)

    def register(self, task: Any) -> None:
        """Add a task (or a task class, which is instantiated)."""
        if isinstance(task, type):
            task = task()
        if not task.name:
            raise ImproperlyConfigured(
                f"{type(task).__name__} has no name: set `name`, or register it with an app"
            )
        self[task.name] = task

    def unregister(self, name: Any) -> None:
        """Remove a task, by name or itself.

        :raises NotRegistered: no such task.
        """
        key = getattr(name, "name", name)
        if key not in self:
            raise NotRegistered(key)
        del self[key]

    def regular(self) -> dict[str, Task[Any, Any]]:
        """Tasks that the project defined: all but the built-in ``celery.*``."""
        return {name: task for name, task in self.items() if not name.startswith("celery.")}


def _same_definition(known: Any, function: Callable[..., Any]) -> bool:
    """Whether a task was made of an earlier import (or reload) of the same function."""
    other = getattr(known, "__wrapped__", None)
    return (
        getattr(other, "__module__", None) == function.__module__
        and getattr(other, "__qualname__", None) == function.__qualname__
    )


def task_from_function(
    app: App,
    function: Callable[..., Any],
    *,
    name: str | None = None,
    base: type[Any] | None = None,
    bind: bool = False,
    **options: Any,
) -> Task[Any, Any]:
    """Make a task of a function and register it.

    A name that is taken by another function keeps its first owner, with a
    `DuplicateTaskNameWarning`; the same function, imported again, replaces itself.

    :param base: the class to derive the task from; None takes `app.Task`.
    :param bind: pass the task itself as first argument.
    :param options: attributes of the task (parity §4).
    :raises ImproperlyConfigured: an option cannot be honoured.
    """
    task_name = name or app.gen_task_name(function.__name__, function.__module__)
    known = app.registry.get(task_name)
    if known is not None and not _same_definition(known, function):
        warnings.warn(
            f"task {task_name!r} is already defined by {known!r}: {function.__module__}."
            f"{function.__qualname__} is ignored; give one of them another `name=`",
            DuplicateTaskNameWarning,
            stacklevel=3,
        )
        return known
    cls_base = base or app.Task
    warn_of_misspelt(options, cls_base, task_name, stacklevel=3)
    body = function
    if options.get("pydantic"):
        models = ModelCalls(
            app,
            function,
            task_name,
            bind=bind,
            strict=options.get("pydantic_strict", False),
            context=options.get("pydantic_context"),
            dump_kwargs=options.get("pydantic_dump_kwargs"),
        )
        body, options["models"] = models.body(), models
    attributes: dict[str, Any] = {
        "_app": app,
        "name": task_name,
        "run": body if bind else staticmethod(body),
        "bind": bind,
        "__doc__": function.__doc__,
        "__module__": function.__module__,
        "__wrapped__": staticmethod(function),
        **options,
    }
    cls = type(function.__name__, (cls_base,), attributes)
    task: Task[Any, Any] = cls()
    check_retries(task)
    app.registry[task_name] = task
    app.adopt(task)
    return task
