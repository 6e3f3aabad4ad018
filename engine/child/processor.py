"""Tells runs that were long from runs that waited for a processor: the machine is busy, not the task."""

from __future__ import annotations

import resource
from time import thread_time_ns


class Processor:
    """One thread's use of the processor, from `begin` on; a batch is long enough a time.

    To ask the system at each run would cost more than some tasks do. So a run that seems long is judged
    by all that its thread has done since: less than that, in any case, it has done itself.
    """

    def __init__(self) -> None:
        self.begin()

    def begin(self) -> None:
        """A batch begins, or goes on after a trip to the broker."""
        self._used_ns = thread_time_ns()
        self._waits = _waits()

    def own_ns(self, busy_ns: int) -> int:
        """How long a run was, that ends now and took this long by the clock.

        A thread that gave the processor up by itself, even once, waited for something: a file, a socket,
        a lock. Then the clock is right.
        """
        if _waits() != self._waits:
            return busy_ns
        return min(busy_ns, thread_time_ns() - self._used_ns)


def _waits() -> int:
    """How often this thread has given up the processor by itself."""
    return resource.getrusage(resource.RUSAGE_THREAD).ru_nvcsw
