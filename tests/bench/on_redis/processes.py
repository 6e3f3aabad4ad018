"""What the processes of a worker take: CPU time and memory, all together."""

from __future__ import annotations

import os
from pathlib import Path

import psutil

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


def pss_mb(pid: int) -> float:
    """Memory of a process and everything below it, shared pages by their share, in MB of 10⁶ bytes."""
    total_kib = 0
    for one in tree(pid):
        for line in Path(f"/proc/{one}/smaps_rollup").read_text().splitlines():
            name, _, value = line.partition(":")
            if name == "Pss":
                total_kib += int(value.split()[0])
    return total_kib * 1024 / 1e6
