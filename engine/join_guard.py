"""Whether a task may wait for the results of others: it may not, unless it says so."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

from .local import running

_may_join: ContextVar[bool] = ContextVar("prefork_may_join", default=False)

JOIN_REFUSED = (
    "a task must not wait for another task's result: with every worker process waiting, nothing would "
    "ever run; use callbacks or a chain (or allow_join_result(), or disable_sync_subtasks=False)"
)


@contextmanager
def allow_join_result() -> Iterator[None]:
    """Within it, a task may wait for results."""
    token = _may_join.set(True)
    try:
        yield
    finally:
        _may_join.reset(token)


@contextmanager
def denied_join_result() -> Iterator[None]:
    """Within it, a task may not wait for results, whatever is around it."""
    token = _may_join.set(False)
    try:
        yield
    finally:
        _may_join.reset(token)


def assert_may_join() -> None:
    """Refuse to wait inside a task.

    :raises RuntimeError: this is a task, and nothing allowed it.
    """
    entry = running.get()
    if entry is not None and not entry[1].called_directly and not _may_join.get():
        raise RuntimeError(JOIN_REFUSED)
