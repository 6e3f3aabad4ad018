"""What tests of limits in a child ask of it and of its queues."""

from __future__ import annotations

from typing import Any

from prefork.engine.app import App
from prefork.engine.limits.board import RateBoard
from support.one_child import OneChild


class Ran:
    """What ran, in order."""

    def __init__(self) -> None:
        self.numbers: list[Any] = []

    def __call__(self, number: Any) -> None:
        self.numbers.append(number)


def board_of(child: OneChild) -> RateBoard:
    """The rates as the worker of the child has them."""
    return RateBoard(child.board)


def ready(app: App, queue: str = "celery") -> int:
    """How many messages of a queue may be taken."""
    return app.client.transport.depth(queue).ready


def delayed(app: App, queue: str = "celery") -> int:
    """How many messages of a queue wait for their time."""
    return app.client.transport.depth(queue).delayed
