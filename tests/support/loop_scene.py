"""What tests of a child's loop do with the child and ask of its queues."""

from __future__ import annotations

from prefork.engine.app import App
from prefork.engine.child.readahead import SAMPLES_MIN
from support.faulty import Faulty
from support.one_child import OneChild


def known_to_be_short(child: OneChild, name: str, limit: int) -> None:
    """Let the child hold several messages of a task from the start."""
    kind = child.parts.read_ahead.kind(name)
    for _ in range(SAMPLES_MIN):
        kind.add(0.0001)
    child.parts.read_ahead._limit = limit


def faulty_consumer(child: OneChild) -> Faulty:
    """Give the child a consumer that fails when it is told to, and no pauses between its tries."""
    child.parts.consumer = faulty = Faulty(child.parts.consumer)  # type: ignore[assignment]
    child.parts.pause = lambda seconds: None  # type: ignore[method-assign]
    return faulty


def depth(app: App, queue: str = "celery") -> tuple[int, int, int]:
    """How many messages of a queue are ready, delayed and in work."""
    found = app.client.transport.depth(queue)
    return found.ready, found.delayed, found.in_work
