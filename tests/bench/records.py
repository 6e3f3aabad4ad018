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
        return sorted(value for path in self._files() for value in _values(path))

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


def cost_us(times_ns: Sequence[int], warm_up: int) -> float:
    """Microseconds of wall time a task, without the first few and without the last twentieth.

    The first are run while a worker still finds out how short they are, and in the last one child
    may have nothing left to do: parts that a long backlog hides and a short one does not.
    """
    middle = times_ns[warm_up : len(times_ns) - len(times_ns) // 20]
    return (middle[-1] - middle[0]) / 1e3 / (len(middle) - 1)


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
