"""Which task this thread is running, for log records.

Written by whoever runs a task (the worker loop, or an eager call), read by the log formatters. It
is a context variable rather than a global, because eager tasks run side by side in the threads of
a web server.
"""

from __future__ import annotations

from contextvars import ContextVar, Token

Current = tuple[str, str] | None
"""Task id and task name, or None between tasks."""

_current: ContextVar[Current] = ContextVar("prefork_current_task", default=None)


def set_current(task_id: str, task_name: str) -> Token[Current]:
    """Say that this thread now runs a task; the token puts back what was before (`restore`)."""
    return _current.set((task_id, task_name))


def clear_current() -> None:
    """Say that this thread runs no task."""
    _current.set(None)


def restore(token: Token[Current]) -> None:
    """Put back what was set before `set_current` gave this token; for tasks run inside tasks."""
    _current.reset(token)


def current() -> Current:
    """Task id and name of the running task, or None."""
    return _current.get()
