"""Where tasks of both contestants write what they measure: the same code, so that it costs both the same."""

from __future__ import annotations

import mmap
import os
import time
from pathlib import Path

DIRECTORY = "BENCH_RECORDS"
CAPACITY = "BENCH_CAPACITY"
# "cpu": the moments that are recorded are on the clock of the process's own CPU time.
CLOCK = "BENCH_CLOCK"


class Recorder:
    """An array of numbers in a mapped file, one file per process; the first word is their count.

    It opens its file at the first number, which is after the fork: the process that imports the tasks
    records nothing itself.
    """

    def __init__(self, directory: str, capacity: int, *, cpu: bool) -> None:
        self._clock_ns = time.process_time_ns if cpu else time.monotonic_ns
        self._directory = Path(directory)
        self._capacity = capacity
        self._words: memoryview | None = None

    def now(self) -> None:
        """Record the moment."""
        self.add(self._clock_ns())

    def add(self, value: int) -> None:
        """Record a number. IndexError when the file is full: the task fails, and the count shows it."""
        words = self._words
        if words is None:
            words = self._words = self._open()
        count = words[0] + 1
        words[count] = value
        words[0] = count

    def _open(self) -> memoryview:
        size_bytes = 8 * (self._capacity + 1)
        with open(self._directory / str(os.getpid()), "x+b") as file:
            file.truncate(size_bytes)
            return memoryview(mmap.mmap(file.fileno(), size_bytes)).cast("q")


def from_environment() -> Recorder:
    """The recorder that the harness has asked for."""
    return Recorder(os.environ[DIRECTORY], int(os.environ[CAPACITY]), cpu=os.environ.get(CLOCK) == "cpu")
