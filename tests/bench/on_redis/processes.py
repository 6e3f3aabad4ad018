"""What the processes of a worker take: CPU time and memory, all together."""

from __future__ import annotations

import os
import time
from pathlib import Path

import psutil

_LOOK_S = 0.5
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_UTIME, _CSTIME = 11, 14  # fields of /proc/PID/stat after the name: utime, stime, cutime, cstime


def tree(pid: int) -> list[int]:
    """A process and everything below it."""
    parent = psutil.Process(pid)
    return [pid, *(child.pid for child in parent.children(recursive=True))]


def cpu_s(pid: int) -> float:
    """CPU seconds, user and system, of a process and everything below it, the dead included."""
    return sum(_cpu_ticks(one) for one in tree(pid)) / _TICKS_PER_S


def _cpu_ticks(pid: int) -> int:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended since it was listed; its parent counts it then
    return sum(int(field) for field in fields[_UTIME : _CSTIME + 1])


def busy_s() -> float:
    """CPU seconds of all processors since the start of the machine, whoever had them."""
    fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[1:9])
    return (user + nice + system + irq + softirq + steal) / _TICKS_PER_S


class Others:
    """What other programs take of the processors while something is measured.

    :param ours: processes besides this one and those that it has waited for.
    """

    def __init__(self, *ours: int) -> None:
        self._ours = ours
        self._begin = self._now()

    def share(self) -> float:
        """Of all processors, since this object was made: 0 is nothing, 1 is all."""
        (begin_s, busy_then_s, own_then_s), (now_s, busy_now_s, own_now_s) = self._begin, self._now()
        possible_s = (now_s - begin_s) * len(os.sched_getaffinity(0))
        foreign_s = (busy_now_s - busy_then_s) - (own_now_s - own_then_s)
        return min(1.0, max(0.0, foreign_s / max(possible_s, 1e-3)))

    def _now(self) -> tuple[float, float, float]:
        times = os.times()
        own_s = times.user + times.system + times.children_user + times.children_system
        return time.monotonic(), busy_s(), own_s + sum(_cpu_ticks(pid) for pid in self._ours) / _TICKS_PER_S


def wait_until_idle(below: float, within_s: float) -> float:
    """Wait for others to leave the processors alone; returns the share that they have at the end."""
    deadline_s = time.monotonic() + within_s
    while True:
        others = Others()
        time.sleep(_LOOK_S)
        share = others.share()
        if share < below or time.monotonic() > deadline_s:
            return share


def pss_mb(pid: int) -> float:
    """Memory of a process and everything below it, shared pages by their share, in MB of 10⁶ bytes."""
    total_kib = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "Pss":
                total_kib += int(value.split()[0])
    return total_kib * 1024 / 1e6
