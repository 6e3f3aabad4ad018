"""`EagerResult`: the result of a task that ran in the process that asked for it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, TypeVar, cast

from . import states
from .async_result import AsyncResult
from .join_guard import assert_may_join
from .result_document import ResultDocument

R = TypeVar("R")

_ran: ContextVar[dict[str, EagerResult[Any]] | None] = ContextVar("prefork_ran", default=None)


@contextmanager
def gathering() -> Iterator[dict[str, EagerResult[Any]]]:
    """Within it, the results of what runs here are put into the map, by id: those of a chain's steps.

    Whoever gathers around it gets them, too: the rest of a chain goes with the task that replaces a step.
    """
    found: dict[str, EagerResult[Any]] = {}
    token = _ran.set(found)
    try:
        yield found
    finally:
        _ran.reset(token)
        around = _ran.get()
        if around is not None:
            around.update(found)


class EagerResult(AsyncResult[R]):
    """The result of a task that ran in this process; nothing is stored or asked.

    :param value: the return value, or the exception.
    """

    __slots__ = ("_state", "_traceback", "_value")

    def __init__(
        self, id: str, value: Any, state: str, traceback: str | None = None, name: str | None = None
    ) -> None:
        super().__init__(id, task_name=name)
        self._value = value
        self._state = state
        self._traceback = traceback
        gathered = _ran.get()
        if gathered is not None:
            gathered[id] = self

    def _read(self) -> ResultDocument | None:
        raise AssertionError("an eager result has no document")

    @property
    def unknown(self) -> bool:
        """Everything is known of it."""
        return False

    def _field(self, name: str) -> Any:
        return None

    @property
    def state(self) -> str:
        """The state in which it ended."""
        return self._state

    status = state

    @property
    def result(self) -> Any:
        """The return value, or the exception."""
        return self._value

    info = result

    @property
    def traceback(self) -> str | None:
        """The traceback, as text, if the task failed."""
        return self._traceback

    progress = property(lambda self: None)
    date_done = property(lambda self: None)
    children = property(lambda self: None)

    def exists(self) -> bool:
        """Nothing is stored."""
        return False

    def get(self, timeout: float | None = None, propagate: bool = True, **kwargs: Any) -> R:  # type: ignore[override]
        """What the task returned; no waiting."""
        if kwargs.get("disable_sync_subtasks", True):
            assert_may_join()
        return cast(R, self.maybe_throw(propagate=propagate, callback=kwargs.get("callback")))

    wait = get  # type: ignore[assignment]

    def maybe_throw(self, propagate: bool = True, callback: Any = None) -> Any:
        """Raise what the task raised, if it failed; else its value."""
        if propagate and self._state in states.PROPAGATE_STATES:
            raise self._value if isinstance(self._value, Exception) else RuntimeError(self._value)
        if callback is not None:
            callback(self.id, self._value)
        return self._value

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """Nothing is stored, so nothing happens."""

    def revoke(self, *args: Any, **kwargs: Any) -> None:
        """Mark it; it has run already."""
        self._state = states.REVOKED

    def __reduce__(self) -> tuple[Any, ...]:
        return EagerResult, (self.id, self._value, self._state, self._traceback, self._name)
