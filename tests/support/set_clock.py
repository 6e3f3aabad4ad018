"""A clock that stands until a test sets it."""

from __future__ import annotations


class SetClock:
    """Called as a clock is, it tells what it was set to.

    :ivar now_s: what it shows, in seconds.
    """

    def __init__(self, now_s: float = 1000.0) -> None:
        self.now_s = now_s

    def __call__(self) -> float:
        return self.now_s
