"""Waiting until the queues of a worker are empty."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from ..transports.base import Transport
from .clock import mono_s
from .limits.lanes import lanes_among

_LOOK_S: Final = 0.005


def await_empty(
    transport: Transport,
    queues: Sequence[str],
    still_served: Callable[[str], None],
    progress: Callable[[], object],
    timeout_s: float,
    *,
    delayed: bool,
) -> None:
    """Wait until nothing is ready, in work or, if `delayed`, due later in any of the queues or their lanes.

    Lanes, where limited tasks wait, are known where the broker tells its queues (RabbitMQ does not).

    :param still_served: gets what is left; raises when nobody will ever take it.
    :param progress: says something else whenever tasks have begun or ended since.
    :raises TimeoutError: something is left; the error says what.
    """
    end_mono_s = mono_s() + timeout_s
    pause = threading.Event()
    while True:
        left = _left(transport, queues, delayed=delayed)
        if not left:
            # What one task sends may have gone to a queue that had been looked at, and what the next one
            # sends, back again: it is nowhere only if no task was begun during two more looks.
            before = progress()
            left = _left(transport, queues, delayed=delayed) or _left(transport, queues, delayed=delayed)
            if not left and progress() == before:
                return
        if left:
            still_served(left)
        if mono_s() >= end_mono_s:
            raise TimeoutError(f"not empty within {timeout_s:g} s: {left or 'tasks go on'}")
        pause.wait(_LOOK_S)


def _left(transport: Transport, queues: Sequence[str], *, delayed: bool) -> str:
    """What is in the queues, for a person; one is looked at after the other."""
    known = transport.queues() if transport.capabilities.lists_queues else []
    lanes = [lane for name in queues for lane in lanes_among(known, name)]
    found = {name: transport.depth(name) for name in (*queues, *lanes)}
    return "; ".join(
        f"{name}: {depth.ready} ready, {depth.in_work} in work, {depth.delayed} delayed"
        for name, depth in found.items()
        if depth.ready or depth.in_work or (delayed and depth.delayed)
    )
