"""Listens to the signal that error reporters listen to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from prefork.engine import signals

Told = tuple[Any, dict[str, Any]]
"""The sender of a signal, and what it was sent with."""


@contextmanager
def failures_heard() -> Iterator[list[Told]]:
    """What receivers of `task_failure` are told."""
    told: list[Told] = []

    def receiver(sender: Any, **about: Any) -> None:
        told.append((sender, about))

    signals.task_failure.connect(receiver, weak=False)
    try:
        yield told
    finally:
        signals.task_failure.disconnect(receiver)
