"""Waiting until the queues of a worker are empty."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Final

from ..transports.base import Transport
from .clock import mono_s

_LOOK_S: Final = 0.005


def await_empty(
    transport: Transport,
    queues: Sequence[str],
    still_served: Callable[[str], None],
    timeout_s: float,
    *,
    delayed: bool,
) -> None:
    """Wait until nothing is ready, in work or, if `delayed`, due later in any of the queues.

    :param still_served: gets what is left; raises when nobody will ever take it.
    :raises TimeoutError: something is left; the error says what.
    """
    end_mono_s = mono_s() + timeout_s
    pause = threading.Event()
    was_empty = False
    while True:
        found = {name: transport.depth(name) for name in queues}
        left = "; ".join(
            f"{name}: {depth.ready} ready, {depth.in_work} in work, {depth.delayed} delayed"
            for name, depth in found.items()
            if depth.ready or depth.in_work or (delayed and depth.delayed)
        )
        if not left:
            if was_empty:
                return
            # What one task sends may have gone to a queue that had been looked at.
            was_empty = True
            continue
        was_empty = False
        still_served(left)
        if mono_s() >= end_mono_s:
            raise TimeoutError(f"not empty within {timeout_s:g} s: {left}")
        pause.wait(_LOOK_S)
