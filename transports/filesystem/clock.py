"""The only module of this transport that reads a clock or sleeps."""

from __future__ import annotations

import functools
import time


def wall_s() -> float:
    """Unix time; what is stored and shown."""
    return time.time()


def wall_ns() -> int:
    """Unix time in nanoseconds; orders what one machine made."""
    return time.time_ns()


def mono_s() -> float:
    """Seconds for deadlines within this process."""
    return time.monotonic()


def boot_ns() -> int:
    """Nanoseconds since the machine started, the time it was suspended included.

    Every process of the machine reads the same; nobody can set it. Leases are counted in it.
    """
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


@functools.lru_cache(maxsize=1)
def boot_id() -> str:
    """Names this start of the machine: `boot_ns` of another one means nothing."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


def sleep(duration_s: float) -> None:
    """Wait without looking at anything."""
    time.sleep(duration_s)
