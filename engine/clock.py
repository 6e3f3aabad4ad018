"""The clocks. The only module that reads the time of the machine.

Deadlines are kept on the monotonic clock (``mono_s``), what is stored or shown on the wall clock
(``wall_s``): the first never jumps, the second means the same on every host. Functions that decide
something take ``now`` as an argument and read no clock at all.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

# The C functions themselves, because a wrapper would cost more than the reading.

mono_s: Callable[[], float] = time.monotonic
"""Seconds since some moment in the past; never jumps. For deadlines within one host."""

mono_ns: Callable[[], int] = time.monotonic_ns
"""The same clock as `mono_s`, in whole nanoseconds."""

wall_s: Callable[[], float] = time.time
"""Unix time in seconds. May jump when the clock of the host is set."""

cpu_s: Callable[[], float] = time.process_time
"""Seconds of processor time this process has used."""

thread_cpu_s: Callable[[], float] = time.thread_time
"""Seconds of processor time this thread has used."""


def boot_ns() -> int:
    """Nanoseconds since the host was started, the time it slept included.

    Comparable between all processes of one host; for leases kept in files.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


class Clock(Protocol):
    """What a mechanism needs of time, so that a test can hold it in its hand."""

    def mono_s(self) -> float:
        """Monotonic seconds."""

    def wall_s(self) -> float:
        """Unix time in seconds."""


class SystemClock:
    """The clocks of the machine as a `Clock`."""

    __slots__ = ()

    def mono_s(self) -> float:
        """Monotonic seconds."""
        return mono_s()

    def wall_s(self) -> float:
        """Unix time in seconds."""
        return wall_s()


class FakeClock:
    """A `Clock` that stands still until a test moves it.

    :param mono_s: where the monotonic clock starts, in seconds.
    :param wall_s: where the wall clock starts, in Unix seconds.
    """

    def __init__(self, mono_s: float = 1_000.0, wall_s: float = 1_700_000_000.0) -> None:
        self._mono_s = mono_s
        self._wall_s = wall_s

    def mono_s(self) -> float:
        """Monotonic seconds."""
        return self._mono_s

    def wall_s(self) -> float:
        """Unix time in seconds."""
        return self._wall_s

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks.

        :raises ValueError: `seconds` is negative; use `jump_wall` for a clock that is set back.
        """
        if seconds < 0:
            raise ValueError(f"time cannot run back by {-seconds} s; jump_wall() sets the wall clock")
        self._mono_s += seconds
        self._wall_s += seconds

    def jump_wall(self, seconds: float) -> None:
        """Set the wall clock forward or back, as an operator or NTP does; `mono_s` stays."""
        self._wall_s += seconds
