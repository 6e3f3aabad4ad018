"""Whether this machine is busy with other things, so that bounds in time can allow for it."""

from __future__ import annotations

import os
import time

_LOOPS = 300_000


def loaded() -> bool:
    """Whether a computation now takes clearly longer than its own processor time."""
    begun_wall_s, begun_cpu_s = time.perf_counter(), time.process_time()
    for _ in range(_LOOPS):
        pass
    wall_s, cpu_s = time.perf_counter() - begun_wall_s, time.process_time() - begun_cpu_s
    return wall_s > 1.3 * cpu_s or os.getloadavg()[0] > len(os.sched_getaffinity(0))


def allowance_s(idle_s: float, loaded_s: float) -> float:
    """The first, and the second on top when the machine is busy."""
    return idle_s + (loaded_s if loaded() else 0.0)
