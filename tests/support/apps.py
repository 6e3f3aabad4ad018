"""Apps for tests: in memory, never current, closed at the end."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefork.engine.app import App
from prefork.engine.message import Embed, TaskMessage, parse

_numbers = itertools.count(1)


@contextmanager
def memory_app(main: str | None = "proj", **settings: Any) -> Iterator[App]:
    """An app with a memory broker of its own."""
    settings.setdefault("broker", f"memory://app-{next(_numbers)}")
    app = App(main, set_as_current=False, **settings)
    try:
        yield app
    finally:
        app.close()


def sent(app: App, queue: str = "celery", limit: int = 100) -> list[TaskMessage]:
    """What waits in a queue, ready or delayed, parsed, oldest first."""
    transport = app.client.transport
    waiting = transport.peek(queue, limit) + transport.peek(queue, limit, delayed=True)
    return [parse(item.document, app.client.table) for item in waiting]


def payload(app: App, message: TaskMessage) -> tuple[list[Any], dict[str, Any], Embed]:
    """Arguments and embedded signatures of a message."""
    args, kwargs, embed = message.payload(app.client.table)
    return args, kwargs, embed
