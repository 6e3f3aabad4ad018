"""Whether this machine is busy with other things, so that bounds in time can allow for it."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import psutil

_LOOPS = 300_000
_TICK_S = 0.01


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


class Waits:
    """What the machine takes, from now on, from this process and from all that it has started."""

    def __init__(self) -> None:
        self._before = self._waited_ns()
        self._stolen_before_s = _stolen_s()

    @property
    def so_far_s(self) -> float:
        """How long the thread that was kept waiting longest was ready to run and got no processor.

        With it counts what the host of a virtual machine took from that.
        """
        return max(self._each_ns()) / 1e9 + _stolen_s() - self._stolen_before_s

    @property
    def together_s(self) -> float:
        """The same of all threads, one after the other: for what passes through the hands of several."""
        return sum(self._each_ns()) / 1e9 + _stolen_s() - self._stolen_before_s

    def _each_ns(self) -> list[int]:
        now = self._waited_ns()
        return [waited_ns - self._before.get(thread, 0) for thread, waited_ns in now.items()]

    def _waited_ns(self) -> dict[Path, int]:
        """By thread: nanoseconds that it has stood in queues for a processor; 0 where nobody counts."""
        found = {Path("/proc"): 0}
        this = psutil.Process()
        for pid in [this.pid, *(child.pid for child in this.children(recursive=True))]:
            for path in Path(f"/proc/{pid}/task").glob("*/schedstat"):
                try:
                    found[path] = int(path.read_text().split()[1])
                except (OSError, IndexError):
                    continue  # it has ended, or the kernel does not count
        return found


def _stolen_s() -> float:
    """Seconds in which the host of this virtual machine ran something else, over all processors."""
    return float(getattr(psutil.cpu_times(), "steal", 0.0))


class Standstill:
    """A thread that sees for how long this process stood still, all its threads with it."""

    def __init__(self) -> None:
        self._gaps: list[tuple[float, float]] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Standstill:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.is_set():
            slept_s = time.monotonic()
            time.sleep(_TICK_S)
            woke_s = time.monotonic()
            if woke_s - slept_s > 2 * _TICK_S:
                self._gaps.append((slept_s + _TICK_S, woke_s))

    def between(self, begun_s: float, ended_s: float) -> float:
        """For how many seconds of this time, on the monotonic clock; asked when the block is over."""
        return sum(max(0.0, min(to_s, ended_s) - max(from_s, begun_s)) for from_s, to_s in self._gaps)
