"""Reading what the tasks recorded, and the few statistics that are made of it."""

from __future__ import annotations

import array
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple


class Records:
    """The files of one measurement, one per process."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir()

    def count(self) -> int:
        """How many numbers are recorded by now."""
        return sum(_count(path) for path in self._files())

    def values(self) -> list[int]:
        """All of them, smallest first."""
        return sorted(value for values in self.by_process() for value in values)

    def by_process(self) -> list[array.array[int]]:
        """Those of each process, in the order in which it recorded them."""
        return [_values(path) for path in self._files()]

    def wait(self, count: int, within_s: float, alive: Callable[[], bool]) -> None:
        """Wait for so many numbers.

        :raises RuntimeError: they are not there in time, there are more, or their writer has ended.
        """
        deadline_s = time.monotonic() + within_s
        while (seen := self.count()) < count:
            if time.monotonic() > deadline_s or not alive():
                raise RuntimeError(f"{seen} of {count} tasks ran within {within_s:g} s")
            time.sleep(0.02)
        if seen > count:
            raise RuntimeError(f"{seen} executions of {count} tasks: some ran twice")

    def _files(self) -> list[Path]:
        return sorted(self.directory.iterdir())


def _count(path: Path) -> int:
    with open(path, "rb") as file:
        word = file.read(8)
    return int.from_bytes(word, "little", signed=True)


def _values(path: Path) -> array.array[int]:
    values = array.array("q")
    with open(path, "rb") as file:
        file.seek(8)
        values.fromfile(file, _count(path))
    return values


def rate(times_ns: Sequence[int]) -> float:
    """Executions a second, from the first to the last."""
    return (len(times_ns) - 1) / ((times_ns[-1] - times_ns[0]) / 1e9)


def cost_us(processes: Sequence[Sequence[int]], warm_up: int) -> float:
    """Microseconds of CPU time a task, over the processes that ran them.

    :param processes: the CPU clock of each process at each of its executions.
    :param warm_up: executions of each that do not count: a child still finds out that they are short.
    """
    counted = [times_ns[warm_up:] for times_ns in processes if len(times_ns) > warm_up + 1]
    total_us = sum(times_ns[-1] - times_ns[0] for times_ns in counted) / 1e3
    return total_us / sum(len(times_ns) - 1 for times_ns in counted)


def percentile(values: Sequence[float], percent: float) -> float:
    """The value that so many percent are not above."""
    ordered = sorted(values)
    rank = max(0, math.ceil(percent / 100 * len(ordered)) - 1)
    return ordered[rank]


class Summary(NamedTuple):
    """Median and extremes of repeated measurements."""

    median: float
    low: float
    high: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Summary:
        """The summary of one or more values."""
        return cls(statistics.median(values), min(values), max(values))


def private_directory(parent: Path, name: str) -> Path:
    """A new directory for this user alone."""
    path = parent / name
    os.mkdir(path, 0o700)
    return path
