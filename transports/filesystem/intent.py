"""Settling with consequences."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..base import Outcome
from .owners import Owner
from .queuedir import QueueDir
from .store import Store


def settle_with_intent(
    store: Store,
    owner: Owner,
    queue_by_id: Callable[[int], QueueDir | None],
    outcomes: Sequence[Outcome],
) -> list[bool]:
    return [False] * len(outcomes)
