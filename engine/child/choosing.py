"""Which worker loop a child runs, by its configuration."""

from __future__ import annotations

from importlib import import_module

from .idle import Idle
from .loop import WorkerLoop
from .parts import Parts


def loop_of(parts: Parts, idle: Idle) -> WorkerLoop:
    """The loop of a child: one task at a time, or several coroutines at once."""
    concurrency: int = parts.config.worker_async_concurrency
    if concurrency == 1:
        return WorkerLoop(parts, idle)
    # asyncio is a cost that only those who ask for it pay.
    loop: WorkerLoop = import_module(".async_loop", __package__).AsyncLoop(parts, idle, concurrency)
    return loop
