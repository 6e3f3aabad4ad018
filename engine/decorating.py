"""``@app.task``: what makes a task of a function, as type checkers see it.

Sent, an ``async def`` task gives what it returns; called here, it gives the coroutine, as Python does.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, cast, overload

from .exceptions import ImproperlyConfigured
from .registry import task_from_function
from .shared import shared_tasks
from .task import Task

if TYPE_CHECKING:
    from .app import App

P = ParamSpec("P")
R = TypeVar("R")

if TYPE_CHECKING:

    class AsyncTask(Task[P, R]):
        """A task of an ``async def`` function. There is no such class when the program runs."""

        def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """The coroutine."""

        def run(self, *args: P.args, **kwargs: P.kwargs) -> Coroutine[Any, Any, R]:  # type: ignore[override]
            """The body of the task."""


class DecoratesTasks:
    """The part of an app that makes tasks of functions."""

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...

    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...

    @overload
    def task(
        self, *, bind: Literal[True], name: str | None = ..., base: Any = ..., **options: Any
    ) -> BindsTask: ...

    @overload
    def task(
        self, *, bind: Literal[False] = ..., name: str | None = ..., base: Any = ..., **options: Any
    ) -> MakesTask: ...

    def task(self, *functions: Any, **options: Any) -> Any:
        """Make a task of a function: ``@app.task`` or ``@app.task(name=…, bind=True, …)`` (parity §4).

        An ``async def`` function makes a task that runs on an event loop of the worker's child.

        :raises ImproperlyConfigured: it is no function.
        """
        app = cast("App", self)
        shared = options.pop("shared", False)
        options.pop("lazy", None)

        def make(fun: Callable[..., Any]) -> Any:
            if not callable(fun):
                raise ImproperlyConfigured(f"@app.task(...) decorates functions, not {fun!r}")
            if shared:
                shared_tasks.add(fun, dict(options))
            return task_from_function(app, fun, **options)

        return make(*functions) if functions else make


if TYPE_CHECKING:

    class MakesTask(Protocol):
        """What ``@app.task(...)`` gives: it makes a task of a function."""

        @overload
        def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> AsyncTask[P, R]: ...

        @overload
        def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...

    class BindsTask(Protocol):
        """Likewise, of a function that gets the task itself as its first argument."""

        @overload
        def __call__(
            self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /
        ) -> AsyncTask[P, R]: ...

        @overload
        def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...
