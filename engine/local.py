"""What is current here: the app of this process, and the task that runs in this flow of execution.

The running task lives in a `ContextVar`, as a linked stack of (task, request, outer entry), so a
thread that a task starts does not mistake itself for the task.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .app import App
    from .request import Context
    from .task import Task

_log = logging.getLogger("prefork.coroutines")

Entry = tuple["Task[Any, Any]", "Context", Any]
"""A running task, its request, and the entry below it (or None)."""

running: ContextVar[Entry | None] = ContextVar("prefork_running_task", default=None)


class CurrentApps:
    """The app that `current_app` means, and whoever waits to be told of new apps."""

    def __init__(self) -> None:
        # Written by whoever creates or closes an app (normally the main thread); read by everybody.
        self.current: App | None = None
        self.default: App | None = None
        self.make_default: Callable[[], App] | None = None
        self.on_new_app: list[Callable[[App], None]] = []

    def get(self) -> App:
        """The current app, else the default one, which is made when there is none."""
        app = self.current or self.default
        if app is None:
            if self.make_default is None:
                raise RuntimeError("there is no current app: create one with App(...)")
            app = self.default = self.make_default()
        return app


apps = CurrentApps()


def get_current_app() -> App:
    """The app that was created, or made current, last; a default app when there is none."""
    return apps.get()


async def run_as(task: Task[Any, Any], request: Context, coroutine: Any) -> Any:
    """Await the coroutine of a task that was called as a function: it is the current one meanwhile."""
    token = running.set((task, request, running.get()))
    try:
        return await coroutine
    finally:
        try:
            running.reset(token)
        except ValueError:
            # It did not end but was collected, and that from elsewhere: there is nothing to be undone there.
            _log.debug("the coroutine of %s was never awaited to its end", task.name)


def get_current_task() -> Task[Any, Any] | None:
    """The task that runs here, or None."""
    entry = running.get()
    return None if entry is None else entry[0]


def get_current_worker_task() -> Task[Any, Any] | None:
    """The task that a worker started here: the outermost entry, below tasks called as functions."""
    entry = running.get()
    found = None
    while entry is not None:
        if not entry[1].called_directly:
            found = entry[0]
        entry = entry[2]
    return found


class Proxy:
    """Stands for whatever its getter returns at the moment of use."""

    __slots__ = ("_getter", "_name")

    def __init__(self, getter: Callable[[], Any], name: str = "") -> None:
        object.__setattr__(self, "_getter", getter)
        object.__setattr__(self, "_name", name)

    def _get_current_object(self) -> Any:
        return object.__getattribute__(self, "_getter")()

    @property  # type: ignore[misc]  # isinstance() is to see what the proxy stands for
    def __class__(self) -> Any:
        return type(self._get_current_object())

    def __getattr__(self, name: str) -> Any:
        return getattr(self._get_current_object(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._get_current_object(), name, value)

    def __delattr__(self, name: str) -> None:
        delattr(self._get_current_object(), name)

    def __bool__(self) -> bool:
        return bool(self._get_current_object())

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._get_current_object()(*args, **kwargs)

    def __eq__(self, other: object) -> bool:
        return bool(self._get_current_object() == other)

    def __hash__(self) -> int:
        return hash(self._get_current_object())

    def __repr__(self) -> str:
        return repr(self._get_current_object())

    def __str__(self) -> str:
        return str(self._get_current_object())

    def __or__(self, other: Any) -> Any:
        return self._get_current_object() | other

    def __dir__(self) -> list[str]:
        return dir(self._get_current_object())

    def __reduce__(self) -> Any:
        return self._get_current_object().__reduce__()


current_app = Proxy(get_current_app, "current_app")
current_task = Proxy(get_current_task, "current_task")
