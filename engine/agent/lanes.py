"""Wakes children for the lanes of limited tasks: when something waits there and may run."""

from __future__ import annotations

import os
from typing import Final

from ..clock import mono_ns
from ..limits.lookout import Lookout
from ..scoreboard import S_PAUSED, Scoreboard
from .waking import Waker

# A child that was woken needs so long to take its token; if nobody is idle, nobody needs to be woken.
_AGAIN_NS: Final = 5_000_000
_ALL_BUSY_NS: Final = 50_000_000
_LONGEST_NS: Final = 1_000_000_000


class Lanes:
    """Whose turn it is, among the limited tasks of one worker. Used by the agent's thread."""

    def __init__(self, scoreboard: Scoreboard, lookout: Lookout, waker: Waker) -> None:
        self._words = scoreboard.words
        self._bell_fd = scoreboard.agent_bell_fd
        self._lookout = lookout
        self._waker = waker

    def fileno(self) -> int:
        """Readable when something was parked, or a rate has changed."""
        return self._bell_fd

    def hear(self) -> None:
        """Forget the bell; `turn` follows."""
        try:
            os.eventfd_read(self._bell_fd)
        except BlockingIOError:
            return  # another agent of this worker has heard it

    def turn(self) -> float:
        """Wake a child for each kind that may run; returns in how many seconds to look again."""
        now_ns = mono_ns()
        wait_ns = _LONGEST_NS
        if self._words[S_PAUSED]:
            return wait_ns / 1e9
        for kind in self._lookout.kinds():
            if not kind.bucket.holds:
                continue
            due_in_ns = kind.bucket.due_ns(now_ns) - now_ns
            if due_in_ns <= 0:
                due_in_ns = _AGAIN_NS if self._waker.wake_idle(1) else _ALL_BUSY_NS
            wait_ns = min(wait_ns, due_in_ns)
        return max(0, wait_ns) / 1e9
